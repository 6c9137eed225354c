"""The contract of stages: one from outside, one writer at a time, pairs of models that belong together."""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from kronos.__main__ import main
from kronos.config.loading import load_config
from kronos.config.schema import Config
from kronos.data.store import open_store
from kronos.forecast.store_forecaster import forecaster
from kronos.model import KronosTokenizer, load_predictor, load_tokenizer
from kronos.model.presets import TOKENIZER_PRESETS
from kronos.stages import STAGES, register_stage
from kronos.stages.base import Context, Inputs, Result, Stage
from kronos.stages.cache import file_digests, key_parts, read_record, write_record
from kronos.stages.inputs import resolve_splits, stored_bars
from kronos.stages.run_folder import stage_lock, working_path
from kronos.stages.weights import OWN_TOKENIZER, load_weights, trained_pair, weights_before
from kronos.utils.digests import with_own_digest
from kronos.utils.files import PACKAGE, RECORD, atomic_folder, write_json

TINY = ["--epochs", "1", "--n-train-iter", "300", "--n-val-iter", "100"]


class CountStage(Stage):
    """Counts bars: as a user would add it, in a module of their own."""

    name = "count"
    help = "count the stored bars"
    params = ("dataset_path", "seed", "log_interval")

    def folder(self, config: Config) -> Path:
        return Path("outputs/count")

    def inputs(self, config: Config) -> Inputs:
        store = stored_bars(config)
        return Inputs({"bars": store.digest}, store)

    def run(self, context: Context, inputs: Inputs, key: Mapping[str, Any]) -> Result:
        assert inputs.store is not None
        with atomic_folder(self.folder(context.config)) as folder:
            write_json(folder / "count.json", {"bars": len(inputs.store)})
            record = write_record(
                folder, key, context.run.id, ["count.json"], {"metrics": {"bars": len(inputs.store)}}
            )
        context.run.metrics(0, record["metrics"])
        return Result(self.name, context.run.id, self.folder(context.config), record)


@pytest.fixture
def count_stage() -> Any:
    register_stage(CountStage())
    yield
    STAGES._places.pop("count"), STAGES._stages.pop("count")


def test_a_stage_from_outside_has_command_help_tracking_and_reuse(
    store: Path, count_stage: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["count"]) == 0 and "count: runs, since there is no finished output" in capsys.readouterr().out
    )
    assert main(["count", "--log-interval", "7"]) == 0 and "count: reused" in capsys.readouterr().out
    assert main(["count", "--seed", "7"]) == 0 and "seed was 100, is 7" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["count", "--help"])
    shown = capsys.readouterr().out
    assert "--log-interval" in shown and "--epochs" not in shown
    (run, *_) = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db").search_runs(["1"])
    assert run.data.tags["kronos.stage"] == "count" and run.data.metrics["bars"] == len(
        open_store("outputs/data")
    )


