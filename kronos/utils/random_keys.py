"""Counter-based random numbers: a function of keys, independent of machine, order and batch composition.

The hash is the finalizer of splitmix64; integers wrap at 64 bits on purpose.
"""

from functools import lru_cache

import numpy as np

GOLDEN = np.uint64(
    0x9E3779B97F4A7C15
)  # the increment of splitmix64: 2**64 divided by the golden ratio, made odd


def mix(bits: np.ndarray) -> np.ndarray:
    """Hash a uint64 array in place and return it: a flipped input bit flips each output bit with probability 1/2."""
    scratch = bits >> np.uint64(30)
    bits ^= scratch
    bits *= np.uint64(0xBF58476D1CE4E5B9)
    np.right_shift(bits, np.uint64(27), out=scratch)
    bits ^= scratch
    bits *= np.uint64(0x94D049BB133111EB)
    np.right_shift(bits, np.uint64(31), out=scratch)
    bits ^= scratch
    return bits


def hash_keys(keys: np.ndarray) -> np.ndarray:
    """Hash each uint64 key into 64 random bits: one step of splitmix64 from the state `key`."""
    return mix(keys + GOLDEN)


def hash_counters(counters: np.ndarray, *key: int) -> np.ndarray:
    """Hash each uint64 counter into 64 random bits, keyed by integers such as (purpose, seed, epoch)."""
    return mix((counters + np.uint64(1)) * GOLDEN + combine(*key))


@lru_cache(maxsize=64)
def combine(*key: int) -> np.uint64:
    """Combine integers of 0 to 2**64 - 1 into one key; their order matters."""
    state = np.zeros(1, np.uint64)
    for part in key:
        state = mix(state * GOLDEN + np.uint64(part) + GOLDEN)
    return state[0]


def to_uniform(bits: np.ndarray) -> np.ndarray:
    """Convert random bits to float32 in [0, 1); `bits` is overwritten.

    The upper 24 bits are used, so that each value is exact in float32 and below 1.
    """
    bits >>= np.uint64(40)
    uniform = bits.astype(np.float32)
    uniform *= np.float32(2.0**-24)
    return uniform
