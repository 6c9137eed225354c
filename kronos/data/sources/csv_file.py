"""The bars of one file, before they are put on the clock and in the units of the others."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kronos.data.bars import Finding
from kronos.data.sources.csv_layouts import Match
from kronos.data.sources.csv_times import Times

UNREADABLE = "row that cannot be read"
NOT_A_NUMBER = "value that is no number"
NO_TIME = "row without a time that can be read"
NAMELESS = "row without an instrument"
HEADER_AGAIN = "header repeated among the bars"
QUOTE = "mean of bid and ask of a day without a trade"
EVENT = "line of a dividend or a split between the bars"
OTHER_SERIES = "bar of another series of its symbol"


@dataclass
class FileBars:
    """The bars of one text: times, columns of float64 [N], and for each row its place among `instruments`.

    `code` is None where the file has no instruments; `named` is then the instrument that its name says.
    """

    path: Path
    stem: str  # of the file, or of the member of an archive
    named: str
    interval: str
    times: Times
    columns: dict[str, np.ndarray]
    code: np.ndarray | None
    instruments: list[str]
    layout: Match
    scales: dict[str, float] = field(default_factory=dict)  # by the names of volume and amount
    amount_name: str = ""
    used: dict[str, str] = field(default_factory=dict)  # names of the columns in the file, by their meanings
    unused: tuple[str, ...] = ()  # names of the others
    form: str = ""  # what separates the columns, and where the bars begin
    rows: np.ndarray | None = None  # the rows of the table that are kept, where some are not
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def keep(self, rows: np.ndarray) -> None:
        """Keep the rows that are set in bool [N], or those at the places in int [M], in their order."""
        times = self.times
        offset = None if times.offset is None else times.offset[rows]
        self.times = times._replace(ns=times.ns[rows], offset=offset, bad=times.bad[rows])
        self.columns = {name: values[rows] for name, values in self.columns.items()}
        self.code = None if self.code is None else self.code[rows]

    def count(self, kind: str, action: str, count: int, examples: Sequence[str] = ()) -> None:
        """Add a finding about `count` rows, with some of their texts."""
        if count:
            items = [(self.named, "*", text[:80]) for text in examples] or [(self.named, "*", "")]
            self.findings.append(Finding(kind, action, count, items))
