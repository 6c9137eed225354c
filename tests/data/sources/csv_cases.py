"""A file as a tool writes it, with what must be read of it."""

from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kronos.data.calendars import sessions
from kronos.data.sources.csv import CsvDataProcessor

HEADER = "date,open,high,low,close,volume"
Bar = tuple[str, str, float, float, float]  # instrument, time, open, close, volume


def processor(path: Path, **fields: Any) -> CsvDataProcessor:
    given = {
        "data_source": "csv", "data_path": str(path), "freq": "day", "dataset_begin_time": date(2000, 1, 1),
        "dataset_end_time": date(2027, 1, 1), "calendar": "auto", "adjust": "auto", "symbols": None,
        "dataset_path": str(path.parent / "store"),
    }  # fmt: skip
    return CsvDataProcessor(SimpleNamespace(**{**given, **fields}))


def read(path: Path, **fields: Any) -> tuple[list[Bar], CsvDataProcessor]:
    """The bars of a file in order of instrument and time, and the processor that read them."""
    reader = processor(path, **fields)
    table = pd.concat(list(reader.process_raw_data()), ignore_index=True)
    table = table.sort_values(["instrument", "datetime"], kind="stable")
    bars = [
        (
            one.instrument,
            f"{one.datetime:%Y-%m-%d %H:%M}".removesuffix(" 00:00"),
            one.open,
            one.close,
            one.volume,
        )
        for one in table.itertuples()
    ]
    return bars, reader


class Case(NamedTuple):
    """The text of a file, its name, the fields it needs, and the bars that it holds."""

    text: str
    bars: list[Bar]
    name: str = "X.csv"
    fields: dict[str, Any] = {}  # noqa: RUF012
    notes: str = ""
    encoding: str = "utf-8"
    amounts: tuple[float, ...] = ()
    findings: dict[str, int] = {}  # noqa: RUF012


def check(root: Path, case: Case) -> None:
    """Write the file of a case, read it, and compare everything that the case says."""
    path = root / case.name
    path.write_bytes(case.text.encode(case.encoding))
    bars, reader = read(path, **case.fields)
    assert [bar[:2] for bar in bars] == [bar[:2] for bar in case.bars]
    np.testing.assert_allclose([bar[2:] for bar in bars], [bar[2:] for bar in case.bars], rtol=1e-9)
    assert case.notes in " ".join(reader.notes)
    assert {one.kind: one.count for one in reader.findings} == case.findings or not case.findings
    if case.amounts:
        table = pd.concat(list(processor(path, **case.fields).process_raw_data()))
        table = table.sort_values(["instrument", "datetime"], kind="stable")
        np.testing.assert_allclose(table["amount"], case.amounts)


def bars(
    first: int = 0, count: int = 30, exchange: str = "XNYS", freq: str = "day", price: float = 10.0
) -> str:
    times = sessions(exchange, "2024-01-02", "2024-12-31", freq)[first : first + count]
    pattern = "%Y-%m-%d" if freq == "day" else "%Y-%m-%d %H:%M"
    rows = [
        f"{moment:{pattern}},{price + place / 10:.2f},{price + place / 10 + 0.5:.2f},{price + place / 10 - 0.5:.2f},"
        f"{price + place / 10 + 0.1:.2f},{100 + place}"
        for place, moment in enumerate(times)
    ]
    return "\n".join([HEADER, *rows]) + "\n"


def folder(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / "bars" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root / "bars"
