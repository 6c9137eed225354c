"""Other models on the test days beside the evaluated one: the weights before training, the members of an ensemble."""

import pandas as pd

from kronos.data.bars import CLOSE
from kronos.data.forecast_points import ForecastPoints
from kronos.evaluation import ranking, signals
from kronos.evaluation.forecast_evaluation import Before, Forecasts, Member, Samples
from kronos.forecast.pool import Pool
from kronos.forecast.store_forecaster import Forecaster, forecast_frame, plain_rules, trading_rules
from kronos.stages.base import Context
from kronos.stages.calibration import coverages


def on_some_days(
    context: Context, other: Forecaster, points: ForecastPoints, close: pd.DataFrame, name: str, label: str
) -> Before:
    """Scores of another model on days that are `baseline_day_step` apart, a horizon by default."""
    config, store = context.config, other.store
    horizon = config.data.predict_window
    spacing = config.backtest.baseline_day_step or horizon
    known = points.session + horizon + 1 <= store.last_session
    part = points.subset(known & ((points.session - points.session.min()) % spacing == 0))
    if not len(part):
        return Before(name, note="no day of the backtest is followed by a full horizon")
    means, _ = other.means(part, trading_rules(config), label)
    scores = signals.score(close, forecast_frame(store, part, means, other.columns))
    table = signals.wide(scores, config.backtest.backtest_signal)
    days = part.session.max() - part.session.min()
    note = f"forecast on every {spacing}th day" if spacing > 1 else "forecast on every day"
    context.say(f"forecast: {len(part):,} series by the {name}, {days // spacing + 1} days")
    return Before(name, table.rename_axis(index="datetime"), spacing, note)


def member_figures(
    context: Context,
    model: Forecaster,
    points: ForecastPoints,
    forecasts: Forecasts,
    scores: pd.DataFrame,
    samples: list[Samples],
) -> list[Member]:
    """What each member of an ensemble is worth alone, with as many paths as the pool; [] for a single model."""
    if not isinstance(model, Pool):
        return []
    config, horizon = context.config, forecasts.horizon
    earned = signals.tradable_returns(forecasts.opening, forecasts.close, horizon, forecasts.tradable)
    mine = signals.wide(scores, config.backtest.backtest_signal)
    mine = mine.reindex(columns=forecasts.close.columns).rename_axis(index="datetime")
    found = []
    for place, (path, member) in enumerate(
        zip(config.output.predictor_path or (), model.members, strict=True)
    ):
        other = on_some_days(
            context, member, points, forecasts.close, f"member {path}", f"member {place + 1}"
        )
        compared = None
        if other.score is not None:
            compared = ranking.compare(
                f"member_{place + 1}", path, mine, other.score, earned, horizon, other.spacing, other.note
            )
        bands = None
        if samples:
            rows = samples[0].rows
            part = points.subset(rows)
            closes = member.closes(
                part, plain_rules(config.forecast.evaluation_sample_count), f"member {place + 1}"
            )
            last = model.store.values[part.row, CLOSE].astype(float)
            paths = closes / last[:, None, None]
            bands = coverages(member, part, paths, forecasts.realised()[rows], None)["raw"]
        found.append(Member(path, compared, bands))
    return found
