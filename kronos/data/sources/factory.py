"""Find the processor of a `data_source`: a built-in one, a registered class, or `package.module:Class`."""

from typing import Any, ClassVar

from kronos.config import registries
from kronos.data.sources.base import BaseDataProcessor
from kronos.utils.errors import UserError
from kronos.utils.imports import import_class


class DataProcessorFactory:
    """Creates the processor of a `data_source`; `register` adds one of your own."""

    _classes: ClassVar[dict[str, type[BaseDataProcessor] | str]] = {
        "sample": "kronos.data.sources.sample:SampleDataProcessor",
        "csv": "kronos.data.sources.csv:CsvDataProcessor",
        "qlib": "kronos.data.sources.qlib:QlibDataProcessor",
        "sina": "kronos.data.sources.sina:SinaDataProcessor",
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
        found = cls._classes.get(data_source_type.lower(), data_source_type)
        if isinstance(found, str) and ":" not in found:
            raise UserError(
                f"no data_source {data_source_type!r}: choose from {', '.join(sorted(cls._classes))}, or name a "
                "class of your own as package.module:Class"
            )
        if not isinstance(found, str):
            return found(config, **kwargs)
        processor = import_class(found, f"data_source={found}")
        if not issubclass(processor, BaseDataProcessor):
            name = processor.__name__
            raise UserError(f"data_source={found}: {name} is not a subclass of kronos.BaseDataProcessor")
        return processor(config, **kwargs)
