"""`data --check` says what the data stage would understand, by the same code, without writing anything."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kronos.__main__ import main
from kronos.config.loading import load_config
from kronos.data.calendars import sessions
from kronos.data.sources.csv import CsvDataProcessor
from kronos.evaluation.qlib_store import write_qlib_store
from kronos.stages.data_check import COLUMNS, LINES, check, screen
from kronos.utils.errors import UserError

HEADER = "ts_code,trade_date,open,high,low,close,pre_close,vol,amount,pct_chg"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own folder for temporary files, to see what is left there, and a working folder."""
    for name in ("temporary", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "temporary"


def tushare(names: tuple[str, ...] = ("000001.SZ", "600000.SH"), count: int = 300) -> str:
    """Bars of Shanghai and Shenzhen, volume in lots of 100 and amount in thousands, newest first."""
    rows = []
    for place, name in enumerate(names):
        price = 10.0 + place
        for number, day in enumerate(sessions("XSHG", "2018-01-02", "2020-12-31")[:count]):
            price = price / 2 if number == 200 and place == 0 else price * (1 + 0.01 * np.sin(number))
            volume = 1000 + number
            rows.append(
                f"{name},{day:%Y%m%d},{price:.2f},{price * 1.01:.2f},{price * 0.99:.2f},{price:.2f},{price:.2f},"
                f"{volume},{volume * price / 10:.3f},0.1"
            )
    return "\n".join([HEADER, *rows[::-1]]) + "\n"


def write(text: str, name: str = "bars.csv") -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return name


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    """The JSON object that a check prints, and nothing else."""
    assert main(["data", "--check", *arguments, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


SMALL = (
    "--lookback-window", "20", "--predict-window", "5", "--train-time-range", "2018-01-02,2018-09-30",
    "--val-time-range", "2018-09-03,2018-12-31", "--test-time-range", "2018-12-03,2019-03-28",
    "--backtest-time-range", "2019-01-16,2019-03-28",
)  # fmt: skip


def test_it_says_layout_columns_units_instruments_calendar_and_ranges(
    capsys: pytest.CaptureFixture[str], temporary: Path
) -> None:
    path = write(tushare())
    before = sorted(Path.cwd().rglob("*"))
    found = asked(capsys, path, *SMALL)
    (layout,) = found["layouts"]  # type: ignore[misc]
    assert layout["tool"] == "Tushare" and layout["files"] == 1
    assert layout["columns"] == {
        "instrument": "ts_code", "datetime": "trade_date", "open": "open", "high": "high", "low": "low",
        "close": "close", "volume": "vol", "amount": "amount",
    }  # fmt: skip
    assert layout["unused"] == ["pre_close", "pct_chg"]
    assert found["instruments"] == {"count": 2, "first": ["000001.SZ", "600000.SH"]}
    assert (found["bars"], found["first_bar"], found["last_bar"]) == (600, "2018-01-02", "2019-03-28")
    assert (found["calendar"], found["time_zone"], found["freq"]) == ("XSHG", "Asia/Shanghai", "day")
    assert found["times"] == ["without a time zone"]
    assert found["volume_units"] == {"volume in lots of 100, amount in thousands": 2}
    assert found["suspected_splits"] == 1
    assert found["ranges"]["fit"] is True and found["ranges"]["windows"]["train"] > 0  # type: ignore[index]
    assert sorted(Path.cwd().rglob("*")) == before and not list(temporary.iterdir()), "nothing is written"


def test_it_finds_what_the_data_stage_finds(capsys: pytest.CaptureFixture[str]) -> None:
    text = tushare(count=120).replace(",10.31,", ",-,", 1).splitlines()
    write("\n".join([*text[:30], HEADER, "9,9", *text[30:]]) + "\n", "folder/a.csv")
    write("Symbol,Name\nA,Apple\n", "folder/list.csv")
    write(tushare(("300001.SZ",), 120), "folder/b.csv")
    config, _ = load_config(None, {"data_source": "csv", "data_path": "folder", "dataset_path": "store"})
    found = check(config)
    store = CsvDataProcessor(config).run_pipeline()
    assert [(one["kind"], one["action"], one["count"]) for one in found["findings"]] == [
        (one["kind"], one["action"], one["count"]) for one in store.findings
    ]
    assert found["notes"] == store.source["notes"] and found["instruments"]["count"] == len(store.instruments)
    assert len(found["files_left_out"]) == 1 and "list.csv" in found["files_left_out"][0]
    assert {one["kind"] for one in found["findings"]} >= {"file that cannot be used", "row that cannot be read",
                                                          "header repeated among the bars"}  # fmt: skip


def test_one_screen_however_much_there_is_to_say() -> None:
    for place in range(8):
        columns = ",".join(f"a_column_of_a_rather_long_name_{place}_{number}" for number in range(20))
        lines = tushare((f"{place:06}.SZ",), 150).splitlines()
        lines[70] = lines[70].replace(",", ",-", 3)
        lines[90] = "damaged"
        extra = ",".join("1" * 20)
        write(
            "\n".join([f"{lines[0]},{columns}", *(f"{line},{extra}" for line in lines[1:])]),
            f"folder/{place}.csv",
        )
        write("not bars", f"folder/none-{place}.csv") if place < 6 else None
    config, _ = load_config(None, {"data_source": "csv", "data_path": "folder", "adjust": "none"})
    lines = screen(check(config)).splitlines()
    assert len(lines) <= LINES and max(map(len, lines)) <= COLUMNS
    assert {line.split()[0] for line in lines if line[0] != " "} >= {
        "source", "layout", "columns", "unused", "instruments", "bars", "calendar", "volume", "splits", "found",
        "ranges",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "Symbol,Name\nA,Apple\n",
        tushare(("1", "2")).replace("ts_code", "key"),
        tushare().replace("close,", "final,"),
    ],
)
def test_a_refused_file_gives_the_line_of_the_data_stage(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(text)
    config, _ = load_config(None, {"data_source": "csv", "data_path": path, "dataset_path": "store"})
    with pytest.raises(UserError) as refused:
        CsvDataProcessor(config).run_pipeline()
    assert "\n" not in str(refused.value)
    assert f"python -m kronos data --check {path}" in str(refused.value)
    assert main(["data", "--check", path]) == 2
    assert capsys.readouterr().err == f"kronos: {refused.value}\n"
    assert main(["data", "--check", path, "--json"]) == 2
    assert json.loads(capsys.readouterr().out) == {"error": str(refused.value)}


def test_a_refused_file_shows_the_columns_that_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "--check", write("day,Px,High,Low,x\n2024-01-02,1,3,0.5,2\n")]) == 2
    shown = capsys.readouterr()
    assert "date = day, high = High, low = Low" in shown.out and "Px, x" in shown.out
    assert "no column for open, close" in shown.err


def test_ranges_that_do_not_fit_are_said_and_the_rest_is_too(capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tushare(count=8))
    found = asked(capsys, path)
    assert found["bars"] == 16 and found["ranges"]["fit"] is False  # type: ignore[index]
    assert main(["data", "--check", path]) == 0
    assert "ranges      do not fit the bars: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json"], "--json belongs to --check"),
        (["--check", "bars.csv", "--epoch", "3"], "unknown flag --epoch: did you mean --epochs?"),
        (["--check", "nowhere.csv"], "data_path nowhere.csv does not exist"),
        (["--check", "--data-source", "sina", "--sina-symbols", "sh600000"], "nothing to check before"),
    ],
)
def test_a_wrong_command_is_a_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", *arguments]) == 2
    shown = capsys.readouterr()
    assert message in shown.err + shown.out and "Traceback" not in shown.err
    assert not list(Path.cwd().iterdir())


