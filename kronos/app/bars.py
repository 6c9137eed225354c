"""The bars that the page works on: a file or folder, an uploaded file, or a stored universe."""

import re
import shutil
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kronos.app.work import Work
from kronos.config.loading import load_config
from kronos.config.schema import FIELDS, Config
from kronos.data.quality_report import report_markdown
from kronos.data.sources.factory import DataProcessorFactory
from kronos.data.store import BarStore, open_store
from kronos.report.forecast_chart import bars_chart
from kronos.report.pages.forecasts import write_bars
from kronos.stages.cache import read_record
from kronos.stages.data_check import Refused, checked, columns, screen
from kronos.utils.errors import UserError
from kronos.utils.files import RECORD, given_path

FILE, UPLOAD, STORE = "file", "upload", "store"
STORES_KEPT = 4  # built of files, for the next forecast of the same bars
MOST_CHARTS = 200


@dataclass(frozen=True)
class Checked:
    """What a check shows: text or Markdown, and the page of candles; of refused bars only a part of the text."""

    text: str = ""
    markdown: str = ""
    problem: str = ""


def chosen_fields(kind: str, path: str | None, more: str | None) -> dict[str, str]:
    """Return the fields that a choice of bars means, as on the command line; `more` has lines of field=value.

    Of a store they are those that it was made with. Raises UserError for no path and for a line of another form.
    """
    own = fields_of_text(more)
    path = (path or "").strip()
    if not path and "data_source" not in own:
        wanted = {FILE: "the path of a file or folder of bars", UPLOAD: "a file to upload"}
        raise UserError(f"no bars are chosen: give {wanted.get(kind, 'the folder of a stored universe')}")
    if kind != STORE:
        return {"data_source": "csv", **({"data_path": path} if path else {}), **own}
    record = read_record(given_path(path)) if (given_path(path) / RECORD).is_file() else {}
    fields = {name: str(text) for name, text in record.get("made_from", {}).get("fields", {}).items()}
    made = {name: text for name, text in fields.items() if name in FIELDS}
    return {"data_source": FIELDS["data_source"].default, **made, "dataset_path": path, **own}


def fields_of_text(text: str | None) -> dict[str, str]:
    """Return the fields of lines `field=value`. Raises UserError with every line that is none."""
    found, wrong = {}, []
    for line in filter(None, map(str.strip, (text or "").splitlines())):
        name, equals, value = line.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        if not equals or not re.fullmatch(r"\w+", name):
            wrong.append(repr(line))
        found[name] = value.strip()
    if wrong:
        raise UserError(f"{', '.join(wrong)}: further fields are given as field=value, one in a line")
    return found


class Stores:
    """Stores built of files, in a temporary folder; bars that have not changed are not read again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._built: OrderedDict[str, BarStore] = OrderedDict()
        self._count = 0

    def check(self, kind: str, fields: Mapping[str, Any], work: Work) -> Checked:
        """Say how the chosen bars are understood, and draw their candles into the folder of the work."""
        config = configured(fields, work)
        work.step("the bars are read")
        if kind == STORE:
            store = open_store(config.data.dataset_path)
            found = Checked(markdown=report_markdown(store))
        else:
            try:
                understood, store = checked(config, self._place())
            except Refused as error:
                return Checked(text="\n".join(columns(error.layouts)), problem=str(error))
            self._keep(config, store)
            found = Checked(text=screen(understood))
        work.step("candles are drawn")
        count = len(store.instruments)
        charts = [bars_chart(store, place) for place in range(min(count, MOST_CHARTS))]
        charts = [chart for chart in charts if len(chart.seen)]
        write_bars(work.folder, charts, f"Bars of {store.freq}", count)
        return found

    def open(self, kind: str, config: Config, work: Work) -> BarStore:
        """Open a stored universe, or build the store of a file where that was not done yet."""
        if kind == STORE:
            store = open_store(config.data.dataset_path)
        else:
            built = self._built.get(_key(config))
            if built is None:
                work.step("the bars are read")
                built = checked(config, self._place())[1]
                self._keep(config, built)
            store = built
        return replace(store, across_days=config.data.windows_across_days)

    def _place(self) -> Path:
        self._count += 1
        place = self._folder / f"store-{self._count}"
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def _keep(self, config: Config, store: BarStore) -> None:
        self._built[_key(config)] = store
        while len(self._built) > STORES_KEPT:
            _, oldest = self._built.popitem(last=False)
            shutil.rmtree(oldest.path, ignore_errors=True)


def _key(config: Config) -> str:
    """What identifies the bars of a configuration; another one each time where nothing does."""
    return DataProcessorFactory.create_processor(config.data.data_source, config).key()


def configured(fields: Mapping[str, Any], work: Work) -> Config:
    """The configuration of some fields, checked as on the command line; its notes are said."""
    config, notes = load_config(None, fields)
    for note in notes:
        work.say(note)
    return config
