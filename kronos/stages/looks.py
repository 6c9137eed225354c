"""The record of looks: which models were evaluated on which days, so that a report can say what another look costs.

`looks.jsonl` beside the folder of the backtests has one line per look: a backtest, a fold of a walk-forward or the
whole of it, a benchmark of several models, a challenge of the champion, and a search with all trials that it
compared. Whoever evaluates many models on the same days and keeps the best one finds a good result by chance, and
only a record that outlives the runs can say how many there were. The same model on the same bars and days with the
same settings is not recorded again.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from kronos.config.loading import to_text
from kronos.config.schema import FIELDS, Config
from kronos.data.store import BarStore
from kronos.stages.base import Context, Say
from kronos.tracking.run import Run
from kronos.utils.files import digest_bytes, lock_of

FILE = "looks.jsonl"
LOCK_SECONDS = 60.0
BACKTEST, FOLD, WALK_FORWARD, BENCHMARK = "backtest", "fold", "walk_forward", "benchmark"
SEARCH, CHALLENGE, HEAD = "search", "challenge", "head"
# Settings that make other forecasts of the same weights.
SETTINGS = (
    "lookback_window", "predict_window", "max_context", "clip", "inference_T", "inference_top_p", "inference_top_k",
    "inference_sample_count", "backtest_signal", "seed",
)  # fmt: skip
# The same, left out at their defaults: looks that were recorded before they counted stay those of the same model.
UNLESS_DEFAULT = ("inference_fine_rotary", "inference_sliding", "inference_precision")


@dataclass(frozen=True)
class Look:
    """One evaluation of a model, or of several that were compared, on the days of a window."""

    kind: str  # backtest, fold, walk_forward, benchmark, search, challenge or head
    first: str  # first and last day of the window, YYYY-MM-DD
    last: str
    freq: str
    horizon: int  # in bars
    bars: str  # digest of the bar store
    instruments: str  # digest of the names of its instruments
    predictor: str  # digest of the predictor's weights; of all folds' or of the best trial's
    model: str  # digest of all weights and settings; the same for all folds of a walk-forward, or trials of a study
    models: int = 1  # how many models were compared
    time: str = ""  # UTC, ISO 8601
    run_id: str = ""

    @property
    def key(self) -> str:
        """What makes two looks the same one: model, bars, days and horizon."""
        parts = [self.model, self.bars, self.first, self.last, self.freq, self.horizon]
        return digest_bytes(json.dumps(parts).encode())[:16]

    def shares_days(self, other: "Look") -> bool:
        """Whether the other look was at bars of the same instruments and frequency, on overlapping days."""
        same = self.bars == other.bars or self.instruments == other.instruments
        return same and self.freq == other.freq and self.first <= other.last and self.last >= other.first

    def tags(self) -> dict[str, str]:
        """Tags of the MLflow run that looked."""
        return {"look": self.key, "look_kind": self.kind, "look_days": f"{self.first} to {self.last}"}


def ledger_of(config: Config) -> Path:
    """The file of looks, beside the configured folder of the backtests."""
    return Path(config.output.backtest_result_path).parent / FILE


def look_of(
    kind: str,
    config: Config,
    store: BarStore,
    days: tuple[date, date],
    predictor: str,
    model: str,
    models: int = 1,
) -> Look:
    """The look of a stage at the bars of a store.

    Args:
        kind: one of the constants of this module.
        config: its horizon is recorded.
        store: its bars, frequency and instruments are recorded.
        days: first and last day of the window; a last day without bars is replaced by the last one that has any.
        predictor: digest of the predictor's weights.
        model: digest that tells this model with its settings from others (`model_digest`).
        models: how many models were compared.
    """
    end = date.fromisoformat(
        str(store.sessions[store.last_session].astype("datetime64[ns]").astype("datetime64[D]"))
    )
    first, last = days
    return Look(
        kind, first.isoformat(), max(first, min(last, end)).isoformat(), store.freq, config.data.predict_window,
        store.digest, digest_bytes("\n".join(sorted(store.instruments)).encode())[:16], predictor[:16], model, models,
    )  # fmt: skip


def model_digest(config: Config, tokenizer: str, predictor: str) -> str:
    """Digest of both models' weights (given as digests) and of the settings that they forecast with."""
    changed = (name for name in UNLESS_DEFAULT if getattr(config, name) != FIELDS[name].default)
    settings = {name: to_text(getattr(config, name)) for name in (*SETTINGS, *changed)}
    return digest_bytes(json.dumps([tokenizer, predictor, settings], sort_keys=True).encode())[:16]


def read_looks(path: Path, say: Say) -> list[Look]:
    """All looks of a file, oldest first; [] where there is none. A line that cannot be read is named and left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        say(f"looks: {path} cannot be read ({error.strerror}): earlier looks at these days are not counted")
        return []
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found.append(_parsed(json.loads(line)))
        except (ValueError, TypeError, KeyError) as error:
            why = f"{type(error).__name__}: {error}"
            say(f"looks: line {number} of {path} is damaged and left out of the count ({why})")
    return found


def _parsed(values: dict[str, Any]) -> Look:
    """A look from the values of its line. Raises ValueError, TypeError or KeyError for anything else."""
    given = {one.name: one.type(values[one.name]) for one in fields(Look)}  # type: ignore[operator]
    for name in ("first", "last"):
        date.fromisoformat(given[name])
    return Look(**given)


def before(look: Look, looks: Iterable[Look]) -> int:
    """How many other models were evaluated on these days before this look was made for the first time.

    Looks at overlapping days of the same instruments and frequency count, whatever their horizon. A model counts
    once, however often it looked; a walk-forward counts once for all its folds, a search once per trial compared.
    What came after the first time of the same look is not counted, so that repeating it gives the same report.
    """
    most: dict[str, int] = {}
    for one in looks:
        if one.key == look.key:
            break
        if one.model != look.model and one.shares_days(look):
            most[one.model] = max(most.get(one.model, 0), one.models)
    return sum(most.values())


def record(path: Path, look: Look, run: Run, say: Say) -> None:
    """Append a look to the file, unless the same one is there, and tag its run.

    Processes that share the file wait for each other. A file that cannot be written is said in one line, and the
    stage goes on. The line is written as a whole, after a line that was cut off it begins on a new one.
    """
    run.tags(look.tags())
    line = asdict(replace(look, time=datetime.now(UTC).isoformat(timespec="seconds"), run_id=run.id))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock_of(path, LOCK_SECONDS):  # it lies outside of the outputs, where nothing hidden stays
            there = {(one.kind, one.key, one.models) for one in read_looks(path, lambda text: None)}
            if (look.kind, look.key, look.models) in there:
                return
            _append(path, json.dumps(line) + "\n")
    except (OSError, TimeoutError) as error:
        say(f"looks: this look at the days is not on record in {path}: {error}")


def _append(path: Path, text: str) -> None:
    with path.open("ab+") as stream:
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                text = "\n" + text
        stream.write(text.encode())
        stream.flush()
        os.fsync(stream.fileno())


def looked_before(path: Path, look: Look, context: Context) -> int:
    """`before` from the file of looks, also printed and set as the tag `looks_before` of the run."""
    count = before(look, read_looks(path, context.say))
    context.run.tags({"looks_before": count})
    context.say(f"looks: {count} other model{'s' * (count != 1)} on these days before, by {path}")
    return count
