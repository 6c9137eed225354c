"""No number up to a day depends on a bar after it, from bars to fills, with the weights fixed."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

from kronos.__main__ import main
from kronos.config.loading import load_config
from kronos.data.forecast_points import forecast_points
from kronos.data.sources.factory import DataProcessorFactory
from kronos.data.sources.sample import SampleDataProcessor
from kronos.data.splits import make_split
from kronos.data.store import BarStore, open_store
from kronos.data.window_order import epoch_order
from kronos.data.windows import Windows
from kronos.evaluation.tradability import trading_mask
from kronos.stages.inputs import wide_bars

KEPT = 60  # instruments; enough for 50 names held, few enough to be quick


class Sample(SampleDataProcessor):
    """The sample bars of some instruments; after `day` every bar is replaced by another valid one, or dropped."""

    day: ClassVar[str] = "2099-01-01"

    def process_raw_data(self) -> pd.DataFrame:
        bars = super().process_raw_data()
        bars = bars[bars["instrument"].isin(sorted(bars["instrument"].unique())[40 : 40 + KEPT])]
        after = (bars["datetime"] > pd.Timestamp(self.day)).to_numpy()
        random = np.random.default_rng(7)
        body = np.exp(random.normal(3.0, 0.2, (len(bars), 2)))
        wick = np.exp(random.uniform(0.0, 0.05, (len(bars), 2)))
        other = pd.DataFrame(
            {
                "open": body[:, 0], "close": body[:, 1], "high": body.max(axis=1) * wick[:, 0],
                "low": body.min(axis=1) / wick[:, 1], "volume": random.uniform(1e5, 1e7, len(bars)),
            },
            index=bars.index,
        )  # fmt: skip
        bars = bars.copy()
        for name in other:
            bars[name] = bars[name].astype(float).where(~after, other[name])
        gone = after & (random.random(len(bars)) < 0.1)
        return bars[~gone]


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Sample]]:
    monkeypatch.setitem(DataProcessorFactory._classes, "sample", Sample)
    yield Sample
    Sample.day = "2099-01-01"


def backtest(folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert main(["data"]) == 0
    arguments = [
        "--tokenizer-path",
        str(weights / "tokenizer"),
        "--predictor-path",
        str(weights / "predictor"),
    ]
    arguments += [
        "--backtest-n-symbol-hold",
        "10",
        "--backtest-n-symbol-drop",
        "2",
        "--inference-sample-count",
        "2",
        "--baseline-lightgbm",
        "false",
        "--baseline-seeds",
        "2",
        "--evaluation-series",
        "20",
    ]
    assert main(["backtest", *arguments]) == 0
    return folder / "outputs" / "backtest_results" / "finetune_backtest_demo"


def all_sold(store: BarStore, last: int, horizon: int) -> pd.DatetimeIndex:
    """Days of which every purchase was sold by session `last`: a sale that cannot be made waits for a later bar."""
    bars = wide_bars(store, 0)
    mask = trading_mask(store, bars, "open", "auto")
    days = last - horizon  # of which the first possible sale is by then
    bought = mask.buyable.to_numpy()[1 : days + 1]
    sales = mask.sale_rows(np.arange(days) + 1 + horizon)
    traded_until = np.where(mask.sellable, np.arange(len(mask.sellable))[:, None], 0).max(axis=0)
    waits = (sales > last) & (
        traded_until > last
    )  # those without a bar afterwards are valued at the last close
    known = ~(bought & waits).any(axis=1)
    assert known.mean() > 0.8
    return pd.DatetimeIndex(mask.buyable.index[:days][known])


@pytest.mark.slow
@pytest.mark.parametrize("day", ["2010-06-29", "2010-07-19"])
def test_replacing_all_bars_after_a_day_changes_nothing_up_to_it(
    day: str, tmp_path: Path, weights: Path, source: type[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    true = backtest(tmp_path / "true", weights, monkeypatch)
    source.day = day
    other = backtest(tmp_path / "other", weights, monkeypatch)
    until = pd.Timestamp(day)
    config, _ = load_config()
    horizon = config.predict_window

    stores = [open_store(tmp_path / name / "outputs" / "data") for name in ("true", "other")]
    last = int(np.searchsorted(stores[0].sessions, until.value))
    batches, pairs = [], []
    for store in stores:
        split = make_split(
            store, "train", config.dataset_begin_time, until.date(),
            lookback=config.lookback_window, horizon=horizon, length=config.window_length,
        )  # fmt: skip
        order = epoch_order(len(split), 200, config.seed, 0)
        batches.append(
            Windows(store, split, lookback=config.lookback_window, clip=config.clip, seed=1).batch(order, 0)
        )
        points = forecast_points(store, *config.backtest_time_range, config.lookback_window)
        pairs.append({
            (store.instruments[instrument], int(session))
            for instrument, session in zip(points.instrument, points.session, strict=True)
            if session <= last
        })  # fmt: skip
    for before, after in zip(*batches, strict=True):
        assert torch.equal(before, after)
    assert pairs[0] == pairs[1]

    predictions = [pd.read_parquet(folder / "predictions.parquet") for folder in (true, other)]
    early = [frame[frame["as_of"] <= until].reset_index(drop=True) for frame in predictions]
    assert len(early[0]) > 0
    pd.testing.assert_frame_equal(early[0], early[1], rtol=1e-5)
    late = [frame[frame["as_of"] > until]["close"] for frame in predictions]
    assert len(late[0]) != len(late[1]) or not np.allclose(late[0], late[1])

    ic = [pd.read_csv(folder / "daily_ic.csv", parse_dates=["datetime"]) for folder in (true, other)]
    sold = all_sold(stores[0], last, horizon)
    scored = [frame[frame["datetime"].isin(sold)].reset_index(drop=True) for frame in ic]
    assert scored[0]["ic"].notna().any()
    pd.testing.assert_frame_equal(scored[0], scored[1], rtol=1e-5)

    fills = [pd.read_parquet(folder / "trades.parquet") for folder in (true, other)]
    done = [frame[frame["datetime"] <= until].reset_index(drop=True) for frame in fills]
    assert len(done[0]) > 0
    pd.testing.assert_frame_equal(done[0], done[1])
