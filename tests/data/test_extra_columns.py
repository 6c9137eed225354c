"""Further columns, from the table of a source to the store: kept as they are, causal, and refused in one line."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kronos.data.bars import FEATURES, MARK, Flag, typed
from kronos.data.extra_columns import ExtraColumn
from kronos.data.forecast_points import contexts
from kronos.data.sources.base import BaseDataProcessor
from kronos.data.sources.factory import DataProcessorFactory
from kronos.data.splits import make_split
from kronos.data.store import BarStore, open_store
from kronos.data.windows import Windows
from kronos.evaluation.qlib_store import write_qlib_store
from kronos.utils.errors import UserError

SIX = ("open", "high", "low", "close", "vol", "amt")
MakeBars = Callable[..., pd.DataFrame]


@dataclass(frozen=True)
class Fields:
    """The fields of a configuration that the data layer reads."""

    dataset_path: str
    data_source: str = "given"
    data_path: str | None = None
    qlib_data_path: str = ""
    instrument: str = "all"
    feature_list: tuple[str, ...] = SIX
    condition_columns: tuple[str, ...] | None = None
    dataset_begin_time: date | None = None
    dataset_end_time: date | None = None
    freq: str = "day"
    adjust: str = "auto"
    resample: str | None = None


def build(bars: Any, path: Path, **fields: Any) -> BarStore:
    class Given(BaseDataProcessor):
        def process_raw_data(self) -> Any:
            return bars

    return Given(Fields(str(path), **fields)).run_pipeline(key="made up")


@pytest.fixture
def bars(make_bars: MakeBars) -> pd.DataFrame:
    """Bars of AAA and BBB, a hole in BBB, with open interest and a sector."""
    raw = make_bars(60, missing={"BBB": [20, 21]})
    interest = np.random.default_rng(5).normal(100, 10, len(raw)).astype("float32")
    return raw.assign(interest=interest, sector=np.where(raw["instrument"] == "AAA", "tech", "banks"))


KEPT = {"feature_list": ("open", "high", "low", "close", "interest"), "condition_columns": ("sector",)}


def test_columns_are_stored_as_they_came(bars: pd.DataFrame, tmp_path: Path) -> None:
    store = build(bars, tmp_path / "store", **KEPT)
    assert store.extra == (
        ExtraColumn("interest", "number"),
        ExtraColumn("sector", "category", ("banks", "tech")),
    )
    real = (store.flags & Flag.FILLED) == 0
    np.testing.assert_array_equal(store.column("interest")[real], bars["interest"])
    np.testing.assert_array_equal(store.column("sector"), 1.0 - store.instrument_of_row)
    frame = store.frame(["close", "sector", "interest"])
    assert frame["sector"].tolist() == ["tech"] * 60 + ["banks"] * 60
    np.testing.assert_array_equal(store.column("vol"), store.values[:, 4])


def test_a_store_without_them_is_what_it_was(bars: pd.DataFrame, tmp_path: Path) -> None:
    plain = build(bars[[*bars.columns[:7]]], tmp_path / "plain")
    ignored = build(bars, tmp_path / "ignored")
    for file in ("index.json", "values.npy", "findings.json"):
        assert (plain.path / file).read_bytes() == (ignored.path / file).read_bytes()
    assert plain.extra == () and not (plain.path / "extra.npy").exists()
    more = build(bars, tmp_path / "more", **KEPT)
    assert more.digest != plain.digest
    np.testing.assert_array_equal(more.values, plain.values)
    changed = build(bars.assign(interest=bars["interest"] + 1), tmp_path / "changed", **KEPT)
    words = build(bars.replace("banks", "bank"), tmp_path / "words", **KEPT)
    assert len({more.digest, changed.digest, words.digest}) == 3


def test_a_filled_bar_carries_the_last_value(bars: pd.DataFrame, tmp_path: Path) -> None:
    store = build(bars, tmp_path / "store", **KEPT)
    filled = np.flatnonzero(store.flags & Flag.FILLED)
    assert filled.tolist() == [80, 81]
    assert (store.column("interest")[filled] == store.column("interest")[79]).all()


def test_a_missing_feature_is_carried_and_a_missing_condition_stays(
    bars: pd.DataFrame, tmp_path: Path
) -> None:
    bars.loc[[0, 1, 10, 11, 70], "interest"] = [np.nan, np.inf, np.nan, np.nan, np.nan]
    bars.loc[[5, 65], "sector"] = [None, ""]
    store = build(bars, tmp_path / "store", **KEPT)
    interest = store.column("interest")
    assert len(store) == 118 and not np.isnan(interest).any(), "the first two bars of AAA know no value yet"
    assert interest[8] == interest[9] == interest[7] == np.float32(bars["interest"][9])
    assert np.flatnonzero(np.isnan(store.column("sector"))).tolist() == [3, 63]
    found = {one["kind"]: (one["action"], one["count"]) for one in store.findings}
    assert found["interest missing"] == ("set to the last known value", 3)
    assert found["bar before the first value of a further column"] == ("left out", 2)


def test_no_later_value_changes_an_earlier_one(bars: pd.DataFrame, tmp_path: Path) -> None:
    gaps = bars.assign(interest=bars["interest"].where(bars.index % 3 > 0))
    true = build(gaps, tmp_path / "true", **KEPT)
    end = gaps["datetime"][40].value
    later = gaps["datetime"] > gaps["datetime"][40]
    other = gaps.assign(interest=gaps["interest"].where(~later, -1e6), sector=gaps["sector"].where(~later))
    store = build(other, tmp_path / "other", **KEPT)
    for name in ("interest", "sector", "close"):
        for number in (0, 1):
            rows, same = true.symbol_rows(number), store.symbol_rows(number)
            until = true.times[rows] <= end
            np.testing.assert_array_equal(
                true.column(name)[rows][until], store.column(name)[same][store.times[same] <= end]
            )


def test_a_split_adjusts_prices_and_nothing_else(bars: pd.DataFrame, tmp_path: Path) -> None:
    split = bars.assign(split=np.where(bars.index == 30, 2.0, 0.0))
    halved = split.index.isin(range(30, 60))
    for name in ("open", "high", "low", "close"):
        split[name] = split[name].where(~halved, split[name] / 2)
    store = build(split, tmp_path / "store", **KEPT)
    assert (store.flags & Flag.ADJUSTED)[30:60].all()
    np.testing.assert_array_equal(store.column("interest")[:60], bars["interest"][:60])


def test_longer_bars_have_the_last_value_of_their_session(bars: pd.DataFrame, tmp_path: Path) -> None:
    store = build(bars, tmp_path / "week", resample="week", **KEPT)
    aaa = bars[bars["instrument"] == "AAA"].set_index("datetime")["interest"]
    weeks = aaa.groupby(aaa.index.to_period("W")).last().to_numpy()
    count = int(np.diff(store.offsets)[0])
    np.testing.assert_array_equal(store.column("interest")[:count], weeks[:count])


def test_numbers_of_one_part_are_words_beside_the_words_of_another(
    bars: pd.DataFrame, tmp_path: Path
) -> None:
    parts = [part for _, part in bars.groupby("instrument")]
    parts[0] = parts[0].assign(sector=[2.5, np.nan, 10] * 20)
    store = build(iter(parts[::-1]), tmp_path / "store", condition_columns=("sector",))
    assert store.extra[0].categories == ("10", "2.5", "banks")
    np.testing.assert_array_equal(store.column("sector")[:4], [1, np.nan, 0, 1])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["1", " 2.5", None, ""], [1.0, 2.5, np.nan, np.nan]),
        (["01", "1", "2", "3"], ["01", "1", "2", "3"]),
        ([True, False, True, True], [1.0, 0.0, 1.0, 1.0]),
        ([1.0, "x", None, 2.5], ["1", "x", np.nan, "2.5"]),
        ([None] * 4, [np.nan] * 4),
    ],
)
def test_a_column_holds_numbers_or_words(given: list[Any], expected: list[Any]) -> None:
    column = typed(pd.Series(given))
    assert isinstance(column.dtype, pd.CategoricalDtype) == isinstance(expected[0], str)
    assert (
        column.astype(object).where(column.notna(), np.nan).tolist()[:2] == expected[:2]
        or column.isna().all()
    )
    pd.testing.assert_series_equal(typed(column), column)


def test_files_and_a_qlib_folder_give_the_same_columns(bars: pd.DataFrame, tmp_path: Path) -> None:
    """`turnover` would be the amount of a file; the column that is named is a further one."""
    bars = bars.rename(columns={"interest": "turnover"})
    columns = {"feature_list": (*SIX, "turnover"), "condition_columns": ("sector",)}
    given = build(bars, tmp_path / "given", **columns)
    bars.to_csv(tmp_path / "bars.csv", index=False, float_format="%.9g")
    bars.to_parquet(tmp_path / "bars.parquet", index=False)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, part in bars.groupby("instrument"):
        part.drop(columns="instrument").to_csv(folder / f"{name}.csv", index=False, float_format="%.9g")
    for path in ("bars.csv", "bars.parquet", "folder"):
        fields = Fields(str(tmp_path / f"{path}-store"), "csv", str(tmp_path / path), **columns)
        store = DataProcessorFactory.create_processor("csv", fields).run_pipeline()
        np.testing.assert_allclose(store.values, given.values, rtol=1e-6)
        np.testing.assert_array_equal(store.further, given.further)
        assert store.extra == given.extra

    frame = given.frame(("open", "high", "low", "close", "volume", "amount", "flag"))
    write_qlib_store(frame, tmp_path / "qlib", pd.DatetimeIndex(given.sessions[:60]))
    for number, name in enumerate(given.instruments):
        values = given.column("turnover")[given.symbol_rows(number)]
        np.append(np.float32(0), values).tofile(
            tmp_path / "qlib" / "features" / name.lower() / "turnover.day.bin"
        )
    fields = Fields(
        str(tmp_path / "again"),
        "qlib",
        qlib_data_path=str(tmp_path / "qlib"),
        feature_list=(*SIX, "turnover"),
    )
    store = DataProcessorFactory.create_processor("qlib", fields).run_pipeline()
    real = (given.flags & Flag.FILLED) == 0
    np.testing.assert_array_equal(store.column("turnover")[real], given.column("turnover")[real])


def _wide(bars: pd.DataFrame) -> pd.DataFrame:
    table = bars[bars["instrument"] == "AAA"].set_index("datetime")
    wide = {f"{name} AAA": table[name] for name in ("open", "high", "low", "close", "volume")}
    wide |= {f"{name} BBB": table[name] for name in ("open", "high", "low", "close", "volume")}
    return pd.DataFrame({**wide, "sector": "x"}).reset_index()


def test_a_missing_column_or_words_in_a_feature_are_one_line(bars: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"feature_list: the bars have no column 'oi': the columns are instrument"
    ):
        build(bars, tmp_path / "store", feature_list=("close", "oi"))
    with pytest.raises(UserError, match=r"condition_columns: the bars have no column 'size'"):
        build(bars, tmp_path / "store", condition_columns=("size",))
    with pytest.raises(
        UserError, match="feature_list: column sector holds words such as 'banks', numbers were"
    ):
        build(bars, tmp_path / "store", feature_list=("close", "sector"))
    bars.to_csv(tmp_path / "bars.csv", index=False)
    fields = Fields(
        str(tmp_path / "store"), "csv", str(tmp_path / "bars.csv"), feature_list=("close", "turnover")
    )
    with pytest.raises(
        UserError, match=r"bars.csv has no column 'turnover': the columns are instrument, dat"
    ):
        DataProcessorFactory.create_processor("csv", fields).run_pipeline()
    with pytest.raises(UserError, match="has a value that is missing or too large for float32"):
        build(bars.assign(interest=1e300), tmp_path / "store", **KEPT)
    store = build(bars, tmp_path / "store", **KEPT)
    with pytest.raises(
        UserError, match="has no column 'sectors': it has open, high, low, close, volume, amount, i"
    ):
        store.column("sectors")
    data = bytearray((store.path / "extra.npy").read_bytes())
    data[-1] ^= 1
    (store.path / "extra.npy").write_bytes(data)
    with pytest.raises(UserError, match=r"extra\.npy was altered"):
        open_store(store.path)


def test_marked_names_stay_out_of_the_store(bars: pd.DataFrame, tmp_path: Path) -> None:
    store = build(bars, tmp_path / "store", **KEPT)
    assert MARK not in (store.path / "index.json").read_text()


def test_windows_and_contexts_have_the_columns_that_are_named(bars: pd.DataFrame, tmp_path: Path) -> None:
    store = build(bars, tmp_path / "store", **KEPT)
    columns = ("open", "high", "low", "close", "interest", "volume")
    split = make_split(store, "train", date(2020, 1, 2), date(2020, 3, 20), lookback=10, horizon=3, length=14)
    named, usual = (
        Windows(store, split, lookback=10, clip=5.0, seed=1, columns=names).batch(np.arange(len(split)), 0)
        for names in (columns, FEATURES)
    )
    assert named.x.shape[2] == 6 and named.x[..., :4].equal(usual.x[..., :4])
    assert named.x[..., 5].equal(usual.x[..., 4]) and named.uniform.equal(usual.uniform)
    rows = np.array([30, 70])
    seen, _ = contexts(store, rows, 10, columns)
    for place, row in enumerate(rows):
        span = slice(row - 9, row + 1)
        np.testing.assert_array_equal(seen[place, :, 4], store.column("interest")[span])
        np.testing.assert_array_equal(seen[place, :, 5], store.column("volume")[span])
    with pytest.raises(UserError, match="has no column 'basis'"):
        contexts(store, rows, 10, ("open", "high", "low", "close", "basis"))


def test_an_instrument_without_volume_is_counted(bars: pd.DataFrame, tmp_path: Path) -> None:
    quiet = bars.assign(volume=bars["volume"].where(bars["instrument"] == "BBB", 0.0))
    kind = "instrument without volume in any bar"
    found = {one["kind"]: one for one in build(quiet, tmp_path / "one").findings}
    assert found[kind]["count"] == 1 and found[kind]["items"][0][0] == "AAA"
    found = {one["kind"]: one for one in build(bars.drop(columns="volume"), tmp_path / "both").findings}
    assert found[kind]["count"] == 2 and "as in the public code" in found[kind]["action"]
    assert kind not in {one["kind"] for one in build(bars, tmp_path / "none").findings}
