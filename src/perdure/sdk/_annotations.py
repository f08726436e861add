"""What an annotation says about a value: whether a model has to restore it, and which enums may be in it."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing
from collections.abc import Awaitable, Coroutine
from enum import Enum
from types import UnionType
from typing import Annotated, Any, ForwardRef, Literal, TypeVar, Union, cast

import msgspec


class Unresolved(msgspec.Struct, frozen=True):
    """An annotation that can't be evaluated where it is needed, as its text: `Unresolved("Page")`."""

    text: str


@dataclasses.dataclass
class Survey:
    """What was found anywhere inside an annotation.

    Attributes:
        structured: a model, dataclass, Struct or NamedTuple is in it: plain JSON doesn't restore it.
        pydantic: something of it only pydantic understands.
        enums: enum classes by "module:qualname".
        unresolved: texts of names that don't resolve.
    """

    structured: bool = False
    pydantic: bool = False
    enums: dict[str, type[Enum]] = dataclasses.field(default_factory=dict[str, type[Enum]])
    unresolved: list[str] = dataclasses.field(default_factory=list[str])


def survey(annotation: Any) -> Survey:
    """Look through an annotation, and through the fields of what it names."""
    found = Survey()
    _visit(annotation, found, {})
    return found


def return_annotation(function: Any) -> Any:
    """What a function says it returns; None if it says nothing, `Unresolved` if its text can't be evaluated here.

    Only the return annotation is evaluated: a parameter that is imported under TYPE_CHECKING does no harm.
    """
    target: Any = function
    while hasattr(target, "func") and not hasattr(target, "__code__"):  # functools.partial
        target = target.func
    target = inspect.unwrap(getattr(target, "__func__", target))
    if not hasattr(target, "__code__"):
        target = getattr(cast("Any", type(target)), "__call__", target)  # noqa: B004  (its function is needed)
    try:
        annotation: Any = _raw_annotations(target).get("return")
    except NameError as exc:
        return Unresolved(str(exc.name))
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        annotation = _evaluate(annotation, target)
    origin = typing.get_origin(annotation)
    if origin is Awaitable or origin is Coroutine:
        annotation = typing.get_args(annotation)[-1]
    return annotation


def strip(annotation: Any) -> Any:
    """The annotation without aliases, NewType and Annotated around it."""
    while True:
        if hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        elif _is_alias(annotation):
            annotation = annotation.__value__
        elif typing.get_origin(annotation) is Annotated:
            annotation = typing.get_args(annotation)[0]
        else:
            return annotation


def union_members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; the annotation alone if it is none."""
    bare = strip(annotation)
    return typing.get_args(bare) if typing.get_origin(bare) in (Union, UnionType) else (annotation,)


def is_model(cls: type[Any]) -> bool:
    """Whether instances of `cls` are models in the sense of this package: they need an annotation to be restored."""
    return (
        dataclasses.is_dataclass(cls)
        or issubclass(cls, msgspec.Struct)
        or is_namedtuple(cls)
        or hasattr(cls, "__attrs_attrs__")
        or is_pydantic(cls)
    )


def is_namedtuple(cls: Any) -> bool:
    """Whether `cls` is a NamedTuple (other subclasses of tuple are stored as tuples)."""
    return issubclass(cls, tuple) and hasattr(cast("Any", cls), "_fields")


def is_pydantic(cls: Any) -> bool:
    """Whether pydantic has to be asked about `cls`; never imports it."""
    return "pydantic" in sys.modules and (
        hasattr(cls, "__pydantic_core_schema__") or hasattr(cls, "__get_pydantic_core_schema__")
    )


def _raw_annotations(function: Any) -> dict[str, Any]:
    if sys.version_info >= (3, 14):
        import annotationlib  # (does not exist before 3.14)

        return annotationlib.get_annotations(function, format=annotationlib.Format.FORWARDREF)
    return getattr(function, "__annotations__", {})


def _evaluate(text: str, function: Any) -> Any:
    names: dict[str, Any] = {}
    code: Any = getattr(function, "__code__", None)
    for name, cell in zip(
        getattr(code, "co_freevars", ()), getattr(function, "__closure__", None) or (), strict=False
    ):
        try:
            names[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    try:
        return eval(text, getattr(function, "__globals__", {}), names)  # noqa: S307  (an annotation of the user's own code)
    except Exception:  # noqa: BLE001  (whatever someone's expression raises: it only means that we don't know)
        return Unresolved(text)


def _is_alias(annotation: Any) -> bool:
    # typing.TypeAliasType exists from 3.12 on; typing_extensions has its own for 3.11.
    return type(annotation).__name__ == "TypeAliasType" and hasattr(annotation, "__value__")


def _visit(annotation: Any, found: Survey, seen: dict[int, Any]) -> None:
    if annotation is None or annotation is Any or id(annotation) in seen:
        return
    seen[id(annotation)] = annotation  # held, so that no other annotation gets its id meanwhile
    if isinstance(annotation, str):
        found.unresolved.append(annotation)
    elif isinstance(annotation, Unresolved):
        found.unresolved.append(annotation.text)
    elif isinstance(annotation, ForwardRef):
        found.unresolved.append(annotation.__forward_arg__)
    elif isinstance(annotation, TypeVar):
        _visit(annotation.__bound__, found, seen)
    elif _is_alias(annotation):
        _visit(annotation.__value__, found, seen)
    elif hasattr(annotation, "__supertype__"):
        _visit(annotation.__supertype__, found, seen)
    elif typing.get_origin(annotation) is not None:
        _visit_generic(annotation, found, seen)
    elif isinstance(annotation, type):
        _visit_class(cast("type[Any]", annotation), found, seen)


def _visit_generic(annotation: Any, found: Survey, seen: dict[int, Any]) -> None:
    origin: Any = typing.get_origin(annotation)
    args: tuple[Any, ...] = typing.get_args(annotation)
    if origin is Literal:
        for value in args:
            if isinstance(value, Enum):
                _visit(type(value), found, seen)
        return
    if origin is Annotated:
        if any(
            type(note).__module__.partition(".")[0] == "pydantic" or is_pydantic(note) for note in args[1:]
        ):
            found.structured = found.pydantic = True
        args = args[:1]
    elif origin not in (Union, UnionType):
        _visit(origin, found, seen)
    for arg in args:
        _visit(arg, found, seen)


def _visit_class(cls: type[Any], found: Survey, seen: dict[int, Any]) -> None:
    if issubclass(cls, Enum):
        found.enums[f"{cls.__module__}:{cls.__qualname__}"] = cls
        return
    if is_pydantic(cls):
        found.structured = found.pydantic = True
        return
    if is_model(cls):
        found.structured = True
    elif type(cls).__name__ != "_TypedDictMeta":  # typing's, and typing_extensions' own on 3.11
        return
    try:
        fields = typing.get_type_hints(cls, include_extras=True)
    except Exception:  # noqa: BLE001  (names that don't resolve: the model's library will say so)
        return
    for annotation in fields.values():
        _visit(annotation, found, seen)
