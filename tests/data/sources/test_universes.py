"""Universes by day, for every source: from a file of spans, CSV or Parquet, or from index-constitution."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_living import MadeUp, Service, settings, world  # noqa: F401

from kronos.data.bars import FEATURES, Flag
from kronos.data.calendars import sessions
from kronos.data.sources import membership
from kronos.data.sources.auto import by_market
from kronos.data.sources.base import BaseDataProcessor
from kronos.data.sources.factory import DataProcessorFactory
from kronos.data.sources.membership import index_history
from kronos.data.sources.symbols import listed
from kronos.data.sources.yfinance import YFinanceDataProcessor
from kronos.data.store import BarStore
from kronos.evaluation.qlib_store import write_qlib_store
from kronos.utils.errors import UserError

TEXT = (
    "instrument,from,to\nAAA,2024-02-01,2024-03-29\nAAA,2024-05-01,2024-05-31\nBBB,2024-04-01,\n"
    "GONE,2024-01-01,2024-02-01\n"
)
SPANS = {
    "AAA": [("2024-02-01", "2024-03-29"), ("2024-05-01", "2024-05-31")],
    "BBB": [("2024-04-01", "2099-01-01")],
}
DAYS = sessions("XNYS", "2024-01-02", "2024-06-28")


def bars() -> pd.DataFrame:
    frames = []
    for number, name in enumerate(("AAA", "BBB", "CCC")):
        close = 50 * np.exp(np.cumsum(np.random.default_rng(number).normal(0, 0.01, len(DAYS))))
        frames.append(pd.DataFrame({
            "instrument": name, "datetime": DAYS, "open": close, "high": close * 1.01, "low": close * 0.99,
            "close": close, "volume": 1000.0, "amount": 1000 * close,
        }))  # fmt: skip
    return pd.concat(frames, ignore_index=True)


class Own(BaseDataProcessor):
    """A user's own source, which knows nothing of universes."""

    calendar = "XNYS"

    def process_raw_data(self) -> pd.DataFrame:
        return bars()


def config(tmp_path: Path, source: str, symbols: tuple[str, ...] | None, **changes: Any) -> Any:
    given = {
        "data_source": source, "dataset_path": str(tmp_path / "store"), "dataset_begin_time": None,
        "dataset_end_time": None, "freq": "day", "symbols": symbols, "adjust": "none", "calendar": "XNYS",
        "instrument": "all", "data_path": str(tmp_path / "bars.csv"), "qlib_data_path": str(tmp_path / "qlib"),
    }  # fmt: skip
    return SimpleNamespace(**{**given, **changes})


def members_of(store: BarStore) -> dict[str, list[pd.Timestamp]]:
    flags, times = np.asarray(store.flags), pd.DatetimeIndex(store.times.astype("datetime64[ns]"))
    return {
        name: list(
            times[store.symbol_rows(place)][(flags[store.symbol_rows(place)] & int(Flag.NONMEMBER)) == 0]
        )
        for place, name in enumerate(store.instruments)
    }


EXPECTED = {
    name: [day for day in DAYS if any(first <= f"{day:%Y-%m-%d}" <= last for first, last in spans)]
    for name, spans in SPANS.items()
}


@pytest.fixture(params=["members.csv", "members.parquet", "members.txt"])
def universe(request: Any, tmp_path: Path) -> str:
    file = tmp_path / str(request.param)
    if file.suffix == ".parquet":
        rows = [line.split(",") for line in TEXT.splitlines()]
        table = pd.DataFrame(rows[1:], columns=rows[0])
        table["from"], table["to"] = pd.to_datetime(table["from"]), pd.to_datetime(table["to"])
        table.to_parquet(file, index=False)
    else:
        file.write_text(TEXT if file.suffix == ".csv" else TEXT.partition("\n")[2].replace(",", "\t"))
    return str(file)


@pytest.mark.parametrize("source", ["csv", "qlib", "own"])
def test_bars_outside_the_spans_of_a_file_are_context_whatever_the_source(
    universe: str, tmp_path: Path, source: str
) -> None:
    bars().to_csv(tmp_path / "bars.csv", index=False)
    write_qlib_store(bars()[["instrument", "datetime", *FEATURES]], tmp_path / "qlib", DAYS)
    made = Own if source == "own" else DataProcessorFactory.class_of(source)
    store = made(config(tmp_path, source, (universe,))).run_pipeline()
    assert members_of(store) == EXPECTED
    assert store.source["universe"].startswith("members: 2 instruments")
    assert store.source["survivorship"].startswith("Membership is point in time")
    if source != "qlib":  # which asks its own universe first
        assert [(one["kind"], one["items"][0][0]) for one in store.findings] == [
            ("member without bars in the source", "GONE")
        ]


def test_a_living_source_and_the_sample_do_the_same(
    universe: str,
    tmp_path: Path,
    world: Service,  # noqa: F811
    settings: Callable[..., Any],  # noqa: F811
) -> None:
    world.unknown = {"GONE"}
    assert members_of(MadeUp(settings(symbols=(universe,))).run_pipeline()) == EXPECTED
    file = tmp_path / "few.csv"
    file.write_text("IBM,2009-09-01,2010-01-29\nXOM,2010-02-01,\n")
    store = DataProcessorFactory.create_processor(
        "sample", config(tmp_path, "sample", (str(file),))
    ).run_pipeline()
    found = {name: (days[0], days[-1]) for name, days in members_of(store).items()}
    assert {name: [f"{day:%Y-%m-%d}" for day in days] for name, days in found.items()} == {
        "IBM": ["2009-09-01", "2010-01-29"], "XOM": ["2010-02-01", "2010-08-20"],
    }  # fmt: skip


