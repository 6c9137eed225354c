"""Settings of a training run from keywords, as tests need them."""

from dataclasses import fields, replace
from typing import Any

from kronos.config.sections import TrainingConfig
from kronos.training.settings import FitSettings

OWN = {field.name for field in fields(FitSettings)} - {"training"}


def fit_settings(**given: Any) -> FitSettings:
    """Return settings from fields of TrainingConfig and of FitSettings; no saves between epochs unless given."""
    own = {"clip_norm": 3.0, **{name: given.pop(name) for name in OWN & given.keys()}}
    return FitSettings(TrainingConfig(**{"save_windows": 0, **given}), **own)


def changed(settings: FitSettings, **given: Any) -> FitSettings:
    """The settings with some of them changed."""
    own = {name: given.pop(name) for name in OWN & given.keys()}
    return replace(settings, training=TrainingConfig(**{**settings.training.model_dump(), **given}), **own)


def as_keywords(settings: FitSettings) -> dict[str, Any]:
    """Keywords that make these settings, as plain values."""
    own = {name: getattr(settings, name) for name in OWN}
    return {**settings.training.model_dump(mode="json"), **own}
