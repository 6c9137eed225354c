"""Any JSON text as a configuration, and any text as a flag: a configuration, or one refusal that can be read."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kronos.__main__ import main
from kronos.config.loading import load_config
from kronos.config.schema import FIELDS, Config
from kronos.utils.error_messages import LONGEST_LINE, LONGEST_WORD, MOST_TEXT, shortened
from kronos.utils.errors import UserError

TEXTS = st.one_of(
    st.text(st.characters(), max_size=20),
    st.sampled_from([
        "", " ", "none", "auto", "nan", "inf", "-1", "1e400", "0x10", "a\0b", "\ud800",
        "../../x",
        "2020-13-01,2020-01-01", "2020-01-01", "=1+1", "9" * 5000, "x" * 100_000, "true", "[1", '{"a": 1}',
        "١٢", "1_000", "\n", "\u202e",
    ]),
)  # fmt: skip
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)
NAMES = st.one_of(st.sampled_from(sorted(FIELDS)), TEXTS)
BOUNDED = settings(
    max_examples=100, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
MANY = settings(BOUNDED, max_examples=1000)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=5)
FLAGS = st.dictionaries(st.sampled_from(sorted(FIELDS)), TEXTS, min_size=1, max_size=3)


def readable(error: UserError) -> None:
    text = shortened(str(error))
    assert text and len(text) <= MOST_TEXT + 100
    assert all(len(line) <= LONGEST_LINE + 100 for line in text.splitlines())


def check_object(tmp_path: Path, fields: dict) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(fields), encoding="utf-8")  # escapes keep lone surrogates
    try:
        config, notes = load_config(str(file), {"data_source": "sample"})
    except UserError as error:
        readable(error)
    else:
        assert isinstance(config, Config) and all(isinstance(note, str) for note in notes)


def check_flags(flags: dict) -> None:
    try:
        load_config(None, flags)
    except UserError as error:
        readable(error)


@BOUNDED
@given(OBJECTS)
def test_any_object_is_a_configuration_or_refused_in_words(tmp_path: Path, fields: dict) -> None:
    check_object(tmp_path, fields)


@BOUNDED
@given(FLAGS)
def test_any_flag_is_a_value_or_refused_in_words(flags: dict) -> None:
    check_flags(flags)


@pytest.mark.nightly
@MANY
@given(OBJECTS)
def test_many_objects(tmp_path: Path, fields: dict) -> None:
    check_object(tmp_path, fields)


@pytest.mark.nightly
@MANY
@given(FLAGS)
def test_many_flags(flags: dict) -> None:
    check_flags(flags)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "not valid JSON|nested too deeply"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
        ('{"epochs": ' + "9" * 5000 + "}", "thousands of digits"),
        ('{"run_name": "a\\ud800"}', r"run_name: .*no text"), ('{"data_path": "a\\u0000b"}', r"data_path: .*no text"),
        ('{"symbols": ["A", "\\ud800"]}', r"symbols: .*no text"),
        ("\x00\x01", "not valid JSON"), ("", "not valid JSON"), ("[]", "an object of fields was expected"),
    ],
)  # fmt: skip
def test_files_that_are_no_configuration(
    in_folder: Path, text: str, said: str, capsys: pytest.CaptureFixture
) -> None:
    Path("config.json").write_text(text)
    assert main(["data", "--config-path", "config.json"]) == 2
    found = capsys.readouterr().err
    assert re.search(said, found) and "Traceback" not in found


def test_a_value_too_long_to_read_keeps_its_two_ends() -> None:
    word = "ab" + "x" * 5000 + "yz"
    text = shortened(f"run_name {word}: expected less")
    assert (
        text.startswith("run_name abxx") and text.endswith("xyz: expected less") and "more characters" in text
    )
    assert len(text) < LONGEST_WORD + 100
    assert shortened("two\nlines") == "two\nlines"
    assert len(shortened("a b " * 10_000)) < LONGEST_LINE + 100