def test_the_digest_of_the_input_follows_the_days_in_the_file(tmp_path: Path) -> None:
    bars().to_csv(tmp_path / "bars.csv", index=False)
    file = tmp_path / "members.csv"
    digests = []
    for last in ("2024-03-28", "2024-03-29", "2024-03-29"):
        file.write_text(f"AAA,2024-02-01,{last}\n")
        given = config(tmp_path, "csv", (str(file),))
        digests.append(DataProcessorFactory.create_processor("csv", given).input_digest())
    assert digests[0] != digests[1] == digests[2]


def test_files_that_are_no_universe_are_refused_in_one_line(tmp_path: Path) -> None:
    bars().to_csv(tmp_path / "bars.csv", index=False)
    file = tmp_path / "members.csv"
    for text, message in (
        ("AAA,2024-02-01,2024-03-01\nBBB,soon,later\n", "members.csv, line 2: 'BBB soon later' is not"),
        ("instrument,from,to\nAAA,soon,2024-03-01\n", "members.csv, line 2: 'AAA soon 2024-03-01' is not"),
        ("AAA,2024-03-01,2024-02-01\n", "line 1: AAA leaves on 2024-02-01, before it comes on 2024-03-01"),
        ("# none yet\n", "members.csv names no instrument"),
        ("NONE,2024-02-01,2024-03-01\n", "symbols: the source has no NONE among its 3 instruments"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            DataProcessorFactory.create_processor("csv", config(tmp_path, "csv", (str(file),))).run_pipeline()
    damaged, empty = tmp_path / "damaged.parquet", tmp_path / "empty.parquet"
    damaged.write_text("AAA,2024-02-01,2024-03-01")
    pd.DataFrame({"instrument": [], "from": [], "to": []}).to_parquet(empty)
    for file_of_spans, message in ((damaged, "cannot be read as parquet"), (empty, "names no instrument")):
        with pytest.raises(UserError, match=message):
            listed((str(file_of_spans),), "symbols", str)
    with pytest.raises(UserError, match=r"nowhere\.csv does not exist"):
        DataProcessorFactory.create_processor("csv", config(tmp_path, "csv", ("nowhere.csv",))).run_pipeline()
    file.write_text("600519,2024-01-01,\nAAPL,2024-01-01,\n")
    with pytest.raises(UserError, match="one file for each market"):
        by_market((str(file),))


def test_spans_of_one_instrument_in_two_spellings_are_joined(tmp_path: Path) -> None:
    file = tmp_path / "members.csv"
    file.write_text("aaa,2024-01-02,2024-01-31\nAAA,2024-03-01,2024-03-28\n")
    spans = listed((str(file),), "symbols", str.upper)["AAA"]
    assert [f"{first:%m-%d} {last:%m-%d}" for first, last in spans or []] == ["03-01 03-28", "01-02 01-31"]


def test_members_of_an_index_come_from_index_constitution(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pd.DataFrame({
        "symbol": ["SH600519", "SH600519", "SZ000001"],
        "opt-in": pd.to_datetime(["2010-01-04", "2020-01-02", "2005-04-08"]),
        "opt-out": pd.to_datetime(["2015-06-15", None, "2024-12-16"]),
    })  # fmt: skip
    package = ModuleType("index_constitution")
    package.__dict__.update(list_indices=lambda: ["csi300", "sp500"], history=lambda index: table)
    monkeypatch.setattr(membership.importlib, "import_module", lambda name: package)
    found = listed("history:CSI300", "symbols", str.lower)
    assert {name: [f"{day:%Y-%m-%d}" for day in spans[0]] for name, spans in found.items() if spans} == {
        "sh600519": ["2010-01-04", "2015-06-14"], "sz000001": ["2005-04-08", "2024-12-15"],
    }  # fmt: skip
    assert len(found["sh600519"] or []) == 2
    with pytest.raises(UserError, match="symbols history:dax: index-constitution has csi300, sp500"):
        listed("history:dax", "symbols", str)

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(membership.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"is not installed: run  pip install '\.\[members\]'"):
        listed("history:csi300", "symbols", str)


@pytest.mark.parametrize(("index", "size"), [("csi300", 300), ("csi500", 500), ("sp500", 500)])
def test_the_real_package_has_about_as_many_members_on_a_day_as_the_index(index: str, size: int) -> None:
    for day in ("2015-03-02", "2020-03-02", "2024-03-01"):
        times = pd.DatetimeIndex([day])
        inside = sum(bool(membership.membership(times, spans)[0]) for spans in index_history(index).values())
        assert abs(inside - size) <= 0.03 * size


def test_shares_of_a_class_are_spelled_as_yahoo_does() -> None:
    made = YFinanceDataProcessor.__new__(YFinanceDataProcessor)
    assert [made.spelled(name) for name in ("brk.b", "VOD.L", "7203.T", "AAPL", "0700.HK")] == [
        "BRK-B", "VOD.L", "7203.T", "AAPL", "0700.HK",
    ]  # fmt: skip
