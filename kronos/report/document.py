"""A report as a list of blocks, written once and read as Markdown or as one HTML file that needs nothing else."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #1f2933; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; border-bottom: 1px solid #e4e7eb; }
table { border-collapse: collapse; font-size: .88rem; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #e4e7eb; text-align: right; }
td { font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
th { border-bottom: 2px solid #7b8794; } img { max-width: 100%; } code { font-size: .82em; overflow-wrap: anywhere; }
""".strip()


@dataclass(frozen=True)
class Heading:
    level: int
    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph; **strong** and `code` are marked as in Markdown."""

    text: str


@dataclass(frozen=True)
class Points:
    """A list of sentences."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """An image file, its path relative to the report."""

    caption: str
    path: str


Block = Heading | Text | Points | Table | Figure


def to_markdown(blocks: Sequence[Block]) -> str:
    """The blocks as Markdown; figures are links."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {block.text}"
    if isinstance(block, Text):
        return block.text
    if isinstance(block, Points):
        return "\n".join(f"- {item}" for item in block.items)
    if isinstance(block, Figure):
        return f"![{block.caption}]({block.path})"
    rule = ["---", *["---:"] * (len(block.header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (block.header, rule, *block.rows))


def to_html(blocks: Sequence[Block], folder: Path) -> str:
    """The blocks as one HTML page; figures are read from `folder` and carried inside."""
    title = next((block.text for block in blocks if isinstance(block, Heading)), "Report")
    body = "\n".join(_html(block, folder) for block in blocks)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>\n{STYLE}\n</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _html(block: Block, folder: Path) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{_inline(block.text)}</h{block.level}>"
    if isinstance(block, Text):
        return f"<p>{_inline(block.text)}</p>"
    if isinstance(block, Points):
        return "<ul>\n" + "\n".join(f"<li>{_inline(item)}</li>" for item in block.items) + "\n</ul>"
    if isinstance(block, Figure):
        data = base64.b64encode((folder / block.path).read_bytes()).decode()
        return f'<p><img alt="{escape(block.caption)}" src="data:image/png;base64,{data}"></p>'
    head = "".join(f"<th>{_inline(cell)}</th>" for cell in block.header)
    rows = ("".join(f"<td>{_inline(cell)}</td>" for cell in row) for row in block.rows)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _inline(text: str) -> str:
    marked = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", escape(text, quote=False))
    return re.sub(r"`(.+?)`", r"<code>\1</code>", marked)


def number_text(value: float, style: str) -> str:
    """A number for people: a blank before the per cent sign, n/a for NaN."""
    return style.format(value).replace("%", " %") if np.isfinite(value) else "n/a"
