"""The qlib source: equal, bar by bar, to what Qlib's own loader returns; membership by day; damage named."""

import os
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kronos.data.bars import FEATURES, Flag
from kronos.data.forecast_points import forecast_points
from kronos.data.sources.qlib import QlibDataProcessor, QlibStore, closes
from kronos.data.splits import make_split
from kronos.data.store import BarStore
from kronos.evaluation.qlib_store import initialised, write_qlib_store
from kronos.utils.errors import UserError

MakeBars = Callable[..., pd.DataFrame]
MakeStore = Callable[..., BarStore]
NAMES = ("AAA", "BBB", "CON", "SH000300")


@pytest.fixture
def written(make_bars: MakeBars, make_store: MakeStore, tmp_path: Path) -> tuple[BarStore, Path]:
    """A store of 120 days with holes, and the Qlib folder of the same bars."""
    missing = {"AAA": [5, 30, 31, 32, 33, 34, 35], "BBB": range(100, 120), "CON": range(20)}
    store = make_store(make_bars(120, names=NAMES, missing=missing))
    path = write_qlib_store(store.frame((*FEATURES, "flag")), tmp_path / "qlib", store.sessions)
    universe = path / "instruments" / "all.txt"  # CON as Qlib's own scripts write it
    universe.write_text(universe.read_text().replace("CO~4E", "CON"))
    (path / "features" / "co~4e").rename(path / "features" / "_qlib_con")
    (path / "instruments" / "csi300.txt").write_text(
        "AAA\t2020-01-02\t2020-02-28\nAAA\t2020-04-01\t2020-05-29\nBBB\t2020-03-02\t2020-12-31\n"
    )
    return store, path


def config(path: Path, tmp_path: Path, **changes: Any) -> Any:
    given = {
        "data_source": "qlib", "qlib_data_path": str(path), "instrument": "all", "freq": "day",
        "dataset_begin_time": date(2020, 1, 1), "dataset_end_time": date(2021, 1, 1),
        "dataset_path": str(tmp_path / "data"),
    }  # fmt: skip
    return SimpleNamespace(**{**given, **changes})


def test_the_reader_equals_qlibs_own_loader_bar_by_bar(written: tuple[BarStore, Path]) -> None:
    path = written[1]
    fields = [*FEATURES, "factor"]
    with initialised(path):
        from qlib.data import D

        theirs = D.features(list(NAMES), [f"${name}" for name in fields])
    store = QlibStore(path, "day")
    ours = pd.concat(
        [
            pd.DataFrame(
                {f"${field}": store.field(name, field) for field in fields},
                index=pd.MultiIndex.from_product([[name], store.calendar], names=["instrument", "datetime"]),
            )
            for name in NAMES
        ]
    )
    pd.testing.assert_frame_equal(
        ours.reindex(theirs.index), theirs.astype("float32"), check_exact=True, check_index_type=False
    )
    outside = ours.index.difference(theirs.index)
    assert ours.loc[outside].isna().all(axis=None), "what Qlib leaves out has no values"


def test_a_store_written_by_the_bridge_comes_back_with_the_same_windows(
    written: tuple[BarStore, Path], tmp_path: Path
) -> None:
    store, path = written
    again = QlibDataProcessor(config(path, tmp_path, symbols=NAMES)).run_pipeline()
    assert again.instruments == store.instruments and again.calendar == "XNYS"
    for name in ("values", "session", "flags", "offsets", "sessions"):
        np.testing.assert_array_equal(getattr(again, name), getattr(store, name))
    splits = [
        make_split(one, "train", date(2020, 1, 1), date(2020, 12, 31), lookback=8, horizon=2, length=11)
        for one in (store, again)
    ]
    assert splits[0].starts.tolist() == splits[1].starts.tolist() and len(splits[0])


def test_membership_decides_what_is_scored_and_history_is_whole(
    written: tuple[BarStore, Path], tmp_path: Path
) -> None:
    store = QlibDataProcessor(config(written[1], tmp_path, instrument="csi300")).run_pipeline()
    assert store.instruments == ("AAA", "BBB"), "members at some time, and no other"
    times = pd.DatetimeIndex(store.times.astype("datetime64[ns]"))[store.symbol_rows(0)]
    assert len(times) == 120 - 3, "AAA has bars from before and after its memberships"
    flags = np.asarray(store.flags[store.symbol_rows(0)])
    inside = (times <= "2020-02-28") | ((times >= "2020-04-01") & (times <= "2020-05-29"))
    assert ((flags & Flag.NONMEMBER == 0) == inside).all()
    points = forecast_points(store, date(2020, 1, 1), date(2020, 12, 31), lookback=3)
    days = pd.DatetimeIndex(store.sessions[points.session].astype("datetime64[ns]"))
    aaa, bbb = days[points.instrument == 0], days[points.instrument == 1]
    assert not ((aaa > "2020-02-28") & (aaa < "2020-04-01")).any() and (bbb >= "2020-03-02").all()
    arguments: dict[str, Any] = {"lookback": 8, "horizon": 2, "length": 10}
    whole = (date(2020, 1, 1), date(2020, 12, 31))
    scored, trained = (make_split(store, name, *whole, **arguments).starts for name in ("val", "train"))
    assert set(scored) < set(trained)
    assert (np.asarray(store.flags)[scored + 7] & Flag.NONMEMBER == 0).all()


