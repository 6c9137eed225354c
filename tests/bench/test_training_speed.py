"""Training against the public training step, in one process, interleaved: medians of pairs, at equal loss.

The public side is the public model run as its training script does (its own draws, AdamW not fused); its dataset
class is stood in for by `PublicWindows`, which does what it does: a pandas frame an instrument, `.iloc` for a window,
numpy to normalise, one window at a time. `KRONOS_BENCH_DEVICE=cuda` measures a card, `KRONOS_BENCH_PAIRS` sets the
number of pairs. Timings of a busy machine say little, so its load is printed.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from kronos.config.sections import TrainingConfig
from kronos.data.splits import Split
from kronos.data.windows import Windows
from kronos.distributed.device import Runtime, choose, seed_everything
from kronos.model import Kronos, KronosTokenizer
from kronos.model.cpu_kernels.linear import linear
from kronos.model.presets import PREDICTOR_PRESETS, TOKENIZER_PRESETS
from kronos.training.objectives import PredictorObjective, TokenizerObjective
from kronos.training.optimizer import adamw
from kronos.training.settings import FitSettings, Plan
from kronos.training.train_step import Stepper
from kronos.training.trainer import fit

pytestmark = pytest.mark.bench
public = pytest.importorskip("model.kronos", reason="kronos-model-arch is not installed")

LOOKBACK, HORIZON, LENGTH, BATCH = 90, 10, 101, 50
DEVICE = os.environ.get("KRONOS_BENCH_DEVICE", "cpu")
THREADS = os.environ.get("BENCH_THREADS") or os.cpu_count()
PAIRS = int(os.environ.get("KRONOS_BENCH_PAIRS", "5"))
FEATURES = ["open", "high", "low", "close", "vol", "amt"]
STAMPS = ["minute", "hour", "weekday", "day", "month"]
ROWS: list[tuple[str, str, str, str]] = []
WANTED = {
    "predictor step, small, float32": "1.3" if DEVICE == "cpu" else "",
    "predictor step, small, bf16": "2" if DEVICE == "cpu" else "3",
    "  matrix products at their own peak, of a step": "70%",
    "tokenizer step, float32": "1.5" if DEVICE == "cpu" else "",
    "loader": "100",
    "time outside the step, of an epoch (mini)": "< 3%",
}


class PublicWindows:
    """The behaviour of the public dataset class: draws a window, cuts it with pandas, normalises it with numpy."""

    def __init__(self, frames: list[pd.DataFrame]) -> None:
        self.frames = frames
        self.index = [
            (i, first) for i, frame in enumerate(frames) for first in range(len(frame) - LENGTH + 1)
        ]
        self.generator = np.random.default_rng(0)

    def __getitem__(self, _: int) -> tuple[torch.Tensor, torch.Tensor]:
        instrument, first = self.index[self.generator.integers(len(self.index))]
        window = self.frames[instrument].iloc[first : first + LENGTH]
        x = window[FEATURES].values.astype(np.float32)
        stamp = window[STAMPS].values.astype(np.float32)
        past = x[:LOOKBACK]
        x = np.clip((x - past.mean(axis=0)) / (past.std(axis=0) + 1e-5), -5.0, 5.0)
        return torch.from_numpy(x), torch.from_numpy(stamp)


def make_bars(instruments: int = 50, bars: int = 1000) -> tuple[Windows, PublicWindows]:
    """The same random walks for both sides."""
    rng = np.random.default_rng(0)
    close = 50 + rng.normal(size=(instruments, bars)).cumsum(axis=1)
    volume = rng.lognormal(size=close.shape) * 1e3
    values = np.stack((close, close + 0.2, close - 0.2, close, volume, volume * close), axis=-1).astype(
        np.float32
    )
    day, zero = np.arange(bars), np.zeros(bars)
    stamps = np.stack((zero, zero, day % 5, day % 28 + 1, day // 28 % 12 + 1), axis=-1).astype(np.int64)
    store: Any = SimpleNamespace(
        values=values.reshape(-1, 6), session=np.tile(day, instruments).astype(np.int32), stamps=stamps
    )
    starts = np.concatenate([i * bars + np.arange(bars - LENGTH + 1) for i in range(instruments)])
    split = Split(name="train", first_session=0, last_session=bars - 1, starts=starts, length=LENGTH)
    frames = [
        pd.DataFrame(np.concatenate((values[i], stamps), axis=1), columns=[*FEATURES, *STAMPS])
        for i in range(instruments)
    ]
    return Windows(store, split, lookback=LOOKBACK, clip=5.0, seed=7), PublicWindows(frames)


@pytest.fixture(scope="module", autouse=True)
def table() -> Any:
    yield
    card = torch.cuda.get_device_name() if DEVICE == "cuda" else platform.processor() or platform.machine()
    load = os.getloadavg()[0]
    print(f"\n\ntraining speed: {card}, {THREADS} threads, torch {torch.__version__}, "
          f"numpy {np.__version__}, pandas {pd.__version__}, public {version('kronos-model-arch')}, "
          f"Python {platform.python_version()}, load {load:.1f} before and beside this run")  # fmt: skip
    print(f"{'work':<44}{'ours':>16}{'public':>16}{'ratio':>8}{'wanted':>8}")
    for row in ROWS:
        print(f"{row[0]:<44}{row[1]:>16}{row[2]:>16}{row[3]:>8}{WANTED.get(row[0], ''):>8}")


def settle() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], Any]) -> float:
    settle()
    began = time.perf_counter()
    work()
    settle()
    return time.perf_counter() - began


def compare(name: str, ours: Callable[[], Any], theirs: Callable[[], Any], unit: str, work: float) -> float:
    """Warm both, time pairs, keep the median ratio; `work` units are done a call."""
    for _ in range(2):  # the allocator settles in the second call
        ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(PAIRS)]
    ratio = statistics.median(other / own for own, other in pairs)
    own, other = (work / statistics.median(side) for side in zip(*pairs, strict=True))
    spread = min(b / a for a, b in pairs), max(b / a for a, b in pairs)
    ROWS.append((name, f"{own:,.1f} {unit}", f"{other:,.1f} {unit}", f"{ratio:.2f}"))
    print(f"\n{name}: {ratio:.2f} (pairs {spread[0]:.2f} to {spread[1]:.2f})")
    return ratio


def models(preset: str) -> SimpleNamespace:
    """Both sides' models at equal weights and the preset's dropouts, with their optimizers."""
    seed_everything(1)
    tokenizer, predictor = KronosTokenizer(**TOKENIZER_PRESETS["base"]), Kronos(**PREDICTOR_PRESETS[preset])
    theirs = public.KronosTokenizer(**TOKENIZER_PRESETS["base"]), public.Kronos(**PREDICTOR_PRESETS[preset])
    for one, other in zip((tokenizer, predictor), theirs, strict=True):
        other.load_state_dict(one.state_dict())
        one.to(DEVICE), other.to(DEVICE)
    return SimpleNamespace(tokenizer=tokenizer, predictor=predictor, public=theirs)


def our_step(
    model: Any,
    objective: Any,
    batch: Any,
    rate: float,
    dtype: torch.dtype,
    beta2: float = 0.95,
    clip: float = 3.0,
) -> Callable[[], float]:
    """The loop's own step: accumulation, clipping, the check that all is finite, AdamW, schedule."""
    from contextlib import nullcontext

    from kronos.distributed.collectives import Collectives
    from kronos.training.checkpoint import LoopState
    from kronos.training.dataloader import Part

    training = TrainingConfig(epochs=1, batch_size=BATCH, adam_beta2=beta2)
    settings = FitSettings(training, rate, clip, div_factor=1.0)
    runtime = Runtime(torch.device(DEVICE), dtype)
    stepper = Stepper(model.train(), objective, settings, Plan(1, 1, 1, 10_000, ""), runtime, Collectives())
    state = LoopState()

    def step() -> float:
        part = Part(np.arange(BATCH), 1.0, 1.0)
        done = stepper.step(iter([(part, batch)]), state, lambda name: nullcontext(), False)
        return done.values["train_loss"]

    return step


