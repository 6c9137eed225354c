"""The READMEs' tables of fields, and the recipes: complete, current, and valid."""

from pathlib import Path

import pytest

from kronos.__main__ import main
from kronos.cli import generated_files
from kronos.cli.generated_files import CHINESE, fields_text
from kronos.config.loading import load_config
from kronos.config.schema import FIELDS, SECTIONS
from kronos.utils.files import clone, read_json

RECIPES = sorted((Path(__file__).parents[2] / "experiments").glob("*.json"))


def test_chinese_help_has_every_field_and_nothing_else() -> None:
    words = read_json(CHINESE)
    assert list(words["fields"]) == list(FIELDS), "add the field to kronos/config/fields.zh.json, in order"
    assert list(words["groups"]) == list(SECTIONS)
    assert all(words["fields"].values())


def test_both_readmes_have_the_table_of_today(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fields", "--check"]) == 0
    for chinese in (False, True):
        for name in FIELDS:
            assert f"| `{name}` |" in fields_text(chinese)


def test_a_table_that_is_not_current_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in generated_files.READMES:
        places = "between\n".join(
            f"{generated_files.BEGIN.format(what)}\nold\n{generated_files.END.format(what)}\n"
            for what in ("fields", "layouts")
        )
        (tmp_path / name).write_text(f"before\n{places}after\n")
    monkeypatch.setattr(generated_files, "clone", lambda: tmp_path)
    assert main(["fields", "--check"]) == 2
    assert "run  make mlproject" in capsys.readouterr().err
    assert main(["fields", "--write"]) == 0
    assert main(["fields", "--check"]) == 0
    assert (tmp_path / "README.md").read_text().startswith("before\n")
    (tmp_path / "README.md").write_text("no place")
    assert main(["fields", "--check"]) == 2
    assert "has no place for the table" in capsys.readouterr().err


def test_an_installed_package_says_that_these_files_are_a_clones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generated_files, "clone", lambda: None)
    for command in (["mlproject", "--write"], ["mlproject", "--check"], ["fields", "--check"]):
        assert main(command) == 2
        assert "an installed package" in capsys.readouterr().err


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid_and_explained(path: Path) -> None:
    config, notes = load_config(str(path))
    assert notes == []
    assert f"`{path.name}`" in (path.parent / "README.md").read_text(encoding="utf-8")
    if path.stem == "csi300_gentle":
        assert config.predictor_learning_rate <= 1e-5
        assert config.freeze_tokenizer
        assert config.train_time_range == load_config("experiments/csi300.json")[0].train_time_range


def test_a_recipe_is_found_from_any_folder_unless_one_is_there(in_folder: Path) -> None:
    assert load_config("experiments/csi300_gentle.json")[0].freeze_tokenizer
    (in_folder / "experiments").mkdir()
    (in_folder / "experiments" / "csi300_gentle.json").write_text('{"epochs": 7}')
    assert load_config("experiments/csi300_gentle.json")[0].epochs == 7
    assert clone() == Path(__file__).parents[2]
