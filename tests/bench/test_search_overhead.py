"""What a trial of a search costs besides its training: on CPU in process, and with two ranks in processes of its own.

The overhead is the time from the end of a trial to the end of the next one, less what the training loop itself says
it took (`seconds_total`). `KRONOS_BENCH_TRIALS` sets the number of trials.
"""

import itertools
import os
import platform
import statistics
from pathlib import Path

import pytest
from mlflow import MlflowClient

from kronos.__main__ import main

pytestmark = pytest.mark.bench
TRIALS = int(os.environ.get("KRONOS_BENCH_TRIALS", "6"))
BUDGET = ["--epochs", "1", "--n-train-iter", "1024", "--n-val-iter", "128", "--search-reports", "4",
          "--search-batch-size", "16,32", "--search-pruner", "none", "--skip-data-process"]  # fmt: skip


@pytest.mark.parametrize(("ranks", "wanted"), [(1, 0.3), (2, 8.0)], ids=["cpu", "ddp"])
def test_overhead_of_a_trial(ranks: int, wanted: float, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if ranks > 1:  # processes share the cores unless a number of threads is given
        monkeypatch.delenv("OMP_NUM_THREADS")
    uri = f"sqlite:///{Path.cwd()}/mlflow.db"
    count = TRIALS if ranks == 1 else max(3, TRIALS // 2)
    flags = ["--nproc-per-node", str(ranks), "--n-trials", str(count), "--tracking-uri", uri]
    assert main(["search", *BUDGET, *flags]) == 0
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("kronos")
    assert experiment is not None
    trials = client.search_runs([experiment.experiment_id], "tags.`kronos.stage` = 'trial'")[::-1]
    ends = [run.info.end_time / 1000 for run in trials]
    whole = [trials[0].data.metrics["duration_seconds"]]  # no trial ended before the first
    whole += [after - before for before, after in itertools.pairwise(ends)]
    trained = [run.data.metrics["seconds_total"] for run in trials]
    over = [all_of_it - training for all_of_it, training in zip(whole, trained, strict=True)]
    print(
        f"\n{platform.processor() or platform.machine()}, load {os.getloadavg()[0]:.1f}, {ranks} process(es)"
    )
    print(f"| trial | training, s | everything else, s | wanted < {wanted} s |\n| --- | --- | --- | --- |")
    for run, seconds, rest in zip(trials, trained, over, strict=True):
        print(f"| {run.data.tags['kronos.trial']} | {seconds:.2f} | {rest:.2f} | |")
    median = statistics.median(over)
    print(f"| median | {statistics.median(trained):.2f} | {median:.2f} | {median < wanted} |")
