"""Damage bytes and JSON values as accidents and hostile hands do, by a seeded generator."""

import copy
import json
import random
from typing import Any

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**53,
    2**63,
    -(2**63),
    10**400,
    0.5,
    -0.0,
    1e308,
    5e-324,
    "",
    " ",
    "a",
    "x" * 20_000,
    "../../../etc/passwd",
    "a\0b",
    "\ud800",
    "\u202e",
    [],
    {},
    [[]],
    {"": None},
    [None] * 50,
)


def rng(seed: int, part: str, number: int) -> random.Random:
    """Return the generator of one case."""
    return random.Random(f"{seed}/{part}/{number}")


def mutate_bytes(data: bytes, dice: random.Random, others: list[bytes]) -> bytes:
    """Return damaged bytes: one to four of the ways in which files go bad."""
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        data = dice.choice(_WAYS)(data, dice, others)
    return data


def _place(data: bytes, dice: random.Random) -> int:
    """Return a place in the bytes, in half of all cases near the beginning, where headers are."""
    return dice.randrange(max(1, min(len(data), 200) if dice.random() < 0.5 else len(data)))


def _flip(data: bytes, dice: random.Random, others: list[bytes]) -> bytes:
    found = bytearray(data)
    for _ in range(dice.choice((1, 1, 3, 10, 100))):
        if found:
            found[_place(data, dice)] ^= 1 << dice.randrange(8)
    return bytes(found)


def _cut(data: bytes, dice: random.Random, others: list[bytes]) -> bytes:
    return data[: dice.randrange(len(data) + 1)]


def _behead(data: bytes, dice: random.Random, others: list[bytes]) -> bytes:
    return data[_place(data, dice) :]


def _blank(data: bytes, dice: random.Random, others: list[bytes]) -> bytes:
    at, size = _place(data, dice), dice.choice((1, 4, 64, 1024))
    return data[:at] + dice.choice((b"\0", b"\xff"))[:1] * len(data[at : at + size]) + data[at + size :]


def _number(data: bytes, dice: random.Random, others: list[bytes]) -> bytes:
    at, size = _place(data, dice), dice.choice((1, 2, 4, 8))
    value = (dice.choice(EXTREMES) & (256**size - 1)).to_bytes(size, dice.choice(("little", "big")))
    return data[:at] + value + data[at + size :]


def _insert(data: bytes, dice: random.Random, others: list[bytes]) -> bytes:
    at = _place(data, dice)
    return data[:at] + dice.randbytes(dice.choice((1, 3, 16, 500))) + data[at:]


def _repeat(data: bytes, dice: random.Random, others: list[bytes]) -> bytes:
    at, size = _place(data, dice), dice.choice((4, 32, 500))
    return data[:at] + data[at : at + size] * dice.choice((2, 5, 50)) + data[at + size :]


def _remove(data: bytes, dice: random.Random, others: list[bytes]) -> bytes:
    at = _place(data, dice)
    return data[:at] + data[at + dice.choice((1, 4, 100)) :]


def _splice(data: bytes, dice: random.Random, others: list[bytes]) -> bytes:
    other = dice.choice(others)
    return data[: _place(data, dice)] + other[_place(other, dice) :]


_WAYS = (_flip, _flip, _cut, _behead, _blank, _number, _number, _insert, _repeat, _remove, _splice)


def mutate_json(value: Any, dice: random.Random) -> Any:
    """Return a JSON value in which one or a few places were changed."""
    value = copy.deepcopy(value)
    for _ in range(dice.choice((1, 1, 2, 3))):
        value = _change(value, dice)
    return value


def _change(value: Any, dice: random.Random) -> Any:
    """Change a random place of a JSON value, itself or something in it."""
    if isinstance(value, dict) and value and dice.random() < 0.85:
        key = dice.choice(list(value))
        way = dice.random()
        if way < 0.1:
            del value[key]
        elif way < 0.2:
            value[dice.choice((key + "x", "", "x" * 5000, key.upper()))] = value[key]
        else:
            value[key] = _change(value[key], dice)
        return value
    if isinstance(value, list) and value and dice.random() < 0.7:
        at = dice.randrange(len(value))
        way = dice.random()
        if way < 0.15:
            del value[at]
        elif way < 0.3:
            value.insert(at, value[at])
        else:
            value[at] = _change(value[at], dice)
        return value
    if isinstance(value, int) and not isinstance(value, bool) and dice.random() < 0.5:
        return dice.choice((-value, value + 1, value * 2, value // 2, 0))
    return copy.deepcopy(dice.choice(VALUES))


def dumps(value: Any) -> str:
    """Return a value as JSON; numbers may be longer than Python converts unasked."""
    import sys

    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(value)
    finally:
        sys.set_int_max_str_digits(limit)
