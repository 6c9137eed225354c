"""The configuration: the guide's names and defaults, and every problem reported in the user's words, at once."""

import json
from datetime import date
from pathlib import Path

import annotated_types
import pytest
from pydantic import ValidationError

from kronos.cli.arguments import help_parser, parse_flags
from kronos.config.loading import FAST_FACTORS, load_config, nearest, recipe_path, to_text
from kronos.config.schema import FIELDS, Config, fields_of
from kronos.utils.errors import UserError

GUIDE = {
    "qlib_data_path": "~/.qlib/qlib_data/cn_data", "instrument": "csi300",
    "feature_list": ("open", "high", "low", "close", "vol", "amt"),
    "time_feature_list": ("minute", "hour", "weekday", "day", "month"),
    "epochs": 30, "batch_size": 50,
    "tokenizer_learning_rate": 2e-4, "predictor_learning_rate": 4e-5,
    "tokenizer_save_folder_name": "finetune_tokenizer_demo",
    "predictor_save_folder_name": "finetune_predictor_demo", "data_source": "qlib",
}  # fmt: skip


def load(*arguments: str) -> tuple[Config, list[str]]:
    return load_config(*parse_flags(help_parser("kronos", "", FIELDS), arguments))


GUIDES_DAYS = {
    "dataset_begin_time": date(2011, 1, 1), "dataset_end_time": date(2025, 6, 5),
    "train_time_range": (date(2011, 1, 1), date(2022, 12, 31)),
    "val_time_range": (date(2022, 9, 1), date(2024, 6, 30)),
    "test_time_range": (date(2024, 4, 1), date(2025, 6, 5)),
    "backtest_time_range": (date(2024, 7, 1), date(2025, 6, 5)),
}  # fmt: skip


def test_defaults_are_the_guides_but_for_its_days_which_would_cut_other_bars() -> None:
    config, recipe = Config(), load("--config-path", "experiments/csi300.json")[0]
    assert {name: getattr(config, name) for name in GUIDE} == GUIDE
    assert {name: getattr(config, name) for name in GUIDES_DAYS} == dict.fromkeys(GUIDES_DAYS)
    assert {name: getattr(recipe, name) for name in GUIDES_DAYS} == GUIDES_DAYS


def test_every_field_has_help_and_a_group() -> None:
    for name, field in FIELDS.items():
        assert field.description, name
    assert len(fields_of("data", "model", "training")) < len(FIELDS)


def test_config_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Config().epochs = 3  # type: ignore[misc]


def test_json_round_trip(tmp_path: Path) -> None:
    config, _ = load("--epochs", "7", "--backtest-limit-threshold", "none")
    path = tmp_path / "run.json"
    path.write_text(json.dumps(config.model_dump(mode="json")))
    assert load_config(str(path))[0] == config


def test_flag_wins_over_file_and_file_over_default(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"data_source": "sample", "epochs": 5, "batch_size": 8}')
    config, notes = load("--config-path", str(path), "--epochs", "9")
    assert (config.epochs, config.batch_size, config.seed, notes) == (9, 8, 100, [])


def test_both_spellings_and_equals_signs_are_one_flag() -> None:
    assert load("--batch_size", "3")[0] == load("--batch-size=3")[0]


def test_boolean_flags_take_a_value_or_none() -> None:
    assert load("--cpu")[0].cpu
    assert load("--cpu", "true", "--skip-tokenizer")[0].cpu
    assert not load("--cpu=false")[0].cpu


def test_without_a_source_the_run_is_the_sample_and_says_so() -> None:
    config, notes = load()
    assert config.data_source == "sample"
    assert notes[0].startswith("SAMPLE DATA")
    assert load("--data-source", "sample")[0] == config


def test_a_data_field_without_a_source_names_the_missing_flag() -> None:
    with pytest.raises(UserError, match="--instrument given without a source of bars: add --data-source"):
        load("--instrument", "csi300")


def test_fast_mode_prints_its_cuts_and_explicit_flags_win() -> None:
    config, notes = load("--fast-mode", "--epochs", "4")
    assert config.epochs == 4
    assert config.n_train_iter == 200
    assert "n_train_iter 20000 -> 200" in notes[-1]


