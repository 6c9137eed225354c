"""What a report was written from, kept in its folder as JSON: its pages can be written again, in another language.

Dataclasses are named by their class, which must be one of `CLASSES`; frames, series, arrays and times keep their
types, and numbers all their digits, so that the same pages come of it.
"""

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kronos.evaluation.audit import Case, Share
from kronos.evaluation.coverage import Coverage
from kronos.evaluation.departures import Departures
from kronos.evaluation.forecast_evaluation import Accuracy, Before, Member, Ranking
from kronos.evaluation.heads import Against, Bin, HeadScores, Measure
from kronos.evaluation.held_out import HeldOut
from kronos.evaluation.large_moves import LargeMoves
from kronos.evaluation.portfolio import Excess
from kronos.evaluation.ranking import Comparison, Worth
from kronos.evaluation.statistics import Estimate
from kronos.evaluation.tasks import Score
from kronos.evaluation.tear_sheet import TearSheet
from kronos.evaluation.time_series import Ledger, LossComparison, TimeSeries
from kronos.report.audit import Setting, write_audit_pages
from kronos.report.content import Portfolio, ReportInputs
from kronos.report.forecast_chart import ForecastChart
from kronos.report.heads import HeadPage, write_head_pages
from kronos.report.leaderboard import Entry, Leaderboard, write_board_pages
from kronos.report.pages.forecasts import write_ranking
from kronos.report.walk_forward import Fold, PooledInputs, write_pooled_pages
from kronos.report.writer import write_report_pages

FILE = "report_content.json.gz"
CLASSES = {
    one.__name__: one
    for one in (
        Accuracy, Against, Before, Bin, Case, Comparison, Coverage, Departures, Entry, Estimate, Excess, Fold,
        ForecastChart, HeadPage, HeadScores, HeldOut, LargeMoves, Leaderboard, Ledger, LossComparison, Measure,
        Member, PooledInputs, Portfolio, Ranking, ReportInputs, Score, Setting, Share, TearSheet, TimeSeries, Worth,
    )
}  # fmt: skip
WRITERS: dict[str, Callable[..., None]] = {  # of the pages of each report
    "audit": write_audit_pages, "backtest": write_report_pages, "benchmark": write_board_pages,
    "head": write_head_pages, "predict": write_ranking, "walk_forward": write_pooled_pages,
}  # fmt: skip
PLAIN = (str, bool, int, float, type(None))


def save(folder: Path, report: str, **content: Any) -> None:
    """Write what the pages of a report are written from, the arguments of one of `WRITERS`, into its folder."""
    text = json.dumps([report, _written(content)], separators=(",", ":"), ensure_ascii=False)
    # without a time in its header: equal contents give equal files
    (folder / FILE).write_bytes(gzip.compress(text.encode(), compresslevel=6, mtime=0))


def write_again(folder: Path, language: str) -> None:
    """Write the pages of a report again, in `language` (en, zh or both), from what `save` wrote into its folder."""
    report, content = json.loads(gzip.decompress((folder / FILE).read_bytes()))
    WRITERS[report](folder, language=language, **_read(content))


def _written(value: Any) -> Any:
    """A value as JSON types; what is not one of them is a list of its kind and its parts."""
    if isinstance(value, np.generic):
        value = pd.Timestamp(value) if isinstance(value, np.datetime64) else value.item()
    if value is pd.NaT:
        return ["time", None]
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, pd.Timestamp):
        return ["time", value.isoformat(), value.unit]
    if is_dataclass(value) and not isinstance(value, type):
        if CLASSES.get(type(value).__name__) is not type(value):
            raise TypeError(f"{type(value).__name__} is not among the contents of reports")
        return [
            "object",
            type(value).__name__,
            {one.name: _written(getattr(value, one.name)) for one in fields(value)},
        ]
    if isinstance(value, pd.DataFrame):
        columns = [_written(value.iloc[:, place].array) for place in range(value.shape[1])]
        return ["frame", _written(value.index), _written(value.columns), columns]
    if isinstance(value, pd.Series):
        return ["series", _written(value.index), _written(value.name), _written(value.array)]
    if isinstance(value, pd.RangeIndex):
        return ["range", value.start, value.stop, value.step, _written(value.name)]
    if isinstance(value, pd.Index):
        freq = getattr(value, "freqstr", None)
        return ["index", _written(value.array), _written(value.name), freq]
    if isinstance(value, np.ndarray | pd.api.extensions.ExtensionArray):
        return ["array", str(value.dtype), list(np.shape(value)), _flat(value)]
    if isinstance(value, Mapping):
        return ["map", [[_written(key), _written(one)] for key, one in value.items()]]
    if isinstance(value, tuple):
        return ["tuple", [_written(one) for one in value]]
    if isinstance(value, list):
        return ["list", [_written(one) for one in value]]
    raise TypeError(f"{type(value).__name__} is not among the contents of reports")


def _flat(values: Any) -> list[Any]:
    """The values of an array as JSON types: times as whole numbers of their unit."""
    if values.dtype.kind == "M":
        return list(np.asarray(values).reshape(-1).view(np.int64).tolist())
    if values.dtype.kind in "fiub":
        return list(np.asarray(values).reshape(-1).tolist())
    return [None if one is pd.NA else _written(one) for one in np.asarray(values, object).reshape(-1)]


def _read(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    kind, *parts = value
    if kind == "time":
        return pd.NaT if parts[0] is None else pd.Timestamp(parts[0]).as_unit(parts[1])
    if kind == "object":
        return CLASSES[parts[0]](**{name: _read(one) for name, one in parts[1].items()})
    if kind == "frame":
        index, names, columns = _read(parts[0]), _read(parts[1]), [_read(one) for one in parts[2]]
        found = pd.DataFrame(dict(enumerate(columns)), index=index)
        return found.set_axis(names, axis=1)
    if kind == "series":
        return pd.Series(_read(parts[2]), _read(parts[0]), name=_read(parts[1]))
    if kind == "range":
        return pd.RangeIndex(parts[0], parts[1], parts[2], name=_read(parts[3]))
    if kind == "index":
        found = pd.Index(_read(parts[0]), name=_read(parts[1]))
        return pd.DatetimeIndex(found, freq=parts[2]) if parts[2] else found
    if kind == "array":
        return _array(*parts)
    if kind == "map":
        return {_read(key): _read(one) for key, one in parts[0]}
    return tuple(_read(one) for one in parts[0]) if kind == "tuple" else [_read(one) for one in parts[0]]


def _array(dtype: str, shape: list[int], flat: list[Any]) -> Any:
    if dtype.startswith("datetime64"):
        return np.array(flat, np.int64).view(dtype).reshape(shape)
    if dtype in ("object", "str"):
        values = np.empty(len(flat), object)
        values[:] = [_read(one) for one in flat]
        return pd.array(values, dtype="str") if dtype == "str" else values.reshape(shape)
    return np.array(flat, dtype).reshape(shape)
