"""The walk between Python values and JSON with a type map, for all that needs no annotation.

`pack` turns a value into plain JSON data and a *node* that says what JSON can't; `unpack` is its inverse. Nodes mirror
the data, so keys need no escaping:

    null / absent                 as JSON has it
    "uuid"                        a tag: what to make of the JSON here
    {"when": node, "0": node}     members (items by index) that have nodes; "*" in a list stands for every item
    ["tuple", {"1": "date"}]      a tag, and nodes of what is inside

Tags: tuple, set, frozenset, bytes (base64), datetime, date, time, timedelta (ISO 8601), uuid, decimal,
`datetime/fold@Europe/Berlin` (fold = 1 and the zone's key, each only if so; `time` likewise),
`enum:module:Class` (JSON has the value), `enum.name:module:Class` (it has the member's name), and `as:Class` for the
member of a union of models that only an annotation restores (`values`).
Once released a tag keeps its meaning for ever: values stored today are read by every later release.
"""

from __future__ import annotations

import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final, TypeAlias, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

Node: TypeAlias = "str | dict[str, Any] | list[Any] | None"
Enums: TypeAlias = Mapping[str, type[Enum]]
"""Enum classes that an annotation names, by "module:qualname"."""

DEPTH_MAX: Final = 200
"""Levels of lists and dicts in one value: recursion, here and in the libraries that read it, has an end."""
INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**64 - 1

_PLAIN: Final = frozenset({str, bool, type(None)})
_json = msgspec.json.Encoder()


