"""Random numbers as pure functions of keys: splitmix64's counter-based hashing, the same on any machine."""

from functools import lru_cache

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # constants of the generator splitmix64
_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def mix(bits: np.ndarray) -> np.ndarray:
    """Apply splitmix64's finalizer to uint64, in place, and return it: a flipped input bit spreads over all 64."""
    scratch = bits >> np.uint64(30)
    bits ^= scratch
    bits *= _FACTORS[0]
    np.right_shift(bits, np.uint64(27), out=scratch)
    bits ^= scratch
    bits *= _FACTORS[1]
    np.right_shift(bits, np.uint64(31), out=scratch)
    bits ^= scratch
    return bits


def step(bits: np.ndarray) -> np.ndarray:
    """One step of splitmix64: add the constant and mix; returns a new uint64 array (sums wrap on purpose)."""
    return mix(np.atleast_1d(bits) + GOLDEN).reshape(np.shape(bits))


def keyed_hash(counters: np.ndarray, *keys: int) -> np.ndarray:
    """64 bits for each uint64 counter, keyed by whole numbers."""
    return mix((counters + np.uint64(1)) * GOLDEN + _key(keys))


def to_uniform(bits: np.ndarray) -> np.ndarray:
    """float32 in [0, 1) from the upper 24 bits of uint64: each value is exact and below 1."""
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


@lru_cache(maxsize=64)
def _key(keys: tuple[int, ...]) -> np.uint64:
    state = np.zeros(1, np.uint64)
    for part in keys:
        state = mix(state * GOLDEN + np.uint64(part) + GOLDEN)
    return state[0]
