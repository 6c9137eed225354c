"""What the answers of a head are worth on the test days: figures with intervals, against naive answers.

Losses are averaged over the instruments of a day first, so that every day has the same weight, and intervals allow
for horizons that overlap (`statistics`). N forecasts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import special, stats

from kronos.data.outcomes import Answer
from kronos.evaluation import accuracy, ranking, signals
from kronos.evaluation.head_baselines import Recent, by_har, fit_har, rates_after
from kronos.evaluation.ranking import GROUPS
from kronos.evaluation.statistics import Estimate, estimate
from kronos.evaluation.tradability import Tradability

BINS = 5  # of the calibration's table
LEAST_CHANCE = (
    1e-12  # a forecast probability is taken to be that far from 0 and 1, so that its log loss is finite
)
SKILL, DIFFERENCE = "skill", "difference"


@dataclass(frozen=True)
class Measure:
    """One figure with its 95 % interval, NaN where there are too few days."""

    key: str
    name: str
    value: float
    low: float = float("nan")
    high: float = float("nan")


@dataclass(frozen=True)
class Against:
    """A figure of the head against that of a naive answer, on the same forecasts.

    `gain` is above 0 where the head is better: of a loss the skill, 1 - mean loss / mean loss of the other, else the
    difference.
    """

    key: str
    measure: str
    baseline: str
    model: float
    other: float
    kind: str  # SKILL or DIFFERENCE
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class Bin:
    """Forecast probabilities of a rise within a range, and how often it rose."""

    forecasts: int
    mean: float
    rose: float


@dataclass(frozen=True)
class HeadScores:
    """All figures of a head on the test days."""

    measures: list[Measure]
    against: list[Against]
    days: int  # with a known outcome
    forecasts: int  # with a known outcome
    bins: list[Bin]
    groups: dict[int, Estimate]  # mean tradable return by group of the ranking, 1 the lowest
    spread: Estimate | None  # highest group minus the lowest


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers of a head as arrays, with what came; wide frames as in `signals`."""

    objective: Answer
    horizon: int
    lookback: int
    value_N: np.ndarray  # log return, probability of a rise, volatility per bar, or score
    outcome_N: np.ndarray  # of `data.outcomes`; NaN where it is not known
    day_N: np.ndarray  # row in the wide frames
    instrument_N: np.ndarray  # column in the wide frames
    recent: Recent
    opening: pd.DataFrame
    close: pd.DataFrame
    tradable: Tradability  # at the opens

    def wide(self, values_N: np.ndarray) -> pd.DataFrame:
        """Return values of the forecasts as a wide frame, NaN where there is no forecast."""
        table = np.full(self.close.shape, np.nan)
        table[self.day_N, self.instrument_N] = values_N
        return pd.DataFrame(table, self.close.index, self.close.columns)


@dataclass(frozen=True)
class Trained:
    """What the training range says: outcomes and the last bars before them.

    `factors` of forecast variances are those of `variance_factors` on the validation days; empty unless the objective
    is volatility.
    """

    outcome: np.ndarray
    recent: Recent
    factors: Mapping[str, float] = field(default_factory=dict)


def measure(answers: Answers, trained: Trained) -> HeadScores:
    """Return every figure of the objective."""
    known = np.isfinite(answers.outcome_N)
    parts = {
        "return": _of_returns,
        "direction": _of_directions,
        "volatility": _of_volatilities,
        "rank": _nothing,
    }
    measures, against = parts[answers.objective](answers, trained)
    groups: dict[int, Estimate] = {}
    spread = None
    if answers.objective != "volatility":
        more, others, groups, spread = _of_ranking(answers)
        measures, against = more + measures, against + others
    bins = calibration(answers.value_N, answers.outcome_N) if answers.objective == "direction" else []
    days = len(np.unique(answers.day_N[known]))
    return HeadScores(measures, against, days, int(known.sum()), bins, groups, spread)


def _nothing(answers: Answers, trained: Trained) -> tuple[list[Measure], list[Against]]:
    return [], []


