"""Names that a user may add to at run time: data sources and signals. The schema checks fields against them."""

SOURCES: list[str] = ["sample", "qlib", "sina", "csv"]
SIGNALS: list[str] = ["last", "mean", "max", "min"]
