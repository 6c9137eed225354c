"""One forecast as it is drawn: the bars that were seen, the forecast with its bands and paths, and what came."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from kronos.data.bars import FEATURES, Flag
from kronos.data.store import BarStore

COLUMNS = ("open", "high", "low", "close", "volume")
NO_FILLS = pd.DataFrame(columns=["datetime", "side", "shares", "price"])

# Why a forecast is shown, in the order of the chooser.
ASKED, BEST, TYPICAL, WORST, RANDOM, LATEST = "asked for", "best", "typical", "worst", "random", "latest"
OTHER_DAY = "another day"  # of an instrument that is shown for one of the other reasons
MOST_SEEN = 120  # most bars seen in a chart
KINDS = (ASKED, BEST, TYPICAL, WORST, RANDOM, LATEST, OTHER_DAY)


@dataclass(frozen=True, eq=False, kw_only=True)
class ForecastChart:
    """What a chart of one forecast shows; frames have the columns open, high, low, close, volume and times as index.

    Attributes:
        kind: why it is shown, one of KINDS.
        seen: the last bars that the model saw.
        forecast: the mean bars of the sample paths.
        came: the bars that came, over the horizon; none for a forecast of the future.
        bands: share of closes that a band is to hold -> its lowest and highest closes, each [H].
        paths: closes of a few sample paths, [S, H].
        fills: purchases and sales of the portfolio: datetime, side, shares, price.
    """

    instrument: str
    kind: str
    seen: pd.DataFrame
    forecast: pd.DataFrame
    came: pd.DataFrame
    bands: Mapping[float, tuple[np.ndarray, np.ndarray]]
    paths: np.ndarray
    fills: pd.DataFrame = field(default_factory=lambda: NO_FILLS)

    @property
    def as_of(self) -> pd.Timestamp:
        """The time of the last bar seen."""
        return pd.Timestamp(self.seen.index[-1])

    @property
    def times(self) -> list[str]:
        """The times of the bars seen and forecast, as text; without the time of day where there is none."""
        return times_text(pd.DatetimeIndex([*self.seen.index, *self.forecast.index]))

    def places(self, times: pd.Index) -> np.ndarray:
        """Places of times on the axis of bars: 0 is the last bar seen, 1 the first one forecast; NaN elsewhere."""
        axis = self.seen.index.append(self.forecast.index)
        found = axis.get_indexer(pd.DatetimeIndex(times)).astype(np.float64)
        return np.where(found < 0, np.nan, found - (len(self.seen) - 1))


def times_text(stamps: pd.DatetimeIndex) -> list[str]:
    """Times as text, without the time of day where all are midnight."""
    style = "%Y-%m-%d" if (stamps == stamps.normalize()).all() else "%Y-%m-%d %H:%M"
    return [f"{stamp:{style}}" for stamp in stamps]


def bars_of(store: BarStore, rows: slice, real: bool = False) -> pd.DataFrame:
    """Bars of the store by time, with the columns of a chart; `real` leaves out those that cleaning filled in."""
    times = pd.DatetimeIndex(store.times[rows].astype("datetime64[ns]"), name="datetime")
    table = pd.DataFrame(np.asarray(store.values[rows], np.float64), times, list(FEATURES))[list(COLUMNS)]
    return table[(np.asarray(store.flags[rows]) & int(Flag.FILLED)) == 0] if real else table


def bars_chart(store: BarStore, instrument: int, shown: int = MOST_SEEN) -> ForecastChart:
    """The chart of an instrument's last bars, without a forecast."""
    whole = store.symbol_rows(instrument)
    seen = bars_of(store, slice(max(whole.start, whole.stop - shown), whole.stop), real=True)
    return ForecastChart(
        instrument=store.instruments[instrument], kind=LATEST, seen=seen, forecast=seen[:0], came=seen[:0],
        bands={}, paths=np.empty((0, 0)),
    )  # fmt: skip
