"""Points that separate thousands, lines of dividends between bars, and files of other forms."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from csv_cases import read

from kronos.utils.errors import UserError

HEADER = "Datum;Eröffnung;Hoch;Tief;Schluss;Volumen\n"


def german(value: float) -> str:
    return f"{value:,.0f}".replace(",", ".")


def table(closes: np.ndarray, volumes: np.ndarray) -> str:
    days = pd.bdate_range("2024-01-02", periods=len(closes))
    return HEADER + "".join(
        f"{day:%d.%m.%Y};{german(close)};{german(close + 5)};{german(close - 5)};{german(close)};{german(volume)}\n"
        for day, close, volume in zip(days, closes, volumes, strict=True)
    )


@pytest.mark.parametrize("seed", range(8))
def test_thousands_with_points_are_read_where_the_file_shows_them(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    level = (1000, 18945)[seed % 2]  # the first crosses 1.000, the second has volumes with two points
    closes = np.round(level * np.exp(random.normal(0, 0.02, 40).cumsum()))
    closes[:2] = (990, 1010) if level == 1000 else closes[:2]
    volumes = random.integers(2_000_000 if level > 1000 else 1000, 9_000_000 if level > 1000 else 900_000, 40)
    path = tmp_path / "X.csv"
    path.write_text(table(closes, volumes))
    found, _ = read(path)
    np.testing.assert_array_equal([bar[3] for bar in found], closes)
    np.testing.assert_array_equal([bar[4] for bar in found], volumes)


def test_numbers_that_can_be_read_two_ways_are_refused_and_the_field_settles_them(tmp_path: Path) -> None:
    path = tmp_path / "X.csv"
    rows = "02.01.2024;18.945;18.970;18.812;18.818\n03.01.2024;18.754;18.875;18.374;18.521\n"
    ambiguous = "Datum;Eröffnung;Hoch;Tief;Schluss\n" + rows
    path.write_text(ambiguous)
    with pytest.raises(
        UserError, match=r"18\.945 can be read two ways .* give --decimal-sign comma or --decimal-sign"
    ):
        read(path)
    for sign, scale in (("comma", 1000), ("point", 1)):
        found, _ = read(path, decimal_sign=sign)
        assert [bar[3] for bar in found] == pytest.approx([18.818 * scale, 18.521 * scale])
    path.write_text(
        "Datum;Eröffnung;Hoch;Tief;Schluss\n" + rows + "15.01.2024;18.754;18.9;18.3;18.5\n"
    )  # one number of one decimal tells
    assert [bar[3] for bar in read(path)[0]] == [18.818, 18.521, 18.5]
    path.write_text("日期;开盘;最高;最低;收盘\n" + rows)
    assert [bar[3] for bar in read(path)[0]] == [18.818, 18.521]
    path.write_text(ambiguous.replace(";", ","))  # commas between the columns: an English file
    assert [bar[3] for bar in read(path)[0]] == [18.818, 18.521]


@pytest.mark.parametrize("sign", ["comma", "point"])
def test_the_decimal_sign_that_is_given_is_taken(tmp_path: Path, sign: str) -> None:
    path = tmp_path / "X.csv"
    path.write_text("date;open;high;low;close;volume\n2024-01-02;1,234;1,300;1,200;1,250;9\n")
    assert read(path, decimal_sign=sign)[0][0][3] == (1.25 if sign == "comma" else 1250)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("line", ["0.24 Dividend", "2:1 Stock Splits", "Dividend: 0.24"])
def test_a_line_of_a_dividend_never_wins_over_the_bar_of_its_day(
    tmp_path: Path, before: bool, line: str
) -> None:
    bars = [f'"Mar {day}, 2024",{day},{day + 1},{day - 1},{day}.5,"1,{day}0"' for day in range(11, 16)]
    event = [f'"Mar 13, 2024",{line},,,,']
    path = tmp_path / "X.csv"
    lines = bars[:2] + event + bars[2:] if before else bars[:3] + event + bars[3:]
    path.write_text("\n".join(["Date,Open,High,Low,Close*,Volume", *lines]) + "\n")
    found, reader = read(path)
    assert [(bar[1], bar[3]) for bar in found] == [(f"2024-03-{day}", day + 0.5) for day in range(11, 16)]
    assert {one.kind: one.count for one in reader.findings} == {
        "line of a dividend or a split between the bars": 1
    }


def test_feather_is_read_as_parquet_is_and_json_is_refused_with_the_remedy(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "date": pd.date_range("2024-01-02", periods=3),
            "open": 1.0,
            "high": 3.0,
            "low": 0.5,
            "close": 2.0,
            "volume": 9,
        }
    )
    frame.to_feather(tmp_path / "A.feather")
    frame.to_parquet(tmp_path / "A.parquet")
    assert read(tmp_path / "A.feather")[0] == read(tmp_path / "A.parquet")[0]
    frame.to_json(tmp_path / "A.json")
    with pytest.raises(UserError, match=r"A\.json is a \.json file: write it as CSV or parquet"):
        read(tmp_path / "A.json")
