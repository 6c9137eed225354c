"""Pages of heads made from random answers, one of each objective."""

from typing import get_args

import numpy as np
import pandas as pd

from kronos.data.outcomes import Answer, outcomes
from kronos.evaluation.head_baselines import recent
from kronos.evaluation.heads import Answers, Trained, measure, variance_factors
from kronos.evaluation.tradability import tradability
from kronos.report.heads import HeadPage

LOOKBACK, HORIZON = 20, 5


def walks(seed: int, days: int, names: int) -> pd.DataFrame:
    """Closes of random walks with a common factor, and therefore nothing to forecast; wide."""
    random = np.random.default_rng(seed)
    moves = 0.01 * (random.normal(size=(days, names)) + random.normal(size=(days, 1)))
    index = pd.bdate_range("2024-01-01", periods=days)
    return pd.DataFrame(50 * np.exp(moves.cumsum(axis=0)), index, [f"N{place:02d}" for place in range(names)])


def answers_of(
    objective: Answer,
    close: pd.DataFrame,
    value: np.ndarray,
    horizon: int = HORIZON,
    lookback: int = LOOKBACK,
) -> tuple[Answers, Trained]:
    """Answers (wide, days x names) to walks from `lookback` on; what came first serves as the training range."""
    days, names = close.shape
    day, instrument = (
        grid.reshape(-1) for grid in np.meshgrid(np.arange(lookback, days), np.arange(names), indexing="ij")
    )
    table = np.vstack([close.to_numpy(), np.full((horizon, names), np.nan)])
    ahead = table[day[:, None] + np.arange(horizon + 1), instrument[:, None]]
    came = outcomes(objective, ahead, np.isfinite(ahead[:, 1:]))
    last = recent(table[day[:, None] + np.arange(-lookback + 1, 1), instrument[:, None]], horizon)
    opening = close.shift(1).bfill()
    made = Answers(
        objective=objective, horizon=horizon, lookback=lookback, value_N=value[day, instrument], outcome_N=came,
        day_N=day, instrument_N=instrument, recent=last, opening=opening, close=close,
        tradable=tradability(opening, close),
    )  # fmt: skip
    known = np.isfinite(came)
    before = type(last)(*(getattr(last, name)[known] for name in last.__dataclass_fields__))
    trained = Trained(came[known], before)
    if objective == "volatility":
        factors = variance_factors(made.value_N[known], came[known], before, trained)
        trained = Trained(trained.outcome, before, factors)
    return made, trained


def make_heads(days: int = 180, names: int = 12) -> dict[str, HeadPage]:
    """A page of each objective; the last one of a head that was not trained, the first of few days."""
    pages = {}
    for place, objective in enumerate(get_args(Answer)):
        random = np.random.default_rng(place)
        close = walks(place, days if place else 60, names)
        value = random.normal(size=close.shape)
        value = {"direction": 0.5 + 0.1 * np.tanh(value), "volatility": 0.01 * np.exp(0.1 * value)}.get(
            objective, value
        )
        curve = [
            {"step": 0, "val_loss": 0.69},
            {"step": 40, "val_loss": 0.7 if objective == "direction" else 0.66},
        ]
        pages[objective] = HeadPage(
            objective=objective, horizon=HORIZON, lookback=LOOKBACK, universe=f"{names} instruments",
            first="2024-01-29", last="2024-09-06", latest="2024-09-06", instruments=names,
            scores=measure(*answers_of(objective, close, value)), adapter="lora" if objective == "rank" else "none",
            train_days=("2020-01-01", "2022-12-30"), val_days=("2022-10-01", "2023-12-29"), trained_points=12345,
            curve=[] if objective == "rank" else curve, looks_before=2 * place,
            warnings=["the head was trained or chosen on days up to 2024-03-01: only later days are clean."],
        )  # fmt: skip
    return pages
