"""Names that a user may add to at run time: data sources and signals. The schema checks fields against them."""

# Sources of today, by their client libraries.
CLIENTS = ("akshare", "baostock", "tushare", "yfinance", "ccxt")
SOURCES: list[str] = ["sample", "qlib", "csv", "auto", "sina", *CLIENTS]
# Conditions that are computed from the bars, beside those that a source has as columns.
SIZE_BUCKET = "size_bucket"
BUILT_IN = (SIZE_BUCKET,)
SIGNALS: list[str] = ["last", "mean", "max", "min"]