def public_predictor_step(sides: SimpleNamespace, batch: Any) -> Callable[[], float]:
    tokenizer, model = sides.public
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-5, betas=(0.9, 0.95), weight_decay=0.1)
    model.train(), tokenizer.eval()

    def step() -> float:
        with torch.no_grad():
            coarse, fine = tokenizer.encode(batch.x, half=True)
        s1_logits, s2_logits = model(coarse[:, :-1], fine[:, :-1], batch.stamp[:, :-1])
        loss, _, _ = model.head.compute_loss(s1_logits, s2_logits, coarse[:, 1:], fine[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        optimizer.step()
        return loss.item()

    return step


def public_tokenizer_step(sides: SimpleNamespace, batch: Any) -> Callable[[], float]:
    model, _ = sides.public
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4, weight_decay=0.1)
    model.train()

    def step() -> float:
        (coarse, full), quantizer, _, _ = model(batch.x)
        loss = (F.mse_loss(coarse, batch.x) + F.mse_loss(full, batch.x) + quantizer) / 2
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        return loss.item()

    return step


def on_device(batch: Any) -> Any:
    return type(batch)(*(value.to(DEVICE) for value in batch))


def test_predictor_step() -> None:
    choose("cuda" if DEVICE == "cuda" else "cpu")
    windows, _ = make_bars()
    batch = on_device(windows.batch(np.arange(BATCH) * 37, 0))
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        sides = models("small")
        objective = PredictorObjective(sides.tokenizer, LOOKBACK, HORIZON)
        ours = our_step(sides.predictor, objective, batch, 4e-5, dtype)
        theirs = public_predictor_step(sides, batch)
        first = ours(), theirs()
        # The masks of dropout and the coarse draws differ: equal to the noise of one batch.
        assert first[0] == pytest.approx(first[1], rel=0.02)
        compare(f"predictor step, small, {name}", ours, theirs, "windows/s", BATCH)
        assert ours() == pytest.approx(theirs(), rel=0.02)  # and it still learns as much
    if DEVICE == "cpu":
        share_of_peak(ROWS[-2][1])


def share_of_peak(speed: str) -> None:
    """The float32 step's matrix products, against the rate of those very products alone.

    Layers: [rows, k] by [k, n]. Attention: heads of the batch times scores and sums. Training makes each product and
    its two derivatives; the frozen tokenizer's, whose ids the step begins with, are made once.
    """
    rows, bars = BATCH * (LENGTH - 1), LENGTH - 1
    layers = [(rows, 512, 512, 3 * 36), (rows, 512, 1024, 3 * 18), (rows, 1024, 512, 3 * 9)]
    layers += [(BATCH * LENGTH, 256, 256, 12), (BATCH * LENGTH, 256, 512, 6), (BATCH * LENGTH, 512, 256, 3)]
    attention = [(BATCH * 8, bars, 64, 3 * 8), (BATCH * 4, bars, 128, 3), (BATCH * 4, LENGTH, 64, 3)]
    flops, spent = 0.0, 0.0
    for m, k, n, count in layers:
        a, w, g = (
            torch.randn(m, k, requires_grad=True),
            torch.randn(n, k, requires_grad=True),
            torch.randn(m, n),
        )
        out = linear(a, w, None)
        one = alone(lambda a=a, w=w: linear(a, w, None))
        if m == rows:
            both = alone(
                lambda out=out, a=a, w=w, g=g: torch.autograd.grad(out, (a, w), g, retain_graph=True)
            )
            one = (one + both) / 3
        flops += count * 2 * m * k * n
        spent += count * one
    for heads, t, k, count in attention:
        q, weights = torch.randn(heads, t, k), torch.rand(heads, t, t)
        flops += count * 4 * heads * t * t * k
        spent += count * (alone(lambda q=q: q @ q.mT) + alone(lambda q=q, weights=weights: weights @ q))
    step = BATCH / float(speed.split()[0].replace(",", ""))
    ROWS.append(("  matrix products at their own peak, of a step", f"{flops / spent / 1e9:,.0f} GFLOP/s",
                 f"{flops / step / 1e9:,.0f} in the step", f"{spent / step:.0%}"))  # fmt: skip


def alone(work: Callable[[], Any]) -> float:
    """Median seconds of a product that is done over and over."""
    work()
    return statistics.median(seconds(work) for _ in range(5))


def test_tokenizer_step() -> None:
    choose("cuda" if DEVICE == "cuda" else "cpu")
    windows, _ = make_bars()
    batch = on_device(windows.batch(np.arange(BATCH) * 37, 0))
    sides = models("mini")
    objective = TokenizerObjective(LOOKBACK, HORIZON)
    # The public script leaves this optimizer's second beta at PyTorch's 0.999.
    ours = our_step(sides.tokenizer, objective, batch, 2e-4, torch.float32, beta2=0.999, clip=2.0)
    theirs = public_tokenizer_step(sides, batch)
    assert ours() == pytest.approx(theirs(), rel=1e-5)
    compare("tokenizer step, float32", ours, theirs, "windows/s", BATCH)
    assert ours() == pytest.approx(theirs(), rel=1e-3)


def test_loader() -> None:
    windows, theirs = make_bars()
    order = np.random.default_rng(1).permutation(len(windows))[: BATCH * 200]

    def ours() -> None:
        for start in range(0, len(order), BATCH):
            windows.batch(order[start : start + BATCH], 0)

    def public_loader() -> None:
        for _ in range(0, len(order), 50 * BATCH):  # a fiftieth of the work: it takes its time
            [theirs[i] for i in range(BATCH)]

    ours(), public_loader()
    pairs = [(seconds(ours) / len(order), seconds(public_loader) / (len(order) / 50)) for _ in range(PAIRS)]
    ratio = statistics.median(other / own for own, other in pairs)
    own, other = (1 / statistics.median(side) for side in zip(*pairs, strict=True))
    ROWS.append(("loader", f"{own:,.0f} windows/s", f"{other:,.0f} windows/s", f"{ratio:.0f}"))


def test_time_outside_the_step(tmp_path: Path) -> None:
    """An epoch through the loop, metrics going to a real MLflow store; evaluation and saves are asked for, apart."""
    from kronos.tracking.client import Tracking

    runtime = choose("cuda" if DEVICE == "cuda" else "cpu")
    windows, _ = make_bars()
    sides = models("mini")
    objective = PredictorObjective(sides.tokenizer, LOOKBACK, HORIZON)
    steps = 10 if DEVICE == "cpu" else 200
    training = TrainingConfig(
        epochs=1,
        batch_size=BATCH,
        n_train_iter=BATCH * steps,
        n_val_iter=BATCH,
        log_interval=1,
        save_windows=0,
    )
    settings = FitSettings(training, 4e-5, 3.0, train_eval_windows=BATCH)
    with Tracking(f"sqlite:///{tmp_path}/mlflow.db", "bench").run("predictor", {}) as run:
        result = fit(
            sides.predictor, objective, windows, windows, settings=settings, runtime=runtime, folder=tmp_path,
            report=run.metrics, before_save=run.flush,
        )  # fmt: skip
    spent = result.seconds
    epoch = spent["total"] - spent["evaluate"] - spent["save"]
    ROWS.append(("time outside the step, of an epoch (mini)", f"{1 - spent['step'] / epoch:.2%}", "", ""))


def test_bf16_follows_float32(tmp_path: Path) -> None:
    """300 steps of mini: where the curves end, and how far apart two float32 seeds are."""
    choose("cuda" if DEVICE == "cuda" else "cpu")
    windows, _ = make_bars(instruments=10, bars=400)
    ends: dict[str, float] = {}
    for name, dtype, seed in (
        ("float32", torch.float32, 1), ("float32, other masks", torch.float32, 2), ("bf16", torch.bfloat16, 1)
    ):  # fmt: skip
        seed_everything(1)
        objective = PredictorObjective(KronosTokenizer(**TOKENIZER_PRESETS["base"]), LOOKBACK, HORIZON)
        model = Kronos(**PREDICTOR_PRESETS["mini"])
        torch.manual_seed(seed)
        training = TrainingConfig(epochs=1, batch_size=8, n_train_iter=2400, n_val_iter=64, save_windows=0)
        settings = FitSettings(training, 4e-5, 3.0, train_eval_windows=8)
        result = fit(
            model, objective, windows, windows, settings=settings, runtime=Runtime(torch.device(DEVICE), dtype),
            folder=tmp_path / name, report=lambda step, values: None,
        )  # fmt: skip
        ends[name] = result.curve[-1]["val_loss"]
    noise = abs(ends["float32, other masks"] - ends["float32"])
    apart = abs(ends["bf16"] - ends["float32"])
    ROWS.append(
        ("val_loss after 300 steps, bf16 and float32", f"{ends['bf16']:.5f}", f"{ends['float32']:.5f}", "")
    )
    ROWS.append(("  distance, and that of other dropout masks", f"{apart:.5f}", f"{noise:.5f}", ""))
    assert apart < max(2 * noise, 2e-3 * ends["float32"])


def test_adamw_is_fused() -> None:
    assert adamw(torch.nn.Linear(2, 2), FitSettings(TrainingConfig(), 1.0, 3.0)).defaults["fused"]
