"""Which instruments are held out: kept out of training and validation, to be scored apart."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from kronos.utils.errors import UserError
from kronos.utils.files import digest_bytes, given_path

MOST_HELD_OUT = 0.5  # share of the instruments


def held_out_of(instruments: Sequence[str], asked: Sequence[str] | None) -> tuple[str, ...]:
    """Return the instruments that `holdout_instruments` means, sorted.

    A share takes the instruments with the smallest digests of their names, so that they are the same for every seed
    and mostly the same when instruments are added. A file (.txt, .csv) has an instrument at the beginning of each
    line, and may name some that the bars do not have. Raises UserError where none or all are held out, for a listed
    instrument that the bars do not have, and for a share that is not above 0 and at most 0.5.
    """
    if not asked:
        return ()
    share = _number(asked[0]) if len(asked) == 1 else None
    if share is not None:
        if not 0 < share <= MOST_HELD_OUT:
            raise UserError(
                f"holdout_instruments is {asked[0]}, expected a share above 0 and at most {MOST_HELD_OUT}"
            )
        count = max(1, round(share * len(instruments)))
        found = sorted(sorted(instruments, key=lambda name: digest_bytes(name.encode()))[:count])
    else:
        of_file = (
            len(asked) == 1
            and asked[0] not in instruments
            and Path(asked[0]).suffix.lower() in (".txt", ".csv")
        )
        named, there = set(_first_words(given_path(asked[0])) if of_file else asked), set(instruments)
        found = sorted(named & there)
        if (unknown := sorted(named - there)) and not (of_file and found):
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            raise UserError(f"holdout_instruments: the bars have no {', '.join(unknown[:5])}{more}")
    if len(found) == len(instruments):
        raise UserError("holdout_instruments holds out every instrument, so that none is left to train on")
    return tuple(found)


def digest_of(names: Iterable[str]) -> str:
    """Return what held-out instruments stand for in cache keys; empty without any."""
    text = "\n".join(sorted(names))
    return digest_bytes(text.encode())[:16] if text else ""


def _first_words(file: Path) -> list[str]:
    """The first word of each line; `#` begins a comment."""
    if not file.is_file():
        raise UserError(f"holdout_instruments: {file} does not exist")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"holdout_instruments: {file} is not UTF-8 text") from None
    lines = (line.split("#")[0].replace(",", " ").split() for line in text.splitlines())
    return [words[0] for words in lines if words]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
