"""Numbers as files write them: separators, currency signs, units behind the number, and values for none."""

import re
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pyarrow as pa

from kronos.utils.csv_files import GUARDED

NONE = (  # written for no value, in lower case; a sole full stop or question mark are some databases' way
    "", "-", "--", "---", "—", "–", "－", "n/a", "na", "nan", "null", "none", "#n/a", "#n/a n/a", "#na", "nil", ".",
    "?", "停牌", "无", "#value!", "#div/0!", "-nan", "-nan(ind)", "1.#qnan", "-1.#ind",
)  # fmt: skip
SCALES = {
    "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12, "mn": 1e6, "bn": 1e9, "mm": 1e6, "mio": 1e6, "mrd": 1e9,
    "千": 1e3, "万": 1e4, "萬": 1e4, "百万": 1e6, "千万": 1e7, "亿": 1e8, "億": 1e8, "万亿": 1e12,
    "%": 1e-2, "％": 1e-2,
}  # fmt: skip
SCALE = re.compile(
    r"^(.*?\d)\s*(" + "|".join(sorted(map(re.escape, SCALES), key=len, reverse=True)) + r")\s*(股|手|元)?$"
)
SIGNS = re.compile(
    r"[$€£¥￥₹₩₽฿]|^(?:usd|eur|gbp|cny|rmb|hkd|jpy|inr|hk)\s*|\s*(?:usd|eur|gbp|cny|rmb|hkd|jpy|inr)$"
)
GROUP = re.compile(r"(?<=\d)[\s\xa0\u202f'’_](?=\d{3}(?!\d))")  # between thousands
APART = re.compile(r"\d\s+\d")
BLANKS = re.compile(r"[\s\xa0\u202f'’_]")
PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?")
WRAPPED = re.compile(r"^(?:=(?=[\"'`‘’]))?[\"'`‘’]*(.*?)[\"'’]*$")
COMMA_DECIMAL = re.compile(r"[+-]?(\d+|\d{1,3}(\.\d{3})+),(\d{1,2}|\d{4,})%?")  # 12,5 and 1.234,5678
COMMA_GROUPS = re.compile(
    r"[+-]?[^\d.,]?\d{1,3}(,\d{2,3})*,\d{3}(\.\d+)?%?[a-z万亿]?"
)  # 1,234 and India's 1,23,456
POINT_GROUPS = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+(,\d+)?")  # 18.945 and 1.234.567,89
POINTED = re.compile(r"[+-]?\d+(\.\d+)+(,\d+)?")
STEP = 100.0  # between neighbouring rows: no price
POINT_DECIMAL = re.compile(r"[+-]?\d*\.(\d{1,2}|\d{4,})")


def comma_is_decimal(samples: list[str], delimiter: str) -> bool | None:
    """Tell from cells of numbers whether the comma is the decimal sign; None where it can be read two ways.

    Cells like `12,5` or `1.234,56` say that it is. With `1,234` alone, a file whose columns are separated by commas
    has thousands; in other files it needs a cell with a decimal point to say so.
    """
    with_comma = [one for one in (BLANKS.sub("", cell) for cell in samples) if "," in one]
    if not with_comma:
        return False
    decimal = sum(bool(COMMA_DECIMAL.fullmatch(one)) for one in with_comma)
    if decimal and not any(one.count(",") > 1 or re.search(r",\d+\.", one) for one in with_comma):
        return True
    if delimiter == "," or (
        decimal == 0 and any(one.count(",") > 1 or re.search(r",\d+\.", one) for one in with_comma)
    ):
        return False
    if any(POINT_DECIMAL.fullmatch(BLANKS.sub("", cell)) for cell in samples):
        return False
    return None


def only_point_groups(cells: Iterable[str]) -> bool:
    """Return whether there are numbers with a point, and each has three digits behind every one, as 18.945 has."""
    pointed = [cell for cell in (BLANKS.sub("", cell) for cell in cells) if POINTED.fullmatch(cell)]
    return bool(pointed) and all(map(POINT_GROUPS.fullmatch, pointed))


