"""Dates that can be read two ways: what a file or its folder proves decides, and nothing is guessed."""

from pathlib import Path

import numpy as np
import pytest
from csv_cases import read

from kronos.utils.errors import UserError

HEADER = "date,open,high,low,close,volume\n"


def bars(*days: str) -> str:
    return HEADER + "".join(f"{day},1,3,0.5,2,{place + 1}\n" for place, day in enumerate(days))


def folder(root: Path, **files: str) -> Path:
    (root / "bars").mkdir()
    for name, text in files.items():
        (root / "bars" / f"{name}.csv").write_text(text)
    return root / "bars"


DAY_FIRST, MONTH_FIRST = bars("30/01/2024", "31/01/2024"), bars("01/30/2024", "01/31/2024")
UNCERTAIN = bars("01/02/2024", "02/03/2024")


@pytest.mark.parametrize(("proof", "days"), [(DAY_FIRST, ["2024-02-01", "2024-03-02"]),
                                             (MONTH_FIRST, ["2024-01-02", "2024-02-03"])])  # fmt: skip
@pytest.mark.parametrize("name", ["A", "Z"])
def test_one_file_of_a_folder_tells_what_stands_first_in_the_others(
    tmp_path: Path, proof: str, days: list[str], name: str
) -> None:
    found, reader = read(folder(tmp_path, **{name: proof, "M": UNCERTAIN}))
    assert [day for instrument, day, *_ in found if instrument == "M"] == days
    assert "as other files of the folder show" in " ".join(reader.notes)


def test_proof_in_a_folder_beats_days_that_only_follow_each_other_well(tmp_path: Path) -> None:
    monthly = bars(
        "01/02/2024", "01/03/2024", "01/04/2024", "01/05/2024"
    )  # the first of four months, day first
    found, _ = read(folder(tmp_path, A=DAY_FIRST, M=monthly))
    assert [day for name, day, *_ in found if name == "M"] == [f"2024-0{month}-01" for month in (2, 3, 4, 5)]
    found, _ = read(
        folder(tmp_path / "alone", M=monthly) if (tmp_path / "alone").mkdir() is None else tmp_path
    )
    assert [day for _, day, *_ in found] == [f"2024-01-0{day}" for day in (2, 3, 4, 5)]


def test_files_that_contradict_each_other_prove_nothing_about_a_third(tmp_path: Path) -> None:
    found, reader = read(folder(tmp_path, A=DAY_FIRST, B=MONTH_FIRST, M=UNCERTAIN))
    assert {name for name, *_ in found} == {"A", "B"}
    (finding,) = reader.findings
    assert finding.count == 1 and "can be read two ways" in finding.items[0][2]
    (tmp_path / "alone").mkdir()
    with pytest.raises(UserError, match=r"M\.csv: the date 01/02/2024 can be read two ways"):
        read(folder(tmp_path / "alone", M=UNCERTAIN))


@pytest.mark.parametrize(
    ("days", "wanted"),
    [
        (("24/01/05", "24/01/04"), ("2024-01-04", "2024-01-05")),  # the year first: Japanese pages
        (("03/01/24", "04/01/24", "15/01/24"), ("2024-01-03", "2024-01-04", "2024-01-15")),
        (("01/30/24", "01/31/24"), ("2024-01-30", "2024-01-31")),
        (("31/12/99", "03/01/00"), ("1999-12-31", "2000-01-03")),
        (("113/01/02", "113/01/03"), ("2024-01-02", "2024-01-03")),  # Taiwan's years
        (("02.01.2024", "03.01.2024"), ("2024-01-02", "2024-01-03")),  # points: the day is first
        (("5/13/2024", "6/2/2024"), ("2024-05-13", "2024-06-02")),
    ],
)
def test_years_of_two_and_three_digits_and_days_between_points(
    tmp_path: Path, days: tuple[str, ...], wanted: tuple[str, ...]
) -> None:
    found, _ = read(folder(tmp_path, A=bars(*days)))
    assert tuple(day for _, day, *_ in found) == wanted


@pytest.mark.parametrize(
    "days", [("01/02/24", "02/03/24"), ("10/11/12",), ("01/02/2024",), ("11/10/2012", "12/11/2012")]
)
def test_dates_that_nothing_decides_are_refused(tmp_path: Path, days: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="can be read two ways"):
        read(folder(tmp_path, A=bars(*days)))


def test_taiwans_years_before_its_hundredth_are_known_by_the_columns_of_its_exchange(tmp_path: Path) -> None:
    text = '"日期","成交股數","開盤價","最高價","最低價","收盤價"\n"99/01/04","1,000","1","3","0.5","2"\n'
    found, _ = read(folder(tmp_path, A=text))
    assert [day for _, day, *_ in found] == ["2010-01-04"]


