"""The text of a file of bars: decompression, archives and encodings."""

import codecs
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from kronos.utils.errors import UserError

TEXT = (".csv", ".txt", ".tsv", ".dat", ".prn", ".asc")
PACKED = (".gz", ".bz2", ".zst")
PARQUET = (".parquet", ".pq")
FEATHER = (".feather",)
ZIP = ".zip"
SUFFIXES = (*TEXT, *PARQUET, *FEATHER, ZIP, *(text + packed for text in TEXT for packed in PACKED))
OTHER_FORMS = (".json", ".jsonl", ".ndjson", ".h5", ".hdf5", ".pkl", ".pickle", ".xml")  # pandas reads them
SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods")
MARKS = (  # byte order marks, the longer ones first
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip
NOTHING = b" \t\r\n\x00"
OTHERS = ("big5", "cp949", "shift_jis", "cp1252", "cp1251")  # tried after GB18030, where that gives no header
CYRILLIC = {chr(code) for code in range(0x401, 0x460)} | set("«»№–—…\xa0")
SOME_LETTERS = 4  # different ones, at the beginning of a text that is Russian
LATIN = set("ÄÖÜäöüßÀÁÂÃÇÈÉÊÌÍÎÑÒÓÔÕÙÚÛàáâãçèéêëìíîïñòóôõùúûåæøÅÆØ£€¥§°²³’‘“”–…·\xa0")


class Text(NamedTuple):
    """The bytes of one text: a file, or a member of an archive. `name` is what its instrument may be named by."""

    name: str
    data: bytes


def texts(path: Path) -> Iterator[Text]:
    """Yield the decompressed texts of a file: one, or the members of a zip archive that are text files.

    Raises UserError for a broken archive, an archive without texts, and an empty file.
    """
    if path.suffix.lower() == ZIP:
        yield from _members(path)
        return
    with pa.input_stream(str(path)) as stream:  # decompresses by suffix
        yield Text(path.name, _not_empty(stream.read(), path))


def _members(path: Path) -> Iterator[Text]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [
                name
                for name in sorted(archive.namelist())
                if name.lower().endswith(TEXT) and not is_hidden(Path(name))
            ]
            if not names:
                raise UserError(f"{path} has no file in it that ends in {', '.join(TEXT)}")
            for name in names:
                yield Text(Path(name).name, _not_empty(archive.read(name), path))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{path} cannot be read as a zip archive: {error}") from None


def is_hidden(path: Path) -> bool:
    """Return whether a part of the path is a file of the system, as `._AAPL.csv` and `__MACOSX` are."""
    return any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in path.parts)


def _not_empty(data: bytes, path: Path) -> bytes:
    if not data[:4096].strip(NOTHING) and not data.strip(NOTHING):
        raise UserError(f"{path} is empty: remove the file or fill it")
    return data


def as_utf8(data: bytes, path: Path) -> list[bytes]:
    """Return the text as UTF-8 without byte order mark, with `\\n` line ends, one for each encoding it may have.

    There is one where the encoding is certain. Otherwise the caller takes the first one whose header it understands.
    Raises UserError for bytes that are no text in any encoding.
    """
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return [_decoded(data[len(mark) :], encoding, path)]
    head = data[:4096]
    if head.count(0) > len(head) // 4:  # UTF-16 of mostly ASCII characters has a zero in every second byte
        little = head[1::2].count(0) > head[::2].count(0)
        return [_decoded(data, "utf-16-le" if little else "utf-16-be", path)]
    try:
        data.decode("utf-8")
        return [_line_ends(data)]
    except UnicodeDecodeError as error:
        place, incomplete = error.start, error.end >= len(data) and error.reason == "unexpected end of data"
    if incomplete:
        return [_line_ends(data[:place])]  # cut within a character, in a last line that is incomplete too
    found = []
    for encoding in ("gb18030", *OTHERS):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        letters = {"cp1252": LATIN, "cp1251": CYRILLIC}.get(encoding)
        if letters and set(filter(lambda one: ord(one) > 127, text)) - letters:
            continue
        if encoding == "cp1251" and len(CYRILLIC & set(text[:4096])) < SOME_LETTERS:
            continue  # stray bytes are letters in it too
        found.append(_line_ends(text.encode("utf-8")))
    if not found:
        raise UserError(f"{path} is neither UTF-8 nor GB18030 text (byte {place}): save it as UTF-8")
    return found


def _decoded(data: bytes, encoding: str, path: Path) -> bytes:
    unit = 1 if encoding == "utf-8" else 2 if "16" in encoding else 4
    try:
        return _line_ends(data[: len(data) // unit * unit].decode(encoding).encode("utf-8"))
    except UnicodeError as error:
        raise UserError(
            f"{path} begins as {encoding} text and goes on as none ({error}): save it as UTF-8"
        ) from None


def _line_ends(data: bytes) -> bytes:
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return data
