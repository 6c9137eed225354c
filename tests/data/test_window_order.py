"""The windows of an epoch: every one before a repeat, as many of each group, and the same for any number of ranks."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kronos.config.sections import TrainingConfig
from kronos.data.splits import Split, make_split
from kronos.data.store import BarStore
from kronos.data.window_order import Groups, WindowOrder, epoch_order, group_windows
from kronos.distributed.device import Runtime
from kronos.training.dataloader import Feed, training_order
from kronos.training.settings import FitSettings, plan
from kronos.utils.errors import UserError

LOOKBACK, HORIZON = 10, 3
LENGTH = LOOKBACK + HORIZON + 1


class Numbers:
    """Windows whose batch is their numbers."""

    def __init__(self, count: int, groups: Groups | None) -> None:
        self.count, self.groups = count, groups

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: np.ndarray, epoch: int | None) -> Any:
        return [int(window) for window in indices]


def groups_of(sizes: list[int], seed: int = 0) -> Groups:
    label = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    names = tuple(f"group {place}" for place in range(len(sizes)))
    return Groups(names, label, np.zeros(len(sizes), bool))


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=5), budget=st.integers(1, 200),
    seed=st.integers(0, 2**31 - 1), grouped=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_coverage_uses_every_window_of_a_group_before_any_is_repeated(
    sizes: list[int], budget: int, seed: int, grouped: bool
) -> None:
    groups, count = groups_of(sizes), sum(sizes)
    order = WindowOrder(count, budget, seed, coverage=True, groups=groups if grouped else None)
    label = groups.of_window if grouped else np.zeros(count, int)
    epochs = [order.epoch(epoch) for epoch in range(12)]
    assert all(len(set(epoch.tolist())) == len(epoch) == order.per_epoch for epoch in epochs)
    for group in np.unique(label):
        used = [window for epoch in epochs for window in epoch.tolist() if label[window] == group]
        size = int((label == group).sum())
        passes = [used[start : start + size] for start in range(0, len(used), size)]
        assert all(len(set(one)) == len(one) for one in passes)


@given(
    n=st.integers(1, 300),
    budget=st.integers(1, 400),
    seed=st.integers(0, 2**31 - 1),
    epoch=st.integers(0, 40),
)
@settings(max_examples=60, deadline=None)
def test_a_shuffled_order_without_groups_and_with_a_single_one_is_the_order_of_before(
    n: int, budget: int, seed: int, epoch: int
) -> None:
    expected = epoch_order(n, budget, seed, epoch)
    assert np.array_equal(WindowOrder(n, budget, seed).epoch(epoch), expected)
    assert np.array_equal(WindowOrder(n, budget, seed, groups=groups_of([n])).epoch(epoch), expected)
    assert np.array_equal(
        WindowOrder(n, budget, seed).fixed(budget), epoch_order(n, min(n, budget), seed, None)
    )


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6), budget=st.integers(1, 300),
    older=st.integers(0, 5), fraction=st.sampled_from([0.0, 0.2, 0.5]),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_groups_share_an_epoch_equally_as_far_as_they_have_windows(
    sizes: list[int], budget: int, older: int, fraction: float
) -> None:
    flags = np.arange(len(sizes)) < min(older, len(sizes) - 1)
    groups = groups_of(sizes)
    fraction = fraction if flags.any() else 0.0
    found = Groups(groups.names, groups.of_window, flags, fraction).quotas(budget)
    counts = np.array(sizes)
    assert (found <= counts).all() and found.sum() <= budget
    for side in (flags, ~flags):
        full = found[side] == counts[side]
        if not full.all():
            rest = found[side][~full]
            assert rest.max() - rest.min() <= 1 and (found[side][full] <= rest.max() + 1).all()
    newer, replayed = int(found[~flags].sum()), int(found[flags].sum())
    if not fraction:
        assert replayed == 0 and newer == min(budget, counts[~flags].sum())
    else:
        whole = min(budget, int(counts[~flags].sum() / (1 - fraction)))
        assert replayed == min(round(fraction * whole), counts[flags].sum())
        assert newer == min(whole - replayed, counts[~flags].sum())


@pytest.mark.parametrize("window_order", ["shuffled", "coverage"])
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_and_threads_see_the_windows_of_one_process(window_order: str, world: int) -> None:
    groups = groups_of([30, 7, 19])
    source: Any = Numbers(56, groups)

    def steps(rank: int, ranks: int, workers: int) -> list[list[list[int]]]:
        training = TrainingConfig(
            window_order=window_order, n_train_iter=31, batch_size=12 // ranks, epochs=4, num_workers=workers
        )
        fit = FitSettings(training, 1e-3, 3.0)
        order = training_order(source, training)
        arithmetic = plan(fit, order, ranks)
        runtime = Runtime(torch.device("cpu"), rank=rank, world=ranks)
        feed = Feed(source, order, fit, arithmetic, runtime)
        found = [
            [batch for part, batch in feed.batches(step) if part.of_step]
            for step in range(arithmetic.total_steps)
        ]
        feed.close()
        return found

    alone = steps(0, 1, 0)
    assert steps(0, 1, 2) == alone
    ranks = [steps(rank, world, rank % 2) for rank in range(world)]
    for step, whole in enumerate(alone):
        together = [window for rank in ranks for batch in rank[step] for window in batch]
        assert sorted(together) == sorted(window for batch in whole for window in batch)


@pytest.fixture
def store(make_bars: Callable[..., pd.DataFrame], make_store: Callable[..., BarStore]) -> BarStore:
    """Twelve instruments over two and a half years; the money traded in one grows with its number."""
    names = [f"I{number:02d}" for number in range(12)]
    bars = make_bars(days=620, names=names)
    bars["volume"] *= 4.0 ** bars["instrument"].str[1:].astype(int).to_numpy()
    return make_store(bars)


def training_split(store: BarStore, until: date = date(2022, 3, 31)) -> Split:
    return make_split(
        store, "train", date(2020, 1, 1), until, lookback=LOOKBACK, horizon=HORIZON, length=LENGTH
    )


def first_forecasts(store: BarStore, split: Split) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(store.times[split.starts + LOOKBACK])


def test_years_have_the_same_number_of_windows_in_an_epoch(store: BarStore) -> None:
    split = training_split(store)
    groups = group_windows(store, split, LOOKBACK, balance="year", since=None, replay_fraction=0.0)
    assert groups is not None and groups.names == ("2020", "2021", "2022")
    years = first_forecasts(store, split).year.to_numpy()
    for epoch in range(3):
        chosen = WindowOrder(len(split), 300, 5, groups=groups).epoch(epoch)
        assert dict(zip(*np.unique(years[chosen], return_counts=True), strict=True)) == {
            2020: 100, 2021: 100, 2022: 100,
        }  # fmt: skip
    many = WindowOrder(len(split), 3000, 5, groups=groups)
    of_2022 = int((years == 2022).sum())
    assert of_2022 < 1000 and f"2022 {of_2022:,}" in many.text  # all that it has


def test_tenths_of_instruments_have_the_same_number_of_windows_and_see_no_later_bar(
    store: BarStore, make_bars: Callable[..., pd.DataFrame], make_store: Callable[..., BarStore]
) -> None:
    split = training_split(store, date(2021, 6, 30))
    ask: dict[str, Any] = {"balance": "size", "since": None, "replay_fraction": 0.0}
    groups = group_windows(store, split, LOOKBACK, **ask)
    assert groups is not None and groups.names == tuple(f"tenth {number}" for number in range(1, 11))
    assert WindowOrder(len(split), 400, 5, groups=groups).text.count(" 40") == 10
    of_instrument = {
        store.instruments[store.instrument_of_row[start]]: int(tenth)
        for start, tenth in zip(split.starts, groups.of_window, strict=True)
    }
    assert sorted(of_instrument.values()) == [of_instrument[name] for name in sorted(of_instrument)]
    later = store.times > pd.Timestamp("2021-06-30").value
    values = np.array(store.values)
    values[later, 5] = values[later, 5][::-1]  # other money after the range
    changed: Any = type(store)(**{
        name: getattr(store, name) for name in store.__dataclass_fields__
    } | {"values": values})  # fmt: skip
    again = group_windows(changed, split, LOOKBACK, **ask)
    assert again is not None and np.array_equal(again.of_window, groups.of_window)


def test_since_trains_on_later_windows_and_replays_a_share_of_older_ones(store: BarStore) -> None:
    split, since = training_split(store), date(2022, 1, 1)
    days = first_forecasts(store, split)
    newer = days >= pd.Timestamp(since)
    alone = group_windows(store, split, LOOKBACK, balance="none", since=since, replay_fraction=0.0)
    order = WindowOrder(len(split), 100_000, 5, groups=alone)
    assert sorted(order.epoch(0).tolist()) == np.flatnonzero(newer).tolist()
    assert newer[order.fixed(50)].all() and len(order.fixed(50)) == 50
    replayed = group_windows(store, split, LOOKBACK, balance="none", since=since, replay_fraction=0.25)
    order = WindowOrder(len(split), 200, 5, groups=replayed)
    epochs = [order.epoch(epoch) for epoch in range(3)]
    assert [int((~newer[epoch]).sum()) for epoch in epochs] == [50, 50, 50]
    both = group_windows(store, split, LOOKBACK, balance="year", since=since, replay_fraction=0.25)
    text = WindowOrder(len(split), 200, 5, groups=both).text
    assert text == "windows per epoch by group: 2020 older 25, 2021 older 25, 2022 150"
    for day, fraction, said in [
        (
            date(2022, 6, 1),
            0.0,
            "since 2022-06-01: no training window has its first forecast bar on that day",
        ),
        (date(2019, 1, 1), 0.5, "replay_fraction 0.5: no training window is older than since 2019-01-01"),
    ]:
        with pytest.raises(UserError, match=said):
            group_windows(store, split, LOOKBACK, balance="none", since=day, replay_fraction=fraction)


def test_replay_without_since_is_refused(tmp_path: Path) -> None:
    from kronos.config.loading import load_config

    with pytest.raises(UserError, match=r"replay_fraction: 0.2 needs since"):
        load_config(None, {"replay_fraction": "0.2"})