def point_is_thousands(columns: list[list[str]]) -> bool | None:
    """Tell from columns of cells whether the point separates thousands, as in 18.945 for 18945.

    Only where every number with a point has three digits behind each one can it be. A number with two points and a
    step from 999 to 1.001 between rows show that it does; four digits in a row in a column with points that it does
    not. None where nothing shows it, so that the numbers can be read two ways.
    """
    plain = [[BLANKS.sub("", cell) for cell in cells] for cells in columns]
    if not only_point_groups(cell for cells in plain for cell in cells):
        return False
    if any(cell.count(".") > 1 for cells in plain for cell in cells):
        return True
    plain = [cells for cells in plain if any("." in cell for cell in cells)]
    if any(re.search(r"\d{4}", cell) for cells in plain for cell in cells):
        return False
    for cells in plain:
        known = [cell for cell in cells if PLAIN.fullmatch(cell)]
        steps = [max(one, other) / max(min(one, other), 1e-12) for one, other in pairwise(map(float, known))]
        whole = [float(cell.replace(".", "")) for cell in known]
        if any(step > STEP for step in steps) and all(
            max(one, other) <= 2 * min(one, other) for one, other in pairwise(whole)
        ):
            return True
    return None


def to_floats(column: pa.ChunkedArray, decimal_comma: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Convert a column to float64 [N]; the second array, bool [N], marks values that are no number.

    Empty cells and the words of NONE become NaN without a mark. Percent, K, M, B, 万 and 亿 behind a number scale it.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind):
        return column.cast(pa.float64(), safe=False).to_numpy(), np.zeros(len(column), bool)
    if pa.types.is_decimal(kind):
        return column.cast(pa.float64(), safe=False).to_numpy(), np.zeros(len(column), bool)
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return np.full(len(column), np.nan), np.ones(len(column), bool)
    coded = column.combine_chunks().dictionary_encode()
    coded = coded if isinstance(coded, pa.DictionaryArray) else coded.combine_chunks()
    words = [str(word) for word in coded.dictionary.to_pylist()]
    values = np.append([_number(word, decimal_comma) for word in words], np.nan).astype(np.float64)
    bad = np.append([_is_bad(word, value) for word, value in zip(words, values, strict=False)], False).astype(
        bool
    )
    code = coded.indices.to_pandas().fillna(len(words)).to_numpy(dtype=np.int64)
    return values[code], bad[code]


def _is_bad(word: str, value: float) -> bool:
    return bool(np.isnan(value)) and word.strip().lower() not in NONE


def _number(word: str, decimal_comma: bool) -> float:
    """Convert one cell; NaN for none and for what is no number."""
    text = word.strip().strip('"').lower()
    if text in NONE:
        return np.nan
    scale = 1.0
    if len(text) > 2 and text[0] == "(" and text[-1] == ")":
        text, scale = text[1:-1], -1.0
    text = SIGNS.sub("", text).strip()
    found = SCALE.match(text)
    if found:
        text, scale = found[1], scale * SCALES[found[2]]
    text = GROUP.sub("", text)
    if APART.search(text):
        return np.nan
    text = re.sub(r"\s", "", text).removeprefix("'")
    if decimal_comma:
        if text.count(",") > 1:
            return np.nan
        text = text.replace(".", "").replace(",", ".")
    elif "," in text:
        if not COMMA_GROUPS.fullmatch(text):
            return np.nan
        text = text.replace(",", "")
    if text in ("inf", "+inf", "-inf", "infinity", "-infinity"):
        return float(text)
    return float(text) * scale if PLAIN.fullmatch(text) else np.nan


def is_number(word: str) -> bool:
    """Return whether a cell is a number in any of the ways above; empty cells are not."""
    return not np.isnan(_number(word, False)) or not np.isnan(_number(word, True))


def code_text(word: str) -> str:
    """Return an instrument's code without the blanks, apostrophes and `="000001"` that spreadsheets put around it.

    Of a code that `write_csv` wrote, the apostrophe in front goes and nothing else.
    """
    if word.startswith("'") and word[1:].startswith(GUARDED):
        return word[1:]
    return WRAPPED.sub(r"\1", word.strip())


def code_texts(words: Iterable[str]) -> list[str]:
    """Return `code_text` of each word; the words themselves where marks are all that tells two of them apart."""
    bare = [word.strip().strip('"').strip() for word in words]  # quotation marks are the file's
    cleaned = [code_text(word) for word in bare]
    return cleaned if len(set(cleaned)) == len(set(bare)) else bare
