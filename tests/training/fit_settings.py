"""FitSettings by keyword, for the tests."""

from dataclasses import fields
from typing import Any

from kronos.config.sections import TrainingConfig
from kronos.training.settings import FitSettings


def fit_settings(**values: Any) -> FitSettings:
    """Settings with fields of TrainingConfig and of FitSettings mixed; saves at epoch ends only unless given."""
    values = {"save_windows": 0, "clip_norm": 3.0, **values}
    names = values.keys() & TrainingConfig.model_fields
    training = TrainingConfig(**{name: values.pop(name) for name in names})
    return FitSettings(training, **values)


def as_keywords(settings: FitSettings) -> dict[str, Any]:
    """The keywords that make these settings again; all of them go through JSON."""
    own = {
        field.name: getattr(settings, field.name) for field in fields(settings) if field.name != "training"
    }
    return {**settings.training.model_dump(mode="json"), **own}


def changed(settings: FitSettings, **values: Any) -> FitSettings:
    """The settings with some fields changed."""
    return fit_settings(**{**as_keywords(settings), **values})
