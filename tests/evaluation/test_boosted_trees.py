"""LightGBM on Alpha158 finds what volume says about returns, nothing where there is nothing, and sees no future."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kronos.data.bars import FEATURES, align
from kronos.data.cleaning import clean
from kronos.data.store import BarStore
from kronos.data.store_writer import store_sessions, write_store
from kronos.evaluation import boosted_trees, ranking, signals
from kronos.evaluation.qlib_features import alpha158
from kronos.evaluation.qlib_store import initialised, write_qlib_store

NAMES = [f"S{place:02d}" for place in range(30)]
DAYS = pd.bdate_range("2020-01-01", periods=230, name="datetime")
TRAIN, VAL, TEST, HORIZON = slice(0, 130), slice(130, 170), slice(170, 230), 3


def market(pattern: bool, seed: int = 0, changed_after: int | None = None) -> pd.DataFrame:
    """Bars whose return after tomorrow's open is high after a day of much volume, if `pattern`."""
    random = np.random.default_rng(seed)
    shape = (len(DAYS), len(NAMES))
    loud = random.normal(0, 1, shape)
    move = random.normal(0, 0.01, shape)
    if pattern:
        move[2:] += 0.01 * loud[:-2]
    if changed_after is not None:
        other = np.random.default_rng(seed + 1)
        move[changed_after + 1 :] = other.normal(0, 0.02, (len(DAYS) - changed_after - 1, len(NAMES)))
        loud[changed_after + 1 :] = other.normal(0, 1, (len(DAYS) - changed_after - 1, len(NAMES)))
    close = 50 * np.exp(np.cumsum(move, axis=0))
    opening = np.vstack([close[:1], close[:-1]])
    bars = {
        "open": opening, "close": close, "high": np.maximum(opening, close) * 1.003,
        "low": np.minimum(opening, close) / 1.003, "volume": 1e6 * np.exp(loud),
    }  # fmt: skip
    columns = {name: frame.reshape(-1) for name, frame in bars.items()}
    return pd.DataFrame({
        "instrument": np.tile(NAMES, len(DAYS)), "datetime": np.repeat(DAYS, len(NAMES)), **columns,
    })  # fmt: skip


def stored(bars: pd.DataFrame, path: Path) -> BarStore:
    frame, findings = clean(bars, "day")
    calendar = store_sessions("weekdays", DAYS[0], DAYS[-1], "day")
    aligned = align(frame, calendar)
    return write_store(
        path, aligned, sessions=calendar, last_session=int(aligned["session"].max()), calendar="weekdays",
        freq="day", source={"name": "made up"}, findings=findings,
    )  # fmt: skip


def returns(bars: pd.DataFrame, until: int | None = None) -> pd.DataFrame:
    opening, close = (
        bars.pivot(index="datetime", columns="instrument", values=name) for name in ("open", "close")
    )
    return signals.tradable_returns(opening.iloc[:until], close.iloc[:until], HORIZON)


def scores(bars: pd.DataFrame, path: Path, threads: int = 1) -> pd.DataFrame:
    earned = {"train": returns(bars, TRAIN.stop).iloc[TRAIN], "val": returns(bars, VAL.stop).iloc[VAL]}
    found = boosted_trees.ranking(stored(bars, path), earned, DAYS[TEST], threads, seed=1)
    return found


@pytest.mark.slow
def test_it_finds_a_pattern_in_volume_sees_no_future_and_repeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit in parts on two processes too."""
    bars = market(pattern=True)
    found = scores(bars, tmp_path / "bars")
    assert list(found.columns) == NAMES and found.index.equals(DAYS[TEST]) and found.notna().all().all()
    worth = ranking.worth(found, returns(bars).iloc[TEST], HORIZON)
    assert worth.rank_ic.low > 0.1
    with monkeypatch.context() as patch:
        patch.setattr(boosted_trees, "ROWS", 2000)
        patch.setattr(boosted_trees, "PARTS_PER_PROCESS", 1)
        pd.testing.assert_frame_equal(found, scores(bars, tmp_path / "again", threads=2), check_exact=True)
    changed = scores(market(pattern=True, changed_after=200), tmp_path / "changed")
    pd.testing.assert_frame_equal(found.loc[: DAYS[200]], changed.loc[: DAYS[200]])
    assert not np.allclose(found.loc[DAYS[201] :], changed.loc[DAYS[201] :])


def test_without_a_pattern_it_finds_nothing(tmp_path: Path) -> None:
    bars = market(pattern=False)
    worth = ranking.worth(scores(bars, tmp_path / "bars"), returns(bars).iloc[TEST], HORIZON)
    assert worth.rank_ic.sign == 0


def test_too_few_returns_are_no_basis(tmp_path: Path) -> None:
    bars = market(pattern=False)
    few = {"train": returns(bars, 30), "val": returns(bars, 60).iloc[30:]}
    assert boosted_trees.ranking(stored(bars, tmp_path / "bars"), few, DAYS[TEST], 1, 0).isna().all(axis=None)


def test_the_features_are_qlibs_of_our_bars(tmp_path: Path) -> None:
    bars = market(pattern=False)
    store = stored(bars, tmp_path / "bars")
    path = write_qlib_store(store.frame((*FEATURES, "flag")), tmp_path / "qlib", store.sessions)
    with initialised(path):
        found = alpha158(path, NAMES[:2], DAYS[100], DAYS[110])
    assert found.shape == (22, 158) and found.dtypes.eq(np.float32).all()
    one = bars[bars["instrument"] == "S01"].set_index("datetime")
    mine = found.loc["S01"]
    by_hand = {
        "KMID": (one["close"] - one["open"]) / one["open"], "OPEN0": one["open"] / one["close"],
        "ROC20": one["close"].shift(20) / one["close"], "MA60": one["close"].rolling(60).mean() / one["close"],
        "VMA5": one["volume"].rolling(5).mean() / one["volume"],
    }  # fmt: skip
    for name, values in by_hand.items():
        np.testing.assert_allclose(mine[name], values.loc[mine.index], rtol=1e-4, err_msg=name)
    assert mine["VWAP0"].between(0.9, 1.1).all()


@pytest.mark.parametrize("most", [100, 10**6])
def test_days_are_left_out_evenly_where_there_are_more_rows_than_fit(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boosted_trees, "MAX_ROWS", most)
    earned = returns(market(pattern=False)).iloc[:100]
    label = boosted_trees._labels(earned)
    assert label.notna().to_numpy().sum() <= most + len(NAMES)
    np.testing.assert_allclose(label.mean(axis=1).dropna(), 0, atol=1e-12)
