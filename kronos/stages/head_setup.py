"""Set up the training of a head in the same way on every rank: points, examples, model, objective."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kronos.config.schema import Config
from kronos.data.extra_columns import model_columns
from kronos.data.forecast_points import context_rows, contexts
from kronos.data.head_windows import LEAST_GROUP, HeadExamples, day_groups, limited, singles
from kronos.data.outcomes import Points, known_points
from kronos.data.splits import Ranges
from kronos.data.store import BarStore
from kronos.stages.additions import side_inputs
from kronos.stages.inputs import windows_of
from kronos.stages.train_setup import prepare
from kronos.utils.errors import UserError
from kronos.utils.progress import Progress

CLIP_NORM = 1.0
LEAST_POINTS, LEAST_DAYS = 100, 10  # with a known outcome, of training and of validation each
AT_ONCE = 8192  # contexts in memory
STATES = "states"  # folder of the hidden states in the working folder, which is removed with the checkpoint
RANGES = {"train": "training", "val": "validation"}


def points_of(config: Config, store: BarStore, splits: Ranges) -> dict[str, Points]:
    """The points of training and validation, by name of the split.

    No bar outside of a split's range has a part in an outcome. Raises UserError where there are too few, or no day
    has the instruments that a ranking needs.
    """
    data, objective = config.data, config.head.objective
    found = {}
    for name, word in RANGES.items():
        split = windows_of(config, store, name, splits, data.lookback_window + data.predict_window)
        points = known_points(store, split, data.lookback_window, data.predict_window, objective)
        sessions = np.asarray(store.session)[points.rows]
        days, sizes = np.unique(sessions, return_counts=True)
        if objective == "rank" and (sizes >= LEAST_GROUP).sum() < LEAST_DAYS:
            raise UserError(
                f"objective=rank orders the instruments of a day, at least {LEAST_GROUP} on at least {LEAST_DAYS} "
                f"{word} days: {int((sizes >= LEAST_GROUP).sum())} of {len(days)} days have as many: give more "
                "instruments, or objective=return"
            )
        if len(points.rows) < LEAST_POINTS or len(days) < LEAST_DAYS:
            raise UserError(
                f"head: the {word} range has {len(points.rows)} outcomes on {len(days)} days, at least "
                f"{LEAST_POINTS} on {LEAST_DAYS} days are needed: lengthen {name}_time_range or shorten "
                "predict_window"
            )
        if objective in ("return", "volatility") and np.ptp(points.outcome) == 0:
            raise UserError(f"head: every {word} outcome is the same, so that there is nothing to learn")
        found[name] = points
    return found


def targets(config: Config, points: Points) -> np.ndarray:
    """What a head is trained to say, float64 [N].

    The predictor sees bars that are normalised by their context, from which no volatility can be told. Log returns
    are therefore divided by the context's volatility, and of a volatility the head says by how much it will differ,
    as a logarithm.
    """
    if config.head.objective == "return":
        return np.asarray(points.outcome / points.volatility)
    if config.head.objective == "volatility":
        return np.asarray(points.outcome - np.log(points.volatility))
    return points.outcome


def new_head(config: Config, train: Points, width: int) -> Any:
    """A head whose first answer knows nothing of the context.

    No move, the share of rises in the training range, the volatility of the context times a factor, or equal scores.
    """
    from kronos.model.heads import ForecastHead

    target = targets(config, train)
    if config.head.objective == "return":
        return ForecastHead(width, 0.0, float(np.sqrt((target**2).mean())))
    if config.head.objective == "volatility":
        return ForecastHead(width, float(target.mean()), float(target.std()))
    head = ForecastHead(width, 0.0, 1.0)
    if config.head.objective == "rank":  # whose loss does not depend on it
        head.linear.bias.requires_grad_(False)
    if config.head.objective == "direction":
        rate = np.clip(train.outcome.mean(), 1e-3, 1 - 1e-3)
        head.linear.bias.data.fill_(float(np.log(rate / (1 - rate))))
    return head


def examples_of(
    config: Config, store: BarStore, points: Mapping[str, Points], head: Any, adapted: Any
) -> dict[str, HeadExamples]:
    """The examples of training and validation.

    `adapted` is the predictor that is trained too. On a frozen one (None), whose hidden states are kept, they have
    n_train_iter and n_val_iter contexts at most, drawn by the seed. What the head is trained to say is in its own
    unit, clipped as bars are.
    """
    data, training = config.data, config.training
    objective = config.head.objective
    seen = {} if adapted is None else side_inputs(store, adapted)
    found = {}
    for name, most in (("train", training.n_train_iter), ("val", training.n_val_iter)):
        rows, target = points[name].rows, targets(config, points[name])
        if objective in ("return", "volatility"):
            target = (target - head.config["shift"]) / head.config["scale"]
            target = np.clip(target, -data.clip, data.clip)
        sessions = np.asarray(store.session)[rows]
        members = day_groups(sessions, training.seed) if objective == "rank" else singles(len(rows))
        if adapted is None:
            members = limited(members, most, training.seed)
            used = np.unique(members[members >= 0])
            members = np.where(members < 0, -1, np.searchsorted(used, members))
            rows, target = rows[used], target[used]
        found[name] = HeadExamples(
            store, rows, target, lookback=data.lookback_window, clip=data.clip, members=members,
            columns=model_columns(data), **seen,
        )  # fmt: skip
    return found


def with_states(
    examples: Mapping[str, HeadExamples], folder: Path, forecaster: Any, stop: Callable[[], bool]
) -> dict[str, HeadExamples]:
    """The examples with their hidden states, which are written as arrays into `folder` unless they are there.

    The arrays are read from the disk as they are needed. `forecaster` is the pair of models; None where rank 0 has
    written the files. Raises KeyboardInterrupt after a stop request, UserError where another rank does not see them.
    """
    found = {}
    for name, one in examples.items():
        file = folder / f"{name}.npy"
        if forecaster is not None and not file.is_file():
            folder.mkdir(exist_ok=True)
            _write_states(one, file, forecaster, RANGES[name], stop)
        if not file.is_file():
            raise UserError(
                f"this process does not see {file}, which rank 0 has written: a head needs a shared file system "
                "where its processes run on several machines, or one process"
            )
        states = np.load(file, mmap_mode="r")
        found[name] = HeadExamples(
            one.store, one.rows, one.target, lookback=one.lookback, clip=one.clip, members=one.members,
            states=states,
        )  # fmt: skip
    return found


def _write_states(
    examples: HeadExamples, file: Path, forecaster: Any, word: str, stop: Callable[[], bool]
) -> None:
    """Write the hidden states [N, D] under a temporary name, a part at a time, and rename the file."""
    from kronos.forecast.embeddings import embed_arrays

    config, rows = forecaster.config, examples.rows
    shape = (len(rows), forecaster.predictor.d_model)
    part_file = file.with_suffix(".part")
    table = np.lib.format.open_memmap(part_file, "w+", np.float32, shape)
    with Progress(f"hidden states of {word}", "contexts") as progress:
        for start in range(0, len(rows), AT_ONCE):
            if stop():
                raise KeyboardInterrupt
            part = rows[start : start + AT_ONCE]
            bars, stamps = contexts(examples.store, part, examples.lookback, forecaster.columns)
            places = context_rows(part, examples.lookback)
            table[start : start + AT_ONCE] = embed_arrays(
                forecaster.tokenizer, forecaster.predictor, bars,
                forecaster.stamps_of(examples.store.times[places], stamps), clip=examples.clip,
                conditions_NLC=forecaster.conditions_of(places),
                batch_size=config.forecast.backtest_batch_size,
            )  # fmt: skip
            progress(min(start + AT_ONCE, len(rows)), len(rows))
    table.flush()
    part_file.replace(file)


def with_adapter(predictor: Any, head: Any, config: Config, address: str | None) -> Any:
    """The predictor with the adapter of the configuration, and the head on it, which is trained too."""
    from kronos.model.heads import HeadedPredictor

    return HeadedPredictor.around(prepare(predictor, config, address), head)


def of_worker(
    description: Mapping[str, Any], config: Config, store: BarStore, splits: Ranges
) -> tuple[Any, Any, HeadExamples, HeadExamples]:
    """(model, objective, training examples, validation examples) of a rank above 0; rank 0 sends the weights."""
    from kronos.model.presets import build_model
    from kronos.training.head_objectives import HeadObjective

    points, shape = points_of(config, store, splits), description["model"]
    head = new_head(config, points["train"], description["width"])
    predictor = None if shape is None else build_model("predictor", shape)
    examples = examples_of(config, store, points, head, predictor)
    if predictor is None:
        examples = with_states(examples, Path(description["states"]), None, lambda: False)
        return head, HeadObjective(config.head.objective), examples["train"], examples["val"]
    model = with_adapter(predictor, head, config, None)
    tokenizer = build_model("tokenizer", description["tokenizer"])
    return model, HeadObjective(config.head.objective, tokenizer), examples["train"], examples["val"]
