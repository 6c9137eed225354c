"""The update stage: top up the bars, rebuild the store, forecast, and score the forecasts whose days have come."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kronos.config.schema import Config, fields_of
from kronos.data.sources.base import now
from kronos.data.sources.factory import DataProcessorFactory
from kronos.data.sources.living import LivingDataProcessor
from kronos.evaluation.forecast_log import KEYS, Scorecard, added, drift, log_id, scorecard, skill_verdict
from kronos.stages.base import Context, Inputs, Result, Stage
from kronos.stages.cache import read_record
from kronos.stages.data import DataStage
from kronos.stages.inputs import stored_bars, wide_bars
from kronos.stages.predict import PredictStage
from kronos.stages.runner import run_stage, tags_of
from kronos.tracking.growing_run import grow
from kronos.tracking.run import SEPARATOR
from kronos.utils.errors import UserError
from kronos.utils.files import RECORD, atomic_file, lock_of, read_json, write_json

LOG, CARD = "forecast_log.parquet", "scorecard.json"


class UpdateStage(Stage):
    """Run data, and with `update_forecast` also predict, keep its forecasts, and score what can be scored.

    The second run of a day changes no file: bars that are there are not asked for, and a forecast is kept once.
    """

    name = "update"
    help = "top up the bars of a source of today, rebuild the store, and with --forecast forecast and score"
    params = (*PredictStage.params, *fields_of("update"), "backtest_signal")
    cached = False

    def parts(self, config: Config) -> tuple[Stage, ...]:
        return (DataStage(), PredictStage()) if config.update.update_forecast else (DataStage(),)

    def folder(self, config: Config) -> Path:
        return Path(config.update.forecast_log_path)

    def inputs(self, config: Config) -> Inputs:
        return Inputs()

    def run(self, context: Context, inputs: Inputs, key: Mapping[str, Any]) -> Result:
        config = context.config
        results = {"data": run_stage(DataStage(), config, context)}
        if not config.update.update_forecast:
            return Result(self.name, context.run.id, results["data"].folder, {}, children=results)
        results["predict"] = predicted = run_stage(PredictStage(), config, context)
        store = stored_bars(config)
        close = wide_bars(store, 0)["close"]
        forecast = pd.read_parquet(predicted.folder / "forecast.parquet")
        made_from = predicted.record["made_from"]["inputs"]
        model = made_from["predictor"][:16]
        folder = self.folder(config)
        with lock_of(folder / LOG):
            known = pd.read_parquet(folder / LOG) if (folder / LOG).is_file() else None
            last = close.loc[forecast["as_of"].iloc[0]]
            log = added(known, forecast, last, model, f"{now():%Y-%m-%d %H:%M}")
            if log is not known:
                with atomic_file(folder / LOG) as temporary:
                    log.to_parquet(temporary, index=False)
            count = len(log) - (0 if known is None else len(known))
            context.say(f"update: {count:,} forecasts added to the {len(log) - count:,} in {folder / LOG}")
            cards = _score(log, close, config.backtest.backtest_signal)
            content = {name: card.values() for name, card in cards.items()}
            before = read_json(folder / CARD) if (folder / CARD).is_file() else {}
            if before != content:
                write_json(folder / CARD, content)
            context.run.artifact(folder / LOG)
            context.run.artifact(folder / CARD)
            levels = config.forecast.predict_quantiles
            live = _Live(context, log, close.index[-1], round(100 * (max(levels) - min(levels))))
            drifted = drift(content.get(model, {}), _tested(config, made_from["predictor"]), live.band)
            # Models of the past too, as long as their forecasts are scored.
            for name, card in content.items():
                if name == model or card != before.get(name):
                    live.grow(name, card, drifted if name == model else [])
        mine = content.get(model, {})
        context.run.metrics(int(mine.get("days", 0)), live.metrics(mine))
        context.say(f"update: {card_text(mine)}")
        for sentence in drifted:
            context.run.tags({"drift": sentence})
            context.say(f"update: DRIFT: {sentence}")
        return Result(self.name, context.run.id, folder, {}, children=results)


def dry_run(config: Config) -> list[str]:
    """What an update would ask for, in lines; nothing is asked and nothing is written."""
    processor = DataProcessorFactory.create_processor(config.data.data_source, config)
    if not isinstance(processor, LivingDataProcessor):
        raise UserError(
            f"data_source={config.data.data_source} is no source of today, so there is nothing to top up: give "
            "--data-source auto, akshare, baostock, ccxt, sina, tushare or yfinance"
        )
    lines = []
    pending = processor.pending()
    for symbol, (last, due) in pending.items():
        has = "nothing is cached" if last is None else f"cached to {last:%Y-%m-%d %H:%M}"
        lines.append(f"{symbol}: {has}, would be asked for bars to {due:%Y-%m-%d %H:%M}")
    lines.append(f"{len(pending)} symbols would be asked for; nothing was asked and nothing written")
    return lines


def card_text(values: Mapping[str, float]) -> str:
    """One line about the live figures."""
    if not values.get("days"):
        return f"no forecast has come to its end yet, {values.get('waiting', 0):.0f} are waiting"
    parts = [f"{values['days']:.0f} days, {values['forecasts']:.0f} forecasts scored"]
    for name, words in (("coverage", "coverage"), ("rank_ic", "Rank IC"), ("skill", "skill over no change")):
        if name in values:
            ends = [f"{values[f'{name}_{end}']:.3f}" for end in ("low", "high") if f"{name}_{end}" in values]
            parts.append(
                f"{words} {values[name]:.3f}" + (f" ({' to '.join(ends)})" if len(ends) == 2 else "")
            )
    return ", ".join(parts)


@dataclass(frozen=True)
class _Live:
    """Logs the figures of a forecast log on one day; `band` is the share between its outermost quantiles (%)."""

    context: Context
    log: pd.DataFrame
    day: pd.Timestamp
    band: int

    def metrics(self, card: Mapping[str, float]) -> dict[str, float]:
        """The figures of a scorecard by their names in MLflow, which draws them in one group."""
        return {
            f"live/{name.replace('coverage', f'coverage_{self.band}')}": value for name, value in card.items()
        }

    def grow(self, model: str, card: Mapping[str, float], drifted: list[str]) -> None:
        """Log a scorecard at this day's ordinal to the one run that grows with the forecasts of this model."""
        tracking, config = self.context.tracking, self.context.config
        if tracking is None:
            return
        own = self.log[self.log["model"] == model]
        name = SEPARATOR.join(["live", f"predictor {model[:8]}", f"since {own['as_of'].min():%Y-%m-%d}"])
        note = "\n\n".join([
            f"**{skill_verdict(card)}** {card_text(card)[:1].upper()}{card_text(card)[1:]}.",
            *(f"**Drift:** {sentence}." for sentence in drifted),
            f"Live figures of the forecasts in `{config.update.forecast_log_path}`, one step for each day of bars "
            f"(its ordinal), the last one {self.day:%Y-%m-%d}. Each  python -m kronos update --forecast  adds one.",
        ])  # fmt: skip
        tags = {**tags_of("live", config), "drift": "; ".join(drifted) or "none", "model": model}
        grow(tracking, log_id(own), name, self.day.toordinal(), self.metrics(card), tags, note)


def _score(log: pd.DataFrame, close: pd.DataFrame, signal: str) -> dict[str, Scorecard]:
    """A card for each model, of its forecasts of the longest horizon."""
    cards = {}
    for model, own in log.groupby("model"):
        steps = own.groupby(KEYS[:3])["step"].transform("max")
        whole = own[steps == steps.max()]
        known = whole["as_of"].isin(close.index) & whole["instrument"].isin(close.columns)
        cards[str(model)] = scorecard(whole[known.to_numpy()], close, signal)
    return cards


def _tested(config: Config, predictor: str) -> Mapping[str, float]:
    """The metrics of the latest backtest, where it was of this predictor."""
    if not (config.backtest_folder / RECORD).is_file():
        return {}
    record = read_record(config.backtest_folder)
    same = record["made_from"]["inputs"].get("predictor") == predictor
    return dict(record["metrics"]) if same else {}
