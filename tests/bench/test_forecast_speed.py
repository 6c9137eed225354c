"""Forecasts against the public code: both sides in one process, equal threads, medians of interleaved runs.

Untrained weights, the same on both sides: what is timed does not depend on them. Each of our times is one call
of `generate` on a loaded pair, whose weights the first call laid out (small: 0.1 s); the public time is one of
`auto_regressive_inference`, in evaluation mode. A row ends after three rounds, or with the round in which BUDGET
seconds are spent. Nothing fails on a ratio: the table is printed, and written to outputs/bench/forecast.txt.
"""

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from compiling import can_compile

from kronos.forecast import forecast_arrays
from kronos.model import PREDICTOR_PRESETS, TOKENIZER_PRESETS, Kronos, KronosTokenizer
from kronos.model.inference.engine import generate
from kronos.model.presets import tokenizer_preset_for

pytestmark = pytest.mark.bench
RULES = {"top_k": 0, "top_p": 0.9}
TEMPERATURE = 0.6
MAX_CONTEXT = 512
BUDGET = 40


@dataclass(frozen=True)
class Work:
    """One row: `wanted` is the least ratio of the public time to ours."""

    preset: str
    lookback: int
    horizon: int
    samples: int
    series: int
    wanted: float | None = None
    compiled: bool = False  # ours only, as the next two
    sliding: str = "exact"
    dtype: torch.dtype | None = None

    def __str__(self) -> str:
        name = f"{self.preset} {self.lookback}+{self.horizon}, {self.samples} x {self.series}"
        ours = (self.compiled and "compiled", self.sliding == "cached" and "cached", self.dtype and "bf16")
        return ", ".join([name, *(word for word in ours if word)])


CPU = [
    Work("small", 90, 10, 5, 20, 25),
    *(
        [Work("small", 90, 10, 5, 20, 40, dtype=torch.bfloat16)]
        if torch.cpu._is_avx512_bf16_supported()
        else []
    ),
    Work("mini", 90, 10, 5, 20, 20),
    Work("base", 90, 10, 5, 20),
    Work("small", 400, 112, 1, 1, 20),
    *([Work("small", 400, 112, 1, 1, compiled=True)] if can_compile else []),
    Work("small", 512, 48, 1, 1, 1.2),
    Work("small", 512, 48, 1, 1, sliding="cached"),
    Work("nano", 60, 10, 5, 20),
]
CUDA = [Work("small", 90, 10, 5, 200), Work("small", 400, 112, 1, 1), Work("base", 90, 10, 5, 200)]
MEMORY = Work("small", 90, 10, 5, 200, 2.5)


def models(work: Work) -> tuple[KronosTokenizer, Kronos]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = KronosTokenizer(**TOKENIZER_PRESETS[tokenizer_preset_for(work.preset)])
        return tokenizer.eval(), Kronos(**PREDICTOR_PRESETS[work.preset]).eval()


