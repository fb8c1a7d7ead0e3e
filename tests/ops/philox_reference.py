"""Philox4x32-10 in NumPy, as Random123 has it (https://github.com/DEShawResearch/random123)."""

import numpy as np

MASK = 0xFFFFFFFF


def philox(counter, key):
    """Ten rounds on four words of 32 bits (arrays of uint64) with a key of two; four words."""
    counter = [np.asarray(word, np.uint64) for word in counter]
    key = list(key)
    for _ in range(10):
        first = counter[0] * np.uint64(0xD2511F53)
        second = counter[2] * np.uint64(0xCD9E8D57)
        counter = [
            (second >> np.uint64(32)) ^ counter[1] ^ np.uint64(key[0]),
            second & np.uint64(MASK),
            (first >> np.uint64(32)) ^ counter[3] ^ np.uint64(key[1]),
            first & np.uint64(MASK),
        ]
        key = [(key[0] + 0x9E3779B9) & MASK, (key[1] + 0xBB67AE85) & MASK]
    return counter
