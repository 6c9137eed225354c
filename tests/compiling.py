"""Whether torch.compile can build on this machine's CPU."""

import shutil

import pytest
import torch

can_compile = (
    shutil.which("g++") is not None and " " not in torch.__file__
)  # its linker splits a path at spaces
needs_compiler = pytest.mark.skipif(
    not can_compile, reason="torch.compile needs a C++ compiler, and a path of PyTorch without spaces"
)