def _of_ranking(
    answers: Answers,
) -> tuple[list[Measure], list[Against], dict[int, Estimate], Estimate | None]:
    """Rank IC with the tradable return, against momentum and reversal; nothing for fewer than five instruments."""
    horizon = answers.horizon
    score = answers.wide(answers.value_N).dropna(how="all")
    earned = signals.tradable_returns(answers.opening, answers.close, horizon, answers.tradable)
    found = ranking.worth(score, earned, horizon)
    if not np.isfinite(found.rank_ic.mean):
        return [], [], {}, None
    measures = [
        Measure("rank_ic", "Rank IC", found.rank_ic.mean, found.rank_ic.low, found.rank_ic.high),
        Measure("ic", "IC", found.ic.mean, found.ic.low, found.ic.high),
    ]
    against = []
    for key, name, other in (
        (
            "momentum",
            f"momentum of {answers.lookback} days",
            ranking.momentum(answers.close, answers.lookback),
        ),
        (
            "reversal",
            f"reversal of {horizon} day{'s' * (horizon > 1)}",
            ranking.reversal(answers.close, horizon),
        ),
    ):
        one = ranking.compare(key, name, score, other, earned, horizon)
        gain, mine = one.difference, float(one.daily["model"].mean()) if len(one.daily) else float("nan")
        against.append(
            Against(f"rank_ic_over_{key}", "Rank IC", name, mine, one.rank_ic.mean, DIFFERENCE, gain.mean,
                    gain.low, gain.high)
        )  # fmt: skip
    table = ranking.group_returns(score, earned)
    groups = {group: estimate(table[group], horizon) for group in range(1, GROUPS + 1)}
    return measures, against, groups, estimate(table[GROUPS] - table[1], horizon)


def _of_returns(answers: Answers, trained: Trained) -> tuple[list[Measure], list[Against]]:
    loss = (answers.value_N - answers.outcome_N) ** 2
    mean = float(trained.outcome.mean())
    others = {
        "zero": ("no move", answers.outcome_N**2),
        "mean": ("mean of the training range", (mean - answers.outcome_N) ** 2),
    }
    found = daily(answers, loss)
    root = Measure("rmse", "root mean squared error", float(np.sqrt(found.mean)))
    return [root], [_skill(answers, "squared_error", "squared error", loss, *one) for one in _named(others)]


def _of_directions(answers: Answers, trained: Trained) -> tuple[list[Measure], list[Against]]:
    rose, said = answers.outcome_N, answers.value_N
    rate, (after_rise, after_fall) = (
        float(trained.outcome.mean()),
        rates_after(trained.recent.move, trained.outcome),
    )
    moved_up = answers.recent.move > 0
    others = {
        "base_rate": ("base rate of the training range", np.full(len(said), rate), np.full(len(said), rate > 0.5)),
        "persistence": ("persistence of the last move", np.where(moved_up, after_rise, after_fall), moved_up),
    }  # fmt: skip
    hit = np.where(np.isfinite(rose), (said > 0.5) == (rose > 0.5), np.nan)
    hits = daily(answers, hit)
    measures = [
        auc(said, rose, answers.day_N, answers.horizon),
        Measure("accuracy", "accuracy", hits.mean, hits.low, hits.high),
    ]
    against = []
    for key, (name, _, up) in others.items():
        right = np.where(np.isfinite(rose), up == (rose > 0.5), np.nan)
        gain = daily(answers, hit - right)
        against.append(
            Against(f"accuracy_over_{key}", "accuracy", name, hits.mean, daily(answers, right).mean, DIFFERENCE,
                    gain.mean, gain.low, gain.high)
        )  # fmt: skip
    for key, word, loss in (("brier", "Brier score", brier), ("log_loss", "log loss", log_loss)):
        own = loss(said, rose)
        found = daily(answers, own)
        measures.append(Measure(key, word, found.mean, found.low, found.high))
        against += [
            _skill(answers, key, word, own, other, name, loss(chance, rose))
            for other, (name, chance, _) in others.items()
        ]
    return measures, against


def _of_volatilities(answers: Answers, trained: Trained) -> tuple[list[Measure], list[Against]]:
    came = answers.outcome_N
    forecasts = log_volatilities(answers.value_N, answers.recent, trained)
    own = forecasts.pop("model")[1]
    mine = qlike(2 * own + np.log(trained.factors["model"]), 2 * came)
    found, square = daily(answers, mine), (own - came) ** 2
    known = np.isfinite(came) & np.isfinite(own)
    r2 = accuracy.volatility_scores(own[known], came[known])["r2"]
    measures = [
        Measure("qlike", "QLIKE", found.mean, found.low, found.high),
        Measure("r2", "R2 of log volatility", r2),
    ]
    against = []
    for key, (name, log) in forecasts.items():
        theirs = qlike(2 * log + np.log(trained.factors[key]), 2 * came)
        against += [
            _skill(answers, "qlike", "QLIKE", mine, key, name, theirs),
            _skill(
                answers,
                "log_volatility",
                "squared error of log volatility",
                square,
                key,
                name,
                (log - came) ** 2,
            ),
        ]
    return measures, against


def log_volatilities(
    value_N: np.ndarray, recent: Recent, trained: Trained
) -> dict[str, tuple[str, np.ndarray]]:
    """Return the forecasts of the log volatility, by key: (name, [N]), the head's under `model`."""
    weights = fit_har(trained.recent.har, trained.outcome)
    return {
        "model": ("", np.log(value_N)),
        "last": ("volatility of the last bars", np.log(recent.volatility)),
        "ewma": ("EWMA volatility, decay 0.94", np.log(recent.ewma)),
        "har": ("HAR model of log volatility", by_har(recent.har, weights)),
    }


