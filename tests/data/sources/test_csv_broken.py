"""Files that are broken as a whole: refused in one line, or with no other bars than the ones before the break."""

import gzip
import io
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from random_layouts import true_bars

from kronos.data.sources.csv import CsvDataProcessor
from kronos.utils.errors import UserError

Break = Callable[[bytes, np.random.Generator], bytes]


def cut(data: bytes, generator: np.random.Generator) -> bytes:
    return data[: int(generator.integers(1, len(data)))]


def flipped(data: bytes, generator: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for place in generator.integers(0, len(data), 20).tolist():
        changed[place] ^= 1 << int(generator.integers(8))
    return bytes(changed)


def zeros(data: bytes, generator: np.random.Generator) -> bytes:
    place = int(generator.integers(0, len(data)))
    return data[:place] + bytes(min(200, len(data) - place)) + data[place + 200 :]


def noise(data: bytes, generator: np.random.Generator) -> bytes:
    return bytes(generator.integers(0, 256, len(data), dtype=np.uint8))


def zipped(data: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("A.csv", data)
    return packed.getvalue()


def parquet(data: bytes) -> bytes:
    packed = io.BytesIO()
    pd.read_csv(io.BytesIO(data)).to_parquet(packed)
    return packed.getvalue()


PAGE = (
    b"<!DOCTYPE html><html><body><h1>429 Too Many Requests</h1><p>open, high, low, close</p></body></html>\n"
)
AS_THEY_ARE: dict[str, tuple[str, bytes]] = {
    "a page": ("A.csv", PAGE),
    "an answer in JSON": (
        "A.csv",
        b'{"error": "limit", "open": [1, 2], "high": [1, 2], "low": [1, 2], "close": [1, 2]}',
    ),
    "a picture": ("A.csv", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20),
    "a spreadsheet with another ending": ("A.csv", zipped(b"<xml/>")),
    "a text that says parquet": ("A.parquet", b"date,open,high,low,close\n2024-01-02,1,3,0.5,2\n"),
    "a text that says zip": ("A.zip", b"date,open,high,low,close\n2024-01-02,1,3,0.5,2\n"),
    "a text that says gz": ("A.csv.gz", b"date,open,high,low,close\n2024-01-02,1,3,0.5,2\n"),
    "an archive without texts": ("A.zip", b"PK\x05\x06" + bytes(18)),
    "zero bytes alone": ("A.csv", bytes(5000)),
    "a header of commas": ("A.csv", b",,,,,,\n" * 50),
    "half of a UTF-16 text": ("A.csv", "date,open,high,low,close\n2024-01-02,1,3".encode("utf-16")[:-1]),
}
KINDS: dict[str, Callable[[bytes], bytes]] = {
    "A.csv": bytes, "A.zip": zipped, "A.csv.gz": gzip.compress, "A.parquet": parquet,
    "B.csv": lambda data: data.decode().encode("utf-16"),
}  # fmt: skip


def build(path: Path) -> pd.DataFrame:
    given = {
        "data_source": "csv", "data_path": str(path), "freq": "day", "dataset_begin_time": date(2000, 1, 1),
        "dataset_end_time": date(2027, 1, 1), "calendar": "auto", "adjust": "auto", "symbols": None,
        "dataset_path": str(path.parent / "store"),
    }  # fmt: skip
    return CsvDataProcessor(SimpleNamespace(**given)).run_pipeline().frame()


@pytest.mark.parametrize("case", AS_THEY_ARE.values(), ids=AS_THEY_ARE.keys())
def test_what_is_no_file_of_bars_is_refused_in_one_line(tmp_path: Path, case: tuple[str, bytes]) -> None:
    name, data = case
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as refused:
        build(tmp_path / name)
    assert "\n" not in str(refused.value) and name in str(refused.value)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("damage", [cut, flipped, zeros, noise])
def test_broken_files_end_in_one_line_or_with_bars_that_were_there(
    tmp_path: Path, damage: Break, name: str, seed: int
) -> None:
    generator = np.random.default_rng([seed, len(name), ord(damage.__name__[0])])
    bars = true_bars(generator, "XNYS", "day")
    bars = bars[bars["instrument"] == bars["instrument"].iloc[0]].drop(columns="instrument")
    whole = bars.assign(datetime=bars["datetime"].dt.strftime("%Y-%m-%d"))
    (tmp_path / name).write_bytes(damage(KINDS[name](whole.to_csv(index=False).encode()), generator))
    try:
        found = build(tmp_path / name)
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert damage is not noise
    joined = found.merge(bars, on="datetime", how="left", suffixes=("", "_true"))
    wrong = ~np.isclose(joined["close"], joined["close_true"], rtol=1e-6)
    assert wrong.mean() <= (0.3 if damage is flipped else 0.1)