def inputs(work: Work, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normalised walks and the stamps of five-minute bars."""
    generator = torch.Generator().manual_seed(0)
    walk = torch.randn(work.series, work.lookback, 6, generator=generator).cumsum(1)
    x = (walk - walk.mean(1, keepdim=True)) / walk.std(1, keepdim=True)
    bar = torch.arange(work.lookback + work.horizon)
    day = bar // 288
    columns = (bar * 5 % 60, bar // 12 % 24, day % 7, day % 28 + 1, day // 28 % 12 + 1)
    stamps = torch.stack(columns, dim=-1).expand(work.series, -1, -1).contiguous()
    past, future = stamps.split((work.lookback, work.horizon), dim=1)
    return x.to(device), past.to(device), future.to(device)


def seconds(call: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(work: Work, device: str) -> tuple[float, float, int]:
    """Median seconds (public, ours) and rounds: after a first call of each, one public and three of ours in turn."""
    public = pytest.importorskip("model.kronos", reason="the public package is not installed")
    pair = [module.to(device) for module in models(work)]
    theirs = [public.KronosTokenizer(**pair[0].config), public.Kronos(**pair[1].config)]
    for copy, ours in zip(theirs, pair, strict=True):
        copy.load_state_dict(ours.state_dict())
        copy.eval().to(device)
    x, past, future = inputs(work, device)
    generator = torch.Generator().manual_seed(1)

    def run_theirs(horizon: int = work.horizon) -> object:
        return public.auto_regressive_inference(
            *theirs, x, past, future[:, :horizon], MAX_CONTEXT, horizon, T=TEMPERATURE,
            sample_count=work.samples, **RULES,
        )  # fmt: skip

    def run_ours() -> object:
        return generate(
            *pair, x, past, future, horizon=work.horizon, max_context=MAX_CONTEXT, temperature=TEMPERATURE,
            sample_count=work.samples, generator=generator, compiled=work.compiled, sliding=work.sliding,
            dtype=work.dtype, **RULES,
        ).cpu()  # fmt: skip

    run_theirs(horizon=2)
    run_ours()
    public_times, our_times = [], []
    while len(public_times) < 3 and sum(public_times + our_times) < BUDGET:
        public_times.append(seconds(run_theirs, device))
        our_times += [seconds(run_ours, device) for _ in range(3)]
    return statistics.median(public_times), statistics.median(our_times), len(public_times)


def machine(threads: int) -> str:
    lines = [
        f"{platform.processor() or platform.machine()}, {threads} threads, load {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, "
        f"public kronos-model-arch {version('kronos-model-arch')}"
    ]
    if torch.cuda.is_available():
        lines.append(f"CUDA rows: {torch.cuda.get_device_name()}")
    lines.append(
        f"float32 unless bf16 is said, T {TEMPERATURE}, top_p {RULES['top_p']}; "
        "work: lookback+horizon, samples x series"
    )
    return "\n".join(lines)


def row(*cells: str) -> str:
    return "{:<34}{:>10}{:>10}{:>9}{:>9}{:>10}{:>8}".format(*cells)


def speed_row(work: Work, device: str) -> str:
    theirs, ours, rounds = measure(work, device)
    name = str(work) if device == "cpu" else f"{work} cuda"
    wanted = f"{work.wanted:g}x" if work.wanted else ""
    speed = f"{work.series / ours:,.1f}"
    return row(name, f"{theirs:.3f}", f"{ours:.3f}", f"{theirs / ours:.2f}x", wanted, speed, str(rounds))


def peak_gb() -> float:
    """Peak resident memory of a process that forecasts MEMORY from arrays of bars."""
    here = Path(__file__)
    done = subprocess.run(
        [sys.executable, here], cwd=here.parents[2], env=os.environ | {"PYTHONPATH": str(here.parents[2])},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout)


def forecast_for_memory() -> None:
    import resource

    x, past, future = inputs(MEMORY, "cpu")
    forecast_arrays(
        *models(MEMORY), x.numpy() + 100, past.numpy(), future.numpy(), horizon=MEMORY.horizon,
        temperature=TEMPERATURE, sample_count=MEMORY.samples, **RULES,
    )  # fmt: skip
    unit = 1 if sys.platform == "darwin" else 1024
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9)


def table() -> Iterator[str]:
    yield machine(torch.get_num_threads())
    yield row("work", "public s", "ours s", "ratio", "wanted", "series/s", "rounds")
    for work in CPU:
        yield speed_row(work, "cpu")
    for work in CUDA if torch.cuda.is_available() else ():
        yield speed_row(work, "cuda")
    yield f"peak memory, {MEMORY}: {peak_gb():.2f} GB (wanted: under {MEMORY.wanted} GB)"


def test_forecast_speed() -> None:
    out = Path(__file__).parents[2] / "outputs" / "bench" / "forecast.txt"
    out.parent.mkdir(parents=True, exist_ok=True)
    print()
    with out.open("w") as file:
        for line in table():
            print(line, flush=True)
            print(line, file=file)
    assert out.stat().st_size


if __name__ == "__main__":
    forecast_for_memory()
