"""The one plotly.min.js of a folder, copied from the installed package, so that pages load nothing from a network;
and the words of Plotly's own controls, which the script has in English alone."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from kronos.report.language import ENGLISH, Words

NAME = "plotly.min.js"


def plotly_script() -> bytes:
    """Plotly's script, as the installed package has it."""
    return (files("plotly") / "package_data" / NAME).read_bytes()


def copy_plotly(folder: Path) -> None:
    """Copy Plotly's script into `folder`, where the pages beside it find it."""
    (folder / NAME).write_bytes(plotly_script())


def plotly_locale(words: Words) -> dict[str, Any]:
    """Return Plotly's options for a language: its controls, and how it writes months; none for English."""
    if words.language == ENGLISH:
        return {}
    gettext = words.gettext
    months = [
        gettext("Jan"), gettext("Feb"), gettext("Mar"), gettext("Apr"), gettext("May"), gettext("Jun"),
        gettext("Jul"), gettext("Aug"), gettext("Sep"), gettext("Oct"), gettext("Nov"), gettext("Dec"),
    ]  # fmt: skip
    controls = {
        "Autoscale": gettext("Autoscale"), "Download plot": gettext("Download plot"),
        "Download plot as a PNG": gettext("Download plot as a PNG"), "Pan": gettext("Pan"),
        "Reset axes": gettext("Reset axes"), "Zoom": gettext("Zoom"), "Zoom in": gettext("Zoom in"),
        "Zoom out": gettext("Zoom out"),
    }  # fmt: skip
    shown = {"months": months, "shortMonths": months, "date": "%Y-%m-%d"}
    return {"locale": words.tag, "locales": {words.tag: {"dictionary": controls, "format": shown}}}
