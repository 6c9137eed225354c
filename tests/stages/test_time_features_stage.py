"""Time features of a predictor: the same in training, forecasts, Python and serving; what cannot be is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from kronos.__main__ import main
from kronos.config.loading import load_config
from kronos.config.registries import TIME_FEATURES
from kronos.config.schema import Config
from kronos.data.bars import FEATURES
from kronos.data.forecast_points import latest_points
from kronos.data.store import BarStore, open_store
from kronos.data.time_features import time_table
from kronos.distributed.device import Runtime
from kronos.forecast.series import check_series
from kronos.forecast.store_forecaster import Forecaster, plain_rules, stored_windows
from kronos.model import Kronos, load_predictor, load_tokenizer
from kronos.model.presets import random_model
from kronos.stages.additions import add, described_additions, only_random
from kronos.stages.inputs import resolve_splits
from kronos.stages.train_setup import prepare, windows
from kronos.stages.weights import refuse_other_time_features
from kronos.tracking.served_model import ServedKronos
from kronos.training.objectives import PredictorObjective
from kronos.training.settings import FitSettings
from kronos.training.trainer import fit
from kronos.utils.errors import UserError

NAMES = (*TIME_FEATURES, "days_to_holiday", "half_day", "days_to_month_end")


def configured(weights: Path, **fields: str) -> Config:
    given = {f"pretrained_{kind}_path": str(weights / kind) for kind in ("tokenizer", "predictor")}
    return load_config(None, {**given, "time_feature_list": ",".join(NAMES), **fields})[0]


def described(config: Config, bars: BarStore, start: Any) -> dict[str, Any]:
    return described_additions(config, bars, resolve_splits(config, bars), start)


def with_features(weights: Path, bars: BarStore, trained: bool = True) -> Kronos:
    model = load_predictor(weights / "predictor")
    (words,) = add(model, described(configured(weights), bars, model))
    assert words == f"the time features {', '.join(NAMES)}"
    for table in model.calendar_emb.tables.values() if trained else ():
        torch.nn.init.normal_(table.weight)
    return model


def test_training_forecasts_python_and_serving_see_the_same_features(store: Path, weights: Path) -> None:
    bars, config = open_store(store), configured(weights)
    model, lookback, horizon = with_features(weights, bars), config.lookback_window, config.predict_window
    points = latest_points(bars, lookback).subset(np.arange(2))
    seen = stored_windows(config, bars, points, horizon, FEATURES)
    forecaster = Forecaster(config, bars, load_tokenizer(weights / "tokenizer"), model)
    past, ahead = (
        forecaster.stamps_of(seen.times, seen.stamps),
        forecaster.stamps_of(seen.future_times, seen.stamps),
    )
    assert past.shape == (2, lookback, 8) and ahead.shape == (2, horizon, 8)
    np.testing.assert_array_equal(past[..., :5], seen.stamps)
    frame = pd.DataFrame(
        seen.bars[0].astype(float), columns=["open", "high", "low", "close", "volume", "amount"]
    )
    times, future = (array[0].astype("datetime64[ns]") for array in (seen.times, seen.future_times))
    series = check_series(frame, times, future, horizon, "df", described=model.config["time_features"])
    np.testing.assert_array_equal(series.stamps, past[0])
    np.testing.assert_array_equal(series.future_stamps, ahead[0])
    served = ServedKronos()
    served.predictor, served.settings = (
        model,
        {"calendar": bars.calendar, "freq": bars.freq, "label": bars.label},
    )
    np.testing.assert_array_equal(served._stamps(seen.future_times), ahead)
    train, _ = windows(config, bars, resolve_splits(config, bars), model)
    batch = train.batch([0, 7], 0)
    for row, window in enumerate(batch.window):
        rows = train.split.starts[window] + np.arange(train.split.length)
        expected = time_table(bars.times[rows], NAMES, bars.calendar, bars.freq, bars.label)
        np.testing.assert_array_equal(batch.stamp[row], expected)


def test_forecasts_are_those_before_until_the_features_are_trained(store: Path, weights: Path) -> None:
    bars, config = open_store(store), configured(weights)
    points = latest_points(bars, config.lookback_window).subset(np.arange(4))
    windows_ = stored_windows(config, bars, points, 5, FEATURES)
    plain, untrained, trained = (
        Forecaster(config, bars, load_tokenizer(weights / "tokenizer"), model).draw(windows_, plain_rules(2))
        for model in (
            load_predictor(weights / "predictor"),
            with_features(weights, bars, trained=False),
            with_features(weights, bars),
        )
    )
    np.testing.assert_array_equal(plain, untrained)
    assert not np.array_equal(plain, trained)


def test_the_features_are_trained_beside_frozen_embeddings(
    store: Path, weights: Path, tmp_path: Path
) -> None:
    bars, config = (
        open_store(store),
        configured(weights, freeze_blocks="2", n_train_iter="16", n_val_iter="8"),
    )
    config = config.replace(epochs=1, batch_size=8, save_windows=0)
    model = prepare(with_features(weights, bars, trained=False), config)
    objective = PredictorObjective(load_tokenizer(weights / "tokenizer"), config.lookback_window, 5)
    fit(
        model, objective, *windows(config, bars, resolve_splits(config, bars), model),
        settings=FitSettings(config.training, 1e-2, 3.0, settings_key="a"), runtime=Runtime(torch.device("cpu")),
        folder=tmp_path, report=lambda *row: None,
    )  # fmt: skip
    before = load_predictor(weights / "predictor").state_dict()
    assert torch.equal(model.state_dict()["time_emb.day_embed.weight"], before["time_emb.day_embed.weight"])
    saved = load_predictor(tmp_path / "checkpoints" / "best_model")
    assert model.calendar_emb.tables["days_to_month_end"].weight.abs().max() > 0
    assert saved.config["time_features"]["names"] == [*NAMES]


def test_fewer_and_other_orders_are_for_random_weights_alone(store: Path, weights: Path) -> None:
    bars, start = open_store(store), load_predictor(weights / "predictor")
    fewer = {"time_feature_list": "day,weekday,half_day"}
    with pytest.raises(
        UserError, match="day,weekday,half_day was given, but pretrained weights have minute,hour"
    ):
        described(configured(weights, **fewer), bars, start)
    found = described(configured(weights, **fewer, pretrained_predictor_path="none"), bars, None)
    made = random_model("predictor", "nano", only_random(found))
    assert made.time_emb.names == ("day", "weekday", "half_day") and add(made, found) == []
    assert described(configured(weights), bars, with_features(weights, bars))["time_features"]["names"] == [
        *NAMES
    ]
    with pytest.raises(
        UserError, match="but the pretrained predictor has minute,hour,weekday,day,month,days_to_h"
    ):
        described(configured(weights, **fewer), bars, with_features(weights, bars))
    plain = configured(weights, time_feature_list=",".join(TIME_FEATURES))
    refuse_other_time_features(plain, with_features(weights, bars).config, "it")
    with pytest.raises(
        UserError, match="days_to_month_end was given, but it has minute,hour,weekday,day,month: give"
    ):
        refuse_other_time_features(configured(weights), start.config, "it")
    assert (
        described(plain, bars, start) == {} and only_random(described(configured(weights), bars, start)) == {}
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("minute,moon", "moon is not one of minute, hour, weekday, day, month, days_to_holiday"),
        (
            "half_day",
            "half_day was given, expected one of minute, hour, weekday, day, month at least, each once",
        ),
        ("day,day", "day,day was given"),
        ("day,hour", "day,hour was given, but pretrained weights have minute,hour,weekday,day,month"),
    ],
)
def test_a_list_that_cannot_be_is_refused_in_one_line(
    given: str, message: str, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        "--model-preset",
        "small",
        "--pretrained-predictor-path",
        "NeoQuasar/Kronos-small",
        "--time-feature-list",
        given,
    ]
    assert main(["predictor", *flags]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said


def test_minutes_to_close_need_bars_within_a_day() -> None:
    with pytest.raises(ValueError, match="minutes_to_close needs bars within a day, they are of a day"):
        Config(freq="day", time_feature_list=[*TIME_FEATURES, "minutes_to_close"])
    Config(freq="5min", time_feature_list=[*TIME_FEATURES, "minutes_to_close"])
