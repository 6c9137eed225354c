"""Forecasts in shards: equal for any number of processes and any size, and never made twice."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import psutil
import pytest

from kronos.config.loading import load_config
from kronos.data.forecast_points import ForecastPoints, forecast_points
from kronos.data.store import open_store
from kronos.distributed import shards_folder
from kronos.distributed.launcher import Place, WorkerGroup, python_module
from kronos.distributed.shards_folder import Shards
from kronos.distributed.work_list import WorkList, shared
from kronos.forecast import shards as sharding
from kronos.forecast.keys import series_keys
from kronos.forecast.shards import ShardFiles, parts_of, shard_size
from kronos.forecast.store_forecaster import Forecaster, draw_keys, forecaster
from kronos.model import load_predictor, load_tokenizer
from kronos.utils.errors import UserError

FIELDS = {"data_source": "sample", "lookback_window": 16, "predict_window": 3}
RULES = {"temperature": 0.9, "top_k": 0, "top_p": 0.9, "sample_count": 2}
WORKER = python_module("kronos.stages.train_worker")


@pytest.fixture
def config(store: Path) -> Any:
    return load_config(None, FIELDS)[0]


@pytest.fixture
def points(store: Path) -> ForecastPoints:
    found = forecast_points(open_store(store), date(2010, 8, 18), date(2010, 8, 20), 16)
    return found.subset(np.arange(0, len(found), 30))  # about 50


@pytest.fixture
def pair(weights: Path) -> tuple[Any, Any]:
    return load_tokenizer(weights / "tokenizer"), load_predictor(weights / "predictor")


def alone(folder: Path, code: str = "1") -> Shards:
    return Shards(folder, WorkerGroup(1, ()), lambda: code)


def sized(model: Forecaster, batch: int) -> Forecaster:
    return replace(model, config=model.config.replace(backtest_batch_size=batch))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of points of every part that is forecast in this process."""
    sizes: list[int] = []
    draw = Forecaster.make

    def counted(self: Forecaster, points: Any, rules: Any, kept: str, part: slice) -> Any:
        sizes.append(part.stop - part.start)
        return draw(self, points, rules, kept, part)

    monkeypatch.setattr(Forecaster, "make", counted)
    return sizes


def test_forecasts_are_equal_bit_for_bit_for_any_size_of_shards_and_are_made_once(
    config, points, pair, store, in_folder, drawn
):
    bars = open_store(store)
    plain = forecaster(config, bars, *pair)
    expected, repaired = plain.means(points, RULES)
    closes = plain.closes(points, RULES, "closes")
    np.testing.assert_allclose(closes.mean(axis=1), expected[..., 3], rtol=1e-6)
    drawn.clear()
    for batch in (1, 7, 1000):
        model = sized(forecaster(config, bars, *pair, alone(in_folder / "shards")), batch)
        for again in range(2):
            means, count = model.means(points, RULES)
            np.testing.assert_array_equal(means, expected)
            assert count == repaired
            np.testing.assert_array_equal(model.closes(points, RULES, "closes"), closes)
            assert sum(drawn) == (0 if again else 2 * len(points))
            drawn.clear()


def test_nothing_made_from_other_inputs_is_taken(config, points, pair, store, in_folder, weights, drawn):
    bars, folder = open_store(store), in_folder / "shards"
    forecaster(config, bars, *pair, alone(folder)).means(points, RULES)
    drawn.clear()
    model = forecaster(config, bars, *pair, alone(folder))
    other = load_predictor(weights / "predictor")
    other.head.proj_s1.bias.data[0] += 1e-3
    changed: list[Callable[[], Any]] = [
        lambda: model.means(points, {**RULES, "temperature": 0.91}),
        lambda: model.means(points.subset(np.arange(len(points))[::-1]), RULES),
        lambda: replace(model, config=config.replace(seed=7)).means(points, RULES),
        lambda: replace(model, config=config.replace(lookback_window=12)).means(points, RULES),
        lambda: replace(model, predictor=other).means(points, RULES),
        lambda: replace(model, store=replace(bars, digest="other")).means(points, RULES),
        lambda: replace(model, shards=alone(folder, code="2")).means(points, RULES),
        lambda: model.closes(points, RULES, "closes"),
    ]
    for number, ask in enumerate(changed, start=1):
        ask()
        assert sum(drawn) == number * len(points)
    model.means(points, RULES)
    assert sum(drawn) == len(changed) * len(points)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "gone"])
