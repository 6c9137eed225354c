"""The base of living sources with a made-up client: topping up, interruption at any request, a changed past."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

from kronos.data.bars import Flag
from kronos.data.calendars import sessions
from kronos.data.sources import living
from kronos.data.sources.living import LivingDataProcessor
from kronos.data.sources.polite import NoAnswer, UnknownSymbol
from kronos.data.sources.topping_up import OVERLAP, Page
from kronos.data.store import BarStore
from kronos.utils.errors import UserError
from kronos.utils.files import lock_of

SYMBOLS = ("AAA", "BBB", "CCC")
SPLIT_DAY = "2024-07-03"


@dataclass
class Service:
    """What the made-up service knows on its day `today`, and what it was asked."""

    today: str = "2024-06-28"
    page: int = 50
    splits: dict[str, float] = field(
        default_factory=dict
    )  # of each symbol on SPLIT_DAY, prices after / before
    dividends: dict[str, float] = field(default_factory=dict)  # the same, in the adjusted closes alone
    factors: dict[str, list[tuple[str, float]]] = field(default_factory=dict)
    changed: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = field(default_factory=dict)
    failing: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    limited_to: int | None = None
    stop_at: int = -1
    stop_after: bool = False
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # what, symbol, since
    finished: list[tuple[str, str, str]] = field(default_factory=list)

    def bars(self, symbol: str) -> pd.DataFrame:
        times = sessions("XNYS", "2024-01-02", self.today)
        generator = np.random.default_rng(sum(map(ord, symbol)))
        close = np.round(50 * np.exp(np.cumsum(generator.normal(0, 0.01, 400))), 2)[: len(times)]
        volume = 1000.0 + np.arange(len(times))
        price_basis, factor = np.ones(len(times)), np.ones(len(times))
        if self.today >= SPLIT_DAY:  # as Yahoo does, a split or dividend changes all that is before it
            before = np.asarray(times < SPLIT_DAY)
            price_basis = np.where(before, self.splits.get(symbol, 1.0), 1.0)
            factor = np.where(before, self.dividends.get(symbol, 1.0), 1.0)
        frame = pd.DataFrame({
            "datetime": times, "open": close * price_basis, "high": (close + 0.2) * price_basis,
            "low": (close - 0.2) * price_basis, "close": close * price_basis, "volume": volume / price_basis,
            "adj_close": close * price_basis * factor,
        })  # fmt: skip
        return self.changed.get(symbol, lambda bars: bars)(frame)

    def request(self, what: str, symbol: str, since: str, answer: Callable[[], Any]) -> Any:
        self.asked.append((what, symbol, since))
        stops = len(self.asked) - 1 == self.stop_at
        if stops and not self.stop_after:
            raise KeyboardInterrupt
        if symbol in self.failing:
            raise NoAnswer(f"{symbol}: it gave no bars in 5 tries, the last time: status 500")
        if symbol in self.unknown:
            raise UnknownSymbol
        found = answer()
        if stops:
            raise KeyboardInterrupt
        self.finished.append((what, symbol, f"{since} on {self.today}"))
        return found


class MadeUp(LivingDataProcessor):
    calendar = "XNYS"
    service = "the made-up service"
    freqs: ClassVar[dict[str, Any]] = {"day": "1d"}
    universes = ("two",)
    world: Service

    def fetch(self, symbol: str, since: pd.Timestamp, due: pd.Timestamp) -> Page:
        def answer() -> Page:
            bars = self.world.bars(symbol)
            if self.world.limited_to is not None:
                bars = bars.tail(self.world.limited_to)
            bars = bars[bars["datetime"] >= since]
            rest = bars.iloc[self.world.page :]
            following = rest["datetime"].iloc[0] if len(rest) else None
            return Page(bars.head(self.world.page), following, limited=self.world.limited_to is not None)

        return self.world.request("bars", symbol, f"{since:%Y-%m-%d}", answer)

    def fetch_factors(self, symbol: str) -> list[tuple[str, float]] | None:
        return self.world.request("factors", symbol, "", lambda: self.world.factors.get(symbol))

    def fetch_members(self, universe: str) -> list[str]:
        return ["AAA", "BBB"]


Settings = Callable[..., Any]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Service:
    made = Service()
    monkeypatch.setattr(MadeUp, "world", made, raising=False)
    set_clock(monkeypatch, "2024-06-29 12:00")
    return made


def set_clock(monkeypatch: pytest.MonkeyPatch, local: str) -> None:
    moment = pd.Timestamp(local).tz_localize("America/New_York").tz_convert("UTC")
    monkeypatch.setattr(living, "now", lambda: moment)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    def make(place: str = "cache", **changes: Any) -> Any:
        given = {
            "data_source": "made_up", "dataset_path": str(tmp_path / f"store of {place}"),
            "cache_path": str(tmp_path / place), "dataset_begin_time": None, "dataset_end_time": None,
            "freq": "auto", "symbols": SYMBOLS, "adjust": "auto", "calendar": "auto", "instrument": "csi300",
            "least_share": 0.9,
        }  # fmt: skip
        return SimpleNamespace(**{**given, **changes})

    return make


def build(config: Any) -> BarStore:
    return MadeUp(config).run_pipeline()


def kinds(store: BarStore) -> dict[str, int]:
    return {one["kind"]: one["count"] for one in store.findings}


def test_bars_are_those_of_the_service_and_a_later_run_asks_for_the_new_ones(
    world: Service, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(settings())
    frame = first.frame()
    for symbol in SYMBOLS:
        expected = world.bars(symbol)
        mine = frame[frame["instrument"] == symbol]
        assert list(mine["datetime"]) == list(expected["datetime"])
        for name in ("open", "high", "low", "close", "volume"):
            np.testing.assert_allclose(mine[name], expected[name], rtol=1e-6)
    assert first.findings == []
    asked = len(world.asked)
    assert build(settings()).digest == first.digest and len(world.asked) == asked
    assert MadeUp(settings()).input_digest() == MadeUp(settings()).input_digest()

    world.today = "2024-07-08"
    set_clock(monkeypatch, "2024-07-08 18:00")
    topped = build(settings())
    since = f"{world.bars('AAA')['datetime'].iloc[len(first) // 3 - OVERLAP]:%Y-%m-%d}"
    assert world.asked[asked:] == [("bars", symbol, since) for symbol in SYMBOLS]
    assert topped.digest == build(settings("anew")).digest != first.digest


@pytest.mark.parametrize("after", [False, True], ids=["before the answer", "before it is written down"])
@pytest.mark.parametrize("split", [False, True], ids=["plain", "split in between"])
def test_killed_at_any_request_and_started_again_it_ends_the_same_and_repeats_none(
    world: Service, settings: Settings, monkeypatch: pytest.MonkeyPatch, split: bool, after: bool
) -> None:
    def top_up(place: str) -> str:
        """The digest of the cache of two days: content, however it came about."""
        made = MadeUp(settings(place, symbols=SYMBOLS[:2]))
        made.download_data()
        frames = [made._frame(symbol, made.records[symbol]) for symbol in made.members]
        return pd.concat(frames).to_csv()

    def day(today: str) -> None:
        world.today = today
        set_clock(monkeypatch, f"{today} 18:00")

    if split:
        world.splits["AAA"] = 0.5
    world.page = 70
    day("2024-06-28")
    first = top_up("whole")
    day("2024-07-08")
    second = top_up("whole")
    requests = len(world.asked)
    assert requests == (4 + 2 + (2 if split else 0)) and first != second
    for stop in range(requests):
        world.asked.clear(), world.finished.clear()
        world.stop_at, world.stop_after = stop, after
        killed = 0
        for today, expected in (("2024-06-28", first), ("2024-07-08", second)):
            day(today)
            try:
                found = top_up(f"killed at {stop}")
            except KeyboardInterrupt:
                killed += 1
                found = top_up(f"killed at {stop}")
            assert found == expected
        assert killed == 1 and len(set(world.finished)) >= requests - 1
        # Only where a symbol that was put on another basis is asked for again does the comparison come twice.
        twice = len(world.finished) - len(set(world.finished))
        assert twice <= (1 if split else 0)


def test_a_split_in_between_puts_the_past_on_one_basis_and_is_said(
    world: Service, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = build(settings())
    world.today, world.splits = "2024-07-08", {"BBB": 0.5}
    set_clock(monkeypatch, "2024-07-08 18:00")
    store = build(settings())
    (finding,) = (one for one in store.findings if "basis" in one["kind"])
    assert (
        finding["items"] == [["BBB", "*", "prices up to 2024-06-28 x 0.5"]]
        and finding["action"] == "fetched anew"
    )
    assert store.digest != before.digest
    mine = store.frame().query("instrument == 'BBB'")
    np.testing.assert_allclose(mine["close"], world.bars("BBB")["close"], rtol=1e-6)
    assert store.digest == build(settings("anew")).digest


def test_a_dividend_changes_the_factors_of_the_past_and_the_symbol_is_fetched_anew(
    world: Service, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(settings())
    world.today, world.dividends = "2024-07-08", {"CCC": 0.98}
    set_clock(monkeypatch, "2024-07-08 18:00")
    store = build(settings())
    assert [one["items"] for one in store.findings if "basis" in one["kind"]] == [
        [["CCC", "*", "adjusted closes up to 2024-06-28 x 0.98"]]
    ]
    flags = np.asarray(store.flags)[store.instrument_of_row == 2]
    times = store.frame().query("instrument == 'CCC'")["datetime"]
    assert ((flags == Flag.ADJUSTED) == np.asarray(times >= SPLIT_DAY)).all()
    assert store.digest == build(settings("anew")).digest


def test_a_single_changed_bar_keeps_its_first_value_and_is_listed(
    world: Service, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(bars: pd.DataFrame) -> pd.DataFrame:
        bars.loc[bars["datetime"] == "2024-06-26", ["close", "adj_close"]] += 0.1
        return bars

    first = build(settings())
    world.today, world.changed = "2024-07-08", {"AAA": change}
    set_clock(monkeypatch, "2024-07-08 18:00")
    store = build(settings())
    (finding,) = store.findings
    assert finding["kind"] == "bar that the service has changed since it was cached"
    assert finding["items"] == [["AAA", "2024-06-26", "2024-06-26"]]
    rows = len(first) // 3
    np.testing.assert_array_equal(store.values[:rows], first.values[:rows])


def test_a_changed_factor_of_the_past_is_said(
    world: Service, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MadeUp, "has_factors", True)
    for symbol in SYMBOLS:  # the factors of the list are the only ones
        world.changed[symbol] = lambda bars: bars.drop(columns="adj_close")
        world.factors[symbol] = [("2023-05-02", 1.0), ("2024-03-01", 1.05)]
    store = build(settings())
    assert kinds(store) == {"adjustment factor changes": 3}
    assert {what for what, _, _ in world.asked} == {"bars", "factors"}
    world.factors["AAA"] = [("2023-05-02", 1.0), ("2024-03-01", 1.06)]
    world.factors["BBB"] = [("2023-05-02", 2.0), ("2024-03-01", 2.1), ("2024-07-02", 2.2)]  # the same steps
    world.today = "2024-07-08"
    set_clock(monkeypatch, "2024-07-08 18:00")
    store = build(settings())
    said = {one["kind"]: one["items"] for one in store.findings}
    assert said["past that the service has put on another basis"] == [
        ["AAA", "*", "adjustment factors up to 2024-06-28"]
    ]
    assert store.digest == build(settings("anew")).digest


def test_the_bar_of_a_day_that_is_not_over_is_left_out_until_it_is_final(
    world: Service, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.today = "2024-07-01"
    for local, last in (
        ("2024-07-01 15:00", "2024-06-28"), ("2024-07-01 16:20", "2024-06-28"), ("2024-07-01 16:30", "2024-07-01"),
    ):  # fmt: skip
        set_clock(monkeypatch, local)
        store = build(settings())
        assert pd.Timestamp(int(store.times.max())) == pd.Timestamp(last)
        assert any(f"asked until {last}" in note for note in store.source["notes"])


def test_a_bar_that_is_late_is_asked_for_again_an_hour_later(
    world: Service, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock(monkeypatch, "2024-07-01 17:00")  # the service still ends with the day before
    build(settings())
    asked = len(world.asked)
    world.today = "2024-07-01"
    set_clock(monkeypatch, "2024-07-01 17:30")
    build(settings())
    assert len(world.asked) == asked
    set_clock(monkeypatch, "2024-07-01 18:00")
    assert pd.Timestamp(int(build(settings()).times.max())) == pd.Timestamp("2024-07-01")


def test_symbols_that_do_not_come_are_listed_unless_too_many_are_missing(
    world: Service, settings: Settings
) -> None:
    world.failing, world.unknown = {"BBB"}, {"DDD"}
    with pytest.raises(
        UserError, match=r"^BBB: it gave no bars .* 1 of 3 symbols are in .* \(--least-share says"
    ):
        build(settings())
    store = build(settings(least_share=0.6, symbols=("AAA", "BBB", "CCC", "DDD")))
    assert store.instruments == ("AAA", "CCC")
    assert kinds(store) == {"symbol that did not come": 1, "symbol without bars": 1}
    failed = MadeUp(settings(least_share=0.6)).input_digest()
    world.failing = set("CEG")
    store = build(settings("ten", least_share=0.7, symbols=tuple("JIHGFEDCBA")))
    assert store.instruments == tuple("ABDFHIJ")  # 0.7 x 10 is 7, whatever floats say
    world.failing.clear()
    assert MadeUp(settings(least_share=0.6)).input_digest() != failed
    world.failing = set("EFGHI")
    world.asked.clear()
    with pytest.raises(UserError, match="0 of 5 symbols are in"):
        build(settings("away", least_share=0.0, symbols=tuple("EFGHI")))
    assert len(world.asked) == 3  # no more are tried where nothing answers
    world.failing, world.unknown = set(), {"AAA"}
    with pytest.raises(UserError, match="the made-up service knows none of the 1 symbols"):
        build(settings("none", symbols=("AAA",)))


def test_an_answer_without_the_bars_before_is_refused_or_its_hole_is_listed(
    world: Service, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(settings())
    world.today, world.changed = "2024-07-31", {"AAA": lambda bars: bars.tail(10)}
    set_clock(monkeypatch, "2024-07-31 18:00")
    with pytest.raises(
        UserError, match=r"AAA: the answer of the made-up service begins at 2024-07-18 and lacks"
    ):
        build(settings())
    world.changed, world.limited_to = {}, 10
    found = kinds(build(settings()))
    assert found["bars that the service no longer has"] == 3


def test_columns_that_changed_are_told_in_one_line(world: Service, settings: Settings) -> None:
    world.changed["AAA"] = lambda bars: bars.rename(columns={"volume": "turnover"})
    with pytest.raises(UserError, match=r"gave no column volume .*it has changed its answers") as caught:
        build(settings())
    assert "\n" not in str(caught.value)


def test_bars_without_prices_are_left_out_and_listed(world: Service, settings: Settings) -> None:
    def empty(bars: pd.DataFrame) -> pd.DataFrame:
        bars.loc[bars["datetime"] == "2024-06-26", ["open", "close"]] = np.nan
        return bars

    world.changed["AAA"] = empty
    assert kinds(build(settings()))["bar that the service gives without prices"] == 1


def test_an_earlier_begin_fetches_anew_and_a_later_one_asks_nothing(
    world: Service, settings: Settings
) -> None:
    late = settings(dataset_begin_time=pd.Timestamp("2024-03-01"))
    few = build(late)
    many = build(settings())
    assert len(many) > len(few) and kinds(many) == {"earlier bars asked for than before": 3}
    asked = len(world.asked)
    assert build(late).digest == few.digest and len(world.asked) == asked


def test_symbols_come_from_a_file_with_spans_or_a_universe(
    world: Service, settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "members.csv"
    file.write_text("AAA, 2024-02-01, 2024-03-29\nAAA, 2024-05-01, 2024-05-31\nBBB, 2024-01-01, 2024-12-31\n")
    store = build(settings(symbols=(str(file),)))
    assert store.instruments == ("AAA", "BBB")
    times = pd.DatetimeIndex(store.times.astype("datetime64[ns]"))
    inside = (times >= "2024-02-01") & (times <= "2024-03-29") | (times >= "2024-05-01") & (
        times <= "2024-05-31"
    )
    mine = store.instrument_of_row == 0
    assert ((np.asarray(store.flags) == 0) == (inside | ~mine)).all()
    assert store.source["survivorship"].startswith("Membership is point in time")
    named = MadeUp(settings(symbols=None, instrument="two"))
    named.input_digest()  # as a stage does first, which tops the cache up
    store = named.run_pipeline()
    assert store.instruments == ("AAA", "BBB") and "two: its 2 members of today" in store.source["universe"]
    with pytest.raises(UserError, match=r"needs --symbols: a list, or a file .*, or --instrument two"):
        build(settings(symbols=None))
    with pytest.raises(UserError, match=r"symbols nowhere\.txt does not exist"):
        build(settings(symbols=("nowhere.txt",)))
    with pytest.raises(UserError, match="has no 5min bars: give --freq, one of day"):
        build(settings(freq="5min"))


def test_a_second_process_waits_until_the_first_has_filled_the_cache(
    world: Service, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = threading.Event()
    monkeypatch.setattr(living, "print", lambda *args, **named: said.set(), raising=False)
    other = lock_of(MadeUp(settings()).folder() / "cache")
    other.acquire()
    stores: list[BarStore] = []
    thread = threading.Thread(target=lambda: stores.append(build(settings())))
    thread.start()
    assert said.wait(30) and not world.asked
    other.release()
    thread.join(30)
    assert len(stores) == 1


def test_intraday_bars_within_the_last_interval_are_left_out(
    world: Service, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = sessions("XNYS", "2024-06-03", "2024-06-28", "30min", "start")
    prices = 50 + np.sin(np.arange(len(times)))
    frame = pd.DataFrame({"datetime": times, "volume": 100.0, **{name: prices for name in ("open", "close")},
                          "high": prices + 1, "low": prices - 1})  # fmt: skip
    monkeypatch.setattr(MadeUp, "freqs", {"30min": "30m"})
    monkeypatch.setattr(MadeUp, "label", "start")
    monkeypatch.setattr(Service, "bars", lambda self, symbol: frame)
    world.page = 1000
    world.today = "2024-06-28"
    for local, last in (
        ("2024-06-28 11:00", "10:00"),
        ("2024-06-28 11:30", "10:30"),
        ("2024-06-28 20:00", "15:30"),
    ):
        set_clock(monkeypatch, local)
        store = build(settings(freq="30min", symbols=("AAA",)))
        assert pd.Timestamp(int(store.times.max())) == pd.Timestamp(f"2024-06-28 {last}")
    asked = len(world.asked)
    for local in ("2024-06-29 03:00", "2024-06-30 12:00", "2024-07-01 09:50"):  # no bar has ended since
        set_clock(monkeypatch, local)
        build(settings(freq="30min", symbols=("AAA",)))
    assert len(world.asked) == asked
    set_clock(monkeypatch, "2024-07-01 10:30")
    build(settings(freq="30min", symbols=("AAA",)))
    assert len(world.asked) == asked + 1
