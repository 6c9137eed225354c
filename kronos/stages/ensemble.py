"""The forecaster of a configuration's models: of one pair, or of an ensemble; and what each member is worth."""

from kronos.config.schema import Config
from kronos.data.store import BarStore
from kronos.distributed.shards_folder import Shards
from kronos.forecast.pool import pool
from kronos.forecast.store_forecaster import Forecaster, forecaster
from kronos.stages.weights import Models


def forecaster_of(
    config: Config, store: BarStore, models: Models, shards: Shards | None = None
) -> Forecaster:
    """The models, checked and moved to the configured device."""
    return pool(
        [
            forecaster(config, store, tokenizer.model, predictor.model, shards)
            for tokenizer, predictor in models.pairs
        ]
    )
