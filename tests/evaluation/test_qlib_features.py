"""Features of many instruments at once are those of Qlib's expression engine, which takes one at a time."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kronos.evaluation.qlib_features import alpha158
from kronos.evaluation.qlib_store import initialised, load_module, write_qlib_store
from kronos.utils.names import file_name

NAMES = ["A", "BTC/USDT", "LATE", "FLAT", "QUIET", "HOLES", "EARLY", "NEW"]


def write(path: Path, times: pd.DatetimeIndex, freq: str) -> Path:
    """Bars of names that are listed late, leave early, stand still, are not traded or miss a fifth of their days."""
    random = np.random.default_rng(5)
    frames = []
    for name in NAMES:
        close = 50 * np.exp(np.cumsum(random.normal(0, 0.02, len(times))))
        bars = pd.DataFrame({
            "instrument": name, "datetime": times, "open": close * 0.995, "high": close * 1.01,
            "low": close * 0.98, "close": close, "volume": np.exp(random.normal(12, 2, len(times))),
            "amount": 1e7 * close,
        })  # fmt: skip
        part = slice(60, 100)
        if name == "FLAT":
            bars.loc[bars.index[part], ["open", "high", "low", "close"]] = 7.0
        if name == "QUIET":
            bars.loc[bars.index[part], "volume"] = 0.0
        kept = {"LATE": slice(90, None), "EARLY": slice(0, 120), "NEW": slice(-3, None)}.get(
            name, slice(None)
        )
        bars = bars.iloc[kept]
        frames.append(bars[random.random(len(bars)) > 0.2] if name == "HOLES" else bars)
    return write_qlib_store(pd.concat(frames), path, times, freq)


def by_qlib(names: list[str], begin: pd.Timestamp, end: pd.Timestamp, freq: str) -> pd.DataFrame:
    """The same features by Qlib's own engine."""
    fields, columns = load_module("qlib.contrib.data.loader").Alpha158DL.get_feature_config({
        "kbar": {}, "price": {"windows": [0], "feature": ["OPEN", "HIGH", "LOW", "VWAP"]}, "rolling": {},
    })  # fmt: skip
    codes = {file_name(name): name for name in names}
    found = load_module("qlib.data.data").D.features(list(codes), fields, begin, end, freq)
    return found.rename(index=codes, level="instrument").set_axis(columns, axis=1)


@pytest.mark.parametrize(
    ("times", "freq", "first"),
    [
        (pd.bdate_range("2021-01-01", periods=150), "day", 0),
        (pd.bdate_range("2021-01-01", periods=150), "day", 75),
        (pd.date_range("2021-01-01", periods=150, freq="h"), "60min", 0),
    ],
    ids=["day", "day, later", "hour"],
)
def test_they_are_those_of_qlibs_own_engine(
    times: pd.DatetimeIndex, freq: str, first: int, tmp_path: Path
) -> None:
    path = write(tmp_path / "bars", times, freq)
    with initialised(path):
        expected = by_qlib(NAMES, times[first], times[-1], freq)
        found = alpha158(path, NAMES, times[first], times[-1], freq)
    assert found.shape == (len(expected), 158) and found.dtypes.eq(np.float32).all()
    pd.testing.assert_frame_equal(
        found, expected.loc[found.index], check_exact=True, check_names=False, check_dtype=False
    )


def test_an_instrument_alone_and_among_others_is_the_same(tmp_path: Path) -> None:
    times = pd.bdate_range("2021-01-01", periods=150)
    path = write(tmp_path / "bars", times, "day")
    with initialised(path):
        together = alpha158(path, NAMES, times[0], times[-1])
        for name in NAMES:
            alone = alpha158(path, [name], times[0], times[-1])
            pd.testing.assert_frame_equal(alone, together.loc[[name]])
        assert alpha158(path, ["EARLY"], times[130], times[-1]).shape == (0, 158)
        assert alpha158(path, ["UNKNOWN"], times[0], times[-1]).shape == (0, 158)
