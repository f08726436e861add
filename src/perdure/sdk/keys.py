"""Idempotency keys, byte for byte as the v2 SDK makes them (Protocol, idempotency key), and the ids derived from them.

A key is a string, or a list of JSON parts. What is hashed is `run id:parent id:part:part...`, where a string stands for
itself and everything else for its stable JSON: JavaScript's `JSON.stringify` with the object keys in a fixed order.
Numbers therefore print as JavaScript prints them (`1.0` is `1`), but ints of any size keep all their digits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from hashlib import sha256
from json.encoder import encode_basestring
from typing import Any, TypeAlias, cast

from perdure.errors import LimitExceededError, UsageError
from perdure.ids import TaskId, task_id
from perdure.limits import DEFAULT_LIMITS

Key: TypeAlias = str | Sequence[Any]
"""A task key: a string, or a list or tuple of strings, numbers, booleans, None, lists and dicts of these."""

_DEPTH_MAX = 100
_SAFE = 2**53


def idempotency_key(
    run_id: str, parent_id: str | None, key: Key, *, chars_max: int = DEFAULT_LIMITS.key_chars_max
) -> str:
    """The 64 hex characters by which a task of a run is found. Errors as for `task_ids`."""
    return task_ids(run_id, parent_id, key, chars_max)[0]


def task_ids(
    run_id: str, parent_id: str | None, key: Key, chars_max: int = DEFAULT_LIMITS.key_chars_max
) -> tuple[str, TaskId]:
    """The idempotency key of a task, and its id, which follows from it: the same task has the same id in every execution.

    Hot. `parent_id` is None outside every task.

    Raises:
        UsageError: the key is empty, holds a NUL or a lone surrogate, or a part of it is no JSON value.
        LimitExceededError: it is longer than `chars_max` characters.
    """
    text = key if type(key) is str else _joined(key)
    if not text or len(text) > chars_max or "\0" in text:
        _refuse(text, key, chars_max)
    try:
        digest = sha256(f"{run_id}:{parent_id or ''}:{text}".encode()).digest()
    except UnicodeEncodeError:
        raise UsageError(
            f"the key {key!r} holds a lone surrogate, which is no character; remove it"
        ) from None
    return digest.hex(), task_id(digest)


def display_key(key: Key) -> str:
    """The key as people read it: the string itself, or JSON for a list (`["fetch", 3]`)."""
    if isinstance(key, str):
        return key
    if not isinstance(key, (list, tuple)):  # refused, by the error that it is for every task
        return _joined(key)
    return json.dumps(list(key), ensure_ascii=False)


def _joined(key: Any) -> str:
    if isinstance(key, str):
        return str.__str__(key)
    if not isinstance(key, (list, tuple)):
        raise UsageError(
            f"a key is a string, or a list of strings, numbers and other JSON values, not {key!r} "
            f"({type(key).__name__}); write str(...) of it, or [it]"
        )
    parts = cast("list[Any] | tuple[Any, ...]", key)
    if not parts:
        raise UsageError("a key can't be an empty list")
    for part in parts:
        if isinstance(part, str) and "\0" in part:
            raise UsageError(f"the key {key!r} holds a NUL character; remove it")
    return ":".join([part if type(part) is str else _text(part, parts) for part in parts])


def _refuse(text: str, key: Key, chars_max: int) -> None:
    if not text:
        raise UsageError("a key can't be empty: name the step, like 'charge card'")
    if "\0" in text:
        raise UsageError(f"the key {key!r} holds a NUL character; remove it")
    raise LimitExceededError(
        what=f"the length of the key {text[:40]!r}...",
        size=len(text),
        limit=chars_max,
        setting="limits.key_chars_max",
    )


def _text(part: Any, key: Any) -> str:
    if isinstance(part, str):
        return str.__str__(part)
    return _stable_json(part, key, 0)


def _stable_json(value: Any, key: Any, depth: int) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return encode_basestring(value)
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return _js_number(float.__float__(value), key)
    if depth >= _DEPTH_MAX:
        raise UsageError(f"a part of a key is nested more than {_DEPTH_MAX} levels deep, or contains itself")
    if isinstance(value, (list, tuple)):
        items = cast("list[Any] | tuple[Any, ...]", value)
        return f"[{','.join([_stable_json(item, key, depth + 1) for item in items])}]"
    if isinstance(value, dict):
        fields = cast("dict[Any, Any]", value)
        if not all(isinstance(name, str) for name in fields):
            raise UsageError(f"a dict in the key {key!r} has a key that is no string; write str(...) of it")
        return (
            "{"
            + ",".join(
                f"{encode_basestring(name)}:{_stable_json(fields[name], key, depth + 1)}"
                for name in sorted(fields, key=_property_order)
            )
            + "}"
        )
    raise UsageError(
        f"a key is made of strings, numbers, booleans, None, lists and dicts; {value!r} ({type(value).__name__}) "
        "is none of these: write str(...) of it, or one of its attributes"
    )


def _property_order(name: str) -> tuple[int, int, bytes]:
    """ECMAScript, OrdinaryOwnPropertyKeys: array indices first, by number; the others by UTF-16 code unit here."""
    if name.isascii() and name.isdigit() and (name == "0" or name[0] != "0") and len(name) <= 10:
        number = int(name)
        if number < 2**32 - 1:
            return (0, number, b"")
    return (1, 0, name.encode("utf-16-be", "surrogatepass"))


def _js_number(value: float, key: Key) -> str:
    """ECMAScript, Number::toString: the shortest digits, plain between 1e-6 and 1e21, else with an exponent."""
    if value - value != 0:
        raise UsageError(f"the key {key!r} holds {value!r}, which is no JSON number")
    if value == 0:
        return "0"
    if value.is_integer() and abs(value) < _SAFE:
        return str(int(value))
    sign, figures, exponent = Decimal(repr(value)).as_tuple()
    point = len(figures) + cast("int", exponent)
    digits = "".join(map(str, figures)).rstrip("0")
    if 0 < point <= 21:
        text = digits.ljust(point, "0") if point >= len(digits) else f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        mantissa = digits if len(digits) == 1 else f"{digits[0]}.{digits[1:]}"
        text = f"{mantissa}e{'+' if point > 0 else '-'}{abs(point - 1)}"
    return f"-{text}" if sign else text
