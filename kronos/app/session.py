"""What one page works with: the tracking store, work in threads, trainings, and a temporary folder for all of it."""

import shutil
import tempfile
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kronos.app.bars import Stores
from kronos.app.trainings import Trainings
from kronos.app.work import Worker
from kronos.tracking.reader import TrackedRun, load_run
from kronos.utils.errors import UserError

MOST_UPLOAD = 32_000_000  # bytes of an uploaded file; a larger one is given by its path
UPLOADS_KEPT = 4
LONGEST_NAME = 200  # bytes
RUNS_KEPT = 8  # whose downloaded artifacts are kept
# Files of a result and of a tracked run that the page shows in a frame, or hands out.
SHOWN = ("forecasts.html", "report.html", "benchmark.html", "forecast.csv", "ranking.csv")


@dataclass
class Session:
    """Everything between a start of the page and its end.

    Args:
        uri: tracking address; None follows MLflow's own rule.
        experiment: name of the MLflow experiment.
    """

    uri: str | None
    experiment: str
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="kronos-app-")))

    def __post_init__(self) -> None:
        self.worker = Worker(self.folder / "work")
        self.stores = Stores(self.folder / "stores")
        self.trainings = Trainings(self.folder / "trainings")
        self._uploads: list[Path] = []
        self._runs: OrderedDict[str, TrackedRun] = OrderedDict()

    def tracking_fields(self) -> dict[str, Any]:
        """The fields that name the tracking store, for configurations."""
        return {"experiment_name": self.experiment, **({"tracking_uri": self.uri} if self.uri else {})}

    def keep_upload(self, name: str, content: bytes) -> Path:
        """Write an uploaded file under its own name, which may be that of its instrument; returns the path.

        Raises UserError for one that is too large, and for a name that is no file's.
        """
        if len(content) > MOST_UPLOAD:
            raise UserError(
                f"{name} has {len(content) / 1e6:,.0f} MB, at most {MOST_UPLOAD / 1e6:.0f} MB can be uploaded: give "
                "its path on this machine instead"
            )
        plain = bool(name) and Path(name).name == name and name.isprintable() and not name.startswith(".")
        if not plain or len(name.encode()) > LONGEST_NAME:
            raise UserError(f"{name[:LONGEST_NAME]!r} cannot be used as the name of a file here: rename it")
        path = self.folder / "uploads" / uuid.uuid4().hex / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        self._uploads.append(path)
        while len(self._uploads) > UPLOADS_KEPT:
            shutil.rmtree(self._uploads.pop(0).parent, ignore_errors=True)
        return path

    def is_upload(self, path: str) -> bool:
        return Path(path).is_relative_to(self.folder)

    def run(self, identifier: str) -> TrackedRun:
        """A tracked run by its id; its artifacts are downloaded once."""
        if identifier not in self._runs:
            self._runs[identifier] = load_run(identifier, self.uri)
            while len(self._runs) > RUNS_KEPT:
                self._runs.popitem(last=False)
        return self._runs[identifier]

    def close(self) -> None:
        """End what runs and remove the folder."""
        self.worker.close()
        try:
            self.trainings.close()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
