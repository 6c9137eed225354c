"""Names that a configuration accepts and that code may add to."""

SOURCES: list[str] = [
    "sample",
    "qlib",
    "sina",
    "csv",
]  # of data_source; `DataProcessorFactory.register` adds to it
