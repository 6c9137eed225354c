"""Names that a user may add to at run time: data sources and signals. The schema checks fields against them."""

# Sources of today, by their client libraries.
CLIENTS = ("akshare", "baostock", "tushare", "yfinance", "ccxt")
SOURCES: list[str] = ["sample", "qlib", "csv", "auto", "sina", *CLIENTS]
SIGNALS: list[str] = ["last", "mean", "max", "min"]
