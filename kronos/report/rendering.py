"""Render a report from the templates beside this file, as Markdown or as one HTML page that carries its figures."""

import base64
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jinja2 import BytecodeCache, Environment, PackageLoader, StrictUndefined, pass_eval_context
from jinja2.bccache import Bucket
from jinja2.nodes import EvalContext
from markupsafe import Markup

from kronos.evaluation.multiple_looks import false_alarm_rate
from kronos.report.language import Edition, Words, editions
from kronos.report.numbers import interval_text, number_text
from kronos.report.pages.plotly_script import plotly_locale
from kronos.report.sentences import Sentences

NO_CURVES: Mapping[str, Mapping[str, Any]] = MappingProxyType({})


class _Compiled(BytecodeCache):
    """The code of compiled templates, for the next page: compiling takes most of the time of a page."""

    def __init__(self) -> None:
        self._code: dict[str, Any] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self._code.get(bucket.checksum)

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._code[bucket.checksum] = bucket.code


# HTML is escaped, and filters of constants are worked out when a template is compiled.
_COMPILED: defaultdict[tuple[str, str], _Compiled] = defaultdict(_Compiled)  # by blocks and language


def write_pages(
    folder: Path,
    template: str,
    content: Callable[[Edition], Mapping[str, Any]],
    name: str = "report",
    language: str = "en",
    curves: Callable[[Words], Mapping[str, Mapping[str, Any]]] = lambda words: NO_CURVES,
) -> None:
    """Write `name`.md and `name`.html from one template and its content, in `language`: en, zh or both.

    Figures are read from `folder`. `curves` are Plotly figures by the name of the picture that each stands for;
    Plotly's script is in `folder`.
    """
    for edition in editions(language):
        drawn = curves(edition.words)
        for suffix, blocks in ((".md", "markdown.j2"), (".html", "html.j2")):
            text = render(template, blocks, edition, folder, drawn, name, **content(edition))
            (folder / edition.file(name, suffix)).write_text(text, encoding="utf-8")


def render(
    template: str,
    blocks: str,
    edition: Edition,
    folder: Path | None = None,
    curves: Mapping[str, Mapping[str, Any]] = NO_CURVES,
    page_name: str = "report",
    **content: Any,
) -> str:
    """Return the text of a template whose headings, paragraphs and tables are the macros of the file `blocks`.

    In HTML every value is escaped, so that it is text whatever it holds, and figures are embedded from `folder`.
    """
    words = edition.words
    environment = Environment(
        loader=PackageLoader("kronos.report"), autoescape=blocks == "html.j2", undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.i18n"],
        bytecode_cache=_COMPILED[blocks, words.language],
    )  # fmt: skip
    environment.policies["ext.i18n.trimmed"] = True
    environment.newstyle_gettext = True  # type: ignore[attr-defined]
    environment.globals |= {
        "gettext": _marked(words.gettext), "ngettext": _marked(words.ngettext), "_": words.gettext,
        "edition": edition, "page_name": page_name, "plotly_locale": plotly_locale(words),
        "sentences": Sentences(words), "nan": float("nan"), "false_alarm_rate": false_alarm_rate, "curves": curves,
    }  # fmt: skip
    environment.filters |= {
        "number": number_text, "interval": partial(interval_text, words=words), "one_line": words.one_line,
        "lines": _lines, "phrase": words.phrase, "sentence": words.sentence,
        "full_stop": lambda text: words.gettext("%(sentence)s.", sentence=text),
        "date": lambda day: f"{day:%Y-%m-%d}", "stem": lambda path: Path(path).stem, "sections": _sections,
        "configured_first": lambda items, name: sorted(items, key=lambda item: item[0] != name),
    }  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {
        "allow_nan": False, "ensure_ascii": False, "separators": (",", ":"),
    }  # fmt: skip
    if folder is not None:
        environment.globals["embedded"] = lambda path: _data_address(folder / path)
    environment.globals["block"] = environment.get_template(blocks).module
    text = environment.get_template(template).render(content)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.strip() for line in text.splitlines())).strip() + "\n"


def _marked(translate: Callable[..., str]) -> Callable[..., str]:
    """The translation of a template's own text, which is not escaped in HTML; the values in it are."""

    @pass_eval_context
    def found(context: EvalContext, *texts: Any, **values: Any) -> str:
        if not context.autoescape:
            return translate(*texts, **values)
        escaped = {name: Markup.escape(value) for name, value in values.items()}
        return Markup(translate(*texts, **escaped))

    return found


def _lines(text: str) -> str:
    """The text without blank lines, still marked as safe where it was."""
    return type(text)("\n".join(line.strip() for line in text.splitlines() if line.strip()))


def _sections(page: Markup) -> dict[str, Any]:
    """Split a page at its headings of level 2: what comes before them, and title and body of each section and
    whether it is folded at first."""
    head, *rest = re.split(r"<h2( data-folded)?>(.*?)</h2>", page)
    return {
        "head": Markup(head),
        "sections": [
            {"title": Markup(title), "body": Markup(body), "folded": bool(folded)}
            for folded, title, body in zip(rest[::3], rest[1::3], rest[2::3], strict=True)
        ],
    }


def _data_address(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
