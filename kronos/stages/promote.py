"""Register the models of a backtest or search, and decide whether a new version becomes the champion.

A new version gets the alias `champion` if its mean daily Rank IC is higher than the champion's and the p-value of
the paired difference is below the level of this challenge, which decreases with the number of challenges on
overlapping days (`decision.py`). With fewer than five instruments, the CRPS of the closes takes the place of the
Rank IC. Each version is ranked by the signal that it was registered with, against the tradable return, on the
instruments and days of the new version's backtest that both rank. Rank IC and CRPS are computed on prices, so that
models with different tokenizers, contexts and sampling settings can be compared.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.config.schema import Config
from kronos.data import conditions
from kronos.data.bars import FEATURES
from kronos.data.forecast_points import ForecastPoints, forecast_points
from kronos.data.splits import Ranges
from kronos.data.store import BarStore
from kronos.distributed.shards_folder import Shards
from kronos.evaluation import ranking, signals
from kronos.evaluation.departures import pay_out
from kronos.evaluation.statistics import independent_periods
from kronos.evaluation.tradability import trading_mask
from kronos.forecast.store_forecaster import forecast_frame, forecaster, trading_rules
from kronos.model import checkpoint, load_predictor, load_tokenizer
from kronos.stages import looks
from kronos.stages.base import Result
from kronos.stages.calibration import find
from kronos.stages.decision import (
    FIRST,
    FORCED,
    NOT_ASKED,
    PROMOTED,
    REFUSED,
    Decision,
    difference_text,
    level_text,
    too_little,
    uses,
)
from kronos.stages.inputs import backtest_points, resolve_splits, stored_bars, wide_bars
from kronos.stages.model_logging import log_served_model
from kronos.stages.over_time import compare_crps
from kronos.stages.provenance import SEEN_TAG, Seen, seen_by_tag, seen_until
from kronos.stages.weights import trained_pair
from kronos.tracking.client import TAG, Run, Tracking
from kronos.tracking.model_registry import (
    ALIAS_PENDING,
    CHAMPION,
    Version,
    champion_of,
    describe,
    download,
    make_champion,
    register,
    versions_of,
)
from kronos.tracking.reader import load_run
from kronos.tracking.run import MODEL_TAG
from kronos.utils.errors import UserError
from kronos.utils.files import digest_bytes, read_json

PREDICTIONS = "predictions.parquet"
# Serving settings of a model, and the configuration fields that they come from.
SERVED = {
    "lookback": "lookback_window", "T": "inference_T", "top_p": "inference_top_p", "top_k": "inference_top_k",
    "sample_count": "inference_sample_count", "seed": "seed", "max_context": "max_context", "clip": "clip",
    "fine_rotary": "inference_fine_rotary", "sliding": "inference_sliding", "precision": "inference_precision",
}  # fmt: skip
Say = Callable[[str], None]


class NotComparable(UserError):
    """The champion cannot be compared: another horizon or frequency, no signal, or no forecasts on these days."""


@dataclass(frozen=True)
class Candidate:
    """The models to register, with configuration, bars and splits of the stage that used them."""

    config: Config
    store: BarStore
    splits: Ranges
    tokenizer: Any
    predictor: Any
    seen: Seen

    def tags(self) -> dict[str, Any]:
        """Tags of the registered version, which later versions are compared by."""
        return {
            "horizon": self.config.predict_window, "freq": self.store.freq, "signal": self.config.backtest_signal,
            SEEN_TAG: self.seen.text(), "data_digest": self.store.digest,
            "tokenizer_digest": checkpoint.digest(self.tokenizer),
            "predictor_digest": checkpoint.digest(self.predictor),
        }  # fmt: skip

    def model(self, run: Run, step: int = 0) -> str:
        """The URI of the logged model of `run`, shown with the metrics of `step`; logs the model if needed."""
        uri = self.config.tracking_uri
        there = load_run(run.id, uri).tags.get(TAG + MODEL_TAG)
        if there is not None:  # already logged, to register it under another name
            return there
        run.tags({SEEN_TAG: self.seen.text()})
        tokenizer, predictor = (checkpoint.digest(one) for one in (self.tokenizer, self.predictor))
        found = find(self.config, self.store, tokenizer, predictor)
        return log_served_model(
            run, self.config, self.store, self.tokenizer, self.predictor, step, found.calibration
        )

    @property
    def days(self) -> tuple[date, date]:
        return self.splits.backtest

    def look(self) -> looks.Look:
        """The look at the days of the backtest, with the model of the backtest, so that it does not count twice."""
        tokenizer, predictor = (checkpoint.digest(one) for one in (self.tokenizer, self.predictor))
        model = looks.model_digest(self.config, tokenizer, predictor)
        return looks.look_of(looks.CHALLENGE, self.config, self.store, self.days, predictor, model)

    def windows(self) -> str:
        """Digest of the forecast windows of the backtest: bars, days and horizon."""
        first, last = self.days
        parts = [
            self.store.digest,
            self.store.freq,
            first.isoformat(),
            last.isoformat(),
            self.config.predict_window,
        ]
        return digest_bytes(json.dumps(parts).encode())[:16]


def candidate(config: Config) -> Candidate:
    """The candidate of a configuration, with the last day that its models have seen."""
    store = stored_bars(config)
    splits = resolve_splits(config, store)
    tokenizer, predictor, _ = trained_pair(config, store, splits)
    return Candidate(config, store, splits, tokenizer.model, predictor.model, seen_until(config, splits))


def register_backtest(
    tracking: Tracking, run: Run, config: Config, outcome: Result, say: Say,
    shards: Shards | None = None,
) -> Version:  # fmt: skip
    """Register the models of a backtest under `registered_model_name`, and decide whether they become the champion.

    A backtest has one version per name: a reused backtest is not registered or decided again, unless `promote=force`
    is set or no decision was made before.

    The model is logged to the backtest's own run with the forecast settings of the backtest, since the model of the
    predictor's run may have other settings, and given or pretrained weights have no run.

    Raises:
        UserError: where the backtest's run is not in this tracking store, or the registry rejects a request.
    """
    name, uri = str(config.registered_model_name), config.tracking_uri
    if not tracking.exists(outcome.run_id):
        raise UserError(
            f"registered_model_name {name}: the backtest's run {outcome.run_id} is not in this tracking store, which "
            "must contain its model and predictions: run the backtest again with --reuse false"
        )
    before = versions_of(name, uri)
    mine = next((one for one in before if one.tag("backtest_run") == outcome.run_id), None)
    if mine is not None and mine.tag(ALIAS_PENDING):  # the process was ended between registration and alias
        make_champion(mine, uri)
    present = champion_of(name, uri)
    if mine is not None and not _is_asked(config, mine, present):
        say(f"registry: {mine.address} is this backtest's already ({mine.tag('decision')})")
        return mine
    new = candidate(config)
    first, last = new.days
    tags = {
        **new.tags(), "backtest_run": outcome.run_id, "windows": new.windows(), "windows_first": first,
        "windows_last": last,
    }  # fmt: skip
    others = [one for one in before if mine is None or one.number != mine.number]
    if "looks_before" in outcome.record.get("metrics", {}):
        tags["looks_before"] = int(outcome.record["metrics"]["looks_before"])
    decision = decide(new, outcome, present, others, say, shards)
    if "challenge" in decision.numbers:
        looks.record(looks.ledger_of(config), new.look(), run, say)
    tags |= decision.tags()
    if decision.becomes_champion:
        tags[ALIAS_PENDING] = "true"
    if mine is None:
        model = new.model(tracking.attach(outcome.run_id))
        mine = register(name, model, outcome.run_id, tags, decision.text, uri)
    else:
        describe(mine, tags, decision.text, uri)
    if decision.becomes_champion:
        make_champion(mine, uri)
    run.tags({"registered_version": f"{name}/{mine.number}", "decision": decision.word})
    say(f"registry: {mine.address}, {decision.text}")
    holder = mine if decision.becomes_champion else present
    say(f"registry: {f'{holder.address} is models:/{name}@{CHAMPION}' if holder else 'there is no champion'}")
    return mine


def register_search(
    tracking: Tracking, config: Config, trial_run: str, values: Mapping[str, float], say: Say
) -> Version:
    """Register the weights of a search's best trial, without the alias `champion`.

    They cannot become champion, since they were selected on the validation days. The model is logged to the trial's
    run; `values` are the metrics that the trial was selected by. Raises UserError where the weights that the
    configuration names are not those of the trial.
    """
    name, uri = str(config.registered_model_name), config.tracking_uri
    mine = next((one for one in versions_of(name, uri) if one.tag("trial_run") == trial_run), None)
    if mine is not None:
        say(f"registry: {mine.address} is this trial's already")
        return mine
    new = candidate(config)
    trial = load_run(trial_run, uri)
    if checkpoint.digest(new.predictor) != trial.tags.get(TAG + "model_digest"):
        raise UserError("the best trial's weights are not on this machine")
    decision = Decision(
        NOT_ASKED,
        "a search selects on the validation days; a backtest with the same name decides on later days",
    )
    tags = {**new.tags(), "trial_run": trial_run, **decision.tags()}
    tags |= {f"search_{metric}": value for metric, value in values.items()}
    run = tracking.attach(trial_run)
    mine = register(name, new.model(run, int(trial.metrics["steps"])), trial_run, tags, decision.text, uri)
    say(f"registry: {mine.address} has the weights of the best trial, {decision.text}")
    return mine


def _is_asked(config: Config, mine: Version, present: Version | None) -> bool:
    if config.promote == "force":
        return present is None or present.number != mine.number
    return config.promote == "auto" and mine.tag("decision") == NOT_ASKED


def decide(
    new: Candidate,
    outcome: Result,
    present: Version | None,
    before: list[Version],
    say: Say,
    shards: Shards | None = None,
) -> Decision:
    """Compare a candidate with the champion `present`; `before` are all earlier versions."""
    asked = new.config.promote
    if asked == "never":
        return Decision(NOT_ASKED, "promote=never")
    if present is None:
        return Decision(FIRST, "there was no champion to compare with")
    numbers = {"champion_version": present.number, **uses(new.days, new.windows(), before)}
    try:
        why_not = unfair(new, present)
        numbers |= compare(new, outcome, present, say, shards)
        why_not = why_not or too_little(numbers, new.config.predict_window)
    except NotComparable as error:  # other errors are raised, since a failing server may work the next time
        why_not = str(error)
    if asked == "force":
        return Decision(FORCED, f"promote=force{f', although {why_not}' if why_not else ''}", numbers)
    if why_not:
        return Decision(REFUSED, why_not, numbers)
    why = f"better than version {present.number}, {difference_text(numbers)}, {level_text(numbers)}"
    return Decision(PROMOTED, why, numbers)


def unfair(new: Candidate, present: Version) -> str:
    """Why the comparison is not fair: one version has or may have seen the compared days; else empty text."""
    first, _ = new.days
    theirs = f"version {present.number}"
    for what, seen in (("this version", new.seen), (theirs, seen_by_tag(present.tags, theirs))):
        if seen.until is None:
            return seen.why
        if seen.until >= first:
            return f"{what} was trained or selected on days up to {seen.until}, the compared days begin on {first}"
    return ""


def compare(
    new: Candidate, outcome: Result, present: Version, say: Say, shards: Shards | None = None
) -> dict[str, Any]:
    """The paired difference of daily Rank ICs with its 95 % interval, two-sided p-value, days and both means.

    With fewer than five instruments it is the CRPS skill over the champion (`over_time.compare_crps`).

    Raises NotComparable where the champion has another horizon or frequency, or cannot forecast these days.
    """
    config, store = new.config, new.store
    horizon = config.predict_window
    bars, freq = present.tag("horizon", "unknown"), present.tag("freq", "unknown")
    if (bars, freq) != (str(horizon), store.freq):
        raise NotComparable(
            f"version {present.number} forecasts {bars} bars of {freq} instead of {horizon} of "
            f"{store.freq}: give another --registered-model-name"
        )
    if present.tag("signal") not in signals.SIGNALS:
        raise NotComparable(f"version {present.number} has no tag with the signal that it ranks by")
    points = backtest_points(config, store, new.splits)
    if len(np.unique(points.instrument)) < signals.MIN_NAMES:
        settings, pair, able = champion_points(present, new, points)
        return compare_crps(
            forecaster(config, store, new.tokenizer, new.predictor, shards),
            forecaster(settings, store, *pair, shards),
            able,
        )
    theirs, sessions = forecast_of(present, new, points, say, shards), pd.DatetimeIndex(store.sessions)
    # A champion with a shorter context may forecast earlier days than the candidate.
    first = min(int(points.session.min()), int(sessions.searchsorted(theirs["as_of"].min())))
    prices = pay_out(wide_bars(store, first), config.backtest.backtest_delisting_return)
    mask = trading_mask(store, prices, "open", config.backtest.backtest_limit_threshold)
    earned = signals.tradable_returns(prices["open"], prices["close"], horizon, mask)
    mine, other = (
        signals.wide(signals.score(prices["close"], forecast), signal).rename_axis(index="datetime")
        for forecast, signal in (
            (pd.read_parquet(outcome.folder / PREDICTIONS), config.backtest_signal),
            (theirs, present.tag("signal")),
        )
    )
    found = ranking.compare(CHAMPION, f"version {present.number}", mine, other, earned, horizon)
    gap, means = found.difference, found.daily.mean()
    return {
        "difference": gap.mean, "difference_low": gap.low, "difference_high": gap.high, "p": gap.p, "days": gap.days,
        "periods": independent_periods(gap.days, horizon), "rank_ic": means["model"],
        "champion_rank_ic": means["baseline"], "measure": "daily Rank IC",
    }  # fmt: skip


def forecast_of(
    present: Version, new: Candidate, points: ForecastPoints, say: Say, shards: Shards | None = None
) -> pd.DataFrame:
    """The champion's forecasts on the candidate's days: stored by its backtest, or computed with its settings."""
    config, store = new.config, new.store
    if present.tag("windows") == new.windows():
        try:
            stored = load_run(present.tag("backtest_run"), config.tracking_uri).predictions()
            say(f"registry: compared with the stored predictions of {present.address}")
            return stored
        except UserError as error:
            say(f"registry: {error}")
    theirs, pair, able = champion_points(present, new, points)
    say(f"registry: {present.address} forecasts {len(able):,} series, its backtest had other windows")
    model = forecaster(theirs, store, *pair, shards)
    means, _ = model.means(able, trading_rules(theirs), CHAMPION)
    return forecast_frame(store, able, means, model.columns)


def champion_points(
    present: Version, new: Candidate, points: ForecastPoints
) -> tuple[Config, tuple[Any, Any], ForecastPoints]:
    """(its configuration, tokenizer and predictor, the candidate's points that it can forecast) of the champion."""
    config, store = new.config, new.store
    with tempfile.TemporaryDirectory(prefix="kronos-champion-") as scratch:
        folder = download(present, config.tracking_uri, Path(scratch))
        # Models registered before there was a choice have no "sliding".
        served = {"sliding": "exact", **read_json(folder / "serving.json")}
        pair = load_tokenizer(folder / "tokenizer"), load_predictor(folder / "predictor")
    stored = {*FEATURES, *(one.name for one in store.extra)}
    missing = [name for name in pair[0].columns if name not in stored]
    if missing:
        raise NotComparable(f"version {present.number} sees {missing[0]}, which these bars do not have")
    theirs = config.replace(**{field: served[name] for name, field in SERVED.items()})
    lacking = conditions.lacking(store, pair[1].config.get("conditions", {"columns": []})["columns"])
    if lacking:
        raise NotComparable(
            f"version {present.number} needs the conditions {', '.join(lacking)}, which these bars do not have"
        )
    able = forecast_points(store, *new.days, theirs.lookback_window, theirs.predict_window)
    keys, wanted = (
        one.session.astype(np.int64) * len(store.instruments) + one.instrument for one in (able, points)
    )
    able = able.subset(np.isin(keys, wanted))
    if not len(able):
        raise NotComparable(
            f"version {present.number} needs a longer context than any instrument has on these days"
        )
    return theirs, pair, able
