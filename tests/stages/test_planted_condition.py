"""A pattern that only a condition tells: found with it, not without it, and not with its values shuffled."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from planted import FIRST_DAY

from kronos.config.schema import Config
from kronos.config.sections import TrainingConfig
from kronos.data import conditions
from kronos.data.bars import CLOSE, align
from kronos.data.cleaning import clean
from kronos.data.forecast_points import forecast_points
from kronos.data.splits import make_split
from kronos.data.store import BarStore
from kronos.data.store_writer import store_sessions, write_store
from kronos.data.windows import Windows
from kronos.distributed.device import Runtime, seed_everything
from kronos.evaluation.statistics import Estimate, estimate
from kronos.forecast.store_forecaster import Forecaster, plain_rules
from kronos.model.conditions import Conditions
from kronos.model.presets import random_model
from kronos.training.objectives import PredictorObjective, TokenizerObjective
from kronos.training.settings import FitSettings
from kronos.training.trainer import fit

NAMES, DAYS, TRAINED = 30, 330, 250
LOOKBACK, HORIZON = 8, 1
STATES = ("falls", "rests", "rises")
STRENGTH, NOISE = 0.02, 0.01


def market(seed: int, shuffled: bool = False) -> pd.DataFrame:
    """Daily bars: the state of a day, drawn anew every day, moves the close of the next one and nothing else."""
    random = np.random.default_rng(seed)
    state = random.integers(0, 3, (DAYS, NAMES))
    returns = NOISE * random.normal(size=(DAYS, NAMES))
    returns[1:] += STRENGTH * (state[:-1] - 1)
    close = 50 * np.exp(returns.cumsum(axis=0))
    opening = np.vstack([close[:1], close[:-1]]) * np.exp(random.normal(0, 0.001, close.shape))
    spread = np.exp(np.abs(random.normal(0, 0.002, (2, *close.shape))))
    calendar = store_sessions("XNYS", pd.Timestamp(FIRST_DAY), pd.Timestamp("2023-12-29"))[:DAYS]
    given = random.permutation(state.reshape(-1)).reshape(state.shape) if shuffled else state
    prices = {
        "open": opening, "high": np.maximum(opening, close) * spread[0],
        "low": np.minimum(opening, close) / spread[1], "close": close,
        "volume": np.round(random.lognormal(13, 0.1, close.shape)),
    }  # fmt: skip
    return pd.DataFrame({
        "instrument": np.repeat([f"P{name:02d}" for name in range(NAMES)], DAYS),
        "datetime": np.tile(calendar, NAMES), **{name: value.T.reshape(-1) for name, value in prices.items()},
        "extra:state": pd.Categorical.from_codes(given.T.reshape(-1), STATES),
    })  # fmt: skip


def stored(path: Path, bars: pd.DataFrame) -> BarStore:
    frame, findings = clean(bars)
    calendar = store_sessions("XNYS", frame["datetime"].min(), frame["datetime"].max())
    aligned = align(frame, calendar)
    return write_store(
        path, aligned, sessions=calendar, last_session=int(aligned["session"].max()), calendar="XNYS", freq="day",
        source={"name": "planted"}, findings=findings,
    )  # fmt: skip


def trained(folder: Path, model: Any, objective: Any, store: BarStore, windows: int, rate: float) -> None:
    """Train the model in place on the first days."""
    days = [pd.Timestamp(store.sessions[place]).date() for place in (0, TRAINED - 1)]
    split = make_split(
        store, "train", *days, lookback=LOOKBACK, horizon=HORIZON, length=LOOKBACK + HORIZON + 1
    )
    described = model.config.get("conditions")
    known = None if described is None else conditions.table(store, described["columns"])
    source = Windows(store, split, lookback=LOOKBACK, clip=5.0, seed=1, conditions=known)
    training = TrainingConfig(
        epochs=1, batch_size=64, n_train_iter=windows, n_val_iter=64, log_interval=10**6, save_windows=0
    )
    settings = FitSettings(training, rate, 3.0, settings_key="planted")
    fit(
        model, objective, source, source, settings=settings, runtime=Runtime(torch.device("cpu")), folder=folder,
        report=lambda *row: None,
    )  # fmt: skip


def worth(folder: Path, store: BarStore, tokenizer: Any, columns: tuple[str, ...]) -> Estimate:
    """The mean daily Rank IC of the next day's return on later days, of a predictor trained from random weights."""
    seed_everything(3)
    predictor = random_model("predictor", "nano")
    if columns:
        rows = np.flatnonzero(np.asarray(store.session) < TRAINED)
        described = {"block": 1, "columns": conditions.describe(store, columns, rows, LOOKBACK)}
        predictor.add_conditions(Conditions.from_json(described))
    trained(folder, predictor, PredictorObjective(tokenizer, LOOKBACK, HORIZON), store, 9600, 2e-3)
    first, last = (pd.Timestamp(store.sessions[place]).date() for place in (TRAINED + 5, DAYS - 2))
    points = forecast_points(store, first, last, LOOKBACK)
    config = Config(lookback_window=LOOKBACK, predict_window=HORIZON)
    means, _ = Forecaster(config, store, tokenizer, predictor.eval()).means(points, plain_rules(8))
    before, after = store.values[points.row, CLOSE], store.values[points.row + 1, CLOSE]
    frame = pd.DataFrame({"day": points.session, "said": means[:, 0, CLOSE] / before, "came": after / before})
    daily = frame.groupby("day")[["said", "came"]].apply(
        lambda one: one["said"].corr(one["came"], "spearman")
    )
    return estimate(daily, 1)


@pytest.mark.slow
def test_a_pattern_in_a_condition_is_found_with_it_and_neither_without_it_nor_shuffled(
    tmp_path: Path,
) -> None:
    store, shuffled = (stored(tmp_path / str(mixed), market(5, mixed)) for mixed in (False, True))
    seed_everything(3)
    tokenizer = random_model("tokenizer", "nano")
    trained(tmp_path / "tokens", tokenizer, TokenizerObjective(LOOKBACK, HORIZON), store, 4800, 1e-3)
    found = worth(tmp_path / "found", store, tokenizer.eval(), ("state",))
    none = worth(tmp_path / "none", store, tokenizer, ())
    mixed = worth(tmp_path / "mixed", shuffled, tokenizer, ("state",))
    assert found.low > 0.3
    assert none.low < 0 < none.high and mixed.low < 0 < mixed.high
