"""What it costs to look more than once: several models on the same days, or several trials of one search.

Pure functions. Whoever compares many models on the same days and keeps the best one finds a good result by chance;
these functions say how easily, and how strict a test must be so that it does not happen.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy import stats

TOTAL = 0.05  # chance of a wrong change of the champion, over all challenges of the same days together
BLOCKS = 10
EULER = float(np.euler_gamma)


def level_of_challenge(challenge: int, total: float = TOTAL) -> float:
    """Return the level below which the p-value of the `challenge`-th test on the same days must lie.

    total x 6 / (pi^2 x challenge^2): 3.0 %, 0.76 %, 0.34 %, ... for a total of 5 %. The levels of all challenges
    together, however many there are, sum to `total`, since the sum of 1 / k^2 is pi^2 / 6. By Bonferroni's inequality
    the chance that any of them succeeds without an effect is then at most `total`. A series of decreasing levels for
    tests that arrive one after the other is the rule of Foster and Stine, "Alpha-investing", Journal of the Royal
    Statistical Society B 70 (2008), without its rewards.

    Args:
        challenge: the number of the test, from 1.
        total: the level that is shared out, between 0 and 1.

    Raises:
        ValueError: where `challenge` is below 1.
    """
    if challenge < 1:
        raise ValueError(f"challenge is {challenge}, expected 1 or more")
    return total * 6 / (np.pi * challenge) ** 2


def false_alarm_rate(looks: int, level: float = 0.05) -> float:
    """Return the chance that at least one of `looks` independent tests is significant without any effect.

    1 - (1 - level)^looks. Tests of similar models on the same days depend on each other, which makes the chance
    smaller (Sidak, "Rectangular confidence regions for the means of multivariate normal distributions", Journal of
    the American Statistical Association 62, 1967): it is an upper bound there. Raises ValueError for `looks` below 0.
    """
    if looks < 0:
        raise ValueError(f"looks is {looks}, expected 0 or more")
    return float(-np.expm1(looks * np.log1p(-level)))


def expected_best_sharpe(trials_sharpes: Sequence[float] | np.ndarray) -> float:
    """Return the Sharpe ratio that the best of as many trials reaches on average if none of them has an effect.

    sqrt(V) x ((1 - g) z(1 - 1/N) + g z(1 - 1/(N e))), with the variance V of the N ratios, Euler's constant g and the
    normal quantile z (Bailey and Lopez de Prado 2014, equation 1). The unit is that of the ratios. Raises ValueError
    for fewer than two trials.
    """
    ratios = np.asarray(trials_sharpes, dtype=np.float64)
    count = len(ratios)
    if count < 2:
        raise ValueError(f"{count} Sharpe ratios of trials were given, expected 2 or more")
    quantiles = stats.norm.ppf([1 - 1 / count, 1 - 1 / (count * np.e)])
    return float(ratios.std(ddof=1) * ((1 - EULER) * quantiles[0] + EULER * quantiles[1]))


def deflated_sharpe(
    sharpe: float,
    trials_sharpes: Sequence[float] | np.ndarray,
    observations: float,
    skew: float,
    kurtosis: float,
) -> float:
    """Return the probability that the best trial's Sharpe ratio is real, given how many trials it was chosen from.

    Bailey and Lopez de Prado, "The deflated Sharpe ratio: correcting for selection bias, backtest overfitting and
    non-normality", Journal of Portfolio Management 40 (2014): the probability that the true ratio is above 0, with
    the ratio that the best of the trials reaches by chance in place of 0. A value above 0.95 is what one test at the
    5 % level asks for.

    Args:
        sharpe: mean over standard deviation of the best trial's daily values, not annualised.
        trials_sharpes: the same ratio of every trial, the best one included, [N].
        observations: how many independent values the ratio was estimated from; where neighbouring days share their
            targets over a horizon, the days divided by the horizon.
        skew: skewness of the best trial's values.
        kurtosis: their kurtosis, 3 for a normal distribution.

    Returns:
        A probability; NaN for fewer than two observations, or where the formula's variance is not positive.

    Raises:
        ValueError: for fewer than two trials.
    """
    by_chance = expected_best_sharpe(trials_sharpes)
    variance = 1 - skew * sharpe + (kurtosis - 1) / 4 * sharpe**2
    if observations < 2 or not variance > 0:
        return float("nan")
    return float(stats.norm.cdf((sharpe - by_chance) * np.sqrt((observations - 1) / variance)))


def deflated_sharpe_of(matrix: np.ndarray, best: int, observations: float) -> float:
    """Return the deflated Sharpe ratio of one trial of a matrix of daily values [T, N].

    Args:
        matrix: the daily values of N trials on the same T days, higher is better.
        best: the column of the trial that was chosen.
        observations: as in `deflated_sharpe`.

    Returns:
        A probability; NaN where a trial does not vary, and as in `deflated_sharpe`.

    Raises:
        ValueError: for fewer than two trials.
    """
    values = np.asarray(matrix, dtype=np.float64)
    if (np.ptp(values, axis=0) < 1e-12).any():
        return float("nan")
    sharpes_N, chosen = values.mean(axis=0) / values.std(axis=0, ddof=1), values[:, best]
    skew, kurtosis = float(stats.skew(chosen)), float(stats.kurtosis(chosen, fisher=False))
    return deflated_sharpe(float(sharpes_N[best]), sharpes_N, observations, skew, kurtosis)


def probability_of_backtest_overfitting(matrix: np.ndarray, blocks: int = BLOCKS) -> float:
    """Return how often the best trial on one half of the days is in the lower half of the trials on the other days.

    Combinatorially symmetric cross-validation (Bailey, Borwein, Lopez de Prado and Zhu, "The probability of backtest
    overfitting", Journal of Computational Finance 20, 2017): the days are cut into consecutive blocks, and every
    choice of half of the blocks is once the days that the trial with the highest mean is chosen on. Its rank among
    all trials on the remaining days is counted as overfitting where it is not above the median. Trials that differ
    by chance only give about 0.5, one trial that is really better gives about 0. Ties have their mean rank. The days
    are cut evenly, so that some blocks have one day more.

    Args:
        matrix: the daily values of N trials on the same T days, [T, N], higher is better.
        blocks: how many blocks; even, at least 2. 10 blocks give 252 ways to choose half of them.

    Returns:
        A share between 0 and 1.

    Raises:
        ValueError: for fewer than two trials, fewer days than blocks, values that are not finite, or a number of
            blocks that is not even.
    """
    values = np.asarray(matrix, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] < 2:
        raise ValueError(
            f"the matrix has the shape {values.shape}, expected [days, trials] of 2 trials or more"
        )
    if blocks < 2 or blocks % 2:
        raise ValueError(f"blocks is {blocks}, expected an even number, 2 or more")
    if len(values) < blocks:
        raise ValueError(f"{len(values)} days are fewer than {blocks} blocks")
    if not np.isfinite(values).all():
        raise ValueError(
            "the matrix has values that are not finite: leave out days that a trial has no value of"
        )
    parts = np.array_split(values, blocks)
    sums_BN = np.stack([part.sum(axis=0) for part in parts])
    days_B = np.array([len(part) for part in parts])
    chosen_CB = np.array([
        np.isin(np.arange(blocks), picked) for picked in combinations(range(blocks), blocks // 2)
    ])  # fmt: skip
    inside_CN = chosen_CB @ sums_BN / (chosen_CB @ days_B)[:, None]
    outside_CN = ~chosen_CB @ sums_BN / (~chosen_CB @ days_B)[:, None]
    best_C = inside_CN.argmax(axis=1)
    ranks_C = stats.rankdata(outside_CN, axis=1)[np.arange(len(best_C)), best_C]
    return float(np.mean(ranks_C / (values.shape[1] + 1) <= 0.5))
