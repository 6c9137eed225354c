"""The content of a backtest's report as plain values and frames, and its key figures as metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from kronos.evaluation.coverage import SHOWN, Coverage
from kronos.evaluation.departures import Departures
from kronos.evaluation.forecast_evaluation import Accuracy, Before, Member, Ranking
from kronos.evaluation.held_out import HeldOut
from kronos.evaluation.large_moves import LargeMoves
from kronos.evaluation.portfolio import Excess
from kronos.evaluation.ranking import PREDICTED, TRADABLE
from kronos.evaluation.statistics import Estimate, independent_periods, verdict
from kronos.evaluation.tear_sheet import TearSheet
from kronos.evaluation.time_series import TimeSeries
from kronos.report.forecast_chart import ForecastChart

EXCESS = {
    "with_cost": "with costs",
    "without_cost": "without costs",
    "with_both_costs": "with costs, benchmark too",
}


@dataclass(frozen=True, kw_only=True)
class Portfolio:
    """The simulated portfolio of one signal."""

    daily: pd.DataFrame
    risk: Mapping[str, Mapping[str, float]]
    turnover: float
    stranded: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """Content of a report; `portfolios[signal]` is the configured portfolio, the others are exploratory."""

    # a clause that can start a sentence: "524 members of the S&P 500 at some time of that year"
    universe: str
    source_notes: Sequence[str] = ()  # whole sentences on the data: adjustments, survivorship
    warnings: Sequence[
        str
    ] = ()  # whole sentences on what makes the numbers doubtful, such as days seen in training
    benchmark: str  # a clause: "the equal weight of each day's members"
    signal: str  # the configured one
    horizon: int
    lookback: int
    seed: int
    topk: int
    n_drop: int
    hold_thresh: int
    account: float
    open_cost: float
    close_cost: float
    min_cost: float
    deal_price: str
    limit_threshold: float | str | None
    forecast: str = ""  # a clause on sampling: "5 samples at temperature 0.6, top-p 0.9"
    scored: int  # (day, instrument) pairs with a score
    excluded: Mapping[str, int]
    repaired_bars: int  # forecast bars whose high, low, volume or amount had to be made consistent
    model_digests: Mapping[str, str]
    ranking: Ranking
    before: Before = field(default_factory=Before)
    accuracy: Accuracy
    coverages: Mapping[str, Coverage] = field(default_factory=dict)  # of the bands: raw, calibrated
    members: Sequence[Member] = ()  # of an ensemble
    time_series: TimeSeries | None = None  # with too few instruments to rank
    calibration_note: str = ""  # why there are no calibrated bands
    test_losses: Mapping[str, float] = field(
        default_factory=dict
    )  # of the models on the test range, by metric
    forgetting: Mapping[str, Any] = field(default_factory=dict)  # losses on older days, of a refit predictor
    portfolios: Mapping[str, Portfolio]
    excesses: Sequence[Excess]
    large_moves: LargeMoves
    tear_sheet: TearSheet
    periods_per_year: float  # sessions (bars, within a day) by which figures are annualised
    # daily returns after costs of portfolios of random rankings, one column per seed
    random_net: pd.DataFrame | None = None
    charts: Sequence[ForecastChart] = ()  # forecasts to draw
    departures: Departures | None = None
    held_out: HeldOut | None = None  # instruments that no training saw beside the others
    looks_before: int = 0  # other models that were evaluated on these days before this one

    @property
    def portfolio(self) -> Portfolio:
        return self.portfolios[self.signal]

    @property
    def daily(self) -> pd.DataFrame:
        return self.portfolio.daily

    @property
    def note(self) -> str:
        """Return the note on too few days that goes with every annualised figure, or an empty string."""
        ranked = self.ranking.worths[TRADABLE][self.signal].rank_ic.days
        short = verdict(len(self.daily), self.horizon)
        return short or (verdict(ranked, self.horizon) if ranked else "")


def metrics(inputs: ReportInputs) -> dict[str, float]:
    """Return the report's key figures under the names that a tracking run gives them, without NaN.

    Fractions throughout (0.01 is 1 %). IC figures are the configured signal's with the tradable return, unless
    they begin with `predicted_`; `_low` and `_high` are ends of 95 % intervals.
    """
    values = {
        **_ranking(inputs),
        **_accuracy(inputs),
        **_coverage(inputs),
        **_members(inputs),
        **(_time_series(inputs.time_series) if inputs.time_series else {}),
        **_portfolio(inputs),
        **inputs.test_losses,
        **_large_moves(inputs.large_moves),
        **(_held_out(inputs.held_out) if inputs.held_out else {}),
    }
    values["test_days"] = len(inputs.daily)
    values["periods_per_year"] = inputs.periods_per_year
    values["independent_periods"] = independent_periods(len(inputs.daily), inputs.horizon)
    values["scored_pairs"] = inputs.scored
    values["excluded_pairs"] = sum(inputs.excluded.values())
    values["looks_before"] = inputs.looks_before
    return {name: float(value) for name, value in values.items() if np.isfinite(value)}


def _ends(name: str, found: Estimate, factor: float = 1.0) -> dict[str, float]:
    return {name: found.mean * factor, f"{name}_low": found.low * factor, f"{name}_high": found.high * factor}


def _ranking(inputs: ReportInputs) -> dict[str, float]:
    ranking = inputs.ranking
    values: dict[str, float] = {}
    for prefix, target in (("", TRADABLE), ("predicted_", PREDICTED)):
        found = ranking.worths[target][inputs.signal]
        for column, estimate, ratio in (
            ("ic", found.ic, found.icir),
            ("rank_ic", found.rank_ic, found.rank_icir),
        ):
            values |= {
                f"{prefix}{column}_mean": estimate.mean, f"{prefix}{column}_low": estimate.low,
                f"{prefix}{column}_high": estimate.high, f"{prefix}{column}_t": estimate.t,
                f"{prefix}{column.removesuffix('ic')}icir": ratio,
            }  # fmt: skip
    primary = ranking.worths[TRADABLE][inputs.signal]
    values |= {"ic_days": primary.rank_ic.days, "ic_names_mean": primary.names}
    for name, one in ranking.worths[TRADABLE].items():
        values[f"signal_{name}_rank_ic_mean"] = one.rank_ic.mean
    for other in ranking.comparisons:
        values[f"{other.key}_rank_ic_mean"] = other.rank_ic.mean
        values |= _ends(f"rank_ic_gain_over_{other.key}", other.difference)
    values |= _ends("group_spread", ranking.spread)
    values["pairs_not_buyable"], values["top_group_not_buyable"] = ranking.unbuyable
    values["ranking_turnover"] = float(ranking.turnover["top"].mean())
    return values


def _accuracy(inputs: ReportInputs) -> dict[str, float]:
    found = inputs.accuracy
    whole = found.steps.iloc[0]
    values = {name: float(whole[name]) for name in ("mae", "rmse", "mape", "skill_rmse", "direction")}
    values["direction_always_up"] = float(whole["rises"])
    values |= dict(zip(("skill_mae", "skill_mae_low", "skill_mae_high"), found.skill, strict=True))
    for suffix, one in zip(("", "_trading"), found.distributions.values(), strict=False):
        values |= {
            f"crps{suffix}": one["crps"], f"crps_skill_last{suffix}": one["skill_last"][0],
            f"crps_skill_rolling{suffix}": one["skill_rolling"][0],
            f"volatility_mae{suffix}": one["volatility"]["mae"], f"volatility_r2{suffix}": one["volatility"]["r2"],
            **{f"coverage_{level * 100:.0f}{suffix}": share for level, (_, share) in one["coverage"].items()},
        }  # fmt: skip
        if not suffix:
            values["volatility_mae_rolling"] = one["volatility_rolling"]["mae"]
            values["volatility_r2_rolling"] = one["volatility_rolling"]["r2"]
    return values


def _coverage(inputs: ReportInputs) -> dict[str, float]:
    values: dict[str, float] = {}
    for kind, found in inputs.coverages.items():
        name = f"coverage_{SHOWN * 100:.0f}_{kind}"
        for step in range(inputs.horizon + 1):
            one = found.share(step=step)
            end = f"_step_{step}" if step else ""
            values[f"{name}{end}"] = one["share"]
            if not step:
                values |= {f"{name}_low": one["low"], f"{name}_high": one["high"]}
        values["coverage_series"] = found.series
        values |= {f"width_{SHOWN * 100:.0f}_{kind}": found.width, f"crps_{kind}": found.crps}
    return values


def _members(inputs: ReportInputs) -> dict[str, float]:
    values: dict[str, float] = {}
    for place, one in enumerate(inputs.members, start=1):
        if one.comparison is not None:
            values[f"member_{place}_rank_ic"] = one.comparison.rank_ic.mean
            values[f"member_{place}_rank_ic_gain"] = one.comparison.difference.mean
        if one.bands is not None:
            values[f"member_{place}_crps"] = one.bands.crps
            values[f"member_{place}_coverage_{SHOWN * 100:.0f}_raw"] = float(one.bands.share()["share"])
    return values


def _time_series(found: TimeSeries) -> dict[str, float]:
    against = found.against_last
    values = {"diebold_mariano_t": against.t, "diebold_mariano_p": against.p}
    for one in found.errors:
        values |= {f"skill_over_{one.key}": one.skill, f"skill_over_{one.key}_low": one.low}
        values |= {f"skill_over_{one.key}_high": one.high}
    values |= {f"crps_skill_over_{one.key}": one.skill for one in found.scores}
    values |= _ends("direction_over_always_up", found.direction)
    for name, ledger in found.ledgers.items():
        values |= {f"{name}_return_annualised": ledger.annual, f"{name}_sharpe": ledger.sharpe}
        values[f"{name}_max_drawdown"] = ledger.drawdown
    return values


def _portfolio(inputs: ReportInputs) -> dict[str, float]:
    result, values = inputs.portfolio, {}
    for name in EXCESS:
        if name in result.risk:
            figures = result.risk[name]
            values[f"excess_return_annualised_{name}"] = figures["annualised_return"]
            values[f"excess_volatility_annualised_{name}"] = figures["volatility"]
            values[f"information_ratio_{name}"] = figures["information_ratio"]
            values[f"excess_max_drawdown_{name}"] = figures["max_drawdown"]
            values[f"excess_calmar_{name}"] = figures["calmar"]
            values[f"excess_win_rate_{name}"] = figures["win_rate"]
    for name in ("portfolio_with_cost", "portfolio_without_cost", "benchmark"):
        part, _, suffix = name.partition("_")
        figures, end = result.risk[name], f"_{suffix}" if suffix else ""
        values[f"{part}_return_annualised{end}"] = figures["annualised_return"]
        values[f"{part}_sharpe{end}"] = figures["information_ratio"]
        values[f"{part}_max_drawdown{end}"] = figures["max_drawdown"]
        values[f"{part}_calmar{end}"] = figures["calmar"]
        values[f"{part}_win_rate{end}"] = figures["win_rate"]
    for other in inputs.excesses:
        values |= _ends(f"excess_return_annualised_over_{other.key}", other.difference, other.periods)
    for name, one in inputs.portfolios.items():
        values[f"signal_{name}_excess_return_annualised"] = one.risk["with_cost"]["annualised_return"]
    values["turnover_daily"] = result.turnover
    values["cost_daily"] = float(result.daily["cost"].mean())
    values["holdings_mean"] = float(result.daily["holdings"].mean())
    return values


def _held_out(found: HeldOut) -> dict[str, float]:
    return {
        **_ends("rank_ic_seen", found.rank_ic_seen), **_ends("rank_ic_unseen", found.rank_ic_unseen),
        **_ends("rank_ic_unseen_minus_seen", found.rank_ic_difference),
        "skill_mae_seen": found.skill_seen[0], "skill_mae_unseen": found.skill_unseen[0],
        **_ends("skill_mae_unseen_minus_seen", found.skill_difference),
        "instruments_unseen": len(found.names), "instruments_seen": found.seen,
    }  # fmt: skip


def _large_moves(found: LargeMoves) -> dict[str, float]:
    return {
        "suspected_splits": found.suspects + found.unnamed,
        **_ends("rank_ic_without_suspects", found.rank_ic),
        "excess_return_annualised_without_suspects": found.excess,
        "largest_moves_share": found.share,
    }


def details(inputs: ReportInputs) -> dict[str, Any]:
    """Return all figures for `metrics.json`: metrics, intervals, tables; NaN becomes null."""
    ranking, accuracy = inputs.ranking, inputs.accuracy
    targets = {
        target: {
            name: {
                "ic": one.ic, "rank_ic": one.rank_ic, "icir": one.icir, "rank_icir": one.rank_icir,
                "names": one.names, "p_holm": one.p_holm,
            }
            for name, one in signals.items()
        }
        for target, signals in ranking.worths.items()
    }  # fmt: skip
    return plain({
        "metrics": metrics(inputs), "too_short": inputs.note, "warnings": inputs.warnings, "signal": inputs.signal,
        "information_coefficient": targets, 
        "ranking_baselines": [replace(one, daily=one.daily.iloc[:0]) for one in ranking.comparisons],
        "by_step": ranking.steps,
        "decay": ranking.decay, "groups": ranking.group_means, "group_spread": ranking.spread,
        "accuracy_by_step": accuracy.steps, "direction": accuracy.direction, "skill_mae": accuracy.skill,
        "error_gap_last": accuracy.gap, "distributions": accuracy.distributions, "coverages": inputs.coverages,
        "time_series": _without_days(inputs.time_series),
        "portfolio": {name: one.risk for name, one in inputs.portfolios.items()}, "excess": inputs.excesses,
        "large_moves": inputs.large_moves, "held_out": inputs.held_out, "tear_sheet": _tear_sheet(inputs.tear_sheet),
    })  # fmt: skip


def _without_days(found: TimeSeries | None) -> TimeSeries | None:
    """The verdict without the daily tables of its ledgers."""
    if found is None:
        return None
    ledgers = {name: replace(one, daily=one.daily.iloc[:0]) for name, one in found.ledgers.items()}
    return replace(found, ledgers=ledgers)


def _tear_sheet(found: TearSheet) -> TearSheet:
    """The tear sheet with the years as a column, without the rolling figures of each session."""
    return replace(
        found, monthly=found.monthly.reset_index(), turnover=found.turnover.reset_index(),
        rolling=found.rolling.iloc[:0],
    )  # fmt: skip


def plain(value: Any) -> Any:
    """Convert dataclasses, frames and arrays to JSON types; numbers that are not finite become None."""
    if isinstance(value, pd.DataFrame):
        return [plain(row) for row in value.to_dict(orient="records")]
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(one) for one in value]
    if isinstance(value, (bool, str)) or value is None:
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    return float(value) if np.isfinite(value) else None
