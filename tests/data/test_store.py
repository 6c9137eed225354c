"""The store: what it holds, that its digest is its content, and one clear message for every damage."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kronos.data.bars import Flag
from kronos.data.cleaning import clean
from kronos.data.store import FORMAT, BarStore, open_store
from kronos.data.store_writer import write_store
from kronos.utils.errors import UserError

MakeBars = Callable[..., pd.DataFrame]
MakeStore = Callable[..., BarStore]


def test_round_trip(make_bars: MakeBars, make_store: MakeStore) -> None:
    raw = make_bars(30, missing={"BBB": [4, 5, 10, 11, 12, 13, 14]})
    store = make_store(raw, key="made from this")
    real = store.frame()[(store.flags & Flag.FILLED) == 0].reset_index(drop=True)
    expected = clean(raw)[0].drop(columns="flag")
    pd.testing.assert_frame_equal(
        real, expected, check_dtype=False, rtol=1e-7, check_column_type=False, check_names=False
    )
    assert store.instruments == ("AAA", "BBB") and store.key == "made from this"
    assert store.symbol_rows(1) == slice(30, len(store))
    assert (store.instrument_of_row[store.symbol_rows(1)] == 1).all()
    assert (store.times == store.sessions[store.session]).all()
    assert store.last_session == 29 and len(store.sessions) == 30 + 64


def test_arrays_are_read_only_maps_of_the_files(make_bars: MakeBars, make_store: MakeStore) -> None:
    store = make_store(make_bars())
    for array in (store.values, store.session, store.flags):
        assert isinstance(array, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_history_counts_bars_in_a_row(make_bars: MakeBars, make_store: MakeStore) -> None:
    store = make_store(make_bars(20, missing={"AAA": [5, 6, 7, 8, 9]}))
    assert store.history[store.symbol_rows(0)].tolist() == [*range(1, 9), *range(1, 11)]
    assert store.history[store.symbol_rows(1)].tolist() == list(range(1, 21))


def test_equal_bars_give_equal_digests_and_any_change_another(
    make_bars: MakeBars, make_store: MakeStore
) -> None:
    raw = make_bars()
    digest = make_store(raw).digest
    assert make_store(raw.sample(frac=1, random_state=0), "again", key="other", source={}).digest == digest
    changes = {
        "price": raw.assign(close=raw["close"].where(raw.index != 70, raw["close"] * 1.0001)),
        "name": raw.replace({"instrument": {"BBB": "CCC"}}),
        "hole": raw.drop(index=70),
        "end": raw.drop(index=[59, 119]),
    }
    digests = {make_store(changed, name).digest for name, changed in changes.items()}
    assert digest not in digests and len(digests) == len(changes)


def test_an_unfinished_write_leaves_the_old_store(
    make_bars: MakeBars, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_store(make_bars())
    monkeypatch.setattr("kronos.data.store_writer.report_markdown", lambda store: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_store(make_bars(50))
    assert open_store(old.path).digest == old.digest
    assert [entry.name for entry in old.path.parent.iterdir()] == ["store"]


def test_a_folder_that_is_no_store_is_never_replaced(
    make_bars: MakeBars, make_store: MakeStore, tmp_path: Path
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(UserError, match="thesis exists and is not a bar store"):
        make_store(make_bars(), "thesis")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


def test_bars_that_are_not_sorted_or_repeat_are_refused(sample_store: BarStore, tmp_path: Path) -> None:
    frame = sample_store.frame(["open", "high", "low", "close", "volume", "amount", "flag", "session"])[:200]
    for changed in (frame[::-1], pd.concat([frame, frame]), pd.concat([frame, frame.iloc[[-1]]])):
        with pytest.raises(UserError, match="not sorted by instrument and session without repeats"):
            write_store(
                tmp_path / "store",
                changed,
                sessions=pd.DatetimeIndex(sample_store.sessions),
                last_session=251,
                calendar="XNYS",
                freq="day",
                source={},
                findings=[],
            )
    assert list(tmp_path.iterdir()) == []


def test_no_store_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        open_store(tmp_path / "nothing")
    assert str(caught.value) == (
        f"no store at {tmp_path}/nothing (index.json missing): run  python -m kronos data  or give --dataset-path"
    )


def _truncate(path: Path) -> None:
    os.truncate(path / "values.npy", 1000)


def _truncate_header(path: Path) -> None:
    os.truncate(path / "session.npy", 20)


def _remove(path: Path) -> None:
    (path / "flags.npy").unlink()


def _edit_index(path: Path) -> None:
    text = (path / "index.json").read_text()
    (path / "index.json").write_text(text.replace('"AAA"', '"AAX"'))


def _edit_key(path: Path) -> None:
    text = (path / "index.json").read_text()
    (path / "index.json").write_text(text.replace('"key": ""', '"key": "of another configuration"'))


def _break_json(path: Path) -> None:
    text = (path / "index.json").read_text()
    (path / "index.json").write_text(text[: len(text) // 2])


def _other_json(path: Path) -> None:
    (path / "index.json").write_text("[]")


def _empty_json(path: Path) -> None:
    (path / "index.json").write_text("{}")


def _set_format(path: Path, number: int) -> None:
    index = json.loads((path / "index.json").read_text())
    (path / "index.json").write_text(json.dumps({**index, "format": number}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "is damaged: values.npy has 1000 bytes, expected 3008; build it again with"),
        (_truncate_header, "is damaged: session.npy has 20 bytes"),
        (_remove, "is damaged: flags.npy is missing"),
        (_edit_index, r"is damaged: index.json was edited \(its digest differs\)"),
        (_edit_key, "is damaged: index.json was edited"),
        (_break_json, r"is damaged: .*index\.json is not valid JSON: line .*; build it again"),
        (_other_json, "is damaged: index.json has no format number"),
        (_empty_json, "is damaged: index.json has no format number"),
        (
            lambda path: _set_format(path, FORMAT + 1),
            f"has format {FORMAT + 1}, this version reads up to {FORMAT}: update kronos",
        ),
        (lambda path: _set_format(path, 0), "is damaged: index.json has format 0, expected 2"),
    ],
)
def test_each_damage_gives_one_clear_message(
    make_bars: MakeBars, make_store: MakeStore, damage: Callable[[Path], None], message: str
) -> None:
    store = make_store(make_bars())
    damage(store.path)
    with pytest.raises(UserError, match=message) as caught:
        open_store(store.path)
    assert "\n" not in str(caught.value)


def test_altered_values_of_the_same_size_are_found(make_bars: MakeBars, make_store: MakeStore) -> None:
    store = make_store(make_bars())
    data = bytearray((store.path / "values.npy").read_bytes())
    data[-1] ^= 1
    (store.path / "values.npy").write_bytes(data)
    open_store(store.path, verify=False)
    with pytest.raises(UserError, match=r"values\.npy was altered"):
        open_store(store.path)


def test_array_of_another_type_is_refused(make_bars: MakeBars, make_store: MakeStore) -> None:
    store = make_store(make_bars())
    np.save(store.path / "values.npy", np.array(store.values).view("<i4"))
    with pytest.raises(UserError, match=r"values.npy is int32 \(120, 6\), expected <f4 \(120, 6\)"):
        open_store(store.path, verify=False)


def test_a_pickled_array_is_never_read(make_bars: MakeBars, make_store: MakeStore) -> None:
    store = make_store(make_bars())
    np.save(store.path / "flags.npy", np.array([{}], dtype=object), allow_pickle=True)
    index = json.loads((store.path / "index.json").read_text())
    os.truncate(store.path / "flags.npy", index["files"]["flags.npy"]["bytes"])
    with pytest.raises(UserError, match=r"flags\.npy cannot be read \(.*Python objects"):
        open_store(store.path, verify=False)


def test_opening_the_sample_takes_less_than_50_ms(sample_store: BarStore) -> None:
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        open_store(sample_store.path)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.05


def test_unknown_column_is_refused(sample_store: BarStore) -> None:
    with pytest.raises(UserError, match="a store has no column vwap: choose from open"):
        sample_store.frame(["vwap"])
