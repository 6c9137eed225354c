"""Bars for tests: the sample store, built once, and small stores of made-up bars."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kronos.data.bars import align
from kronos.data.calendars import sessions
from kronos.data.cleaning import clean
from kronos.data.sources import sample
from kronos.data.sources.factory import DataProcessorFactory
from kronos.data.store import BarStore
from kronos.data.store_writer import store_sessions, write_store


@dataclass(frozen=True)
class Settings:
    """The fields of a configuration that the data layer reads."""

    dataset_path: str
    data_source: str = "sample"
    dataset_begin_time: date = date(2009, 1, 1)
    dataset_end_time: date = date(2010, 12, 31)
    freq: str = "day"


@pytest.fixture(scope="session")
def settings() -> type[Settings]:
    return Settings


@pytest.fixture(scope="session")
def sample_store(tmp_path_factory: pytest.TempPathFactory) -> BarStore:
    path = tmp_path_factory.mktemp("sample") / "store"
    return DataProcessorFactory.create_processor("sample", Settings(str(path))).run_pipeline()


@pytest.fixture(scope="session")
def sample_bars() -> pd.DataFrame:
    return sample.read()[0]


def random_bars(generator: np.random.Generator, count: int, level: float = 50.0) -> dict[str, np.ndarray]:
    """Valid bars: positive, high and low contain open and close."""
    close = level * np.exp(np.cumsum(generator.normal(0, 0.02, count)))
    opening = close * np.exp(generator.normal(0, 0.01, count))
    spread = np.exp(np.abs(generator.normal(0, 0.01, (2, count))))
    return {
        "open": opening,
        "high": np.maximum(opening, close) * spread[0],
        "low": np.minimum(opening, close) / spread[1],
        "close": close,
        "volume": np.round(generator.lognormal(13, 1, count)),
    }


@pytest.fixture
def make_bars() -> Callable[..., pd.DataFrame]:
    """Raw bars of several instruments on XNYS days from 2020-01-02; `missing` are session numbers left out."""

    def make(
        days: int = 60, names: Sequence[str] = ("AAA", "BBB"), missing: dict[str, Sequence[int]] | None = None
    ) -> pd.DataFrame:
        generator = np.random.default_rng(3)
        calendar = sessions("XNYS", "2020-01-02", "2022-12-30")[:days]
        frames = []
        for name in names:
            frame = pd.DataFrame({"instrument": name, "datetime": calendar, **random_bars(generator, days)})
            frames.append(frame.drop(index=list((missing or {}).get(name, []))))
        return pd.concat(frames, ignore_index=True)

    return make


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., BarStore]:
    def make(
        raw: pd.DataFrame, name: str = "store", exchange: str = "XNYS", freq: str = "day", **changes: Any
    ) -> BarStore:
        frame, findings = clean(raw, freq)
        calendar = store_sessions(exchange, frame["datetime"].min(), frame["datetime"].max(), freq)
        aligned = align(frame, calendar)
        given: dict[str, Any] = {
            "sessions": calendar,
            "last_session": int(aligned["session"].max()),
            "calendar": exchange,
            "freq": freq,
            "source": {"name": "made up"},
            "findings": findings,
        }
        return write_store(tmp_path / name, aligned, **{**given, **changes})

    return make
