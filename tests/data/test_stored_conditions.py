"""Conditions of stored bars: size buckets against an oracle, described from training rows alone, matched by name."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kronos.data import conditions
from kronos.data.bars import Flag
from kronos.data.store import BarStore
from kronos.utils.errors import UserError

Make = Callable[..., Any]
BARS = 20


@pytest.fixture
def store(make_bars: Make, make_store: Callable[..., BarStore]) -> BarStore:
    """25 instruments, each with a sector, a number that is missing at times, and volumes of its own size."""
    names = [f"I{number:02d}" for number in range(25)]
    raw = make_bars(80, names, {"I03": range(30)})
    place = raw["instrument"].str[1:].astype(int)
    raw["volume"] *= np.exp(0.3 * place)
    raw.loc[(place == 24) & (raw.groupby("instrument").cumcount() < 40), "volume"] = 0.0
    raw["extra:sector"] = pd.Categorical(np.where(place < 10, "bank", np.where(place < 20, "steel", "oil")))
    raw["extra:rate"] = np.where(np.arange(len(raw)) % 7 == 0, np.nan, place + 0.5)
    raw["flag"] = np.where(place == 5, np.uint8(Flag.NONMEMBER), np.uint8(0))
    return make_store(raw)


def test_size_buckets_are_tenths_of_the_mean_money_of_the_last_bars(store: BarStore) -> None:
    frame = store.frame(["amount", "flag", "session"]).assign(
        amount=lambda bars: bars["amount"].astype(float)
    )
    money = frame.groupby("instrument")["amount"].transform(
        lambda one: one.rolling(BARS, min_periods=1).mean()
    )
    member = (frame["flag"].to_numpy() & int(Flag.NONMEMBER)) == 0
    money = money.where(member & (money > 0))
    rank = money.groupby(frame["session"]).rank(method="min") - 1
    count = money.groupby(frame["session"]).transform("count")
    found = conditions.size_bucket(store, BARS)
    np.testing.assert_array_equal(found, (rank * 10 // count).astype("float32"))
    assert set(found[np.isfinite(found)]) == set(range(10)) and np.isnan(found).sum() > 80
    assert np.isnan(found[store.symbol_rows(5)]).all()


def test_equal_amounts_are_in_one_bucket(make_bars: Make, make_store: Callable[..., BarStore]) -> None:
    raw = make_bars(10, [f"I{number:02d}" for number in range(20)]).assign(volume=5.0, amount=5.0)
    assert set(conditions.size_bucket(make_store(raw), BARS)) == {0.0}


def test_later_bars_change_no_size_bucket_bit_for_bit(
    make_bars: Make, make_store: Callable[..., BarStore]
) -> None:
    raw = make_bars(60, [f"I{number:02d}" for number in range(12)])
    other = raw.copy()
    later = other["datetime"] > sorted(raw["datetime"].unique())[40]
    other.loc[later, "volume"] *= np.random.default_rng(1).lognormal(0, 3, int(later.sum())).round() + 1
    true, altered = (make_store(bars, name) for name, bars in (("true", raw), ("other", other)))
    one, two = (conditions.size_bucket(bars, BARS) for bars in (true, altered))
    early = true.session <= 40
    np.testing.assert_array_equal(one[early], two[early])
    assert (one[~early] != two[~early]).any()


def test_a_description_is_of_the_training_rows_alone_and_values_are_matched_by_name(store: BarStore) -> None:
    trained = np.flatnonzero((store.session < 50) & (store.instrument_of_row < 20))
    columns = conditions.describe(store, ["sector", "rate", "size_bucket", "close"], trained, BARS)
    rate = store.column("rate")[trained]
    rate = rate[np.isfinite(rate)].astype(float)
    assert columns[0] == {"name": "sector", "kind": "category", "categories": ["bank", "steel"]}
    assert columns[1] == {"name": "rate", "kind": "number", "mean": rate.mean(), "deviation": rate.std()}
    assert columns[2]["categories"] == [str(number) for number in range(1, 11)] and columns[2]["bars"] == BARS
    found = conditions.table(store, columns)
    words = store.frame(["sector"])["sector"].astype(object).to_numpy()
    expected = {"bank": 0.0, "steel": 1.0, "oil": np.nan}
    np.testing.assert_array_equal(found[:, 0], np.array([expected[word] for word in words], "float32"))
    np.testing.assert_array_equal(found[:, 1], store.column("rate"))
    np.testing.assert_array_equal(found[:, 2], conditions.size_bucket(store, BARS))
    np.testing.assert_array_equal(found[:, 3], store.values[:, 3])
    assert conditions.unknown_categories(store, columns) == {"sector": ["oil"]}
    other = [{"name": "beta", "kind": "number"}, {"name": "amt", "kind": "number"}]
    assert conditions.lacking(store, [*columns, *other]) == ["beta"]


def test_columns_that_cannot_be_used_are_refused_in_one_line(
    store: BarStore, make_bars: Make, make_store: Callable[..., BarStore]
) -> None:
    everything = np.arange(len(store))
    with pytest.raises(UserError, match=r"condition 'sectr' is not among the columns.*sector.*size_bucket"):
        conditions.describe(store, ["sectr"], everything, BARS)
    with pytest.raises(
        UserError, match="rate has numbers in the store, the predictor was trained on categories"
    ):
        conditions.table(store, [{"name": "rate", "kind": "category", "categories": ["a"]}])
    raw = make_bars(51, [f"I{number:02d}" for number in range(20)])
    raw["extra:id"] = pd.Categorical([f"id{number:04d}" for number in range(len(raw))])
    many = make_store(raw, "many")
    with pytest.raises(
        UserError, match="id has 1020 categories in the training range, expected at most 1000"
    ):
        conditions.describe(many, ["id"], np.arange(len(many)), BARS)
