"""The space of a search is checked whole before the first trial, and every mistake is named."""

from pathlib import Path
from typing import Any

import pytest

from kronos.config.schema import Config
from kronos.stages.search.space import space_of
from kronos.utils.errors import UserError
from kronos.utils.files import write_json


def space(folder: Path, entries: dict[str, Any], **fields: Any) -> Any:
    write_json(folder / "space.json", entries)
    return space_of(Config(search_space=str(folder / "space.json"), **fields))


def test_learning_rate_and_batch_size_come_from_the_fields() -> None:
    found = space_of(Config(search_stage="both", search_metric=("rank_ic",)))
    assert [item.name for item in found.dimensions] == [
        "tokenizer_learning_rate", "predictor_learning_rate", "batch_size",
    ]  # fmt: skip
    assert found.dimensions[0].log


def test_a_file_adds_replaces_fixes_and_conditions(tmp_path: Path) -> None:
    found = space(tmp_path, {
        "batch_size": None,
        "loss_bars": {"type": "categorical", "choices": ["window", "horizon"]},
        "warmup_fraction": {"type": "float", "low": 0.01, "high": 0.2, "when": {"loss_bars": ["window"]}},
        "accumulation_steps": {"type": "int", "low": 1, "high": 8, "log": True},
    })  # fmt: skip
    names = [item.name for item in found.dimensions]
    assert names == ["predictor_learning_rate", "loss_bars", "warmup_fraction", "accumulation_steps"]
    drawn = found.draw(lambda item: item.edges()[-1])
    assert "warmup_fraction" not in drawn and drawn["loss_bars"] == "horizon"
    assert "warmup_fraction" in found.draw(lambda item: item.edges()[0])


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"adam_weight_dekay": None}, "there is no such field: did you mean adam_weight_decay?"),
        ({"epochs": {"type": "int", "low": 1, "high": 9}}, "epochs: it must be the same for every trial"),
        ({"lookback_window": {"type": "int", "low": 8, "high": 9}}, "varies only fields of training and model"),
        ({"tokenizer_learning_rate": None}, "it belongs to the tokenizer, search_stage is predictor"),
        ({"adam_beta2": {"type": "float", "low": 0.99, "high": 0.9}}, "adam_beta2: the range 0.99..0.9 is reversed"),
        ({"adam_beta2": {"type": "float", "low": 0.9, "high": 0.9}}, "adam_beta2: the range 0.9..0.9 is empty"),
        ({"adam_beta2": {"type": "float", "low": 0.9, "high": 1.5}}, "adam_beta2: 1.5 cannot be searched"),
        ({"batch_size": {"type": "categorical", "choices": []}}, "batch_size: expected choices"),
        ({"batch_size": {"type": "categorical", "choices": [0, 8]}}, "batch_size: 0 cannot be searched"),
        ({"batch_size": {"type": "list"}}, 'expected an object with "type": one of float, int, categorical'),
        ({"adam_beta2": {"type": "float", "low": 0, "high": 0.9, "log": True}}, "a log range begins above 0"),
        ({"adam_beta2": {"type": "float", "low": 0.1, "high": 0.9, "q": 1}}, "unknown key q"),
        ({"adam_beta2": {"type": "float", "low": 0.1, "high": 0.9, "when": {"seed": [1]}}}, "seed is not searched"),
        ({"batch_size": None, "predictor_learning_rate": None}, "leaves nothing to search"),
    ],
)  # fmt: skip
def test_a_wrong_space_is_refused(tmp_path: Path, entries: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=".*".join(message.split("?"))[:200].replace("(", r"\(")):
        space(tmp_path, entries)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 problems"):
        space(tmp_path, {"nope": None, "seed": None})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"search_learning_rate": (1e-3, 1e-6)}, "is no range"),
        ({"search_learning_rate": (1e-3, 1e-3)}, "is no range"),
        ({"search_batch_size": (16, 16)}, "different whole numbers"),
        ({"search_metric": ("sharpe",)}, "expected one or two of val_loss, rank_ic, crps"),
        ({"search_stage": "both"}, "cannot be compared"),
        ({"search_stage": "tokenizer", "search_metric": ("rank_ic",)}, "forecasts nothing"),
    ],
)
def test_contradicting_search_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**fields)


def test_a_batch_above_the_windows_shows_the_arithmetic() -> None:
    config = Config(search_batch_size=(16, 512), accumulation_steps=2)
    space_of(config).check_batches(config, windows=2048, processes=2)
    with pytest.raises(
        UserError, match=r"batch size 512 x 4 \(processes x accumulation_steps\) = 2,048 is above"
    ):
        space_of(config).check_batches(config, windows=2047, processes=2)


def test_the_shipped_spaces_are_spaces() -> None:
    files = sorted((Path(__file__).parents[3] / "experiments" / "spaces").glob("*.json"))
    assert files
    for file in files:
        assert len(space_of(Config(search_space=str(file))).dimensions) > 2
