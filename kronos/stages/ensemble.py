"""The forecaster of a configuration's models: of one pair, or of an ensemble; and what each member is worth."""

from kronos.config.schema import Config
from kronos.data.store import BarStore
from kronos.forecast.store_forecaster import Forecaster, forecaster, pool
from kronos.stages.weights import Models


def forecaster_of(config: Config, store: BarStore, models: Models) -> Forecaster:
    """The models, checked and moved to the configured device."""
    return pool(
        [forecaster(config, store, tokenizer.model, predictor.model) for tokenizer, predictor in models.pairs]
    )
