"""The READMEs' script for Slurm: parsed, and run with stand-ins for the cluster's commands."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from newcomer import ROOT, blocks
from torch.distributed.run import parse_args

from kronos.cli.arguments import help_parser, parse_flags
from kronos.stages import STAGES

# `srun` starts its command on both nodes, and `torchrun` writes down what it was given.
STAND_INS = {
    "scontrol": '[ "$1 $2 $3" = "show hostnames node[1-2]" ] && printf "node1\\nnode2\\n"',
    "srun": '[ "$1" = --kill-on-bad-exit=1 ] && shift\n'
    'for node in 0 1; do SLURM_NODEID=$node "$@" & done; wait',
    "torchrun": 'printf "%s\\n" "$@" > "given$SLURM_NODEID"',
}
JOB = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4"}


def script(name: str = "README.md") -> str:
    (found,) = [
        block for block in blocks((ROOT / name).read_text("utf-8"), "sh") if block.startswith("#!/bin/bash")
    ]
    return found


@pytest.fixture
def given(tmp_path: Path) -> list[list[str]]:
    """The arguments of torchrun on each node."""
    (tmp_path / "bin").mkdir()
    for name, body in STAND_INS.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)
    activate = tmp_path / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.touch()
    (tmp_path / "kronos.sh").write_text(script())
    environment = {**os.environ, **JOB, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    subprocess.run(["bash", "kronos.sh"], cwd=tmp_path, env=environment, check=True)
    return [(tmp_path / f"given{node}").read_text().splitlines() for node in (0, 1)]


def test_both_readmes_have_the_same_script_of_at_most_ten_lines() -> None:
    assert script() == script("README.zh-CN.md")
    assert len(script().splitlines()) <= 10


def test_its_directives_ask_for_one_task_a_node_and_a_signal_before_the_end() -> None:
    lines = [line for line in script().splitlines() if line.startswith("#SBATCH ")]
    options = dict(word.removeprefix("--").split("=", 1) for line in lines for word in shlex.split(line)[1:])
    assert options["nodes"] == "2" and options["ntasks-per-node"] == "1" and options["gpus-per-node"] == "4"
    name, seconds = options["signal"].split("@")
    assert name == "TERM" and int(seconds) >= 60  # not B:, which would signal the script instead of torchrun


def test_torchrun_is_started_on_each_node_with_its_rank(given: list[list[str]]) -> None:
    for node, arguments in enumerate(given):
        parsed = parse_args(arguments)
        assert (parsed.nnodes, parsed.nproc_per_node, parsed.node_rank) == ("2", "4", node)
        assert (parsed.master_addr, parsed.master_port) == ("node1", 29500)
        assert parsed.module and parsed.training_script == "kronos"


def test_its_command_is_one_of_ours(given: list[list[str]]) -> None:
    one, other = (arguments[arguments.index("kronos") + 1 :] for arguments in given)
    assert one == other
    stage, *flags = one
    path, values, problems = parse_flags(help_parser("kronos", "", STAGES[stage].params), flags)
    assert problems == [] and values == {"tracking_uri": "http://TRACKING_HOST:5000"}
    assert (ROOT / str(path)).is_file()
