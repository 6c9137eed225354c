"""The audit stage: how often the evaluation is wrong, and what it would find, on the stored bars of the test days."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.config.schema import Config, fields_of
from kronos.data.splits import Ranges
from kronos.data.store import BarStore
from kronos.evaluation.altered_bars import Market
from kronos.evaluation.audit import simulate
from kronos.evaluation.departures import pay_out
from kronos.evaluation.signals import MIN_NAMES
from kronos.evaluation.tradability import Tradability, trading_mask
from kronos.report.audit import Setting, sentences, table_text, write_audit
from kronos.report.saved_content import save
from kronos.stages.base import Context, Inputs, Result, Stage
from kronos.stages.cache import write_record
from kronos.stages.inputs import (
    BY_CONTENT,
    backtest_points,
    log_dataset,
    resolve_splits,
    stored_bars,
    wide_bars,
)
from kronos.stages.report_pages import LANGUAGE
from kronos.tracking.metric_names import tracked
from kronos.utils.files import atomic_folder

NOT_READ = ("max_context", "clip")


class AuditStage(Stage):
    """Write audit.json, audit.md and audit.html on forecasts whose Rank IC is known. Reads no weights."""

    name = "audit"
    help = "how far a Rank IC can be trusted on the stored bars: false alarms, coverage, power"
    params = (
        *(name for name in fields_of("data", "audit", "tracking") if name not in NOT_READ),
        "backtest_delisting_return", "backtest_limit_threshold", "backtest_max_instruments",
        "report_language", "seed",
    )  # fmt: skip
    by_content = BY_CONTENT
    packages = ("numpy", "pandas", "scipy", "exchange_calendars")

    def folder(self, config: Config) -> Path:
        return Path(config.audit.audit_path)

    def inputs(self, config: Config) -> Inputs:
        store = stored_bars(config)
        splits = resolve_splits(config, store)
        days = " to ".join(str(day) for day in splits.backtest)
        return Inputs({"bars": store.digest, "backtest days": days}, store, splits)

    def run(self, context: Context, inputs: Inputs, key: Mapping[str, Any]) -> Result:
        """Simulate and write the output folder, which is renamed to its final name when complete."""
        config, store, splits, run = context.config, inputs.store, inputs.splits, context.run
        assert store is not None and splits is not None
        log_dataset(context, store, "testing")
        horizon, lookback = config.data.predict_window, config.data.lookback_window
        market, seeds = market_of(config, store, splits), config.audit.audit_seeds
        context.say(
            f"audit: {seeds} seeds of each case, on the bars of the backtest range as stored and altered"
        )
        cases = simulate(
            market, horizon, lookback, seeds, config.training.seed,
            lambda bars: context.say(f"audit: bars {bars}"),
        )  # fmt: skip
        names = market.target(horizon).notna().sum(axis=1)
        names = names[names >= MIN_NAMES]
        first, last = splits.backtest
        setting = Setting(
            universe=str(store.source.get("universe", f"{len(store.instruments)} instruments")),
            first=str(first), last=str(last), days=len(names), names=float(names.mean()), horizon=horizon,
            lookback=lookback, seeds=seeds,
        )  # fmt: skip
        with atomic_folder(self.folder(config)) as folder:
            save(folder, "audit", setting=setting, cases=cases)
            metrics = write_audit(folder, setting, cases, config.backtest.report_language)
            outputs = sorted(path.name for path in folder.iterdir())
            record = write_record(
                folder, key, run.id, outputs, {"metrics": metrics, LANGUAGE: config.backtest.report_language}
            )
            run.metrics(0, tracked(self.name, metrics))
            run.artifact(folder)
        context.say(table_text(cases))
        for sentence in sentences(setting, cases):
            context.say(f"audit: {sentence}")
        if setting.note:
            context.say(f"audit: a backtest report on these days says: {setting.note}")
        context.say(f"audit: report in {self.folder(config) / 'audit.md'} (and audit.html)")
        return Result(self.name, run.id, self.folder(config), record)


def market_of(config: Config, store: BarStore, splits: Ranges) -> Market:
    """The bars of the backtest range, with `lookback_window` sessions before it and the horizon after it.

    The pairs that are forecast are those of a backtest. Raises UserError where there are none.
    """
    points = backtest_points(config, store, splits)
    start = max(0, int(points.session.min()) - config.data.lookback_window)
    bars = pay_out(wide_bars(store, start), config.backtest.backtest_delisting_return)
    mask = trading_mask(store, bars, "open", config.backtest.backtest_limit_threshold)
    end = int(points.session.max()) - start + config.data.predict_window + mask.longest_wait + 1
    scored = np.zeros((len(bars["close"]), len(store.instruments)), bool)
    scored[points.session - start, points.instrument] = True
    day = pd.DatetimeIndex(bars["close"].index[:end]).normalize()
    return Market(
        {name: bars[name].iloc[:end] for name in ("open", "close")},
        Tradability(mask.buyable.iloc[:end], mask.sellable.iloc[:end], mask.first_sale[:end]),
        scored[:end], np.unique(day, return_inverse=True)[1], mask.longest_wait > 1,
    )  # fmt: skip