def test_all_instruments_are_those_that_can_be_bought(
    written: tuple[BarStore, Path], tmp_path: Path, make_bars: MakeBars
) -> None:
    root, names = tmp_path / "all", ("BJ430047", "SH000852", "SH600000", "SZ000300", "SZ399006")
    bars = make_bars(60, names=names).assign(amount=1.0)
    write_qlib_store(bars, root, pd.DatetimeIndex(bars["datetime"].unique()))
    processor = QlibDataProcessor(config(root, tmp_path))
    store = processor.run_pipeline()
    assert store.instruments == ("BJ430047", "SH600000", "SZ000300")
    assert store.source["universe"].startswith("all: 3 instruments")
    (found,) = store.findings
    assert (found["kind"], found["action"], found["count"]) == ("index in the universe", "left out", 2)
    assert [item[0] for item in found["items"]] == ["SH000852", "SZ399006"]
    assert not [file for file, *_ in processor.fingerprint()["files"] if "sh000852" in file]
    named = QlibDataProcessor(config(root, tmp_path, symbols=("SH000852", "SH600000"))).run_pipeline()
    assert named.instruments == ("SH000852", "SH600000"), "what is named is wanted"


@pytest.mark.parametrize(
    ("universe", "index"),
    [("csi300", "SH000300"), ("csi500", "SH000905"), ("csi800", "SH000906"), ("CSI1000", "SH000852")],
)
def test_each_csi_universe_is_compared_with_its_own_index(
    make_bars: MakeBars, tmp_path: Path, universe: str, index: str
) -> None:
    bars = make_bars(60, names=("SH600000", index)).assign(amount=1.0)
    root = write_qlib_store(bars, tmp_path / "qlib", pd.DatetimeIndex(bars["datetime"].unique()))
    (root / "instruments" / f"{universe.lower()}.txt").write_text("SH600000\t2020-01-02\t2020-12-31\n")
    store = QlibDataProcessor(config(root, tmp_path, instrument=universe)).run_pipeline()
    assert store.instruments == ("SH600000",) and store.benchmark_name == index
    expected = bars.loc[bars["instrument"] == index, "close"]
    np.testing.assert_allclose(store.benchmark.dropna(), expected, rtol=1e-6)


def test_the_universes_index_is_in_the_store(written: tuple[BarStore, Path], tmp_path: Path) -> None:
    store, path = written
    again = QlibDataProcessor(config(path, tmp_path, instrument="csi300")).run_pipeline()
    assert again.benchmark is not None and again.benchmark.name == "SH000300"
    theirs = store.frame(["close"]).query("instrument == 'SH000300'").set_index("datetime")["close"]
    np.testing.assert_allclose(again.benchmark.dropna(), theirs, rtol=1e-7)
    np.testing.assert_allclose(closes(path, "SH000300"), theirs, rtol=1e-7)  # type: ignore[arg-type]
    assert closes(path, "SH000905") is None
    assert QlibDataProcessor(config(path, tmp_path)).run_pipeline().benchmark is None


def test_bars_within_a_day_are_read_by_their_own_calendar(make_bars: MakeBars, tmp_path: Path) -> None:
    from kronos.data.calendars import sessions

    frame = make_bars(96, names=["SH600519"])
    times = sessions("XSHG", "2024-06-03", "2024-06-05", "5min")
    frame["datetime"] = times[:96]
    frame["amount"] = frame["volume"] * frame["close"]
    path = write_qlib_store(frame, tmp_path / "qlib", times, "5min")
    store = QlibDataProcessor(config(
        path, tmp_path, freq="5min", dataset_begin_time=date(2024, 1, 1), dataset_end_time=date(2025, 1, 1)
    )).run_pipeline()  # fmt: skip
    assert (store.calendar, store.freq, store.label, len(store)) == ("XSHG", "5min", "end", 96)
    np.testing.assert_allclose(store.values[:, 3], frame["close"], rtol=1e-6)


def test_a_member_without_bars_is_counted(written: tuple[BarStore, Path], tmp_path: Path) -> None:
    path = written[1]
    with open(path / "instruments" / "csi300.txt", "a") as file:
        file.write("ZZZ\t2020-01-02\t2020-12-31\n")
    store = QlibDataProcessor(config(path, tmp_path, instrument="csi300")).run_pipeline()
    assert ("member without bars in the store", 1) in [(one["kind"], one["count"]) for one in store.findings]


def _cut(path: Path) -> None:
    file = path / "features" / "aaa" / "close.day.bin"
    file.write_bytes(file.read_bytes()[:-2])


