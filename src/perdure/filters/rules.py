"""What each operator takes, and when it holds: one table."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias, TypeGuard
from unicodedata import normalize

from .operators import Scalar

JsonFilter: TypeAlias = dict[str, Any]
"""As stored and sent: {"status": ["A"], "total": [{"$gt": 100}], "customer": {"vip": [true]}}."""

ABSENT: Final[Any] = object()


class _Rule(NamedTuple):
    takes: Callable[[Any], bool]
    holds: Callable[[Any, Any], bool]
    """`holds(value, operand)`, the operand being one that `takes` accepts."""
    operand: str
    """What it takes, for errors."""


def _is_text(value: Any) -> TypeGuard[str]:
    return isinstance(value, str)


def _is_flag(value: Any) -> TypeGuard[bool]:
    return isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[int | float]:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def is_scalar(value: Any) -> TypeGuard[Scalar]:
    return _is_text(value) or _is_flag(value) or is_number(value)


def is_object(value: Any) -> TypeGuard[JsonFilter]:
    return isinstance(value, dict)


def is_array(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_range(value: Any) -> bool:
    return is_array(value) and len(value) == 2 and all(map(is_number, value))


def _is_scalar_or_several(value: Any) -> bool:
    return is_scalar(value) or (is_array(value) and is_uniform(value))


def is_uniform(items: list[Any]) -> bool:
    return any(all(map(kind, items)) for kind in (_is_text, is_number, _is_flag))


def _equal(value: Any, scalar: Any) -> bool:
    # Python's True is 1, JSON's isn't.
    return is_scalar(value) and isinstance(value, bool) == isinstance(scalar, bool) and value == scalar


def is_one_of(value: Any, scalars: list[Any]) -> bool:
    return any(_equal(value, scalar) for scalar in scalars)


def _exists(value: Any, yes: Any) -> bool:
    return (value is not ABSENT) is yes


def _is_null(value: Any, yes: Any) -> bool:
    return (value is None) is yes


def _is_anything_but(value: Any, unwanted: Any) -> bool:
    return not is_one_of(value, unwanted if is_array(unwanted) else [unwanted])


def _is_between(value: Any, bounds: Any) -> bool:
    return is_number(value) and bounds[0] <= value <= bounds[1]


def _includes(value: Any, scalar: Any) -> bool:
    return is_array(value) and is_one_of(scalar, value)


def _is_not(value: Any, scalar: Any) -> bool:
    if is_array(value):
        return not is_one_of(scalar, value)
    return is_scalar(value) and not _equal(value, scalar)


def _equals_but_for_case(value: str, text: str) -> bool:
    return _folded(value) == _folded(text)


def _folded(text: str) -> str:
    # Canonical caseless matching (Unicode 3.13, D145): an accent typed apart from its letter is the same accent.
    return normalize("NFC", normalize("NFC", text).casefold())


def _on_text(holds: Callable[[str, str], bool]) -> _Rule:
    def holds_for_text(value: Any, text: Any) -> bool:
        return _is_text(value) and holds(value, text)

    return _Rule(_is_text, holds_for_text, "a string")


def _on_numbers(holds: Callable[[Any, Any], bool]) -> _Rule:
    def holds_for_numbers(value: Any, number: Any) -> bool:
        return is_number(value) and holds(value, number)

    return _Rule(is_number, holds_for_numbers, "a finite number")


_FLAG: Final = "true or false"
_SCALAR: Final = "a string, number or boolean"

OPERATORS: Final[dict[str, _Rule]] = {
    "$startsWith": _on_text(str.startswith),
    "$endsWith": _on_text(str.endswith),
    "$ignoreCaseEquals": _on_text(_equals_but_for_case),
    "$exists": _Rule(_is_flag, _exists, _FLAG),
    "$isNull": _Rule(_is_flag, _is_null, _FLAG),
    "$anythingBut": _Rule(
        _is_scalar_or_several, _is_anything_but, f"{_SCALAR}, or a list of strings, of numbers or of booleans"
    ),
    "$gt": _on_numbers(operator.gt),
    "$gte": _on_numbers(operator.ge),
    "$lt": _on_numbers(operator.lt),
    "$lte": _on_numbers(operator.le),
    "$between": _Rule(_is_range, _is_between, "a list of two numbers, the least and the greatest"),
    "$includes": _Rule(is_scalar, _includes, _SCALAR),
    "$not": _Rule(is_scalar, _is_not, _SCALAR),
}

TEXT_OPERATORS: Final = frozenset({"$startsWith", "$endsWith", "$ignoreCaseEquals"})
"""Those that patterns for headers and query parameters may have (Protocol, StringMatch)."""
