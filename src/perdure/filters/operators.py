"""The operators of filters, as they are written in Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

Scalar: TypeAlias = str | int | float | bool

Filter: TypeAlias = Mapping[str, Any]
"""As written in Python: {"status": ["A"], "total": gt(100), "customer": {"vip": [True]}}. A bare operator or scalar is a list
of one."""


class Operator(msgspec.Struct, frozen=True):
    """One condition on a value; made by the functions below."""

    name: str
    operand: Any


def starts_with(prefix: str) -> Operator:
    """The value is a string that begins with `prefix`."""
    return Operator("$startsWith", prefix)


def ends_with(suffix: str) -> Operator:
    """The value is a string that ends in `suffix`."""
    return Operator("$endsWith", suffix)


def ignore_case_equals(text: str) -> Operator:
    """The value is a string equal to `text` but for case; accents count ("É" is "é" and isn't "e")."""
    return Operator("$ignoreCaseEquals", text)


def exists(yes: bool = True) -> Operator:
    """The key is there, if only with null; `exists(False)`: it isn't."""
    return Operator("$exists", yes)


def is_null(yes: bool = True) -> Operator:
    """The value is null; `is_null(False)`: it isn't, or the key is absent."""
    return Operator("$isNull", yes)


def anything_but(*values: Scalar) -> Operator:
    """The value is none of `values`; an absent one isn't either."""
    return Operator("$anythingBut", values[0] if len(values) == 1 else list(values))


def gt(number: int | float) -> Operator:
    """The value is a number greater than `number`."""
    return Operator("$gt", number)


def gte(number: int | float) -> Operator:
    """The value is a number not less than `number`."""
    return Operator("$gte", number)


def lt(number: int | float) -> Operator:
    """The value is a number less than `number`."""
    return Operator("$lt", number)


def lte(number: int | float) -> Operator:
    """The value is a number not greater than `number`."""
    return Operator("$lte", number)


def between(low: int | float, high: int | float) -> Operator:
    """The value is a number from `low` to `high`, both included."""
    return Operator("$between", [low, high])


def includes(value: Scalar) -> Operator:
    """The value is an array that contains `value`."""
    return Operator("$includes", value)


def not_(value: Scalar) -> Operator:
    """The value is an array without `value`, or a string, number or boolean other than it.

    Unlike `anything_but` it holds for nothing else: not for null, an object, or what is absent.
    """
    return Operator("$not", value)