def variance_factors(
    value_N: np.ndarray, outcome_N: np.ndarray, recent: Recent, trained: Trained
) -> dict[str, float]:
    """Return the mean ratio of realised to forecast variance of each forecast, which minimises its QLIKE.

    The exponential of a forecast log is below the mean; a factor for all, the naive ones too, keeps the comparison
    fair.
    """
    return {
        key: float(np.nanmean(np.exp(2 * (outcome_N - log))))
        for key, (_, log) in log_volatilities(value_N, recent, trained).items()
    }


def qlike(forecast_N: np.ndarray, realised_N: np.ndarray) -> np.ndarray:
    """Return the QLIKE loss of log variances, [N]: ratio - log ratio - 1 of realised over forecast variance.

    0 for a forecast that came true; Patton, "Volatility forecast comparison using imperfect volatility proxies"
    (Journal of Econometrics 2011).
    """
    return np.asarray(np.exp(realised_N - forecast_N) - (realised_N - forecast_N) - 1)


def brier(chance_N: np.ndarray, rose_N: np.ndarray) -> np.ndarray:
    """Return the squared difference of a forecast probability and what came (0 or 1), [N]."""
    return np.asarray((chance_N - rose_N) ** 2)


def log_loss(chance_N: np.ndarray, rose_N: np.ndarray) -> np.ndarray:
    """Return minus the log of the probability given to what came (0 or 1), [N]; NaN where it is not known."""
    chance = np.clip(chance_N, LEAST_CHANCE, 1 - LEAST_CHANCE)
    return np.asarray(-(special.xlogy(rose_N, chance) + special.xlog1py(1 - rose_N, -chance)))


def auc(score_N: np.ndarray, rose_N: np.ndarray, day_N: np.ndarray, horizon: int) -> Measure:
    """Return the share of pairs of a rise and a fall in which the rise has the higher score, ties counted half.

    The interval is that of the daily sums of each forecast's influence on it (DeLong et al., Biometrics 1988), which
    allows for the dependence within a day and between overlapping horizons. NaN without rises or without falls.
    """
    known = np.isfinite(score_N) & np.isfinite(rose_N)
    score, rose, day = score_N[known], rose_N[known] > 0.5, day_N[known]
    rises, falls = int(rose.sum()), int((~rose).sum())
    if not rises or not falls:
        return Measure("auc", "AUC", float("nan"))
    ranks, ahead = stats.rankdata(score), np.empty(len(score))
    ahead[rose] = (ranks[rose] - stats.rankdata(score[rose])) / falls  # share of the falls below
    ahead[~rose] = 1 - (ranks[~rose] - stats.rankdata(score[~rose])) / rises  # share of the rises above
    value = float(ahead[rose].mean())
    influence = (ahead - value) / np.where(rose, rises, falls)
    by_day = pd.Series(influence).groupby(day).sum().to_numpy()
    found = estimate(value + len(by_day) * by_day, horizon)
    if np.ptp(score) == 0:  # nothing is told apart
        return Measure("auc", "AUC", value)
    return Measure("auc", "AUC", value, found.low, found.high)


def calibration(chance_N: np.ndarray, rose_N: np.ndarray, bins: int = BINS) -> list[Bin]:
    """Return the forecasts with a known outcome in `bins` parts of equal number, from the lowest chances on."""
    known = np.isfinite(rose_N) & np.isfinite(chance_N)
    order = np.argsort(chance_N[known], kind="stable")
    chance, rose = chance_N[known][order], rose_N[known][order]
    parts = [part for part in np.array_split(np.arange(len(order)), bins) if len(part)]
    return [Bin(len(part), float(chance[part].mean()), float(rose[part].mean())) for part in parts]


def daily(answers: Answers, values_N: np.ndarray) -> Estimate:
    """Return the mean of the daily means of the finite values, with its interval."""
    known = np.isfinite(values_N)
    return estimate(pd.Series(values_N[known]).groupby(answers.day_N[known]).mean(), answers.horizon)


def _named(others: dict[str, tuple[str, np.ndarray]]) -> list[tuple[str, str, np.ndarray]]:
    return [(key, name, loss) for key, (name, loss) in others.items()]


def _skill(
    answers: Answers, key: str, word: str, loss: np.ndarray, other: str, name: str, theirs: np.ndarray
) -> Against:
    """The skill of the head's losses against those of a naive answer."""
    gain, low, high, _ = accuracy.skill(loss, theirs, answers.day_N, answers.horizon)
    both = np.isfinite(loss) & np.isfinite(theirs)
    means = [daily(answers, np.where(both, one, np.nan)).mean for one in (loss, theirs)]
    return Against(f"{key}_over_{other}", word, name, means[0], means[1], SKILL, gain, low, high)
