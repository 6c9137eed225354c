"""The bars kept for development, where they are: through csv, through a Qlib store, and through the pipeline."""

import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kronos import Config, DataProcessorFactory
from kronos.data.bars import FEATURES, Flag
from kronos.data.splits import make_split
from kronos.data.store import BarStore
from kronos.data.windows import Windows
from kronos.evaluation.qlib_store import write_qlib_store
from kronos.utils.errors import UserError
from kronos.utils.files import read_json

# beside the repository, or beside a worktree of it
SHARED = next(
    (
        folder / "shared" / "data"
        for folder in Path(__file__).resolve().parents
        if (folder / "shared" / "data").is_dir()
    ),
    Path("shared/data"),
)
US, XSHG = SHARED / "us88_daily.parquet", SHARED / "xshg_5min.csv"
given = pytest.mark.skipif(
    not US.is_file() or not XSHG.is_file(), reason="the bars for development are not here"
)
DAYS = {"dataset_begin_time": date(2012, 1, 1), "dataset_end_time": date(2018, 1, 1)}


def build(tmp_path: Path, name: str, **fields: Any) -> BarStore:
    config = Config(dataset_path=str(tmp_path / name), **fields)
    return DataProcessorFactory.create_processor(config.data_source, config).run_pipeline()


@given
def test_88_stocks_through_csv_and_through_qlib_have_the_same_windows(tmp_path: Path) -> None:
    store = build(tmp_path, "csv", data_source="csv", data_path=str(US), **DAYS)
    found = {one["kind"]: one for one in store.findings}
    assert [item[:2] for item in found["missing value"]["items"]] == [
        [name, "2016-06-29"] for name in ("PTR", "REX", "SNP")
    ]
    assert store.calendar == "XNYS" and len(store.instruments) == 88
    write_qlib_store(store.frame((*FEATURES, "flag")), tmp_path / "bars", store.sessions)
    again = build(
        tmp_path, "qlib", data_source="qlib", qlib_data_path=str(tmp_path / "bars"), instrument="all", **DAYS
    )
    batches = []
    for one in (store, again):
        split = make_split(
            one, "train", date(2012, 1, 1), date(2017, 9, 1), lookback=90, horizon=10, length=101
        )
        windows = Windows(one, split, lookback=90, clip=5.0, seed=1)
        batches.append((split.starts, windows.batch(np.arange(0, len(split), 97), epoch=0)))
    np.testing.assert_array_equal(batches[0][0], batches[1][0])
    assert len(batches[0][0]) > 90_000
    for ours, theirs in zip(batches[0][1], batches[1][1], strict=True):
        assert ours.equal(theirs)


@given
def test_five_minute_bars_of_shanghai_find_their_sessions(tmp_path: Path) -> None:
    store = build(tmp_path, "five", data_source="csv", data_path=str(XSHG), freq="5min")
    raw = pd.read_csv(XSHG)
    assert (store.calendar, store.label, len(store), store.findings) == ("XSHG", "end", len(raw), [])
    assert any("lots of 100" in note for note in store.source["notes"]), "amount = 100 x volume x price"
    shares = raw[list(FEATURES)].to_numpy() * [1, 1, 1, 1, 100, 1]
    np.testing.assert_allclose(store.values, shares, rtol=1e-6)
    assert int(store.history[-1]) == len(raw), "no session is missing: lunch and nights are no holes"


SMALL = {
    "model_preset": "nano", "pretrained_tokenizer_path": None, "pretrained_predictor_path": None, "epochs": 1,
    "batch_size": 64, "n_train_iter": 320, "n_val_iter": 64, "inference_sample_count": 2,
    "backtest_limit_threshold": None, "baseline_lightgbm": False, "baseline_seeds": 2,
    "calibration_series": 100, "calibration_sample_count": 10,
}  # fmt: skip
RUNS: dict[str, dict[str, Any]] = {
    "us88": {
        "data_path": str(US), "dataset_begin_time": "2012-01-01", "dataset_end_time": "2018-01-01",
        "lookback_window": 32, "predict_window": 5, "train_time_range": ["2012-09-04", "2015-12-31"],
        "val_time_range": ["2015-11-17", "2016-12-30"], "test_time_range": ["2016-11-16", "2017-09-01"],
        "backtest_time_range": ["2017-07-03", "2017-09-01"], "backtest_n_symbol_hold": 10,
        "backtest_n_symbol_drop": 2,
    },
    "xshg": {
        "data_path": str(XSHG), "freq": "5min", "lookback_window": 48, "predict_window": 6,
        "backtest_n_symbol_hold": 1, "backtest_n_symbol_drop": 1,
    },
}  # fmt: skip


def kronos(folder: Path, *arguments: str) -> str:
    """Run the command line in a process and a folder of its own, as a user does; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "kronos", *arguments, "--config-path", "run.json"],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@given
@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_the_whole_pipeline_runs_on_them(tmp_path: Path, name: str) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"data_source": "csv", **SMALL, **RUNS[name]}))
    said = kronos(tmp_path, "pipeline")
    assert ("are cut 60 : 20 : 20" in said) == (name == "xshg")
    store = tmp_path / "outputs" / "data"
    for file in ("data_report.md", "data_report.json", "data_report.png", "windows.csv", "findings.json"):
        assert (store / file).stat().st_size > 0, file
    report = read_json(store / "data_report.json")
    windows = pd.read_csv(store / "windows.csv")
    assert report["counts"]["windows_train"] == windows["train"].sum() > 0
    assert (tmp_path / "outputs/backtest_results/finetune_backtest_demo/report.md").is_file()
    assert "data: reused" in kronos(tmp_path, "data")
    said = kronos(tmp_path, "data", "--embargo", "2")
    assert "bars: unchanged" in said and "embargo 2: train_time_range ends" in said


def test_the_guides_line_runs_and_tells_where_bars_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"\.qlib/qlib_data/cn_data is not a Qlib store of day bars"):
        DataProcessorFactory.create_processor("qlib", Config()).run_pipeline()
    rng = np.random.default_rng(1)
    from kronos.data.calendars import sessions

    days = sessions("XSHG", "2020-01-01", "2020-12-31")
    close = 10 * np.exp(np.cumsum(rng.normal(0, 0.01, len(days))))
    bars = pd.DataFrame({"instrument": "SH600519", "datetime": days, "open": close, "high": close * 1.01,
                         "low": close / 1.01, "close": close, "volume": 1000.0 + np.arange(len(days))})  # fmt: skip
    frame = pd.concat([bars, bars.assign(instrument="SH000300")]).assign(amount=1.0)
    root = tmp_path / ".qlib" / "qlib_data" / "cn_data"
    write_qlib_store(frame, root, days)
    (root / "instruments" / "csi300.txt").write_text("SH600519\t2020-03-02\t2099-12-31\n")
    store = DataProcessorFactory.create_processor("qlib", Config()).run_pipeline()
    assert store.instruments == ("SH600519",) and store.calendar == "XSHG"
    assert store.benchmark_name == "SH000300"
    assert ((np.asarray(store.flags) & Flag.NONMEMBER) > 0).sum() == (days < "2020-03-02").sum()