def test_a_field_is_one_line_and_reaches_help_mlproject_and_the_key(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "kronos", ignore=shutil.ignore_patterns("__pycache__"))
    sections = tmp_path / "kronos" / "config" / "sections.py"
    line = '    label_smoothing: Float = field(0.0, "smoothing of the targets", ge=0, lt=1)\n    loss_bars:'
    sections.write_text(sections.read_text().replace("    loss_bars:", line, 1))
    code = (
        "import kronos; from kronos.stages import STAGES; from kronos.config.loading import load_config\n"
        "from kronos.cli.generated_files import mlproject_text\n"
        "config = load_config(None, {'data_source': 'csv', 'label_smoothing': '0.1'})[0]\n"
        "assert config.training.label_smoothing == config.label_smoothing == 0.1\n"
        "in_key = [name for name in STAGES if 'label_smoothing' in STAGES[name].key_fields(config)]\n"
        "print(in_key, '#   label_smoothing=0.0' in mlproject_text())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    in_key, declared = done.stdout.strip().rsplit(" ", 1)
    assert {"tokenizer", "predictor", "walk_forward"} <= set(eval(in_key)) and declared == "True"
    assert "data" not in in_key and "'backtest'" not in in_key


def test_a_second_identical_command_leaves_the_run_of_the_first_alone(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, _ = load_config(None, {"epochs": "1", "n_train_iter": "300", "n_val_iter": "100"})
    stage = STAGES["tokenizer"]
    key = key_parts(stage, config, stage.inputs(config))
    address = f"sqlite:///{Path.cwd()}/mlflow.db"
    client = MlflowClient(address)
    experiment = client.create_experiment("kronos")
    first = client.create_run(experiment).info.run_id
    working = working_path(stage.folder(config), key)
    (working / "checkpoints" / "last").mkdir(parents=True)
    write_json(working / "run.json", {"run_id": first, "made_from": key})
    with stage_lock(stage.folder(config), key, wait=False, say=print):
        assert main(["tokenizer", *TINY, "--tracking-uri", address]) == 2
    assert "another process is training" in capsys.readouterr().err
    assert (
        client.get_run(first).info.status == "RUNNING"
        and "kronos.reason" not in client.get_run(first).data.tags
    )
    (second,) = [run for run in client.search_runs([experiment]) if run.info.run_id != first]
    assert second.info.status == "FAILED" and "another process" in second.data.tags["kronos.reason"]


@pytest.fixture
def trained(finished: Path, in_folder: Path) -> Config:
    """A copy of a finished pipeline's outputs, and its configuration."""
    shutil.copytree(finished / "outputs", "outputs")
    return load_config("outputs/pipeline_config.json")[0]


def other_tokenizer(folder: Path) -> None:
    torch.manual_seed(11)
    shutil.rmtree(folder)
    KronosTokenizer(**TOKENIZER_PRESETS["nano"]).save_pretrained(folder)
    stage = folder.parent.parent
    record = read_record(stage)
    write_json(stage / RECORD, with_own_digest({**record, "outputs": file_digests(stage, record["outputs"])}))


@pytest.mark.slow
def test_a_predictor_is_used_with_the_tokenizer_that_it_was_trained_with(
    trained: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--config-path", "outputs/pipeline_config.json"]
    best = trained.model_folder("tokenizer") / "checkpoints" / "best_model"
    assert main(["predict", *given]) == 0
    before = Path("outputs/predictions/latest/forecast.csv").read_bytes()
    other_tokenizer(best)  # as `tokenizer --epochs 2` alone leaves it
    assert main(["predict", *given, "--reuse", "false"]) == 0
    assert "its own copy is used" in capsys.readouterr().out
    assert Path("outputs/predictions/latest/forecast.csv").read_bytes() == before

    shutil.rmtree(trained.model_folder("predictor") / OWN_TOKENIZER)
    for stage in ("predict", "backtest"):
        assert main([stage, *given, "--reuse", "false"]) == 2
        assert "they were not trained together" in capsys.readouterr().err


@pytest.mark.slow
def test_the_model_before_training_follows_the_weights_own_record(trained: Config, weights: Path) -> None:
    store = stored_bars(trained)
    _, predictor, _ = trained_pair(trained, store, resolve_splits(trained, store))
    before, why_not = weights_before("predictor", predictor, None)
    assert (
        before is not None and why_not == "" and before.digest == predictor.record["started_from"]["digest"]
    )
    unrelated = load_weights("predictor", str(weights / "predictor"), None)
    found, why_not = weights_before("predictor", unrelated, None)
    assert found is None and "no record of what they were trained from" in why_not
    changed = {**predictor.record, "started_from": {**predictor.record["started_from"], "seed": 5}}
    found, why_not = weights_before(
        "predictor", type(predictor)(predictor.model, predictor.digest, changed), None
    )
    assert found is None and "are not those that the predictor was trained from" in why_not


def test_a_predictor_without_a_record_is_used_with_a_note(store: Path, weights: Path) -> None:
    paths = {f"{kind}_path": str(weights / kind) for kind in ("tokenizer", "predictor")}
    config, _ = load_config(None, paths)
    bars = stored_bars(config)
    _, _, notes = trained_pair(config, bars, resolve_splits(config, bars))
    (note,) = notes
    assert "no record of the tokenizer" in note and "cannot be checked" in note


def test_the_number_format_of_training_is_no_matter_of_forecasts(store: Path, weights: Path) -> None:
    config, _ = load_config(None, {"precision": "fp16", "cpu": "true"})
    pair = load_tokenizer(weights / "tokenizer"), load_predictor(weights / "predictor")
    assert forecaster(config, open_store(store), *pair).predictor is pair[1]


def test_splits_are_resolved_once_and_stored_with_the_bars(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = load_config(None, {})
    bars = stored_bars(config)
    with monkeypatch.context() as patch:
        patch.setattr(
            "kronos.stages.inputs.settle_ranges", lambda *given, **more: pytest.fail("resolved again")
        )
        stored = resolve_splits(config, bars)
    (store / "splits.json").unlink()
    assert resolve_splits(config, bars) == stored
    other = config.replace(backtest_time_range=("2010-08-02", "2010-08-20"))
    assert resolve_splits(other, bars).backtest != stored.backtest


def test_a_quick_look_forecasts_few_instruments_on_every_day(store: Path) -> None:
    from kronos.stages.inputs import backtest_points

    config, notes = load_config(None, {"fast_mode": "true"})
    assert "backtest_max_instruments 0 -> 50" in notes[-1]
    bars = stored_bars(config)
    splits = resolve_splits(config, bars)
    few = backtest_points(config, bars, splits)
    whole = backtest_points(config.replace(backtest_max_instruments=0), bars, splits)
    assert len(np.unique(few.instrument)) == 50 < len(np.unique(whole.instrument))
    assert set(np.unique(few.session)) == set(np.unique(whole.session))
    assert len(few) + len(few.excluded) == len(whole) + len(whole.excluded)
