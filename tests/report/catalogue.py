"""The messages of the reports, read from the templates and the code, for tests and for a new catalogue."""

import ast
import re
from pathlib import Path

from jinja2.ext import babel_extract

from kronos.report.phrases import PHRASES
from kronos.utils.files import PACKAGE

REPORT = PACKAGE / "report"
CATALOGUE = REPORT / "locale" / "zh" / "LC_MESSAGES" / "kronos.po"
KEYWORDS = ("_", "gettext", "ngettext")
OPTIONS = dict.fromkeys(("trimmed", "trim_blocks", "lstrip_blocks", "newstyle_gettext"), "true")
PLACEHOLDER = re.compile(r"%\((\w+)\)s")

Message = str | tuple[str, str]  # with a form for one and one for many


def messages() -> dict[Message, list[str]]:
    """Every message with the files that have it."""
    found: dict[Message, list[str]] = {}
    for path in sorted(REPORT.glob("templates/*.j2")):
        if path.name != "search.j2":  # the report of a search is in English
            with path.open("rb") as stream:
                for _, _, texts, _ in babel_extract(stream, KEYWORDS, [], OPTIONS):
                    _add(found, texts, path)
    for path in sorted(REPORT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _name(node.func) in KEYWORDS:
                texts = [one.value for one in node.args if isinstance(one, ast.Constant)]
                if texts:
                    _add(found, texts, path)
    for phrase in PHRASES:
        _add(found, phrase, REPORT / "phrases.py")
    return found


def _name(function: ast.expr) -> str:
    return getattr(function, "attr", None) or getattr(function, "id", "")


def _add(found: dict[Message, list[str]], texts: object, path: Path) -> None:
    known = [texts] if isinstance(texts, str) else [text for text in texts if isinstance(text, str)]  # type: ignore[attr-defined]
    place = path.relative_to(REPORT.parent.parent).as_posix()
    places = found.setdefault(known[0] if len(known) == 1 else (known[0], known[1]), [])
    if place not in places:
        places.append(place)
