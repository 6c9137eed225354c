"""Memory and speed of training steps with an adapter and of all weights, on the CPU, each in a process of its own.

`KRONOS_BENCH_PRESET` is the predictor's size. The peak is that of the whole process, PyTorch included, while freed
memory goes back to the system at once; the speed is that of training, which keeps it. Seconds are those of the
processor, on one thread, so that another load of the machine counts little.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from typing import Any

import pytest
from test_training_speed import HORIZON, LOOKBACK, make_bars

pytestmark = pytest.mark.bench
PRESET = os.environ.get("KRONOS_BENCH_PRESET", "base")
SIZE, STEPS = 16, 2  # windows of a step, steps of each measurement
WAYS: dict[str, dict[str, Any]] = {
    "all weights": {},
    "LoRA, attention and feed-forward": {"adapter": "lora"},
    "LoRA, attention": {"adapter": "lora", "adapter_targets": ["attention"]},
    "DoRA, attention and feed-forward": {"adapter": "dora"},
}


def measure(fields: dict[str, Any]) -> dict[str, float]:
    """Make steps of the predictor in this process; returns numbers of parameters, bytes and windows per second."""
    import numpy as np
    import torch

    from kronos.config.schema import Config
    from kronos.distributed.collectives import Collectives
    from kronos.distributed.device import choose, forget_peak_memory, peak_memory
    from kronos.model.presets import random_model
    from kronos.stages.train_setup import prepare
    from kronos.training.adapters import trainable
    from kronos.training.checkpoint import LoopState
    from kronos.training.dataloader import Part
    from kronos.training.objectives import PredictorObjective
    from kronos.training.settings import FitSettings, Plan
    from kronos.training.train_step import Stepper
    from kronos.utils.heap import MMAP_THRESHOLD, TRIM_THRESHOLD, tune_heap

    config, runtime = Config(batch_size=SIZE, **fields), choose("cpu")
    torch.manual_seed(0)
    windows, _ = make_bars()
    objective = PredictorObjective(random_model("tokenizer", PRESET), LOOKBACK, HORIZON)
    model = prepare(random_model("predictor", PRESET), config).train()
    settings, state = FitSettings(config.training, 1e-4, 3.0), LoopState()
    stepper = Stepper(model, objective, settings, Plan(1, 1, 1, 2 * STEPS, ""), runtime, Collectives(0, 1))

    def step() -> float:
        chosen = np.arange(state.step * SIZE, (state.step + 1) * SIZE)
        batches = iter([(Part(chosen, 1.0, 1.0), windows.batch(chosen, 0))])
        began = time.process_time()
        stepper.step(batches, state, lambda part: nullcontext(), False)
        state.step += 1
        return time.process_time() - began

    tune_heap({MMAP_THRESHOLD: 2**20, TRIM_THRESHOLD: 2**20})
    forget_peak_memory(runtime.device)
    for _ in range(STEPS):  # the optimizer's state is there from the second on
        step()
    peak = peak_memory(runtime.device)
    tune_heap({MMAP_THRESHOLD: 2**25, TRIM_THRESHOLD: 2**31 - 1})
    seconds = min(step() for _ in range(STEPS))
    size = sum(parameter.numel() for parameter in model.parameters())
    return {"size": size, "trained": trainable(model), "peak": peak, "speed": SIZE / seconds}


def test_lora_takes_less_memory_than_all_weights() -> None:
    found = {}
    print(f"\npredictor {PRESET}, float32, {SIZE} windows of 101 bars, load {os.getloadavg()[0]:.1f}")
    print("| trained | parameters | peak memory | windows/s |\n| --- | --- | --- | --- |")
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name, fields in WAYS.items():
        done = subprocess.run(
            [sys.executable, __file__, json.dumps(fields)],
            capture_output=True, text=True, check=True, env=one_thread,
        )  # fmt: skip
        one = found[name] = json.loads(done.stdout.splitlines()[-1])
        share, peak = one["trained"] / one["size"], one["peak"] / 2**30
        print(f"| {name} | {one['trained']:,} ({share:.1%}) | {peak:.2f} GiB | {one['speed']:.2f} |")
    lora = [one["peak"] for name, one in found.items() if name.startswith("LoRA")]
    assert max(lora) < found["all weights"]["peak"]


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
