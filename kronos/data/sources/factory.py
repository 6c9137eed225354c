"""Find the class that reads a data source, by a registered name or as package.module:Class."""

import os
import sys
from importlib import import_module
from typing import Any, ClassVar

from kronos.config.registries import SOURCES
from kronos.data.sources.base import BaseDataProcessor
from kronos.utils.errors import UserError


class DataProcessorFactory:
    """Finds the processor of a `data_source`; `register` adds one of your own."""

    _classes: ClassVar[dict[str, type[BaseDataProcessor] | str]] = {
        "sample": "kronos.data.sources.sample:SampleDataProcessor",
        "csv": "kronos.data.sources.csv:CsvDataProcessor",
        "qlib": "kronos.data.sources.qlib:QlibDataProcessor",
        "sina": "kronos.data.sources.sina:SinaDataProcessor",
    }

    @classmethod
    def register(cls, name: str, processor: type[BaseDataProcessor]) -> None:
        """Make `data_source=name` build its store with this class; the configuration then takes the name."""
        cls._classes[name.lower()] = processor
        if name.lower() not in SOURCES:
            SOURCES.append(name.lower())

    @classmethod
    def create_processor(cls, data_source_type: str, config: Any, **kwargs: Any) -> BaseDataProcessor:
        """The processor for a `data_source`: a registered name, or `package.module:Class` of one's own.

        Raises UserError for unknown names and for classes that cannot be imported.
        """
        found = cls._classes.get(data_source_type.lower(), data_source_type)
        if isinstance(found, str) and ":" not in found:
            raise UserError(
                f"no data_source {data_source_type!r}: choose from "
                f"{', '.join(sorted(cls._classes))}, or name a class of "
                "your own as package.module:Class"
            )
        processor = _import_class(found) if isinstance(found, str) else found
        return processor(config, **kwargs)


def _import_class(name: str) -> type[BaseDataProcessor]:
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:  # an installed command does not look there
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(import_module(module), attribute)
    except ImportError as error:
        raise UserError(
            f"data_source={name}: {module} cannot be imported ({error}): install it, or run where Python finds it"
        ) from None
    except AttributeError:
        raise UserError(f"data_source={name}: module {module} has no {attribute!r}") from None
    if not isinstance(found, type) or not issubclass(found, BaseDataProcessor):
        raise UserError(f"data_source={name}: {attribute} is no subclass of kronos.BaseDataProcessor")
    return found
