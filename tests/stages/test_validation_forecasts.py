"""The best predictor by its forecasts of validation days: the figures, their key, what is refused, several ranks."""

from dataclasses import replace
from pathlib import Path

import pytest

from kronos.__main__ import main
from kronos.config.loading import load_config
from kronos.config.schema import Config, fields_of
from kronos.stages import STAGES
from kronos.stages.inputs import resolve_splits, stored_bars
from kronos.stages.search.trial import forecast_metrics
from kronos.stages.validation_forecasts import scored_by_forecasts, validation_forecasts
from kronos.utils.errors import UserError
from kronos.utils.files import RECORD, read_json

SMALL = {
    "epochs": "2", "n_train_iter": "384", "n_val_iter": "300", "inference_sample_count": "2",
    "freeze_tokenizer": "true", "early_stopping_metric": "rank_ic",
}  # fmt: skip


def configured(weights: Path, **fields: str) -> tuple[Config, list[str]]:
    given = {f"pretrained_{kind}_path": str(weights / kind) for kind in ("tokenizer", "predictor")}
    given |= {**SMALL, **fields}
    flags = [part for name, text in given.items() for part in ("--" + name.replace("_", "-"), text)]
    return load_config(None, given)[0], flags


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "2"])
def test_the_best_weights_score_what_a_search_would_give_them(
    processes: str, store: Path, weights: Path
) -> None:
    config, flags = configured(weights, batch_size="64", nproc_per_node=processes, adapter="lora")
    assert main(["predictor", *flags]) == 0
    record = read_json(config.model_folder("predictor") / RECORD)
    best = [entry for entry in record["curve"] if entry["step"] == record["metrics"]["best_step"]]
    assert max(entry["val_rank_ic"] for entry in record["curve"]) == record["metrics"]["best_rank_ic"]
    assert record["metrics"]["best_val_loss"] == best[0]["val_loss"]
    found, _ = forecast_metrics(config.replace(search_metric=("rank_ic", "crps"), nproc_per_node=1))
    assert found == {
        "rank_ic": record["metrics"]["best_rank_ic"], "crps": record["metrics"]["best_crps"],
    }  # fmt: skip


def test_forecast_fields_are_part_of_the_key_only_where_forecasts_choose(weights: Path) -> None:
    config, _ = configured(weights)
    stage, fields = STAGES["predictor"], {"backtest_signal", "max_context"}
    fields |= {name for name in fields_of("forecast") if name.startswith("inference_")}
    assert fields <= set(stage.key_fields(config)) and stage.code(config)
    plain = config.replace(early_stopping_metric="val_loss")
    assert not fields & set(stage.key_fields(plain)) and not stage.code(plain)
    assert "early_stopping_metric" not in STAGES["tokenizer"].key_fields(config)
    with pytest.raises(UserError, match="early_stopping_metric: crps needs sample paths to compare"):
        configured(weights, early_stopping_metric="crps", inference_sample_count="1")


def test_held_out_instruments_choose_nothing_and_too_few_are_refused(store: Path, weights: Path) -> None:
    config, _ = configured(weights)
    bars = stored_bars(config)
    splits = resolve_splits(config, bars)
    names = bars.instruments
    kept = validation_forecasts(config, bars, replace(splits, held_out=names[6:]))
    assert {names[place] for place in kept.points.instrument} <= set(names[:6])
    with pytest.raises(UserError, match="rank_ic ranks at least 5 instruments, 4 have forecasts"):
        scored_by_forecasts(config, bars, replace(splits, held_out=names[4:]), None)