def test_a_damaged_shard_is_made_again(tmp_path: Path, damage: str) -> None:
    made = []

    def make(part: slice) -> tuple[np.ndarray, int]:
        made.append(part.start)
        return np.arange(part.start, part.stop, dtype=np.float32), part.start

    files, place = ShardFiles(tmp_path / "one", parts_of(10, 4), make), alone(tmp_path)
    files.make_all(place, dict, 1, "test")
    file = sorted((tmp_path / "one").iterdir())[1]
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[content.index(np.float32(5).tobytes())] ^= 1
    match damage:
        case "cut":
            file.write_bytes(content[: len(content) // 2])
        case "empty":
            file.write_bytes(b"")
        case "flipped":
            file.write_bytes(content)
        case "gone":
            file.unlink()
    assert [number for number in range(3)] == sorted(files.finished() | {1})
    files.make_all(place, dict, 1, "test")
    read = [files.read(number) for number in range(3)]
    assert np.concatenate([values for values, _ in read]).tolist() == list(range(10))
    assert [repaired for _, repaired in read] == [0, 4, 8]
    assert made == [0, 4, 8, 4]
    assert not list(tmp_path.rglob(".*"))


def test_shards_are_whole_batches_and_cover_every_point() -> None:
    for count in (1, 31, 500, 17_342, 674_633):
        for batch in (7, 1000):
            size = shard_size(count, batch, 52)
            parts = parts_of(count, size)
            assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
            assert parts[-1].stop == count
            assert size <= batch or size % batch == 0
            assert size <= sharding.MOST_BATCHES * batch


def test_a_large_array_lies_in_a_file_that_nobody_finds(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(shards_folder, "LARGE", 1000)
    small, large = (alone(tmp_path / "x").array((count, 5)) for count in (10, 100))
    assert type(small) is np.ndarray and isinstance(large, np.memmap)
    large[:] = 3
    assert (large == 3).all() and large.shape == (100, 5)
    if sys.platform != "win32":
        assert list((tmp_path / "x").iterdir()) == []


def test_keys_of_points_are_those_of_their_names(store: Path, points: ForecastPoints) -> None:
    bars = open_store(store)
    names = [bars.instruments[place] for place in points.instrument]
    expected = series_keys(names, bars.sessions[points.session])
    np.testing.assert_array_equal(draw_keys(bars, points), expected)


def test_pieces_of_a_process_that_died_are_done_by_rank_0_and_an_error_is_raised() -> None:
    """Two workers play their part in threads over one store: one finishes its piece, one takes a piece and dies."""
    from torch.distributed import HashStore, PrefixStore

    class Group:
        place = Place(0, 3, 0, 3)
        store = HashStore()
        failed = False

        def announce(self, description: Any) -> int:
            assert description["pieces"] == list(range(6)) and description["kind"] == "test"
            return 0

        def gone(self, rank: int) -> str | None:
            return "was killed by signal 9" if rank == 2 and killed.is_set() else None

        def check(self) -> None:
            if self.failed:
                raise UserError("process 1 of 3: no luck")

    group: Any = Group()
    killed, done, said = threading.Event(), [], []
    worker, victim = (WorkList(PrefixStore("list/0", group.store), range(6), rank) for rank in (1, 2))
    with shared(group, {"kind": "test"}, range(6), said.append) as (work, own):
        held = next(iter(victim))
        taken = iter(worker)
        slow = next(taken)
        for piece in own:
            if piece >= 0:
                done.append(piece)
                work.finish(piece, 1)
            elif not killed.is_set():
                assert work.finished() == 4  # rank 0 waits for the two that others hold
                killed.set()
                worker.finish(slow, 1)
                assert list(taken) == []
                worker.leave()
    assert sorted([*done, slow]) == list(range(6)) and done[-1] == held
    assert said == ["process 2 of 3 was killed by signal 9; the others go on"]
    group.store, group.failed = HashStore(), True
    failing = shared(group, {"kind": "test"}, range(6), said.append)
    with pytest.raises(UserError, match="no luck"), failing as (_, own):
        next(own)
    assert WorkList(PrefixStore("list/0", group.store), range(6)).exhausted()


@pytest.fixture
def group(request: pytest.FixtureRequest) -> Iterator[WorkerGroup]:
    workers = WorkerGroup(request.param, WORKER)
    yield workers
    workers.close()


@pytest.mark.slow
@pytest.mark.parametrize("group", [2, pytest.param(3, marks=pytest.mark.nightly)], indirect=True)
def test_several_processes_make_the_forecasts_of_one(
    config, points, pair, store, in_folder, group, monkeypatch
):
    bars = open_store(store)
    expected, repaired = forecaster(config, bars, *pair).means(points, RULES)
    shards = Shards(in_folder / "shards", group, lambda: "1")
    model = sized(forecaster(config, bars, *pair, shards), 1)
    draw, drawn = Forecaster.make, []

    def draw_after_another(*arguments: Any) -> Any:
        until = time.monotonic() + 60
        while not list((in_folder / "shards").glob("*/0*.npz")) and time.monotonic() < until:
            time.sleep(0.01)
        drawn.append(arguments)
        return draw(*arguments)

    monkeypatch.setattr(Forecaster, "make", draw_after_another)
    means, count = model.means(points, RULES)
    np.testing.assert_array_equal(means, expected)
    assert count == repaired
    assert 0 < len(drawn) < len(points)


# Forecast the points of the tests with another process, and write the means.
COMMAND = """
import sys
from datetime import date
from pathlib import Path
import numpy as np
from kronos.config.loading import load_config
from kronos.data.forecast_points import forecast_points
from kronos.data.store import open_store
from kronos.distributed.launcher import WorkerGroup, python_module
from kronos.distributed.shards_folder import Shards
from kronos.forecast.store_forecaster import forecaster
from kronos.model import load_predictor, load_tokenizer
weights, fields, rules = Path(sys.argv[1]), eval(sys.argv[2]), eval(sys.argv[3])
bars = open_store("outputs/data")
points = forecast_points(bars, date(2010, 8, 18), date(2010, 8, 20), 16)
points = points.subset(np.arange(0, len(points), 5))
workers = WorkerGroup(2, python_module("kronos.stages.train_worker"))
try:
    pair = load_tokenizer(weights / "tokenizer"), load_predictor(weights / "predictor")
    shards = Shards(Path("shards"), workers, lambda: "1")
    model = forecaster(load_config(None, fields)[0], bars, *pair, shards)
    np.save("means.npy", model.means(points, rules)[0])
finally:
    workers.close()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds worker processes under /proc")
def test_after_kills_at_random_moments_no_finished_shard_is_made_again(store, weights, pair, in_folder):
    fields = {**FIELDS, "backtest_batch_size": 1}
    command = [sys.executable, "-c", COMMAND, str(weights), repr(fields), repr(RULES)]

    def shards() -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in Path("shards").glob("*/0*.npz")}

    random = np.random.default_rng(int(time.time()))
    for victim in ("worker", "leader", "all", "leader", "nobody"):
        before, more, until = shards(), int(random.integers(1, 12)), time.monotonic() + 60
        with Path("said.txt").open("w") as output:
            process = psutil.Popen(
                command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=output, stderr=output
            )
        while len(shards()) < len(before) + more and process.poll() is None and time.monotonic() < until:
            time.sleep(0.002)
        workers = process.children()
        killed = {"leader": [process], "worker": workers, "all": [*workers, process], "nobody": []}[victim]
        for one in killed:
            one.kill()
        status, said = process.wait(timeout=300), Path("said.txt").read_text()
        assert psutil.wait_procs(workers, timeout=15)[1] == []
        assert status == (-signal.SIGKILL if process in killed else 0), said
        if victim == "worker":
            assert "process 1 of 2 was killed by signal 9; the others go on" in said
            made = np.load("means.npy")
            rmtree("shards")
        else:
            assert before.items() <= shards().items()
            assert not before or "were forecast by an earlier run" in said
    bars = open_store(store)
    points = forecast_points(bars, date(2010, 8, 18), date(2010, 8, 20), 16)
    points = points.subset(np.arange(0, len(points), 5))
    straight, _ = forecaster(load_config(None, fields)[0], bars, *pair).means(points, RULES)
    np.testing.assert_array_equal(made, straight)
    np.testing.assert_array_equal(np.load("means.npy"), straight)
