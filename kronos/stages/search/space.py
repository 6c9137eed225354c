"""The search space: fields of `Config` with their ranges, checked before the first trial.

Learning rate and batch size come from the search fields of the configuration. A JSON file adds other fields, or
replaces them:

    {"adam_weight_decay": {"type": "float", "low": 0.001, "high": 0.3, "log": true},
     "accumulation_steps": {"type": "int", "low": 1, "high": 4},
     "loss_bars": {"type": "categorical", "choices": ["window", "horizon"]},
     "warmup_fraction": {"type": "float", "low": 0.01, "high": 0.2, "when": {"loss_bars": ["window"]}},
     "batch_size": null}

`when` samples a field only where an earlier one has one of the listed values; `null` removes a field from the space,
which leaves it at the value of the configuration.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from kronos.config.loading import nearest, to_text
from kronos.config.schema import FIELDS, SECTION_OF, Config
from kronos.utils.errors import UserError
from kronos.utils.files import or_shipped, read_json

KINDS = {"float": {"low", "high", "log"}, "int": {"low", "high", "log", "step"}, "categorical": {"choices"}}
# Not searched: fields that set the budget or the metric, which must be the same for every trial, and fields that
# change no result.
FIXED = (
    "epochs", "n_train_iter", "n_val_iter", "seed", "log_interval", "resume", "num_workers", "save_windows",
    "early_stopping_patience",
)  # fmt: skip


@dataclass(frozen=True)
class Dimension:
    """One searched field: a range (`low`, `high`, both included) or `choices`."""

    name: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: int = 1
    choices: tuple[Any, ...] = ()
    when: tuple[str, tuple[Any, ...]] | None = None

    def edges(self) -> tuple[Any, ...]:
        """Return the values to check: the choices, or both ends of the range."""
        return self.choices if self.kind == "categorical" else (self.low, self.high)


@dataclass(frozen=True)
class Space:
    """The searched fields, in the order in which they are drawn."""

    dimensions: tuple[Dimension, ...]

    def describe(self) -> list[dict[str, Any]]:
        """Return the space as plain values, for a digest or a message."""
        return [asdict(dimension) for dimension in self.dimensions]

    def draw(self, suggest: Callable[[Dimension], Any]) -> dict[str, Any]:
        """Return one suggested value per field, in order; a conditional field only where its condition holds."""
        values: dict[str, Any] = {}
        for dimension in self.dimensions:
            if dimension.when is None or values.get(dimension.when[0]) in dimension.when[1]:
                values[dimension.name] = suggest(dimension)
        return values

    def largest(self, name: str, config: Config) -> int:
        """Return the largest value that an integer field takes in any trial."""
        return int(max(self._edges(name) or [getattr(config, name)]))

    def _edges(self, name: str) -> list[Any]:
        return [edge for item in self.dimensions if item.name == name for edge in item.edges()]

    def check_batches(self, config: Config, windows: int, processes: int) -> None:
        """Raise UserError where an effective batch size exceeds the number of windows between two reports."""
        for size in self._edges("batch_size") or [config.batch_size]:
            whole = size * processes * self.largest("accumulation_steps", config)
            if whole > windows:
                times = whole // size
                more = f" x {times} (processes x accumulation_steps) = {whole:,}" if times > 1 else ""
                raise UserError(
                    f"batch size {size:,}{more} is above the windows available: {windows:,} between two of the "
                    f"{config.search_reports} reports; give smaller --search-batch-size, more windows, or fewer "
                    "--search-reports"
                )


def space_of(config: Config) -> Space:
    """Return the search space of a configuration.

    Raises UserError with a list of all problems: unknown fields, empty or reversed ranges, values that `Config` does
    not accept.
    """
    stages = ("tokenizer", "predictor") if config.search_stage == "both" else (config.search_stage,)
    low, high = config.search_learning_rate
    dimensions = {
        f"{stage}_learning_rate": Dimension(f"{stage}_learning_rate", "float", low, high, log=True)
        for stage in stages
    }
    dimensions["batch_size"] = Dimension("batch_size", "categorical", choices=config.search_batch_size)
    problems: list[str] = []
    for name, entry in _entries(config.search_space, problems).items():
        if problem := _refused(name, config.search_stage):
            problems.append(f"{config.search_space}: {name}: {problem}")
        elif entry is None:
            dimensions.pop(name, None)
        else:
            dimension, problem = _dimension(name, entry, dimensions)
            if dimension is None:
                problems.append(f"{config.search_space}: {name}: {problem}")
            else:
                dimensions.pop(name, None)  # so that fields are drawn in the order of the file
                dimensions[name] = dimension
    if not dimensions and not problems:
        problems.append(f"{config.search_space} leaves nothing to search")
    problems += [problem for item in dimensions.values() for problem in _invalid_edges(config, item)]
    if problems:
        raise UserError(
            problems[0] if len(problems) == 1 else "\n  ".join([f"{len(problems)} problems:", *problems])
        )
    return Space(tuple(dimensions.values()))


def _entries(path: str | None, problems: list[str]) -> dict[str, Any]:
    if path is None:
        return {}
    content = read_json(or_shipped(path))
    if not isinstance(content, dict):
        problems.append(f"{path} holds a {type(content).__name__}, an object of fields was expected")
        return {}
    return content


def _refused(name: str, stage: str) -> str:
    """Return why a field cannot be searched, or an empty string."""
    if name not in FIELDS:
        close = nearest(name, FIELDS)
        return "there is no such field" + (f": did you mean {close}?" if close else "")
    if SECTION_OF[name] not in ("training", "model") or name in FIXED:
        return "it must be the same for every trial: a search varies only fields of training and model"
    other = {"tokenizer": "predictor", "predictor": "tokenizer"}.get(stage, "-")
    if name.startswith(other) or name.startswith(f"pretrained_{other}") or name == f"freeze_{other}":
        return f"it belongs to the {other}, search_stage is {stage}: give search_stage=both"
    if name == "model_preset" and stage == "predictor":
        return "it also changes the tokenizer, search_stage is predictor: give search_stage=both"
    return ""


def _dimension(name: str, entry: Any, earlier: Mapping[str, Dimension]) -> tuple[Dimension | None, str]:
    """Return the dimension that an entry of the file describes, or None and the problem."""
    kind = entry.get("type") if isinstance(entry, dict) else None
    if kind not in KINDS:
        return None, f'expected an object with "type": one of {", ".join(KINDS)}'
    unknown = set(entry) - KINDS[kind] - {"type", "when"}
    if unknown:
        known = ", ".join(sorted(KINDS[kind]))
        return None, f"unknown key {', '.join(sorted(unknown))}; a {kind} takes {known}"
    when, problem = _condition(entry.get("when"), earlier)
    if problem:
        return None, problem
    if kind == "categorical":
        choices = entry.get("choices")
        if not isinstance(choices, list) or not choices:
            return None, "expected choices: a list of at least one value"
        if any(isinstance(value, list | dict) for value in choices):
            return None, "a choice is a number, a string, true, false or null"
        return Dimension(name, kind, choices=tuple(choices), when=when), ""
    low, high, step = entry.get("low"), entry.get("high"), entry.get("step", 1)
    number = int if kind == "int" else (int | float)
    if any(isinstance(edge, bool) or not isinstance(edge, number) for edge in (low, high)):
        return None, f"expected low and high: two {'whole numbers' if kind == 'int' else 'numbers'}"
    if low >= high:
        return None, f"the range {low}..{high} is {'empty' if low == high else 'reversed'}"
    log = entry.get("log", False)
    if not isinstance(log, bool) or not isinstance(step, int) or isinstance(step, bool) or step < 1:
        return None, "expected log: true or false, and step: a whole number from 1"
    if log and (low <= 0 or step != 1):
        return None, "a log range begins above 0 and has no step"
    return Dimension(name, kind, low, high, log, step, when=when), ""


def _condition(
    entry: Any, earlier: Mapping[str, Dimension]
) -> tuple[tuple[str, tuple[Any, ...]] | None, str]:
    if entry is None:
        return None, ""
    expected = 'expected "when": {"an earlier field": [values]}'
    if not isinstance(entry, dict) or len(entry) != 1:
        return None, expected
    name, values = next(iter(entry.items()))
    if name not in earlier:
        return None, f"{expected}, {name} is not searched before it"
    if not isinstance(values, list) or not values:
        return None, expected
    return (name, tuple(values)), ""


def _invalid_edges(config: Config, dimension: Dimension) -> list[str]:
    """Return the validation errors of `Config` for the values at the edges of a dimension."""
    problems = []
    for value in dimension.edges():
        if isinstance(value, float) and dimension.kind == "int":
            value = int(value)
        try:
            config.replace(**{dimension.name: value})
        except ValidationError as error:
            first = error.errors()[0]
            message = str(first.get("ctx", {}).get("error", first["msg"]))
            problems.append(f"{dimension.name}: {to_text(value)} cannot be searched: {message}")
    return problems