BID = "Bid Open,Bid High,Bid Low,Bid Close"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"Time,{BID},{BID.replace('Bid', 'Ask')}\n2024-01-02,1,3,0.5,2,1,3,0.5,2\n", "has no column for open, high"),
        ("time,volume,mid.o,mid.h,mid.l,mid.c\n2024-01-02,9,1,3,0.5,2\n", "has no column for open, high"),
        ("time,interval,open,high,low,close\n2024-01-02,1d,1,3,0.5,2\n2024-01-03,1h,1,3,0.5,2\n",
         r"column interval says that the bars are of several lengths \(1d, 1h\)"),
        ("Date,AAPL US,MSFT US\n2024-01-02,1,2\n", "no bars are found|has no column"),
        ("Date,PX_OPEN,PX_HIGH,PX_LOW,PX_LAST,Date,PX_OPEN,PX_HIGH,PX_LOW,PX_LAST\n"
         "2024-01-02,1,3,0.5,2,2024-01-03,1,3,0.5,2\n", "column Date is there twice"),
        ("date,symbol,field,value\n2024-01-02,AAPL,open,1\n", "has no column|no bars are found"),
        ("date,open,high,low,close\n2024-01-02,110'16,110'24,110'08,110'20\n", "column open has \"110'16\" in row 2"),
        ("date,open,high,low,close\n2024-01-02,10 1/2,11 1/8,10,10 5/8\n", "column open has '10 1/2' in row 2"),
        ("date,open,high,low,close,volume\n2024-01-02,1 2,3,0.5,2,9\n", "column open has '1 2' in row 2"),
        ("date,open,high,low,close\n4529,1,3,0.5,2\n", "'4529' in row 2 is not a time"),
        ("1704067200,1168068,42475.2,42554.5,42261.0,42283.5,27.5\n1704153600,822440,42613.5,42775.0,42431.6,42475.2,19.3\n",
         "no four columns in a row are open, high, low and close"),
        ("45293.70833,1.3,1.31,1.29,1.305,0\n45293.70903,1.305,1.31,1.29,1.305,0\n", "no bars are found in it"),
        ("2024-01-02,3,1,1.5,2,9\n2024-01-03,3,1,2,1.5,9\n", "--column-names 1=datetime,2=open,3=high,4=low,5=close"),
    ],
)  # fmt: skip
def test_files_that_would_be_misread_are_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(folder(tmp_path, A=text))
    assert "\n" not in str(caught.value)


NO_HEADER = {
    "a day of the week": "20240102,TUE,10,12,9,11,100\n20240103,WED,11,13,10,12,200\n",
    "four-digit prices": "20240102,1004,1012,1000,1011,100\n20240103,1011,1013,1010,1012,200\n",
    "digits for times": "20240102,930,10,12,9,11,100\n20240102,1000,11,13,10,12,200\n",
    "times with fractions": "01/16/2024,09:31:00.000,10,12,9,11,100\n01/16/2024,09:32:00.000,11,13,10,12,200\n",
}
READ = {
    "a day of the week": ["2024-01-02", "2024-01-03"],
    "four-digit prices": ["2024-01-02", "2024-01-03"],
    "digits for times": ["2024-01-02 09:30", "2024-01-02 10:00"],
    "times with fractions": ["2024-01-16 09:31", "2024-01-16 09:32"],
}


@pytest.mark.parametrize("kind", NO_HEADER)
def test_columns_without_names_are_known_by_their_values(tmp_path: Path, kind: str) -> None:
    found, _ = read(folder(tmp_path, A=NO_HEADER[kind]), freq="1min")
    assert [(name, day) for name, day, *_ in found] == [("A", day) for day in READ[kind]]
    assert [volume for *_, volume in found] == [100, 200]


def test_low_high_open_close_without_names_is_read_where_many_rows_prove_it(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    close = 100 * np.exp(np.cumsum(generator.normal(0, 0.02, 40)))
    opening = np.append(100.0, close[:-1])
    rows = [
        f"{1704067200 + 86400 * place},{min(a, b) * 0.99:.2f},{max(a, b) * 1.01:.2f},{a:.2f},{b:.2f},{place}"
        for place, (a, b) in enumerate(zip(opening, close, strict=True))
    ]
    found, _ = read(folder(tmp_path, A="\n".join(rows[::-1]) + "\n"))
    np.testing.assert_allclose([bar[2:4] for bar in found], np.stack([opening, close], 1), atol=0.01)