def test_fields_of_the_data_stage_apply(capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tushare().replace("ts_code", "key"))
    found = asked(capsys, path, "--instrument-column", "key", *SMALL)
    assert found["layouts"][0]["columns"]["instrument"] == "key"  # type: ignore[index]
    assert found["instruments"]["count"] == 2  # type: ignore[index]


def test_other_sources_are_checked_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "--check", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["source"] == "sample" and found["layouts"] == [] and found["instruments"]["count"] == 524
    assert found["ranges"]["fit"] and "SAMPLE DATA" in found["notes"][0]


def test_a_qlib_store_is_checked_at_the_path_that_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    days = sessions("XNYS", "2020-01-02", "2020-12-31")[:60]
    close = 10 * (1 + 0.01 * np.sin(np.arange(60)))
    bars = pd.DataFrame(
        {"instrument": "AAA", "datetime": days, "open": close, "high": close * 1.01, "low": close * 0.99,
         "close": close, "volume": 1000.0, "amount": 1000.0 * close, "flag": np.uint8(0)}
    )  # fmt: skip
    path = write_qlib_store(bars, Path("qlib"), days.as_unit("ns").asi8)
    found = asked(capsys, str(path), "--data-source", "qlib", "--instrument", "all")
    assert (found["source"], found["bars"], found["first_bar"]) == ("qlib", 60, "2020-01-02")
