"""The models that a benchmark compares: the trained one, the weights before, those that a user names, naive ones."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from kronos.config.registries import TIME_FEATURES
from kronos.config.schema import Config
from kronos.config.weights import PUBLIC
from kronos.data.splits import Ranges
from kronos.data.store import BarStore
from kronos.distributed.device import choose
from kronos.distributed.shards_folder import Shards
from kronos.forecast.models import Windows
from kronos.forecast.naive_models import Bootstrap, RandomWalk, WindowMean
from kronos.forecast.store_forecaster import Forecaster, plain_rules, trading_rules
from kronos.stages.cache import source_digest
from kronos.stages.ensemble import forecaster_of
from kronos.stages.weights import Models, Weights, pair_before, trained_pair
from kronos.tracking.model_registry import ADDRESSES
from kronos.utils.errors import UserError
from kronos.utils.imports import import_class

OWN_CLASS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
CHRONOS, GARCH = "chronos:", "garch"
NAIVE = {
    "random walk": RandomWalk,
    "bootstrap of the window": Bootstrap,
    "mean of the window": WindowMean,
}


@dataclass(frozen=True)
class Compared:
    """A model under the name that the leaderboard gives it."""

    name: str
    model: Any


class KronosModel:
    """A pair of Kronos models: `forecast` by the configured sampling rules, `draw` at temperature 1."""

    def __init__(self, pair: Forecaster) -> None:
        self.pair = pair

    def forecast(self, windows: Windows, horizon: int, samples: int) -> np.ndarray:
        """Return bars [N, samples, horizon, 6], not repaired."""
        return self.pair.draw(windows, {**trading_rules(self.pair.config), "sample_count": samples})

    def draw(self, windows: Windows, horizon: int, samples: int) -> np.ndarray:
        """Return bars [N, samples, horizon, 6] from the model's own distribution, not repaired."""
        return self.pair.draw(windows, plain_rules(samples))


@dataclass(frozen=True)
class Named:
    """A model that a user named, opened: a pair of weights, or an object with `forecast`."""

    name: str
    digest: str
    pair: tuple[Weights, Weights] | None = None
    model: Any = None


def open_named(config: Config, store: BarStore, splits: Ranges) -> list[Named]:
    """Open every model of the field `models`. Raises UserError with all that cannot be opened."""
    found, problems = [], []
    for address in dict.fromkeys(config.benchmark.models or ()):
        try:
            found.append(_opened(address, config, store, splits))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("; ".join(problems))
    return found


def _opened(address: str, config: Config, store: BarStore, splits: Ranges) -> Named:
    from kronos.forecast.other_models import ChronosModel, GarchModel

    if address.startswith(CHRONOS):
        runtime = choose(config.launch.device, config.launch.cpu)
        chronos = ChronosModel(address.removeprefix(CHRONOS), runtime.device)
        return Named(address, chronos.digest, model=chronos)
    if address == GARCH:
        garch = GarchModel()
        return Named(address, garch.digest, model=garch)
    if OWN_CLASS.fullmatch(address) and not address.startswith(ADDRESSES):
        kind = import_class(address, "models")
        if not callable(getattr(kind, "forecast", None)):
            raise UserError(f"models: {address} has no method forecast(windows, horizon, samples)")
        return Named(address, source_digest(kind), model=kind())
    predictor, _, tokenizer = address.partition("+")
    public = {one: of for of, one in PUBLIC.values()}
    paths = {"predictor_path": [predictor], "tokenizer_path": tokenizer or public.get(predictor)}
    # Each model has conditions and time features of its own.
    fields = {**paths, "condition_columns": None, "time_feature_list": TIME_FEATURES}
    try:
        *pair, _ = trained_pair(config.replace(**fields), store, splits)
    except UserError as error:
        raise UserError(f"models: {address}: {error}") from None
    return Named(address, "/".join(one.digest for one in pair), pair=(pair[0], pair[1]))


def compared_models(
    config: Config, store: BarStore, models: Models, named: list[Named], shards: Shards | None = None
) -> tuple[list[Compared], list[str]]:
    """(the models in the order of the leaderboard, the trained one first; notes on those left out)."""
    rows, notes = [], []

    def add(name: str, models: Models) -> None:
        rows.append(Compared(name, KronosModel(forecaster_of(config, store, models, shards))))

    paths = config.output.predictor_path
    add(" + ".join(paths) if paths else "trained", models)
    if len(models.pairs) > 1:
        for path, pair in zip(paths or (), models.pairs, strict=True):
            add(path, Models((pair,)))
    before, why_not = pair_before(models, config.tracking.tracking_uri)
    if before is not None:
        random = models.predictor.record["started_from"]["address"] is None
        add("before training (random weights)" if random else "before fine-tuning", Models((before,)))
    else:
        notes.append(f"the weights before training: {why_not}.")
    for one in named:
        if one.pair is not None:
            add(one.name, Models((one.pair,)))
        else:
            rows.append(Compared(one.name, one.model))
    rows += [Compared(name, kind()) for name, kind in NAIVE.items()]
    return rows, notes