@pytest.mark.parametrize("name", FAST_FACTORS)
def test_fast_mode_cuts_no_field_below_its_least_value(name: str, tmp_path: Path) -> None:
    least = next((limit.ge for limit in FIELDS[name].metadata if isinstance(limit, annotated_types.Ge)), 1)
    (tmp_path / "small.json").write_text(json.dumps({name: least}))
    config, _ = load("--fast-mode", "--config-path", str(tmp_path / "small.json"))
    assert config.values()[name] == least


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epoch", "3"], "unknown flag --epoch: did you mean --epochs?"),
        (["--xyzzy", "3"], "unknown flag --xyzzy"),
        (["--epochs", "many"], "--epochs: 'many' was given, expected whole number, >=1"),
        (["--epochs", "0"], "--epochs: 0 is too small, the least is 1"),
        (["--inference-top-p", "1.5"], "--inference-top-p: 1.5 is too large, the most is 1"),
        (["--inference-T", "0"], "--inference-T: 0 must be above 0"),
        (["--adam-beta1", "1"], "--adam-beta1: 1 must be below 1"),
        (["--backtest-signal", "median"], "'median' is not one of last, mean, max, min"),
        (["--cpu", "--device", "cuda"], "cpu: true contradicts device=cuda"),
        (["--lookback-window", "600"], "lookback_window: 600 is above max_context 512"),
        (["--backtest-n-symbol-drop", "60"], "backtest_n_symbol_drop: 60 is above backtest_n_symbol_hold 50"),
        (["--predictor-save-folder-name", "a/b"], "predictor_save_folder_name: 'a/b' is not a plain folder name"),
        (["stray"], "'stray' was not expected"),
        (["--freeze-tokenizer"], "freeze_tokenizer: true needs pretrained_tokenizer_path, which is none"),
        (["--data-source", "sina", "--freq", "1d", "--windows-across-days", "false"],
         "false needs bars within a day, they are of a day"),
        (["--data-source", "csv", "--freq", "13h"], "'13h' was given, expected 1min to 720min, 1h to 12h, day, week"),
        (["--data-source", "yahoo"], "'yahoo' is not one of sample, qlib, csv, auto, sina, "),
        (["--config-path", "none.json"], "no file none.json"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_clear_sentence(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(*arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(
        '{"data_source": "sample", "epochz": 3, "batch_size": true, "seed": -1, "val_time_range": ["2010-02-16"]}'
    )
    with pytest.raises(UserError) as caught:
        load("--config-path", str(path), "--log-intervall", "3", "--device", "tpu")
    text = str(caught.value)
    assert text.startswith("6 problems:")
    for part in ("epochz: did you mean epochs?", "batch_size true: true is not a number", "seed: -1 is too small",
                 "val_time_range", "--log-intervall: did you mean --log-interval?", "--device: 'tpu'"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not valid JSON: line 1"),
        (b'{"epochs": 3,}', "is not valid JSON"),
        (b"[1]", "holds a list, an object of fields was expected"),
        (b"\xff\xfe{", "is not UTF-8 text"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.json") as caught:
        load("--config-path", str(path))
    assert message in str(caught.value)


def test_windows_line_ends_and_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "windows.json"
    path.write_bytes(b'\xef\xbb\xbf{\r\n"data_source": "sample",\r\n"epochs": 2}\r\n')
    assert load("--config-path", str(path))[0].epochs == 2


def test_contradicting_days_are_refused() -> None:
    with pytest.raises(ValidationError, match="best model was chosen on those days"):
        Config(val_time_range="2022-09-01,2024-06-30", backtest_time_range="2024-06-01,2025-06-05")
    with pytest.raises(ValidationError, match="2012-01-01 is after 2011-01-01"):
        Config(train_time_range="2012-01-01,2011-01-01")


def test_text_of_values_is_what_a_flag_takes() -> None:
    config, _ = load()
    for name in ("train_time_range", "feature_list", "backtest_limit_threshold", "cpu", "inference_T"):
        flag = "--" + name.replace("_", "-")
        extra = ["--config-path", str(recipe_path("sample"))]
        assert getattr(load(*extra, flag, to_text(getattr(config, name)))[0], name) == getattr(config, name)


def test_nearest_name() -> None:
    assert nearest("tokeniser", ["tokenizer", "data"]) == "tokenizer"
    assert nearest("zzz", ["tokenizer"]) == ""
