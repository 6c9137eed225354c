"""Find the processor of a `data_source`: a built-in one, a registered class, or `package.module:Class`."""

from typing import Any, ClassVar

from kronos.config import registries
from kronos.data.sources.auto import chosen_source
from kronos.data.sources.base import BaseDataProcessor
from kronos.utils.errors import UserError
from kronos.utils.imports import import_class

AUTO = "auto"


class DataProcessorFactory:
    """Creates the processor of a `data_source`; `register` adds one of your own."""

    _classes: ClassVar[dict[str, type[BaseDataProcessor] | str]] = {
        "sample": "kronos.data.sources.sample:SampleDataProcessor",
        "csv": "kronos.data.sources.csv:CsvDataProcessor",
        "qlib": "kronos.data.sources.qlib:QlibDataProcessor",
        "sina": "kronos.data.sources.sina:SinaDataProcessor",
        "akshare": "kronos.data.sources.akshare:AkshareDataProcessor",
        "baostock": "kronos.data.sources.baostock:BaostockDataProcessor",
        "tushare": "kronos.data.sources.tushare:TushareDataProcessor",
        "yfinance": "kronos.data.sources.yfinance:YFinanceDataProcessor",
        "ccxt": "kronos.data.sources.ccxt:CcxtDataProcessor",
    }

    @classmethod
    def register(cls, name: str, processor: type[BaseDataProcessor]) -> None:
        """Make `data_source=name` build its store with this class, in this process."""
        cls._classes[name.lower()] = processor
        if name.lower() not in registries.SOURCES:
            registries.SOURCES.append(name.lower())

    @classmethod
    def create_processor(cls, data_source_type: str, config: Any, **kwargs: Any) -> BaseDataProcessor:
        """Create the processor of a `data_source`: a registered name, or `package.module:Class` of your own.

        Raises UserError for unknown names and for classes that cannot be imported.
        """
        if data_source_type.lower() != AUTO:
            return cls.class_of(data_source_type)(config, **kwargs)
        chosen, reason = chosen_source(config.symbols, str(config.freq), cls.class_of)
        processor = cls.class_of(chosen)(config, **kwargs)
        processor.chosen_because = reason
        return processor

    @classmethod
    def class_of(cls, data_source_type: str) -> type[BaseDataProcessor]:
        """Return the class of a `data_source`, which is imported where that has not been done."""
        found = cls._classes.get(data_source_type.lower(), data_source_type)
        if isinstance(found, str) and ":" not in found:
            raise UserError(
                f"no data_source {data_source_type!r}: choose from {', '.join(sorted([*cls._classes, AUTO]))}, or "
                "name a class of your own as package.module:Class"
            )
        if not isinstance(found, str):
            return found
        processor = import_class(found, f"data_source={found}")
        if not issubclass(processor, BaseDataProcessor):
            name = processor.__name__
            raise UserError(f"data_source={found}: {name} is not a subclass of kronos.BaseDataProcessor")
        return processor
