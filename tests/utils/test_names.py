"""Names as file names: safe on every disk, one for each name, and read back; CSV cells that are no formulas."""

import io
import unicodedata

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kronos.data.sources.csv_numbers import code_text
from kronos.utils.csv_files import write_csv
from kronos.utils.names import LONGEST, file_name, name_of

ORDINARY = ("AAPL", "SH600000", "000001.SZ", "BRK.B", "BRK-B", "GC=F", "ES_F", "贵州茅台")
HOSTILE = (
    "abc", "ABC", "Abc", "con", "NUL", "CON.SZ", "com1.txt", "A" * 300, "A" * 299 + "B", "a" * 300, "A,B", "A\rB",
    "A\0B", ".hidden", "-rf", "É", unicodedata.normalize("NFD", "É"), "^GSPC", "BTC/USDT", "..", ".", "",
    "../../../x", "C:\\x", "~root", "A~2FB", "A/B", "X.", "X", "a b ",
    "=1+1", "@SUM", "\ud800", "ß", "SS", "K", "\u212a",
)  # fmt: skip
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
names = st.one_of(st.text(max_size=30), st.text("aAbB./~-=2F é\u0301", max_size=12), st.sampled_from(HOSTILE))


def is_safe(text: str) -> bool:
    """Whether every common disk takes the text for one file or folder, with an ending or without."""
    return (
        0 < len(text.encode()) <= LONGEST
        and not set(text) & {*map(chr, range(32)), *'<>:"/\\|?* '}
        and text[0] not in ".-"
        and text[-1] not in ". "
        and text.partition(".")[0].lower() not in RESERVED
        and len({unicodedata.normalize(form, text) for form in ("NFC", "NFD", "NFKC", "NFKD")}) == 1
    )


@given(names, st.booleans())
def test_every_name_becomes_a_safe_file_name_and_is_read_back(name: str, lower: bool) -> None:
    text = file_name(name, lower)
    assert is_safe(text)
    if "~-" not in text:
        assert name_of(text, lower) == name


@given(names, names, st.booleans())
@example("abc", "ABC", False)
@example("É", "E\u0301", True)
def test_two_names_share_no_file_where_case_and_normal_form_do_not_count(
    one: str, two: str, lower: bool
) -> None:
    if one != two:
        assert file_name(one, lower).casefold() != file_name(two, lower).casefold()


def test_hostile_names_have_files_of_their_own() -> None:
    files = {unicodedata.normalize("NFKD", file_name(name)).casefold() for name in HOSTILE}
    assert len(files) == len(HOSTILE)


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_name_stays_as_it_is(name: str) -> None:
    assert file_name(name) == name_of(name) == name


def test_examples_of_the_docstring_and_the_study() -> None:
    assert file_name("BTC/USDT") == "BTC~2FUSDT" and file_name("abc") == "abc~~7"
    assert file_name("predictor-0123abc", lower=True) == "predictor-0123abc"
    assert file_name("..") == "~2E~2E" and file_name("nul", lower=True) == "nu~6C"


@given(st.text(max_size=20))
def test_a_text_that_is_no_file_name_of_ours_is_read_as_it_is(text: str) -> None:
    found = name_of(text)
    assert found == text or file_name(found) == text


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text("=+-@A1,é", min_size=1, max_size=6), min_size=1, max_size=8), st.booleans())
def test_no_cell_of_a_csv_begins_like_a_formula_and_the_source_reads_names_back(
    texts: list[str], apostrophe: bool
) -> None:
    names = [f"'{text}" for text in texts] if apostrophe else texts
    frame = pd.DataFrame({"instrument": names, "open": -1.0})
    for table, options in ((frame, {"index": False}), (frame.set_index("instrument"), {})):
        text = io.StringIO()
        write_csv(table, text, **options)
        cells = pd.read_csv(io.StringIO(text.getvalue()), keep_default_na=False)
        assert not cells["instrument"].astype(str).str.match(r"[=+\-@]").any()
        assert [code_text(str(cell)) for cell in cells["instrument"]] == names
        assert cells["open"].tolist() == [-1.0] * len(names)
