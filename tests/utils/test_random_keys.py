"""Random keys: pinned values, uniform to the last bit, and no input that is changed but where it is said."""

import numpy as np

from kronos.data.window_order import epoch_order
from kronos.data.windows import uniform_draws
from kronos.forecast import series_keys
from kronos.model.inference.sampling import keyed_uniforms
from kronos.utils.files import digest_bytes
from kronos.utils.random_keys import GOLDEN, combine, hash_counters, hash_keys, mix, to_uniform


def test_the_hash_is_splitmix64() -> None:
    """The first numbers of the generator from state 0, as its authors publish them."""
    states = np.arange(3, dtype=np.uint64) * GOLDEN
    assert [f"{number:016x}" for number in hash_keys(states)] == [
        "e220a8397b1dcdaf",
        "6e789e6aa1b965f4",
        "06c45d188009454f",
    ]


def test_draws_are_pinned() -> None:
    """Resumed runs, other machines and published forecasts draw the same numbers: these may not change."""
    assert epoch_order(12, 12, 100, 3).tolist() == [2, 7, 1, 3, 10, 5, 6, 0, 11, 4, 8, 9]
    assert epoch_order(1000, 5, 7, None).tolist() == [234, 657, 711, 833, 891]
    assert keyed_uniforms(2**63, np.array([2**40]), 2, 1).tolist() == [
        [[[0.5276551842689514, 0.7251560688018799]], [[0.46490317583084106, 0.943455159664154]]]
    ]
    times = np.array([1718668800 * 10**9, 0])
    assert series_keys(["SH600519", "AAPL"], times).tolist() == [4250780889383244928, 1106239200123944960]
    for drawn, digest in (
        (epoch_order(5000, 5000, 1, 9), "4fc14ca2f22be17f"),
        (uniform_draws(1, 2, np.arange(300), 128), "a4ce7656906ef904"),
        (keyed_uniforms(11, np.arange(-50, 50) * 10**12, 5, 7), "9b6627103563f9e4"),
    ):
        assert digest_bytes(drawn.tobytes())[:16] == digest


def test_flipping_any_bit_of_a_key_flips_half_of_the_hash() -> None:
    keys = np.random.default_rng(1).integers(0, 2**63, 2000).astype(np.uint64)
    for bit in range(64):
        flipped = hash_keys(keys) ^ hash_keys(keys ^ np.uint64(1 << bit))
        share = np.unpackbits(flipped.view(np.uint8)).mean()
        assert abs(share - 0.5) < 0.01, bit


def test_hashes_of_keys_and_counters_leave_their_input_as_it_was() -> None:
    numbers = np.arange(5, dtype=np.uint64)
    hash_keys(numbers), hash_counters(numbers, 1, 2)
    assert numbers.tolist() == [0, 1, 2, 3, 4]
    assert mix(numbers) is numbers and numbers.tolist() != [0, 1, 2, 3, 4]


def test_keys_are_told_apart_by_value_order_and_length() -> None:
    keys = [(), (0,), (0, 0), (1, 2), (2, 1), (1, 2, 0), (2**64 - 1,)]
    assert len({int(combine(*key)) for key in keys}) == len(keys)


def test_uniforms_are_below_one_and_exact_in_float32() -> None:
    extremes = to_uniform(np.array([0, 2**64 - 1], np.uint64))
    assert extremes.dtype == np.float32 and extremes.tolist() == [0.0, 1 - 2.0**-24]
