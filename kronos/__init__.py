"""Kronos pipeline: fine-tune, forecast and backtest the Kronos foundation model for candlesticks.

Importing this package is cheap: PyTorch, MLflow and the rest are loaded when a name that needs them is asked for.
"""

from __future__ import annotations  # an old Python must come as far as the line that says it is too old

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
_HOMES = {
    "Config": "kronos.config.schema",
    "execute": "kronos.stages",
    "Kronos": "kronos.model",
    "KronosTokenizer": "kronos.model",
    "KronosPredictor": "kronos.forecast",
    "TrainingPipeline": "kronos.stages.pipeline",
    "BaseDataProcessor": "kronos.data.sources.base",
    "DataProcessorFactory": "kronos.data.sources.factory",
    "compare": "kronos.tracking.reader",
    "latest": "kronos.tracking.reader",
    "newest": "kronos.tracking.reader",
    "load_run": "kronos.tracking.reader",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'kronos' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
