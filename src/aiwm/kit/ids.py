"""Ids: a prefix and a part that sorts by birth and never comes twice."""

import os
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_TIME_BITS = 48
_RANDOM_BITS = 80


def new_id(prefix: str) -> str:
    """`prefix-` and 26 characters: 48 bits of milliseconds, then 80 random bits (the ULID layout, lower case)."""
    stamp = time.time_ns() // 1_000_000
    value = (stamp << _RANDOM_BITS) | int.from_bytes(os.urandom(_RANDOM_BITS // 8), "big")
    length = (_TIME_BITS + _RANDOM_BITS + 4) // 5
    return f"{prefix}-" + "".join(_ALPHABET[(value >> (5 * place)) & 31] for place in reversed(range(length)))
