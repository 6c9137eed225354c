"""Names from data and fields are never paths: nothing is written outside the outputs, and results show the names."""

import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kronos.__main__ import main
from kronos.utils.files import write_json
from kronos.utils.names import file_name

NAMES = (
    "../../../x", "..", "/kronos-absolute", "BTC/USDT", "abc", "ABC", "con", "^GSPC", "BRK.B", "A" * 300, "A,B",
    ".hidden", "-rf", "=1+1", "<b>bold</b>", "a|b", unicodedata.normalize("NFC", "é"),
    unicodedata.normalize("NFD", "é"), "$\\frac$", "AAPL",
)  # fmt: skip
DAYS = pd.bdate_range("2021-01-04", "2022-06-30")
FLAGS = (
    "--data-source", "csv", "--data-path", "bars.parquet", "--calendar", "weekdays", "--dataset-begin-time",
    "2021-01-01", "--dataset-end-time", "2022-06-30", "--train-time-range", "2021-01-04,2021-12-31",
    "--val-time-range", "2022-01-03,2022-03-31", "--test-time-range", "2022-04-01,2022-06-30",
    "--backtest-time-range", "2022-06-01,2022-06-30", "--lookback-window", "20", "--predict-window", "3",
    "--inference-sample-count", "1",
)  # fmt: skip


def bars(names: tuple[str, ...] = NAMES) -> pd.DataFrame:
    generator = np.random.default_rng(1)
    frames = []
    for name in names:
        close = 20 * np.exp(np.cumsum(generator.normal(0, 0.01, len(DAYS))))
        frames.append(pd.DataFrame({"instrument": name, "datetime": DAYS, "open": close, "high": close * 1.01,
                                    "low": close * 0.99, "close": close, "volume": 1e6}))  # fmt: skip
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder deep in an empty one, with a store of hostile names."""
    folder = tmp_path_factory.mktemp("hostile") / "a" / "b" / "c" / "work"
    folder.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        bars().to_parquet("bars.parquet")
        assert main(["data", *FLAGS]) == 0
    return folder


@pytest.fixture
def stored(working: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(working)
    return working


def nothing_outside(folder: Path) -> None:
    """No file is beside the working folder, and in it only what every run writes."""
    top = folder.parents[3]
    outside = [path for path in top.rglob("*") if path.is_file() and not path.is_relative_to(folder)]
    assert outside == [] and not list(Path("/").glob("kronos-absolute*"))
    assert {path.name for path in folder.iterdir()} <= {
        "bars.parquet", "figures.json", "outputs", "mlflow.db", "mlruns", "optuna.db",
    }  # fmt: skip


def pair(weights: Path) -> list[str]:
    return ["--tokenizer-path", str(weights / "tokenizer"), "--predictor-path", str(weights / "predictor")]


@pytest.mark.slow
def test_predict_draws_every_name_into_its_own_file(stored: Path, weights: Path) -> None:
    write_json("figures.json", {"predict_figures": list(NAMES)})
    assert main(["predict", *FLAGS, *pair(weights), "--config-path", "figures.json"]) == 0
    nothing_outside(stored)
    figures = sorted(path.name for path in Path("outputs/predictions/latest/figures").iterdir())
    assert figures == sorted(f"{file_name(name)}.png" for name in NAMES)
    assert len({name.casefold() for name in figures}) == len(NAMES)
    forecast = pd.read_parquet("outputs/predictions/latest/forecast.parquet")
    assert set(forecast["instrument"]) == set(NAMES)
    cells = set(pd.read_csv("outputs/predictions/latest/forecast.csv")["instrument"])
    assert "'=1+1" in cells and "'-rf" in cells and "BTC/USDT" in cells
    windows = set(pd.read_csv("outputs/data/windows.csv")["instrument"])
    assert windows == cells


@pytest.mark.slow
def test_backtest_trades_every_name_and_shows_it(stored: Path, weights: Path) -> None:
    hold = ["--backtest-n-symbol-hold", str(len(NAMES)), "--backtest-n-symbol-drop", "1", "--baseline-seeds", "1",
            "--evaluation-sample-count", "2", "--evaluation-series", "60", "--n-val-iter", "50"]  # fmt: skip
    assert main(["backtest", *FLAGS, *pair(weights), *hold]) == 0
    nothing_outside(stored)
    folder = Path("outputs/backtest_results/finetune_backtest_demo")
    trades = pd.read_parquet(folder / "trades.parquet")
    assert set(trades["instrument"]) == set(NAMES)
    assert set(pd.read_parquet(folder / "positions.parquet")["instrument"]) == set(NAMES)
    page = (folder / "report.html").read_text()
    assert "<b>bold</b>" not in page
    cells = pd.read_csv(folder / "accuracy_by_instrument.csv")["instrument"]
    assert set(cells) == {f"'{name}" if name[0] in "=-" else name for name in NAMES}


@pytest.mark.slow
def test_a_study_named_like_a_path_stays_in_its_folder(stored: Path) -> None:
    for name in ("../../escaped", "/kronos-absolute", ".."):
        given = ["--study-name", name, "--n-trials", "1", "--epochs", "1", "--n-train-iter", "64",
                 "--n-val-iter", "32", "--search-reports", "1", "--search-batch-size", "16,32",
                 "--pretrained-tokenizer-path", "none", "--pretrained-predictor-path", "none",
                 "--model-preset", "nano", "--search-repeats", "1"]  # fmt: skip
        assert main(["search", *FLAGS, *given]) == 0
        nothing_outside(stored)
        assert (Path("outputs/search") / file_name(name, lower=True) / "best.json").is_file()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("A\rB", "instrument 'A\\rB' has the control character U+000D: rename it"),
        ("A\0B", "instrument 'A\\x00B' has the control character U+0000"),
        ("A\u2028B", "instrument 'A\\u2028B' has the control character U+2028"),
        ("  ", "column instrument is empty in 389 of 778 bars"),
        ("", "column instrument is empty"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_in_one_line_before_training(
    name: str, says: str, stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bars(("AAPL", name)).to_parquet(tmp_path / "bars.parquet")
    given = ["--data-path", str(tmp_path / "bars.parquet"), "--dataset-path", "outputs/refused"]
    assert main(["pipeline", *FLAGS, *given, "--epochs", "1"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kronos: ")]
    assert len(lines) == 1 and says in lines[0]
    assert not Path("outputs/models").exists() and not Path("outputs/refused").exists()
