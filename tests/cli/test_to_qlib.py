"""`to_qlib`: a store as a Qlib folder, read back by Qlib's own expression engine and by our source."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kronos.__main__ import main
from kronos.data.bars import Flag
from kronos.data.calendars import sessions
from kronos.data.sources.base import BaseDataProcessor
from kronos.data.sources.qlib import QlibDataProcessor
from kronos.data.store import BarStore
from kronos.evaluation.qlib_store import initialised, load_module
from kronos.utils.files import clone
from kronos.utils.names import file_name

DAYS = sessions("XSHG", "2023-10-09", "2024-06-28")
OUTSIDE = {"SH600519": [], "SZ000001": range(40, 60), "bj-830799/x": [*range(100), *range(150, 160)]}


class Bars(BaseDataProcessor):
    calendar = "XSHG"
    source = {"universe": "csi300: 3 instruments"}  # noqa: RUF012

    def process_raw_data(self) -> pd.DataFrame:
        generator = np.random.default_rng(0)
        frames = []
        for name, outside in OUTSIDE.items():
            close = 20 * np.exp(np.cumsum(generator.normal(0, 0.01, len(DAYS))))
            volume = generator.integers(1000, 9000, len(DAYS)).astype(float)
            frame = pd.DataFrame({
                "instrument": name, "datetime": DAYS, "open": close * 0.99, "high": close * 1.02, "low": close * 0.98,
                "close": close, "volume": volume, "amount": close * volume, "flag": np.uint8(0),
            })  # fmt: skip
            frame.loc[list(outside), "flag"] = np.uint8(Flag.NONMEMBER)
            frames.append(frame)
        return pd.concat(frames).drop(index=25)  # a hole of one day in each

    def benchmark(self) -> pd.Series:
        return pd.Series(3000.0 + np.arange(len(DAYS)), index=DAYS, name="SH000300")


def settings(folder: Path, **changes: Any) -> Any:
    given = {
        "data_source": "bars", "dataset_path": str(folder), "dataset_begin_time": None, "dataset_end_time": None,
        "freq": "day", "calendar": "auto", "adjust": "auto", "symbols": None,
    }  # fmt: skip
    return SimpleNamespace(**{**given, **changes})


@pytest.fixture
def written(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> BarStore:
    store = Bars(settings(in_folder / "store")).run_pipeline()
    assert main(["to_qlib", "qlib", "--dataset-path", "store"]) == 0
    assert "3 instruments to 2024-06-28 are in qlib, universe csi300" in capsys.readouterr().out
    return store


def test_the_expression_engine_of_qlib_reads_what_the_store_has(written: BarStore) -> None:
    fields = {
        "open": "$open", "close": "$close", "volume": "$volume", "amount": "$amount", "factor": "$factor",
        "change": "$close / Ref($close, 1) - 1", "mean": "Mean($close, 5)", "range": "Max($high, 10) - Min($low, 10)",
    }  # fmt: skip
    store = written
    frame = store.frame(("open", "high", "low", "close", "volume", "amount", "flag"))
    real = frame[(frame["flag"] & int(Flag.FILLED)) == 0]
    with initialised(Path("qlib")):
        provider = load_module("qlib.data.data").D
        names = provider.list_instruments(provider.instruments("csi300"), DAYS[0], DAYS[-1])
        whole = provider.features(provider.instruments("all"), list(fields.values()), DAYS[0], DAYS[-1])
        whole = whole.set_axis(list(fields), axis=1)
        index = provider.features(["SH000300"], ["$close"], DAYS[0], DAYS[-1])["$close"].dropna()
    assert set(whole.index.get_level_values("instrument")) == set(names)
    for name in store.instruments:
        code = file_name(name)
        mine = real[real["instrument"] == name].set_index("datetime")
        theirs = whole.loc[code].dropna(subset="close")
        assert list(theirs.index) == list(mine.index) and (theirs["factor"] == 1).all()
        for column in ("open", "close", "volume", "amount"):
            np.testing.assert_allclose(theirs[column], mine[column], rtol=1e-6)
        days = mine.reindex(DAYS)
        expected = {
            "change": days["close"] / days["close"].shift(1) - 1,
            "mean": days["close"].rolling(5, min_periods=1).mean(),
            "range": days["high"].rolling(10, min_periods=1).max()
            - days["low"].rolling(10, min_periods=1).min(),
        }
        for column, series in expected.items():
            both = pd.concat([whole.loc[code][column], series], axis=1).dropna()
            np.testing.assert_allclose(both.iloc[:, 0], both.iloc[:, 1], rtol=2e-5, atol=1e-6)
            assert len(both) > len(mine) - 3
        spans = names[code]
        outside = [day for place, day in enumerate(DAYS) if place in OUTSIDE[name]]
        inside = [day for day in mine.index if any(first <= day <= last for first, last in spans)]
        assert inside == [day for day in mine.index if day not in outside]
    assert list(index.droplevel("instrument").to_numpy()) == [3000.0 + place for place in range(len(DAYS))]


def test_the_source_qlib_makes_the_same_store_of_it(written: BarStore, in_folder: Path) -> None:
    config = settings(
        in_folder / "again", data_source="qlib", qlib_data_path="qlib", instrument="csi300", calendar="XSHG"
    )
    again = QlibDataProcessor(config).run_pipeline()
    assert again.instruments == written.instruments and again.benchmark_name == "SH000300"
    for name in ("values", "session", "flags", "offsets", "sessions"):
        np.testing.assert_array_equal(getattr(again, name), getattr(written, name))


def test_only_a_folder_of_its_own_is_replaced(written: BarStore, in_folder: Path, capsys: Any) -> None:
    assert main(["to_qlib", "qlib", "--dataset-path", "store"]) == 0
    mine = in_folder / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep")
    assert main(["to_qlib", "mine", "--dataset-path", "store"]) == 2
    assert "mine exists and was not written by" in capsys.readouterr().err
    assert [file.name for file in mine.iterdir()] == ["notes.txt"]
    assert main(["to_qlib", "other", "--dataset-path", "nowhere"]) == 2 and not (in_folder / "other").exists()
    assert not [file for file in in_folder.iterdir() if file.name.startswith(".")]


CSI300 = [f"SH60{number:04d}" for number in range(8)]


class Members(BaseDataProcessor):
    """Eight shares with the index, the last of which left it in May."""

    calendar = "XSHG"
    source = {"universe": "csi300: 8 instruments"}  # noqa: RUF012

    def process_raw_data(self) -> pd.DataFrame:
        frames = []
        for number, name in enumerate(CSI300):
            close = 20 * np.exp(np.cumsum(np.random.default_rng(number).normal(0, 0.01, len(DAYS))))
            flag = np.where(
                (name == CSI300[-1]) & (DAYS >= "2024-05-20"), np.uint8(Flag.NONMEMBER), np.uint8(0)
            )
            frames.append(pd.DataFrame({
                "instrument": name, "datetime": DAYS, "open": close, "high": close * 1.01, "low": close * 0.99,
                "close": close, "volume": 1e6, "amount": close * 1e6, "flag": flag,
            }))  # fmt: skip
        return pd.concat(frames)

    def benchmark(self) -> pd.Series:
        return pd.Series(3000.0 + np.arange(len(DAYS)), index=DAYS, name="SH000300")


@pytest.mark.slow
def test_the_pipeline_of_the_guide_runs_on_it(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The fields of experiments/csi300.json with a small model, few windows and the days of this store."""
    Members(settings(in_folder / "store")).run_pipeline()
    assert main(["to_qlib", "qlib", "--dataset-path", "store"]) == 0
    small = {
        "config-path": Path(str(clone())) / "experiments" / "csi300.json", "qlib-data-path": "qlib",
        "dataset-begin-time": "2023-10-09", "dataset-end-time": "2024-06-28",
        "train-time-range": "2023-10-09,2024-02-29", "val-time-range": "2024-02-01,2024-04-30",
        "test-time-range": "2024-04-15,2024-06-28", "backtest-time-range": "2024-05-13,2024-06-28",
        "lookback-window": 16, "predict-window": 3, "model-preset": "nano", "pretrained-tokenizer-path": "none",
        "pretrained-predictor-path": "none", "epochs": 1, "n-train-iter": 100, "n-val-iter": 50,
        "inference-sample-count": 1, "calibration-series": 100, "calibration-sample-count": 10,
        "baseline-lightgbm": "false",
    }  # fmt: skip
    given = [text for name, value in small.items() for text in (f"--{name}", str(value))]
    assert main(["pipeline", *given]) == 0
    folder = next(Path("outputs/backtest_results").glob("*/predictions.parquet")).parent
    forecast = pd.read_parquet(folder / "predictions.parquet")
    days = forecast.groupby("instrument")["as_of"].max()
    assert set(days.index) == set(CSI300) and days[CSI300[-1]] < pd.Timestamp("2024-05-20") < days[CSI300[0]]
    assert "SH000300" in (folder / "report.md").read_text()
