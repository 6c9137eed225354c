"""Qlib on bars of our own: the data folder that it reads, and its initialisation.

Qlib keeps process-wide state (configuration, providers, an exception hook, loggers, an exit handler). All of
it is restored after each use, nothing is printed, and no process is started.
"""

import atexit
import logging
import sys
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.data.bars import FEATURES, Flag
from kronos.data.frequency import within_day
from kronos.evaluation.tradability import Tradability
from kronos.utils import files
from kronos.utils.errors import UserError
from kronos.utils.names import file_name

MATRICES = "matrices"  # the folder of columns in a store that only `read_fields` reads


def write_qlib_store(
    frame: pd.DataFrame,
    path: str | Path,
    sessions: pd.DatetimeIndex | np.ndarray,
    freq: str = "day",
    tradable: Tradability | None = None,
    matrices: Collection[str] = (),
) -> Path:
    """Write bars as a Qlib data folder, replacing `path` atomically; returns the path.

    `frame` is a long bar frame (instrument, datetime, open, high, low, close, volume, amount, optionally flag).
    `sessions` is the whole calendar in order (a DatetimeIndex, or int64 nanoseconds), with sessions after the
    last bar where they are known: Qlib needs to know when the last day ends. FILLED rows become NaN, that is not
    tradable. Besides the bars each instrument gets `factor` (1: prices are adjusted already), `change` (close over
    the close before, less 1), `vwap` (amount over volume), and `no_buy` and `no_sell`, 1 where `tradable` forbids it
    at the deal price.
    With `matrices`, names of columns, only these are written, each as one matrix for `read_fields` in place of a file
    per instrument: Qlib's own reading does not know them, and they are written and read many times faster.
    Qlib knows an instrument by its `file_name`: BTC/USDT, `con`, or abc beside ABC can be stored.
    Raises ValueError for bars outside the sessions or given twice.
    """
    calendar = pd.DatetimeIndex(pd.to_datetime(np.asarray(sessions)))
    if not calendar.is_monotonic_increasing or not calendar.is_unique:
        raise ValueError("sessions must be in order and unique")
    bars = frame
    if "flag" in frame.columns:
        bars = frame[(frame["flag"].to_numpy() & int(Flag.FILLED)) == 0]
    if bars.empty:
        raise UserError("there are no bars to backtest on: the frame is empty")
    instrument, labels = pd.factorize(bars["instrument"], sort=True)
    names = [str(name) for name in labels]
    session = calendar.get_indexer(pd.DatetimeIndex(bars["datetime"]))
    if (session < 0).any():
        day = bars["datetime"].to_numpy()[session < 0][0]
        raise ValueError(f"{(session < 0).sum()} bars are outside the sessions, the first is at {day}")
    cell = instrument.astype(np.int64) * len(calendar) + session
    filled = np.zeros(len(names) * len(calendar), dtype=bool)
    filled[cell] = True
    if filled.sum() < len(cell):
        raise ValueError("the frame holds an instrument twice at one time")

    grids: dict[str, np.ndarray] = {}
    for name in FEATURES:
        cells = np.full(len(names) * len(calendar), np.nan)
        cells[cell] = bars[name].to_numpy(dtype=np.float64)
        grids[name] = cells.reshape(len(names), len(calendar))
    known_close = pd.DataFrame(grids["close"]).ffill(axis=1)
    grids["change"] = grids["close"] / known_close.shift(1, axis=1).to_numpy() - 1
    traded = np.where(grids["volume"] > 0, grids["volume"], np.nan)
    grids["vwap"] = grids["amount"] / traded
    grids["no_buy"] = grids["no_sell"] = np.zeros(grids["close"].shape)
    if tradable is not None:
        for name, allowed in (("no_buy", tradable.buyable), ("no_sell", tradable.sellable)):
            aligned = allowed.reindex(index=calendar, columns=pd.Index(names), fill_value=True)
            grids[name] = (~aligned.to_numpy(dtype=bool)).T.astype(float)
    grids["factor"] = np.where(np.isfinite(grids["close"]), 1.0, np.nan)

    first = np.full(len(names), len(calendar))
    last = np.full(len(names), -1)
    np.minimum.at(first, instrument, session)
    np.maximum.at(last, instrument, session)
    known = int(calendar.get_indexer(pd.DatetimeIndex([frame["datetime"].max()]))[0]) + 1
    # Qlib reads the session after the one it trades in; with none known, any later time will do
    future = calendar
    if known == len(calendar):
        future = pd.DatetimeIndex(calendar.append(calendar[-1:] + pd.Timedelta(days=1)))
    text = future.strftime("%Y-%m-%d" if freq == "day" else "%Y-%m-%d %H:%M:%S").tolist()
    ranges = [
        f"{file_name(name)}\t{text[begin]}\t{text[end]}"
        for name, begin, end in zip(names, first, last, strict=True)
    ]

    with files.atomic_folder(path) as folder:
        _write_lines(folder / "calendars" / f"{freq}.txt", text[:known])
        _write_lines(folder / "calendars" / f"{freq}_future.txt", text)
        _write_lines(folder / "instruments" / "all.txt", ranges)
        if matrices:
            (folder / MATRICES).mkdir()
            np.save(folder / MATRICES / "span.npy", np.stack((first, last + 1), axis=1))
            for field in matrices:
                np.save(folder / MATRICES / f"{field}.npy", grids[field].astype("<f4"))
            names = []
        for row, name in enumerate(names):
            place = folder / "features" / file_name(name).lower()  # Qlib reads lower-case folders
            place.mkdir(parents=True)
            span = slice(first[row], last[row] + 1)
            for field, grid in grids.items():
                np.append(first[row], grid[row, span]).astype("<f4").tofile(place / f"{field}.{freq}.bin")
    return Path(path)


