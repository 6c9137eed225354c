"""A field touches the stages that it reaches, and no other stage runs again."""

import re
from pathlib import Path

import pytest

from kronos.__main__ import main
from kronos.config.loading import load_config
from kronos.stages import STAGES
from kronos.stages.cache import key_of, key_parts

pytestmark = pytest.mark.slow
ORDER = ("data", "tokenizer", "predictor", "calibrate", "backtest")
TINY = ["--epochs", "1", "--n-train-iter", "300", "--n-val-iter", "100", "--inference-sample-count", "1",
        "--evaluation-sample-count", "2", "--data-source", "sample", "--calibration-series", "120",
        "--calibration-sample-count", "10", "--evaluation-series", "20", "--baseline-lightgbm", "false",
        "--baseline-seeds", "2", "--backtest-max-instruments", "60",
        "--backtest-time-range", "2010-08-05,2010-08-20"]  # fmt: skip
TRAINED = ("tokenizer", "predictor")
REPORT = Path("outputs/backtest_results/finetune_backtest_demo")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The stages of a pipeline that were not reused."""
    capsys.readouterr()
    assert main(["pipeline", *TINY, *arguments]) == 0
    said = capsys.readouterr().out
    reused = re.findall(r"^(\w+): reused, nothing it depends on has changed", said, re.MULTILINE)
    fresh = re.findall(r"^(\w+): runs, since ", said, re.MULTILINE)
    assert sorted(reused + fresh) == sorted(ORDER)
    return fresh


def test_touching_one_field_runs_exactly_the_stages_it_reaches(
    in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ran(capsys) == list(ORDER)
    assert ran(capsys) == []
    english = contents(REPORT)
    assert ran(capsys, "--report-language", "both") == []
    both = contents(REPORT)
    added = {"report.zh.html", "report.zh.md", "forecasts.zh.html"}
    assert both.keys() == english.keys() | added and '<html lang="zh-CN">' in both["report.zh.html"].decode()
    changed = {name for name in english if both[name] != english[name]}
    assert changed == {"report.html", "report.md", "forecasts.html", "summary.json"}
    assert ran(capsys) == [] and contents(REPORT) == english
    given: list[str] = []
    for field, value, reached in (
        ("--backtest-open-cost", "0.002", ["backtest"]),
        ("--predictor-learning-rate", "5e-4", ["predictor", "calibrate", "backtest"]),
        ("--log-interval", "7", []),
        ("--tokenizer-learning-rate", "3e-4", ["tokenizer", "predictor", "calibrate", "backtest"]),
        ("--run-name", "another", []),
        ("--lookback-window", "33", list(ORDER)),
    ):
        given += [field, value]
        assert ran(capsys, *given) == reached, field
    # A missing artifact is made again, and what follows from it is the same as before.
    Path("outputs/models/finetune_tokenizer_demo/checkpoints/best_model/model.safetensors").unlink()
    assert ran(capsys, *given) == ["tokenizer"]


@pytest.mark.parametrize(
    ("field", "value", "reached"),
    [
        ("dataset_end_time", "2010-08-19", ("data", *TRAINED, "calibrate", "backtest")),
        ("train_time_range", "2009-08-25,2010-03-31", ("data", *TRAINED, "calibrate", "backtest")),
        ("backtest_time_range", "2010-06-15,2010-08-20", ("data", "backtest")),
        ("epochs", "2", TRAINED),
        ("batch_size", "51", TRAINED),
        ("n_val_iter", "101", (*TRAINED, "backtest")),
        ("adam_weight_decay", "0.2", TRAINED),
        ("precision", "bf16", TRAINED),
        ("loss_bars", "horizon", ("predictor",)),
        ("predictor_learning_rate", "1e-5", ("predictor",)),
        ("tokenizer_learning_rate", "1e-5", ("tokenizer",)),
        ("seed", "7", (*TRAINED, "calibrate", "backtest")),
        ("calibration_series", "150", ("calibrate",)),
        ("bands", "raw", ()),
        ("inference_sample_count", "3", ("backtest",)),
        ("backtest_signal", "last", ("backtest",)),
        ("backtest_batch_size", "10", ()),
        ("report_language", "zh", ()),
        ("log_interval", "9", ()),
        ("num_workers", "1", ()),
        ("save_windows", "100", ()),
        ("resume", "never", ()),
        ("tracking_wait", "1", ()),
        ("experiment_name", "other", ()),
        ("n_trials", "3", ()),
        ("predict_quantiles", "0.5", ()),
    ],
)
def test_the_keys_that_a_field_is_part_of(
    field: str, value: str, reached: tuple[str, ...], finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself: a stage also runs when the outputs of one before it changed."""
    monkeypatch.chdir(finished)
    given = {
        "data_source": "sample",
        "epochs": "1",
        "n_train_iter": "600",
        "n_val_iter": "200",
        "inference_sample_count": "2",
    }
    before, _ = load_config(None, given)
    after, _ = load_config(None, {**given, field: value})
    assert getattr(before, field) != getattr(after, field)
    changed = []
    for name in ORDER:
        stage = STAGES[name]
        old = key_parts(stage, before, stage.inputs(before))
        # What a stage reads of the ones before it is looked up with the old values: only its own key is asked for.
        try:
            new = key_parts(stage, after, stage.inputs(after))
        except Exception as error:
            assert "is from another configuration" in str(error)
            changed.append(name)
            continue
        if key_of(old) != key_of(new):
            changed.append(name)
    assert tuple(changed) == reached
