"""Names that a user may add to at run time: data sources and signals. The schema checks fields against them."""

# Sources of today, by their client libraries.
CLIENTS = ("akshare", "baostock", "tushare", "yfinance", "ccxt")
SOURCES: list[str] = ["sample", "qlib", "csv", "auto", "sina", *CLIENTS]
# Conditions that are computed from the bars, beside those that a source has as columns.
SIZE_BUCKET = "size_bucket"
BUILT_IN = (SIZE_BUCKET,)
TIME_FEATURES = ("minute", "hour", "weekday", "day", "month")  # of the public models, in their order
CALENDAR_FEATURES = (
    "days_to_holiday", "days_after_holiday", "half_day", "days_to_month_end", "days_to_expiry", "minutes_to_close",
)  # fmt: skip
SIGNALS: list[str] = ["last", "mean", "max", "min"]
