"""The benchmark's fingerprint changes with whatever is read from outside the bar store, and with nothing else."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from kronos.config.schema import Config
from kronos.evaluation.benchmark import benchmark, fingerprint
from kronos.evaluation.qlib_backtest import write_qlib_store

DAYS = pd.bdate_range("2024-07-01", periods=8, name="datetime")


@dataclass
class Store:
    """As much of a bar store as the benchmark reads."""

    instruments: tuple[str, ...] = ("A", "B")
    benchmark_name: str | None = None
    benchmark: pd.Series | None = None
    findings: tuple[dict[str, str], ...] = ()


def config(**changes) -> Config:
    return Config(**{"data_source": "sample", "backtest_benchmark": "IDX", **changes})


def qlib_store(path: Path, closes: dict[str, np.ndarray], days: pd.DatetimeIndex = DAYS) -> str:
    bars = pd.concat([
        pd.DataFrame({"instrument": name, "datetime": days, "open": values, "high": values, "low": values,
                      "close": values, "volume": 1.0, "amount": 1.0})
        for name, values in closes.items()
    ])  # fmt: skip
    return str(write_qlib_store(bars, path, days))


def test_closes_of_a_qlib_store_count_with_their_values_and_days(tmp_path):
    random = np.random.default_rng(0)
    closes = {"IDX": random.uniform(5, 6, 8), "OTHER": random.uniform(5, 6, 8)}
    first = fingerprint(config(qlib_data_path=qlib_store(tmp_path / "a", closes)), Store())
    assert first != "none"
    elsewhere = config(qlib_data_path=qlib_store(tmp_path / "b", {**closes, "OTHER": closes["OTHER"] + 1}))
    assert fingerprint(elsewhere, Store()) == first  # another folder and another instrument: the same closes
    changed = {**closes, "IDX": closes["IDX"] + np.eye(8)[3]}
    assert fingerprint(config(qlib_data_path=qlib_store(tmp_path / "c", changed)), Store()) != first
    later = qlib_store(tmp_path / "d", closes, DAYS + pd.Timedelta(days=7))
    assert fingerprint(config(qlib_data_path=later), Store()) != first


def test_what_the_bar_store_holds_is_read_from_it_and_not_from_a_qlib_store(tmp_path):
    random = np.random.default_rng(1)
    path = qlib_store(tmp_path / "qlib", {name: random.uniform(5, 6, 8) for name in ("A", "IDX")})
    stored = pd.Series(random.uniform(5, 6, 8), DAYS)
    close = pd.DataFrame(random.uniform(5, 6, (8, 2)), DAYS, ["A", "B"])
    member = pd.DataFrame(True, DAYS, close.columns)
    for wanted, store, series in (
        ("A", Store(), close["A"]),
        ("IDX", Store(benchmark_name="IDX", benchmark=stored), stored),
    ):
        asked = config(backtest_benchmark=wanted, qlib_data_path=path)
        assert fingerprint(asked, store) == "none"
        found = benchmark(asked, store, close, member, 0.001, 0.0015)
        np.testing.assert_allclose(found.returns, series.pct_change())
    for wanted in ("auto", "equal_weight"):
        assert fingerprint(config(backtest_benchmark=wanted, qlib_data_path=path), Store()) == "none"


def test_a_file_counts_with_its_bytes_and_nothing_else(tmp_path):
    text = "date,close\n2024-07-01,1\n"
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text(text)
    first, second = (
        fingerprint(config(backtest_benchmark=str(tmp_path / name)), Store())
        for name in ("one.csv", "two.csv")
    )
    assert first == second != "none"
    (tmp_path / "one.csv").write_text(text + "2024-07-02,1\n")
    assert fingerprint(config(backtest_benchmark=str(tmp_path / "one.csv")), Store()) != first
    assert fingerprint(config(backtest_benchmark=str(tmp_path / "none.csv")), Store()) == "none"


def test_an_index_of_prices_beside_prices_with_dividends_is_warned_of():
    close = pd.DataFrame(1.0, DAYS, ["A", "B"])
    member = pd.DataFrame(True, DAYS, close.columns)

    def warnings(name: str, *, adjusted: bool) -> tuple[str, ...]:
        findings = ({"kind": "adjustment factor changes"},) if adjusted else ()
        index = pd.Series(1.0, DAYS)
        stored = Store(benchmark_name=name, benchmark=index, findings=findings)
        return benchmark(config(backtest_benchmark=name), stored, close, member, 0.001, 0.0015).warnings

    (sentence,) = warnings("SH000300", adjusted=True)
    assert "SH000300" in sentence and "total return index" in sentence
    assert warnings("SH000300", adjusted=False) == ()
    assert warnings("H00300", adjusted=True) == () and warnings("SPX total return", adjusted=True) == ()
    given = Store(findings=({"kind": "adjustment factor changes"},))
    assert (
        benchmark(config(backtest_benchmark="equal_weight"), given, close, member, 0.001, 0.0015).warnings
        == ()
    )
