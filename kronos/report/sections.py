"""The sections of a backtest's report: what each table says and the convention of every number in it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kronos.evaluation.ranking import PREDICTED, TRADABLE, Worth
from kronos.report.content import ReportInputs
from kronos.report.document import Block, Figure, Heading, Table, Text, number_text
from kronos.report.summary import interval_text, sign_word


def ranking_section(inputs: ReportInputs) -> list[Block]:
    """IC against both targets, baselines, groups, turnover, decay and steps."""
    ranking, horizon = inputs.ranking, inputs.horizon
    found = ranking.worths[TRADABLE][inputs.signal].rank_ic
    note = f" All of it: {inputs.note}." if inputs.note else ""
    return [
        Heading(2, "Ranking: information coefficient"),
        Heading(3, f"With the tradable return (primary): open of t + 1 to open of t + {1 + horizon}"),
        _ic_table(ranking.worths[TRADABLE], inputs.signal),
        Heading(
            3,
            f"With the predicted quantity: closes of t + 1 to t + {horizon} over the close of t, reduced alike",
        ),
        _ic_table(ranking.worths[PREDICTED], inputs.signal),
        Text(
            "Each day's correlation across names, averaged over days. ICIR is mean over standard deviation "
            "of the daily "
            f"values, not annualised; t is Newey-West with lag {found.lag}; the interval is a block "
            "bootstrap over days "
            f"(95 %, blocks of {found.block} days, widened for few blocks). A name without a bar on the "
            "day of the sale "
            "is valued at its last close; one without a bar on the day of the purchase is left out. The configured "
            "signal was fixed before the test; exploratory ones were not: the best of them is not "
            "evidence, and their "
            f"p-values are Holm-adjusted among themselves.{note}"
        ),
        Figure("Daily IC", "figures/daily_ic.png"),
        Figure("IC by month", "figures/monthly_ic.png"),
        Heading(3, "Beside rankings that cost nothing"),
        _comparison_table(inputs),
        Text(
            "Rank IC with the tradable return on the same names and days; gain is the mean of the daily differences. "
            f"Momentum is the return over the {inputs.lookback} closes that the model sees, reversal the "
            "fall over the "
            f"last {horizon} sessions. {_before_text(inputs)}"
        ),
        Heading(3, "Groups, turnover, decay"),
        _group_table(inputs),
        Text(
            "Names in five groups by the configured signal, 1 the lowest; mean tradable return over the "
            "horizon, before "
            f"costs. From day to day {number_text(float(ranking.turnover['top'].mean()), '{:.1%}')} of the highest "
            "group changes; the rank correlation of a day's signal with the day before's is "
            f"{number_text(float(ranking.turnover['rank_correlation'].mean()), '{:.3f}')}."
        ),
        Figure("Returns of the groups", "figures/group_returns.png"),
        *_step_tables(inputs),
    ]


def _ic_table(worths: Mapping[str, Worth], configured: str) -> Table:
    rows = []
    for name in sorted(worths, key=lambda name: name != configured):
        one, own = worths[name], name == configured
        rows.append([
            f"**{name}**" if own else name, number_text(one.ic.mean, "{:+.4f}"), number_text(one.icir, "{:+.3f}"),
            number_text(one.ic.t, "{:+.2f}"), number_text(one.rank_ic.mean, "{:+.4f}"),
            interval_text(one.rank_ic, "{:+.4f}"), number_text(one.rank_icir, "{:+.3f}"),
            number_text(one.rank_ic.t, "{:+.2f}"), f"{one.rank_ic.days}", number_text(one.names, "{:.0f}"),
            "" if own else number_text(one.p_holm, "{:.3f}"), "configured" if own else "exploratory",
        ])  # fmt: skip
    header = [
        "signal", "IC", "ICIR", "t (IC)", "Rank IC", "95 % interval", "Rank ICIR", "t (Rank IC)", "days",
        "names a day", "p (Holm)", "role",
    ]  # fmt: skip
    return Table(header, rows)


def _comparison_table(inputs: ReportInputs) -> Table:
    own = inputs.ranking.worths[TRADABLE][inputs.signal].rank_ic
    rows = [[
        f"**model, {inputs.signal} signal**", number_text(own.mean, "{:+.4f}"), interval_text(own, "{:+.4f}"), "", "",
        "", f"{own.days}",
    ]]  # fmt: skip
    for other in inputs.ranking.comparisons:
        spread = interval_text(other.rank_ic, "{:+.4f}")
        if np.isfinite(other.low):
            band = f"{number_text(other.low, '{:+.4f}')} to {number_text(other.high, '{:+.4f}')}"
            spread = f"{band} (seeds)"
        rows.append([
            other.name, number_text(other.rank_ic.mean, "{:+.4f}"), spread,
            number_text(other.difference.mean, "{:+.4f}"), interval_text(other.difference, "{:+.4f}"),
            sign_word(other.difference, inputs.note), f"{other.difference.days}",
        ])  # fmt: skip
    header = [
        "ranking",
        "Rank IC",
        "95 % interval",
        "gain of the model",
        "95 % interval",
        "the model",
        "days",
    ]
    return Table(header, rows)


def _before_text(inputs: ReportInputs) -> str:
    before = inputs.before
    word = f"The {before.name}: {before.note}." if before.note else ""
    return word[:1].upper() + word[1:]


def _group_table(inputs: ReportInputs) -> Table:
    ranking = inputs.ranking
    rows = [
        [
            str(group),
            number_text(one.mean, "{:+.3%}"),
            interval_text(one, "{:+.3%}"),
            number_text(one.t, "{:+.2f}"),
        ]
        for group, one in ranking.group_means.items()
    ]
    one = ranking.spread
    last = number_text(one.mean, "{:+.3%}"), interval_text(one, "{:+.3%}"), number_text(one.t, "{:+.2f}")
    return Table(["group", "mean return", "95 % interval", "t"], [*rows, ["highest less lowest", *last]])


def _step_tables(inputs: ReportInputs) -> list[Block]:
    steps = inputs.ranking.steps.to_dict("records")
    decay = {row["sessions"]: row for row in inputs.ranking.decay.to_dict("records")}
    rows = []
    for row in steps:
        other = decay[row["step"]]
        rows.append([
            f"{row['step']:.0f}", number_text(row["rank_ic"], "{:+.4f}"), _ends(row),
            number_text(row["t"], "{:+.2f}"),
            number_text(other["rank_ic"], "{:+.4f}"), _ends(other), number_text(other["t"], "{:+.2f}"),
        ])  # fmt: skip
    header = ["k", "Rank IC of step k", "95 % interval", "t", "Rank IC of the signal", "95 % interval", "t"]
    return [
        Table(header, rows),
        Text(
            "By step: the forecast close of step k with the close of t + k. Decay: the configured signal with the "
            "tradable return over k sessions."
        ),
    ]


def _ends(row: Mapping[Any, Any]) -> str:
    low, high = number_text(row["low"], "{:+.4f}"), number_text(row["high"], "{:+.4f}")
    return "n/a" if low == "n/a" else f"{low} to {high}"


def accuracy_section(inputs: ReportInputs) -> list[Block]:
    """Errors by step, then what the sample paths are worth as distributions."""
    found = inputs.accuracy
    rows = []
    for row in found.steps.to_dict("records"):
        rows.append([
            "all" if row["step"] == 0 else f"{row['step']:.0f}",
            *(number_text(row[name], "{:.3%}") for name in ("mae", "rmse", "mape", "mae_last", "mae_mean")),
            number_text(row["skill_mae"], "{:+.2%}"), number_text(row["skill_rmse"], "{:+.2%}"),
            number_text(row["direction"], "{:.2%}"), number_text(row["rises"], "{:.2%}"), f"{row['pairs']:,}",
        ])  # fmt: skip
    header = [
        "step", "MAE", "RMSE", "MAPE", "MAE, last price", "MAE, rolling mean", "skill (MAE)", "skill (RMSE)",
        "direction", "rises", "closes",
    ]  # fmt: skip
    skills = (
        f"{number_text(value, '{:+.2%}')} ({number_text(low, '{:+.2%}')} to {number_text(high, '{:+.2%}')})"
        for value, low, high in (found.skill, found.skill_mean)
    )
    over_last, over_mean = skills
    return [
        Heading(2, "Accuracy of the forecast closes"),
        Table(header, rows),
        Text(
            "The mean of the trading paths. MAE and RMSE are fractions of the last close, so that every name counts "
            "alike; MAPE is of the realised close. Skill is 1 less the ratio to the last price's error (0 "
            "is as good as "
            "no forecast). Direction is the share of moves whose sign was forecast, unchanged closes left "
            "out; rises is "
            f"what always saying up would get. Days counted alike, MAE skill is {over_last} over the last price, "
            f"{over_mean} over the rolling mean of {inputs.lookback} closes; direction "
            f"{number_text(found.direction.mean, '{:.2%}')} ({interval_text(found.direction, '{:.2%}')})."
            + (f" All of it: {inputs.note}." if inputs.note else "")
            + " By instrument: accuracy_by_instrument.csv."
        ),
        *_distributions(inputs),
    ]


def _distributions(inputs: ReportInputs) -> list[Block]:
    found = inputs.accuracy.distributions
    if not found:
        return []
    names = list(found)
    series = next(iter(found.values()))["series"]
    rows: list[list[str]] = [
        ["sample paths a series", *(f"{found[name]['samples']}" for name in names)],
        ["CRPS (fair)", *(number_text(found[name]["crps"], "{:.4%}") for name in names)],
    ]
    for key, label in (("skill_last", "last price"), ("skill_rolling", "rolling volatility")):
        rows.append([
            f"CRPS skill over {label}",
            *(
                f"{number_text(value, '{:+.1%}')} ({number_text(low, '{:+.1%}')} to {number_text(high, '{:+.1%}')})"
                for value, low, high in (found[name][key] for name in names)
            ),
        ])  # fmt: skip
    for level in next(iter(found.values()))["pinball"]:
        rows.append([
            f"pinball loss, {level:.0%} quantile".replace("%", " %"),
            *(number_text(found[name]["pinball"][level], "{:.4%}") for name in names),
        ])  # fmt: skip
    levels = sorted({level for name in names for level in found[name]["coverage"]})
    for level in levels:
        cells = []
        for name in names:
            exact, share = found[name]["coverage"].get(level, (float("nan"), float("nan")))
            cells.append(f"{number_text(share, '{:.1%}')} ({number_text(exact, '{:.1%}')} expected)")
        rows.append([f"inside the {level:.0%} band".replace("%", " %"), *cells])
    for key, label in (
        ("volatility", "realised volatility"),
        ("volatility_rolling", "the same, rolling volatility"),
    ):
        rows.append([
            f"{label}: MAE, R2",
            *(
                f"{number_text(found[name][key]['mae'], '{:.3%}')}, {number_text(found[name][key]['r2'], '{:+.3f}')}"
                for name in names
            ),
        ])  # fmt: skip
    missing = sorted({level for name in names for level in found[name]["coverage_missing"]})
    lacking = "".join(
        f" The {level:.0%} band needs at least {round(2 / (1 - level)) - 1} samples.".replace("%", " %")
        for level in missing
    )
    return [
        Heading(3, "Distribution of the sample paths"),
        Table(["", *names], rows),
        Text(
            f"On a fixed subset of {series:,} series, closes over the last close, all steps together. The "
            "fair CRPS is "
            "unbiased in the number of samples; the rolling-volatility baseline is a normal distribution "
            "about the last "
            f"close, the volatility of the last {inputs.lookback} bars growing with the root of the step. "
            "Temperature 1 "
            "and top-p 1 is what the model says; the trading settings narrow it on purpose. Volatility is "
            "the root mean "
            f"squared log return over the horizon, the mean of the paths' against what came.{lacking}"
        ),
        Figure("Calibration", "figures/calibration.png"),
        Figure("Example forecasts", "figures/examples.png"),
    ]


def coverage_section(inputs: ReportInputs) -> list[Block]:
    """What was scored and what was left out, with why."""
    rows = [["scored", f"{inputs.scored:,}"]]
    rows += [[f"left out: {reason}", f"{count:,}"] for reason, count in sorted(inputs.excluded.items())]
    return [
        Heading(2, "What was scored"),
        Table(["(day, instrument) pairs", "count"], rows),
        Text(
            f"{inputs.repaired_bars:,} forecast bars had a high, low, volume or amount that had to be made "
            "consistent."
        ),
    ]


def making_section(inputs: ReportInputs) -> Sequence[Block]:
    """Settings and digests, enough to make the report again."""
    limit = "no price limit"
    if inputs.limit_threshold is not None:
        distance = number_text(inputs.limit_threshold, "{:.1%}")
        limit = f"no trade where that price is {distance} or more from the close before"
    sampling = f", {inputs.forecast}" if inputs.forecast else ""
    return [
        Heading(2, "How it was made"),
        Text(
            f"Forecasts: {inputs.lookback} bars of context, {inputs.horizon} bars ahead, seed "
            f"{inputs.seed}{sampling}."
        ),
        Text(
            f"Portfolio: the {inputs.topk} best names, at most {inputs.n_drop} replaced a day, each held at least "
            f"{inputs.hold_thresh} sessions (a name that may not be sold yet still makes room for a "
            "purchase, so more "
            f"names can be held). A day's signal trades in the next session at its {inputs.deal_price}; "
            f"{limit}; a name "
            "without a bar is not traded. 95 % of the cash is invested."
        ),
        Table(["model", "digest"], [[name, f"`{digest}`"] for name, digest in inputs.model_digests.items()]),
    ]
