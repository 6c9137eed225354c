"""What the names of files and folders say about instruments: joined where they agree, refused where they differ."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from csv_cases import HEADER, bars, folder, read

from kronos.utils.errors import UserError

DIVISIONS = {  # how people divide the bars of an instrument over folders
    "years": ("2023", "2024", "2025"),
    "months": ("2024/01", "2024/02", "2024/03"),
    "parts": ("part1", "part2", "part3"),
    "numbers": ("1", "2", "3"),
    "ages": ("old", "new", "archive"),
    "quarters": ("2024/Q1", "2024/Q2", "2024/Q3"),
}


def split(text: str, cuts: list[int], overlap: int = 0) -> list[str]:
    lines = text.splitlines()[1:]
    bounds = [0, *cuts, len(lines)]
    parts = [lines[max(begin - overlap, 0) : end] for begin, end in pairwise(bounds)]
    return ["\n".join([HEADER, *part]) + "\n" for part in parts]


@pytest.mark.parametrize("seed", range(12))
def test_bars_divided_over_folders_are_the_bars_of_one_file(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    names = list(DIVISIONS)[seed % len(DIVISIONS)]
    whole = {name: bars(0, 60, price=float(price)) for name, price in (("AAPL", 10), ("7203", 20), ("B", 30))}
    cuts = sorted(random.choice(np.arange(5, 55), 2, replace=False).tolist())
    overlap = int(random.integers(0, 5))
    one, _ = read(folder(tmp_path / "one", {f"{name}.csv": text for name, text in whole.items()}))
    files = {
        f"{place}/{name}.csv": part
        for name, text in whole.items()
        for place, part in zip(random.permutation(DIVISIONS[names]), split(text, cuts, overlap), strict=True)
    }
    found, reader = read(folder(tmp_path / "many", files))
    assert sorted(set(found)) == sorted(set(one)) and len(found) - len(one) == 3 * 2 * overlap
    assert any("in several folders" in note for note in reader.notes)


@pytest.mark.parametrize(
    ("one", "other"),
    [("raw/AAPL.csv", "adjusted/AAPL.csv"), ("NYSE/AAPL.csv", "LSE/AAPL.csv"), ("AAPL.csv", "AAPL (1).csv"),
     ("a/AAPL.csv", "b/AAPL.csv"), ("2023/AAPL.csv", "2024/AAPL.csv"), ("foo/data.csv", "old/data.csv")],
)  # fmt: skip
def test_one_name_with_different_bars_at_a_time_is_refused_and_both_files_are_named(
    tmp_path: Path, one: str, other: str
) -> None:
    files: dict[str, str | bytes] = {one: bars(0, 30), other: bars(20, 30, price=5), "MSFT.csv": bars()}
    if "data" in one:  # the folders name the instruments, and one of them cannot
        with pytest.raises(UserError, match="data"):
            read(folder(tmp_path, {**files, "new/data.csv": bars(25, 30, price=7)}))
        return
    with pytest.raises(
        UserError, match=r"comes from two files, .* whose bars differ at 10 of 10 times"
    ) as caught:
        read(folder(tmp_path, files))
    assert Path(one).name in str(caught.value) and Path(other).name in str(caught.value)


def test_folders_of_different_lengths_of_a_bar_are_refused(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"a/AAPL.csv": bars(0, 30), "b/AAPL.csv": bars(0, 200, freq="60min")}
    with pytest.raises(UserError, match=r"bars of different lengths, a/AAPL\.csv and b/AAPL\.csv"):
        read(folder(tmp_path, files), freq="auto")


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (("AAPL/data.csv", "MSFT/data.csv"), {"AAPL", "MSFT"}),
        (("AAPL/prices.csv", "MSFT/prices.csv", "MSFT/1.csv"), {"AAPL", "MSFT"}),
        (("stocks/AAPL/2024/01.csv", "stocks/MSFT/2024/01.csv"), {"AAPL", "MSFT"}),
        (("ALL/daily.csv", "ICE/daily.csv", "US/daily.csv"), {"ALL", "ICE", "US"}),
        (("AAPL/Data/01.csv", "MSFT/Data/01.csv"), {"AAPL", "MSFT"}),
        (("AAPL/2023.csv", "AAPL/2024.csv"), {"AAPL"}),
        (("AAPL/2024/2024-01.csv", "BTC/2024/2024-01.csv"), {"AAPL", "BTC"}),
        (("BTCUSDT/1h/2024-01.csv", "ETHUSDT/1h/2024-01.csv"), {"BTCUSDT", "ETHUSDT"}),
        (("NASDAQ/AAPL.csv", "NYSE/IBM.csv"), {"AAPL", "IBM"}),
        (("daily_IBM.csv", "daily_AAPL.csv"), {"IBM", "AAPL"}),
        (("STOCK_DAY_2330_202401.csv", "STOCK_DAY_2317_202401.csv"), {"2330", "2317"}),
        (("IBM_1d.csv", "AAPL_1d.csv"), {"IBM", "AAPL"}),
        (("aapl_us_d.csv", "msft_us_d.csv"), {"aapl_us", "msft_us"}),
        (("daily_IBM.csv", "AAPL.csv"), {"daily_IBM", "AAPL"}),
        (("stock_prices.csv",), {"stock_prices"}),
        (("BF-D.csv",), {"BF-D"}),
        (("historic_SAP.csv",), {"SAP"}),
    ],
    ids=lambda one: "+".join(sorted(one)) if isinstance(one, tuple) else "",
)  # fmt: skip
def test_the_name_of_the_file_names_the_instrument_and_the_folder_where_files_say_what_is_in_them(
    tmp_path: Path, files: tuple[str, ...], names: set[str]
) -> None:
    found, _ = read(folder(tmp_path, {name: bars(7 * place, 7) for place, name in enumerate(files)}))
    assert {bar[0] for bar in found} == names
