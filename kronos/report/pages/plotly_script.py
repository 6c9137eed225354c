"""The one plotly.min.js of a folder, copied from the installed package, so that pages load nothing from a network."""

import shutil
from importlib.resources import as_file, files
from pathlib import Path

NAME = "plotly.min.js"


def copy_plotly(folder: Path) -> None:
    """Copy Plotly's script into `folder`, where the pages beside it find it."""
    with as_file(files("plotly") / "package_data" / NAME) as script:
        shutil.copyfile(script, folder / NAME)
