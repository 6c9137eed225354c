"""Charts of forecasts on made bars, for tests."""

import numpy as np
import pandas as pd

from kronos.report.forecast_chart import LATEST, NO_FILLS, RANDOM, ForecastChart


def bars(closes: np.ndarray, times: pd.DatetimeIndex, random: np.random.Generator) -> pd.DataFrame:
    opening = closes * np.exp(random.normal(0, 0.004, len(closes)))
    spread = closes * random.uniform(0.002, 0.01, len(closes))
    return pd.DataFrame(
        {"open": opening, "high": np.maximum(opening, closes) + spread, "low": np.minimum(opening, closes) - spread,
         "close": closes, "volume": random.uniform(1e5, 9e5, len(closes))}, times,
    )  # fmt: skip


def make_chart(
    instrument: str = "N00", kind: str = RANDOM, *, seen: int = 40, horizon: int = 5, begin: str = "2010-04-01",
    freq: str = "B", seed: int = 0, fills: pd.DataFrame = NO_FILLS,
) -> ForecastChart:  # fmt: skip
    """A chart of a random walk; a latest one has no bars that came."""
    random = np.random.default_rng(seed)
    times = pd.date_range(begin, periods=seen + horizon, freq=freq, name="datetime")
    closes = 50 * np.exp(random.normal(0, 0.01, seen + horizon).cumsum())
    table = bars(closes, times, random)
    last = closes[seen - 1]
    paths = last * np.exp(random.normal(0, 0.01, (8, horizon)).cumsum(axis=1))
    ahead = bars(paths.mean(axis=0), times[seen:], random)
    bands = {
        0.9: (paths.min(axis=0), paths.max(axis=0)),
        0.5: tuple(np.quantile(paths, [0.25, 0.75], axis=0)),
    }
    came = table.iloc[seen : seen if kind == LATEST else None]
    return ForecastChart(
        instrument=instrument, kind=kind, seen=table.iloc[:seen], forecast=ahead, came=came, bands=bands, paths=paths,
        fills=fills,
    )  # fmt: skip