def write_index(path: Path, closes: pd.Series, sessions: np.ndarray, freq: str = "day") -> None:
    """Add the closes of an index to a folder of `write_qlib_store`; it is in no universe, since nobody can buy it."""
    calendar = pd.DatetimeIndex(pd.to_datetime(np.asarray(sessions)))
    values = closes.reindex(calendar).to_numpy(dtype=np.float64)
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return
    place = path / "features" / file_name(str(closes.name)).lower()
    place.mkdir(parents=True, exist_ok=True)
    np.append(known[0], values[known[0] : known[-1] + 1]).astype("<f4").tofile(place / f"close.{freq}.bin")


def read_calendar(path: Path, freq: str) -> pd.DatetimeIndex:
    """Return the sessions of a folder of `write_qlib_store` that have bars."""
    return pd.DatetimeIndex((path / "calendars" / f"{freq}.txt").read_text(encoding="utf-8").splitlines())


def qlib_freq(freq: str) -> str:
    """Return what Qlib calls bars of a length: a week or a month is a day of its calendar."""
    return freq if within_day(freq) else "day"


def load_module(module: str) -> Any:
    """Import a module of Qlib without the advertisement that one of its dependencies prints."""
    with suppress(ImportError):
        import_module("gym_notices.notices").notices.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module(module)


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@contextmanager
def initialised(path: Path) -> Iterator[None]:
    """Initialise Qlib silently on the store at `path`; everything that this changes is restored afterwards."""
    logger = logging.getLogger("qlib")
    hook, handlers, propagate = sys.excepthook, logger.handlers, logger.propagate
    # a bare logger would still reach the root's handlers, or standard error when there are none
    logger.handlers, logger.propagate = [logging.NullHandler()], False
    try:
        qlib, config = load_module("qlib"), load_module("qlib.config").C
        data, loop = load_module("qlib.data.data"), load_module("qlib.backtest.backtest")
        recorder, cache = load_module("qlib.workflow").R, load_module("qlib.data.cache").H
        places = ("Cal", "Inst", "FeatureD", "PITD", "ExpressionD", "DatasetD", "D")
        shared = [*(getattr(data, place) for place in places), recorder]
        providers = [wrapper.__dict__["_provider"] for wrapper in shared]
        saved = config.__dict__["_config"]  # setting up replaces this dict, it does not write into it
        bar = loop.tqdm
        try:
            recorder.__dict__["_provider"] = None  # with an active recorder Qlib refuses to be set up again
            loop.tqdm = partial(bar, disable=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # logging_config: Qlib's own would close the handlers of the whole process.
                # region "us": no price limit and no lot size of Qlib's choosing.
                qlib.init(
                    provider_uri=str(path),
                    region="us",
                    kernels=1,
                    logging_config={},
                    logging_level=logging.CRITICAL,
                )
                atexit.unregister(recorder.end_exp)
                yield
        finally:
            loop.tqdm = bar
            cache.clear()
            for wrapper, provider in zip(shared, providers, strict=True):
                wrapper.__dict__["_provider"] = provider
            config.__dict__["_config"] = saved
    finally:
        sys.excepthook = hook
        logger.handlers, logger.propagate = handlers, propagate
