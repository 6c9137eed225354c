"""Render a report from the templates beside this file, as Markdown or as one HTML page that carries its figures."""

import base64
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kronos.evaluation.multiple_looks import false_alarm_rate
from kronos.evaluation.statistics import Estimate

VERBS = {
    1: "beats",
    0: "is indistinguishable from",
    -1: "underperforms",
}  # by the sign of a difference's interval


def write_pages(
    folder: Path,
    template: str,
    name: str = "report",
    curves: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    **content: Any,
) -> None:
    """Write `name`.md and `name`.html from one template and its content; figures are read from `folder`.

    `curves` are Plotly figures by the name of the picture that each stands for; Plotly's script is in `folder`.
    """
    for ending, blocks in ((".md", "markdown.j2"), (".html", "html.j2")):
        text = render(template, blocks, folder, curves, **content)
        (folder / f"{name}{ending}").write_text(text, encoding="utf-8")


def render(
    template: str,
    blocks: str,
    folder: Path | None = None,
    curves: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    **content: Any,
) -> str:
    """Return the text of a template whose headings, paragraphs and tables are the macros of the file `blocks`.

    In HTML every value is escaped, so that it is text whatever it holds, and figures are embedded from `folder`.
    """
    environment = Environment(
        loader=PackageLoader("kronos.report"), autoescape=blocks == "html.j2", undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "number": number_text, "interval": interval_text, "one_line": _one_line, "lines": _lines,
        "sentence": lambda text: text[:1].upper() + text[1:], "date": lambda day: f"{day:%Y-%m-%d}",
        "stem": lambda path: Path(path).stem, "sections": _sections,
        "configured_first": lambda items, name: sorted(items, key=lambda item: item[0] != name),
    }  # fmt: skip
    environment.globals |= {
        "verbs": VERBS, "nan": float("nan"), "false_alarm_rate": false_alarm_rate, "curves": curves,
    }  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {
        "allow_nan": False, "ensure_ascii": False, "separators": (",", ":"),
    }  # fmt: skip
    if folder is not None:
        environment.globals["embedded"] = lambda path: _data_address(folder / path)
    environment.globals["block"] = environment.get_template(blocks).module
    text = environment.get_template(template).render(content)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.strip() for line in text.splitlines())).strip() + "\n"


def number_text(value: float, style: str) -> str:
    """Format a number for a reader: a space before the per cent sign, n/a for NaN."""
    return style.format(value).replace("%", " %") if np.isfinite(value) else "n/a"


def interval_text(found: Estimate | Sequence[float], style: str, factor: float = 1.0) -> str:
    """`-0.012 to +0.034` of an estimate, or of a sequence that ends with low and high; n/a where there is none."""
    low, high = (found.low, found.high) if isinstance(found, Estimate) else found[-2:]
    if not (np.isfinite(low) and np.isfinite(high)):
        return "n/a"
    return f"{number_text(low * factor, style)} to {number_text(high * factor, style)}"


def _one_line(text: str) -> str:
    """The text on one line, still marked as safe where it was."""
    return type(text)(" ".join(text.split()))


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