class RefusedError(Exception):
    """A value can't be stored. `problem` completes "the value at $.a[0] ..."; the steps are added while unwinding."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self._steps: list[str] = []

    def at(self, step: str | int | None) -> RefusedError:
        self._steps.append(step_text(step))
        return self

    @property
    def path(self) -> str:
        steps = self._steps[::-1]
        return "$" + "".join(steps if len(steps) <= 20 else [*steps[:10], " ... ", *steps[-2:]])


def step_text(step: str | int | None) -> str:
    """One step of a path as messages show it: `.price`, `['two words']`, `[3]`, `[...]` for an item of a set."""
    if step is None:
        return "[...]"
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if step.isidentifier() else f"[{step!a}]"


def is_plain(value: Any, depth: int = 0) -> bool:
    """Whether JSON alone holds `value` exactly (lone surrogates aside, which the encoder finds)."""
    kind: Any = type(value)  # pyright: ignore[reportUnknownVariableType]  (a cast costs more than the check)
    if kind in _PLAIN:
        return True
    if kind is int:
        return INT_MIN <= value <= INT_MAX
    if kind is float:
        return value - value == 0
    if depth >= DEPTH_MAX:
        return False
    if kind is dict:
        for name, item in value.items():
            if type(name) is not str or (type(item) not in _PLAIN and not is_plain(item, depth + 1)):
                return False
        return True
    if kind is list:
        for item in value:  # noqa: SIM110  (a generator costs more than the check)
            if type(item) not in _PLAIN and not is_plain(item, depth + 1):
                return False
        return True
    return False


class Packer:
    """Packs values. `other(value)` is asked for what has no place here: it returns data to pack instead, or raises RefusedError.

    With `lossy`, values take the plain form that a schema at the other end will parse, and the nodes mean nothing.
    """

    def __init__(self, enums: Enums, other: Callable[[Any], Any], *, lossy: bool = False) -> None:
        self._enums = enums
        self._other = other
        self._lossy = lossy

    def pack(self, value: Any, depth: int = 0) -> tuple[Any, Node]:
        kind: Any = type(value)  # pyright: ignore[reportUnknownVariableType]  (a cast costs more than the check)
        if kind is str:
            return _text(value), None
        if kind is int:
            return _int(value), None
        if kind is bool or value is None:
            return value, None
        if kind is float:
            return _float(value), None
        if depth > DEPTH_MAX:
            raise RefusedError(
                f"is nested more than {DEPTH_MAX} levels deep, or contains itself; store it flat"
            )
        if isinstance(value, Enum):
            return self._enum(value, depth)
        if isinstance(value, dict):
            return self._dict(cast("dict[Any, Any]", value), depth)
        if isinstance(value, list):
            return self._items(list[Any].__iter__(cast("list[Any]", value)), depth)
        if isinstance(value, tuple) and not hasattr(kind, "_fields"):
            data, inside = self._items(tuple[Any, ...].__iter__(cast("tuple[Any, ...]", value)), depth)
            return data, _tagged("tuple", inside)
        if isinstance(value, (set, frozenset)):
            return self._set(cast("set[Any]", value), depth)
        leaf = _leaf(value)
        if leaf is not None:
            return leaf[0], None if self._lossy else leaf[1]
        return self.pack(self._other(value), depth + 1)

    def _dict(self, value: dict[Any, Any], depth: int) -> tuple[dict[str, Any], Node]:
        data: dict[str, Any] = {}
        nodes: dict[str, Any] = {}
        for name, item in dict[Any, Any].items(value):
            if not isinstance(name, str) or isinstance(name, Enum):
                raise RefusedError(
                    f"has the key {name!r} ({type(name).__name__}), but keys of stored dicts are strings: "
                    f"write {'its .value' if isinstance(name, Enum) else 'str(key)'}, or store a list of pairs"
                )
            try:
                text = _text(str.__str__(name))
                data[text], node = self.pack(item, depth + 1)
            except RefusedError as refused:
                raise refused.at(name) from None
            if node is not None:
                nodes[text] = node
        return data, nodes or None

    def _items(self, items: Any, depth: int) -> tuple[list[Any], Node]:
        data: list[Any] = []
        nodes: dict[str, Any] = {}
        for index, item in enumerate(items):
            try:
                packed, node = self.pack(item, depth + 1)
            except RefusedError as refused:
                raise refused.at(index) from None
            data.append(packed)
            if node is not None:
                nodes[str(index)] = node
        if len(nodes) == len(data) > 1:
            first = nodes["0"]
            if all(node == first for node in nodes.values()):
                return data, {"*": first}
        return data, nodes or None

    def _set(self, value: set[Any] | frozenset[Any], depth: int) -> tuple[list[Any], Node]:
        packed: list[tuple[bytes, Any]] = []
        for item in set[Any].__iter__(value) if isinstance(value, set) else frozenset[Any].__iter__(value):
            try:
                pair = self.pack(item, depth + 1)
            except RefusedError as refused:
                raise refused.at(None) from None
            packed.append((_json.encode(pair), pair))
        packed.sort(key=lambda entry: entry[0])
        nodes = {str(index): pair[1] for index, (_, pair) in enumerate(packed) if pair[1] is not None}
        data = [pair[0] for _, pair in packed]
        return data, _tagged("set" if isinstance(value, set) else "frozenset", nodes or None)

    def _enum(self, member: Enum, depth: int) -> tuple[Any, Node]:
        if self._lossy:
            return self.pack(member.value, depth + 1)
        cls = type(member)
        name = f"{cls.__module__}:{cls.__qualname__}"
        if self._enums.get(name) is not cls and _loaded_enum(name) is not cls:
            raise RefusedError(
                f"is a member of the enum {cls.__qualname__}, which can't be found again by its name in module "
                f"{cls.__module__}: define it at module level, or annotate '-> {cls.__name__}'"
            )
        value: Any = member.value
        if type(value) in (str, int) and is_plain(value) and _find_member(cls, value) is member:
            try:
                return _text(value) if type(value) is str else value, f"enum:{name}"
            except RefusedError:
                pass
        plain_name: Any = member.name
        if plain_name is None or cls.__members__.get(plain_name) is not member:
            raise RefusedError(
                f"is {member!r}, which is no named member of {cls.__qualname__}: store its .value"
            )
        return _text(plain_name), f"enum.name:{name}"


def unpack(data: Any, node: Node, enums: Enums) -> Any:
    """The value of JSON data (fresh: it is changed in place) and its node.

    Raises:
        RefusedError: an enum or a member of it isn't there, or the node doesn't belong to the data.
    """
    if node is None:
        return data
    if isinstance(node, str):
        return _restore(data, node, enums)
    if isinstance(node, list):
        tag, inside = node
        return _restore(unpack(data, inside, enums), tag, enums)
    if isinstance(data, list):
        items = cast("list[Any]", data)
        every = node.get("*")
        if every is not None:
            for index, item in enumerate(items):
                items[index] = _unpack_at(index, item, every, enums)
            return items
        for index_text, inside in node.items():
            index = int(index_text)
            items[index] = _unpack_at(index, items[index], inside, enums)
        return items
    for name, inside in node.items():
        data[name] = _unpack_at(name, data[name], inside, enums)
    return data


def _unpack_at(step: str | int, data: Any, node: Node, enums: Enums) -> Any:
    try:
        return unpack(data, node, enums)
    except RefusedError as refused:
        raise refused.at(step) from None


def _tagged(tag: str, inside: Node) -> Node:
    return tag if inside is None else [tag, inside]


def _text(value: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise RefusedError(
                "holds a lone surrogate, which is no character: clean it with "
                'value.encode("utf-8", "replace").decode(), or store bytes'
            ) from None
    return value


def _int(value: int) -> int:
    if not INT_MIN <= value <= INT_MAX:
        raise RefusedError(
            "is an int past 64 bits, which others can't read from JSON: store str(value) or Decimal(value)"
        )
    return value


def _float(value: float) -> float:
    if value - value != 0:
        raise RefusedError(f"is {value!r}, which JSON can't hold: store None or a string instead")
    return value


def _leaf(value: Any) -> tuple[Any, str | None] | None:
    """Data and tag of a scalar, subclasses as their base type; None for anything else."""
    # datetime before date, its base class. The unbound methods pass by what a subclass overrides (pandas.Timestamp).
    if isinstance(value, datetime):
        return datetime.isoformat(value), _moment_tag("datetime", value)
    if isinstance(value, date):
        return date.isoformat(value), "date"
    if isinstance(value, UUID):
        return str(value), "uuid"
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise RefusedError(f"is {value!r}, which is no number: store None or a string instead")
        return Decimal.__str__(value), "decimal"
    if isinstance(value, bytes):
        return b64encode(value).decode(), "bytes"
    if isinstance(value, timedelta):
        exact = timedelta(value.days, value.seconds, value.microseconds)
        return msgspec.to_builtins(exact), "timedelta"
    if isinstance(value, time):
        return time.isoformat(value), _moment_tag("time", value)
    if isinstance(value, str):
        return _text(str.__str__(value)), None
    if isinstance(value, int):
        return _int(int.__int__(value)), None
    if isinstance(value, float):
        return _float(float.__float__(value)), None
    return None


def _moment_tag(kind: str, value: datetime | time) -> str:
    zone = value.tzinfo
    tag = f"{kind}/fold" if value.fold else kind
    return f"{tag}@{zone.key}" if isinstance(zone, ZoneInfo) and cast("str | None", zone.key) else tag


def _restore(data: Any, tag: str, enums: Enums) -> Any:
    maker = _MAKERS.get(tag)
    if maker is not None:
        return maker(data)
    kind, _, rest = tag.partition(":")
    if kind == "enum":
        return _member(data, rest, enums, by_name=False)
    if kind == "enum.name":
        return _member(data, rest, enums, by_name=True)
    if kind == "as":  # a union of models, read without its annotation
        return data
    kind, _, key = tag.partition("@")
    if kind in ("datetime", "datetime/fold"):
        return _restore_datetime(data, int(kind != "datetime"), key)
    if kind in ("time", "time/fold"):
        clock = time.fromisoformat(data).replace(fold=int(kind != "time"))
        return clock.replace(tzinfo=_zone(key) or clock.tzinfo)
    raise RefusedError(
        f"was stored with the type {tag!r}, which this release of perdure doesn't know: upgrade it"
    )


def _restore_datetime(text: str, fold: int, key: str) -> datetime:
    exact = datetime.fromisoformat(text).replace(fold=fold)
    zone = _zone(key)
    if zone is None:
        return exact
    local = exact.replace(tzinfo=zone)
    # Time zone rules may have changed since (or differ here): the instant and its offset are the truth, the name is not.
    return local if local.utcoffset() == exact.utcoffset() else exact


def _zone(key: str) -> ZoneInfo | None:
    if not key:
        return None
    try:
        return ZoneInfo(key)
    except (KeyError, ValueError, OSError):
        return None


def _member(data: Any, name: str, enums: Enums, *, by_name: bool) -> Enum:
    module, _, qualname = name.partition(":")
    same_qualname = [cls for known, cls in enums.items() if known.partition(":")[2] == qualname]
    cls = enums.get(name) or (same_qualname[0] if len(same_qualname) == 1 else None) or _loaded_enum(name)
    if cls is None:
        raise RefusedError(
            f"was stored as a member of the enum {qualname} of module {module}, which isn't loaded here (perdure never "
            f"imports by a stored name): import it where the job is defined, or annotate '-> {qualname}'"
        )
    member = cls.__members__.get(data) if by_name else _find_member(cls, data)
    if member is None:
        raise RefusedError(
            f"was stored as {data!r} of the enum {qualname}, which has no such member now: add it again, then continue "
            "the run"
        )
    return member


def _find_member(cls: type[Enum], value: Any) -> Enum | None:
    try:
        return cls(value)
    except (ValueError, KeyError, TypeError):
        return None


def _loaded_enum(name: str) -> type[Enum] | None:
    """The enum class at "module:qualname" if its module has been imported by somebody; runs no code of theirs."""
    module, _, qualname = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    return found if isinstance(found, type) and issubclass(found, Enum) else None


_MAKERS: Final[dict[str, Callable[[Any], Any]]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "bytes": b64decode,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda text: msgspec.convert(text, timedelta),
    "uuid": UUID,
    "decimal": Decimal,
}
