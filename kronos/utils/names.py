"""Names as file names: any text becomes a safe name of one file or folder, and can be read back from it.

A name from the bars or from a field is data: it may hold a slash, be `..` or `con`, or differ from another one by
case alone. Ordinary names stay as they are.
"""

import hashlib
import re

LONGEST = 120  # bytes of a file name; file systems allow 255, of which endings and temporary names take some
KEPT = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-=")
# File names that Windows reserves, with any ending.
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
ESCAPE, CASE, SHORTENED = "~", "~~", "~-"


def file_name(name: str, lower: bool = False) -> str:
    """Return a name for one file or folder that stands for `name` alone, also where a disk ignores case.

    Upper-case letters, digits, `.`, `_`, `-`, `=` and Chinese characters stay as they are. Other characters become
    `~` and two hexadecimal digits for each of their UTF-8 bytes, so that BTC/USDT is BTC~2FUSDT; so does a dot,
    dash or equals sign at the beginning, a dot at the end, and the last letter of a name that Windows reserves.
    Lower-case letters stay too, and a number after `~~` says which letters they are: abc is abc~~7. With
    `lower` it says which letters are upper-case, for names that are mostly lower-case. Beyond `LONGEST` bytes a name
    is cut and ends with `~-` and a digest; it can then not be read back.
    """
    stem = name.partition(".")[0]
    reserved = len(stem) - 1 if stem.lower() in RESERVED else -1
    parts = []
    for place, char in enumerate(name):
        at_edge = (place == 0 and char in ".-=") or (place == len(name) - 1 and char == ".")
        safe = char in KEPT or "\u4e00" <= char <= "\u9fff"
        parts.append(char if safe and not at_edge and place != reserved else _escaped(char))
    letters = [part for part in parts if part.isascii() and part.isalpha()]
    other_case = sum(1 << place for place, letter in enumerate(letters) if letter.islower() is not lower)
    text = "".join(parts) + (f"{CASE}{other_case:X}" if other_case else "")
    if len(text.encode()) > LONGEST:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        beginning = text.encode()[: LONGEST - len(SHORTENED) - len(digest)].decode(errors="ignore")
        return f"{beginning}{SHORTENED}{digest}"
    return text or ESCAPE


def name_of(text: str, lower: bool = False) -> str:
    """Return the name that `file_name` made `text` of; any other text is returned unchanged."""
    body, _, case = text.partition(CASE)
    found, letters = bytearray(), 0
    try:
        other_case = int(case or "0", 16)
        for part in re.findall(f"{ESCAPE}[0-9A-F]{{2}}|[^{ESCAPE}]", body):
            if part.startswith(ESCAPE):
                found.append(int(part[1:], 16))
                continue
            if part.isascii() and part.isalpha():
                part = part.lower() if (other_case >> letters) % 2 != lower else part.upper()
                letters += 1
            found += part.encode()
        name = found.decode("utf-8", "surrogatepass")
    except ValueError:
        return text
    return name if file_name(name, lower) == text else text


def _escaped(char: str) -> str:
    return "".join(f"{ESCAPE}{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))