def _long(path: Path) -> None:
    file = path / "features" / "aaa" / "close.day.bin"
    file.write_bytes(file.read_bytes() + bytes(4 * 500))


@pytest.mark.parametrize(
    ("damage", "changes", "message"),
    [
        (lambda path: (path / "calendars" / "day.txt").unlink(), {}, "is not a Qlib store of day bars"),
        (lambda path: None, {"freq": "5min"}, r"calendars/5min.txt is missing\): it has day, or give"),
        (lambda path: None, {"instrument": "csi500"}, "has no universe 'csi500': it has all, csi300; give one"),
        (lambda path: (path / "calendars" / "day.txt").write_text("soon\n"), {}, "has a line that is not a time"),
        (lambda path: (path / "calendars" / "day.txt").write_text(""), {}, "is empty or not in order"),
        (lambda path: (path / "instruments" / "all.txt").write_text("AAA\t2020\n"), {}, "all.txt, line 1: .* is not"),
        (lambda path: (path / "instruments" / "all.txt").write_bytes(b"\xff\xfe"), {}, "all.txt is not UTF-8 text"),
        (_cut, {}, r"close.day.bin is damaged: \d+ bytes"),
        (_long, {}, "close.day.bin is damaged: its values end at session"),
        (lambda path: (path / "features" / "aaa" / "open.day.bin").unlink(), {}, "features/aaa lacks open for day"),
        (lambda path: None, {"dataset_end_time": date(2019, 1, 1), "dataset_begin_time": date(2018, 1, 1)},
         "universe all of .* has no member in 2018-01-01..2019-01-01"),
        (lambda path: None, {"symbols": ("QQQ",)}, "has no member in .* among the symbols QQQ"),
    ],
)  # fmt: skip
def test_damage_is_named(
    written: tuple[BarStore, Path],
    tmp_path: Path,
    damage: Callable[[Path], Any],
    changes: dict[str, Any],
    message: str,
) -> None:
    damage(written[1])
    with pytest.raises(UserError, match=message) as caught:
        QlibDataProcessor(config(written[1], tmp_path, **changes)).run_pipeline()
    assert "\n" not in str(caught.value) and not (tmp_path / "data").exists()


def _touch(name: str) -> Callable[[Path], None]:
    return lambda path: os.utime(path / name, ns=(1, 1))


def _add_line(path: Path) -> None:
    with open(path / "instruments" / "csi300.txt", "a") as file:
        file.write("CON\t2020-03-02\t2020-12-31\n")


def _add_field(path: Path) -> None:
    (path / "features" / "aaa" / "vwap.day.bin").write_bytes(
        (path / "features" / "aaa" / "close.day.bin").read_bytes()
    )


@pytest.mark.parametrize(
    ("change", "matters"),
    [
        (_touch("calendars/day.txt"), True),
        (_add_line, True),
        (_touch("features/bbb/close.day.bin"), True),
        (lambda path: (path / "features/bbb/amount.day.bin").unlink(), True),
        (_add_field, True),
        (_touch("features/sh000300/close.day.bin"), True),
        (_touch("features/sh000300/open.day.bin"), False),
        (_touch("features/bbb/factor.day.bin"), False),
        (_touch("features/con/close.day.bin"), False),
        (_touch("instruments/all.txt"), False),
        (lambda path: (path / "features" / "new").mkdir(), False),
        (lambda path: (path / "calendars" / "5min.txt").write_text("2020-01-02 09:35:00\n"), False),
    ],
)
def test_the_input_digest_follows_every_file_that_is_read_and_no_other(
    written: tuple[BarStore, Path], tmp_path: Path, change: Callable[[Path], Any], matters: bool
) -> None:
    path = written[1]
    (path / "features" / "con").mkdir(exist_ok=True)
    (path / "features" / "con" / "close.day.bin").touch()
    processor = QlibDataProcessor(config(path, tmp_path, instrument="csi300"))
    before = processor.input_digest()
    assert processor.reusable and processor.input_digest() == before
    change(path)
    assert (processor.input_digest() != before) == matters


def test_a_store_that_ended_long_ago_says_where_later_bars_are(
    written: tuple[BarStore, Path], tmp_path: Path
) -> None:
    """In the report of its bars, and where days after its end are asked for."""
    path = written[1]
    store = QlibDataProcessor(config(path, tmp_path)).run_pipeline()
    (note,) = (one for one in store.source["notes"] if " ends on " in one)
    later = config(path, tmp_path, dataset_begin_time=date(2024, 1, 2), dataset_end_time=date(2025, 1, 2))
    with pytest.raises(UserError) as caught:
        QlibDataProcessor(later).run_pipeline()
    last = QlibStore(path, "day").calendar[-1]
    for text in (note, str(caught.value)):
        assert f"{path} ends on {last:%Y-%m-%d} (Qlib's own download does in September 2020)" in text
        assert "github.com/chenditc/investment_data/releases" in text and "python -m kronos to_qlib" in text
        assert "\n" not in text
