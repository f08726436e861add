"""From a filter as it is written in Python to its JSON form, with everything in it checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from perdure.errors import UsageError

from .operators import Filter, Operator
from .rules import OPERATORS, TEXT_OPERATORS, JsonFilter, is_number, is_scalar, is_uniform

METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
"""What the `method` of a request filter may list."""


def to_json_filter(filter: Filter, *, where: str = "filter") -> JsonFilter:
    """`filter` in its JSON form: operators written out, bare ones put in a list of one, tuples made lists.

    Raises:
        UsageError: as `check_filter`.
    """
    compiled: Any = _compiled(filter)
    check_filter(compiled, where=where)
    return compiled


def to_json_request_filter(filter: Mapping[str, Any], *, where: str = "filter") -> dict[str, Any]:
    """A request filter, as `matches_request` takes it, from one in whose `headers`, `query` and `body` operators are used.

    Raises:
        UsageError: as `check_request_filter`.
    """
    compiled = _compiled(filter)
    check_request_filter(compiled, where=where)
    return compiled


def to_json_response_filter(filter: Mapping[str, Any], *, where: str = "filter") -> dict[str, Any]:
    """A response filter, as `matches_response` takes it, from one in whose `headers` and `body` operators are used.

    Raises:
        UsageError: as `check_response_filter`.
    """
    compiled = _compiled(filter)
    check_response_filter(compiled, where=where)
    return compiled


def _compiled(pattern: Any) -> Any:
    if isinstance(pattern, Operator):
        return [_written_out(pattern)]
    if isinstance(pattern, Mapping):
        return {key: _compiled(nested) for key, nested in cast("Mapping[Any, Any]", pattern).items()}
    if isinstance(pattern, (list, tuple)):
        items = cast("Iterable[Any]", pattern)
        return [_written_out(item) if isinstance(item, Operator) else item for item in items]
    return [pattern] if is_scalar(pattern) else pattern


def _written_out(condition: Operator) -> JsonFilter:
    return {condition.name: condition.operand}


def check_filter(filter: Any, *, where: str = "filter") -> None:
    """Make sure that `filter` is an event filter in its JSON form.

    Args:
        filter: decoded JSON.
        where: what the message begins with; the path inside the filter follows: `filter.customer.email[0]`.

    Raises:
        UsageError: it is no object, or somewhere in it is an unknown operator, a list of mixed types, an operand of a wrong
            type, or a pattern that is neither a list nor an object.
    """
    for key, pattern in _keys(filter, where):
        path = f"{where}.{key}"
        if key in OPERATORS:
            raise UsageError(
                f"{path}: an operator stands in a list under the key it is about: "
                f'{{"total": [{{"{key}": ...}}]}}'
            )
        if isinstance(pattern, dict):
            check_filter(pattern, where=path)
        else:
            _check_list(pattern, path, OPERATORS.keys())


def check_request_filter(filter: Any, *, where: str = "filter") -> None:
    """Make sure that `filter` is a request filter: `method`, `headers`, `query` and `body`, each optional.

    Raises:
        UsageError: it isn't; the message begins with `where` and the path.
    """
    for key, part in _keys(filter, where):
        path = f"{where}.{key}"
        if key == "method":
            if not isinstance(part, list) or not all(
                item in sorted(METHODS) for item in cast("list[Any]", part)
            ):
                raise UsageError(
                    f"{path}: expected a list of methods out of {', '.join(sorted(METHODS))}, got {part!r}"
                )
        elif key in ("headers", "query"):
            _check_texts(part, path)
        elif key == "body":
            check_filter(part, where=path)
        else:
            raise UsageError(f"{path}: a request filter has method, headers, query and body, not {key!r}")


def check_response_filter(filter: Any, *, where: str = "filter") -> None:
    """Make sure that `filter` is a response filter: `status`, `headers` and `body`, each optional.

    Raises:
        UsageError: it isn't; the message begins with `where` and the path.
    """
    for key, part in _keys(filter, where):
        path = f"{where}.{key}"
        if key == "status":
            if not isinstance(part, list) or not all(map(is_number, cast("list[Any]", part))):
                raise UsageError(f"{path}: expected a list of status codes such as [200, 201], got {part!r}")
        elif key == "headers":
            _check_texts(part, path)
        elif key == "body":
            check_filter(part, where=path)
        else:
            raise UsageError(f"{path}: a response filter has status, headers and body, not {key!r}")


def _check_texts(filter: Any, where: str) -> None:
    for name, pattern in _keys(filter, where):
        path = f"{where}.{name}"
        _check_list(pattern, path, TEXT_OPERATORS)
        if not all(isinstance(item, (str, dict)) for item in pattern):
            raise UsageError(f"{path}: the value is text: compare it with strings, got {pattern!r}")


def _keys(filter: Any, where: str) -> Iterable[tuple[str, Any]]:
    if not isinstance(filter, dict):
        raise UsageError(f'{where}: expected an object such as {{"status": ["PAID"]}}, got {filter!r}')
    for key, pattern in cast("dict[Any, Any]", filter).items():
        if not isinstance(key, str):
            raise UsageError(f"{where}: keys are strings, got {key!r}")
        yield key, pattern


def _check_list(pattern: Any, path: str, operators: Iterable[str]) -> None:
    if not isinstance(pattern, list):
        hint = '; for null use is_null(), in JSON [{"$isNull": true}]' if pattern is None else ""
        raise UsageError(
            f"{path}: expected a list of values or operators, or an object, got {pattern!r}{hint}"
        )
    items = cast("list[Any]", pattern)
    if items and all(isinstance(item, dict) for item in items):
        for index, item in enumerate(items):
            _check_operators(item, f"{path}[{index}]", operators)
    elif not is_uniform(items):
        raise UsageError(
            f"{path}: a list has strings only, numbers only, booleans only, or operators only, got {items!r}"
        )


def _check_operators(item: JsonFilter, path: str, operators: Iterable[str]) -> None:
    if not item:
        raise UsageError(f"{path}: an operator is missing; there are {', '.join(sorted(operators))}")
    for name, operand in item.items():
        if name not in operators:
            raise UsageError(
                f"{path}: there is no operator {name!r} here; there are {', '.join(sorted(operators))}"
            )
        if not OPERATORS[name].takes(operand):
            raise UsageError(f"{path}: {name} takes {OPERATORS[name].operand}, got {operand!r}")
