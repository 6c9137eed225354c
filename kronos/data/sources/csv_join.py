"""Files that hold one instrument together: they are joined, or refused where they contradict each other."""

import numpy as np
import pandas as pd

from kronos.data.bars import FEATURES, day_text
from kronos.data.sources.csv_file import FileBars
from kronos.utils.errors import UserError

LONGER = 3.0  # a usual step this many times as long as another file's means bars of another length
FEWEST = 5  # bars that show the usual step


def join_files(files: list[FileBars], frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Join the frames of files of one instrument. Bars that several files have alike stay in, to be counted.

    Raises UserError where two files have bars of different lengths, or different bars at one time.
    """
    if len(frames) == 1:
        return frames[0]
    lengths = sorted({one.interval or "no interval" for one in files})
    if len(lengths) > 1:
        raise UserError(
            f"{files[0].named} comes in files of {', '.join(lengths)}: give a folder for each length of a bar"
        )
    first = np.array([frame["datetime"].min().value for frame in frames])
    last = np.array([frame["datetime"].max().value for frame in frames])
    order = np.argsort(first, kind="stable")
    latest = order[0]
    for place in order[1:]:
        if first[place] <= last[latest]:
            _refuse_lengths(files[latest], files[place], frames[latest], frames[place])
        latest = place if last[place] > last[latest] else latest
    joined = pd.concat([frames[place] for place in order], ignore_index=True)
    if (last[order][:-1] >= first[order][1:]).any():
        _refuse_conflict([files[place] for place in order], [len(frames[place]) for place in order], joined)
    return joined


def _refuse_lengths(one: FileBars, other: FileBars, *frames: pd.DataFrame) -> None:
    if min(map(len, frames)) < FEWEST:
        return
    steps = [
        float(np.median(np.diff(np.sort(frame["datetime"].to_numpy())).astype(np.int64))) for frame in frames
    ]
    if max(steps) >= LONGER * max(min(steps), 1.0):
        names = " and ".join(_names(one, other))
        raise UserError(
            f"{one.named} comes from two files of bars of different lengths, {names}: give a folder for each length "
            "of a bar"
        )


def _refuse_conflict(files: list[FileBars], sizes: list[int], joined: pd.DataFrame) -> None:
    """Raise UserError where bars of two files at one time differ."""
    columns = [name for name in FEATURES if name in joined.columns]
    source = np.repeat(np.arange(len(files)), sizes)
    order = np.argsort(joined["datetime"].to_numpy(), kind="stable")
    times, source = joined["datetime"].to_numpy()[order], source[order]
    values = joined[columns].to_numpy(np.float64)[order]
    again = (times[1:] == times[:-1]) & (source[1:] != source[:-1])
    alike = np.isclose(values[1:], values[:-1], rtol=1e-6, atol=0.0, equal_nan=True)
    wrong = np.flatnonzero(again & ~alike.all(1))
    if not len(wrong):
        return
    row = int(wrong[0])
    column = int(np.flatnonzero(~alike[row])[0])
    names = " and ".join(_names(files[source[row]], files[source[row + 1]]))
    raise UserError(
        f"{files[0].named} comes from two files, {names}, whose bars differ at {len(wrong):,} of "
        f"{int(again.sum()):,} times, {columns[column]} {values[row, column]:g} and {values[row + 1, column]:g} at "
        f"{day_text([times[row]])[0]} for example: give the folder of one of them, remove one, or name the "
        "instrument in a column"
    )


def _names(one: FileBars, other: FileBars) -> list[str]:
    """Name two files as briefly as tells them apart."""
    if one.path == other.path:
        return [f"{file.path.name}:{file.stem}" for file in (one, other)]
    apart = one.path.parent != other.path.parent
    return [f"{file.path.parent.name}/{file.path.name}" if apart else file.path.name for file in (one, other)]
