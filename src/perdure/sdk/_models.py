"""Models, dataclasses, Structs and NamedTuples as their own libraries code them: pydantic's if it is involved, else msgspec.

pydantic is never imported unless the program already has; `dump` gives JSON data that still has to be checked (NaN, size).
"""

from __future__ import annotations

import dataclasses
import re
import sys
from typing import Any, Protocol, cast

import msgspec

from ._annotations import is_model, is_namedtuple, is_pydantic
from ._pack import RefusedError, step_text


class Adapter(Protocol):
    """Codes the values of one annotation. Every method raises MisfitError, or RefusedError for what can't be dumped."""

    def dump(self, value: Any) -> Any:
        """JSON data of a value of the type."""
        ...

    def load(self, text: str) -> Any:
        """The value of JSON text, validated."""
        ...

    def convert(self, data: Any) -> Any:
        """The value of Python data (in which dates, sets and so on are themselves), validated."""
        ...

    def schema(self) -> dict[str, Any]:
        """JSON schema of the type."""
        ...


class MisfitError(Exception):
    """A value doesn't fit a type. `issues`: [{"path": ["items", 3, "price"], "message": "..."}], at least one."""

    def __init__(self, issues: list[dict[str, Any]]) -> None:
        super().__init__(issues)
        self.issues = issues

    @property
    def path(self) -> str:
        return "$" + "".join(step_text(step) for step in self.issues[0]["path"])

    @property
    def problem(self) -> str:
        more = f" (and {len(self.issues) - 1} more)" if len(self.issues) > 1 else ""
        return f"{self.issues[0]['message']}{more}"


class UnsupportedTypeError(Exception):
    """Neither library can code an annotation; the message says why."""


def adapter_for(annotation: Any, *, pydantic: bool) -> Adapter:
    """The adapter of an annotation; `pydantic` says that something in it needs pydantic.

    Raises:
        UnsupportedTypeError: it can't be coded.
    """
    if pydantic:
        return _PydanticAdapter(annotation)
    try:
        return _MsgspecAdapter(annotation)
    except UnsupportedTypeError:
        # Unions of dataclasses, enums of odd values: pydantic does them, but only if the program has it anyway.
        if "pydantic" in sys.modules:
            return _PydanticAdapter(annotation)
        raise


def jsonable(value: Any) -> Any:
    """Plainer data for a model without its annotation: what a schema at the receiving end parses."""
    cls = cast("type[Any]", type(value))
    serializer = getattr(cls, "__pydantic_serializer__", None)
    try:
        if serializer is not None and hasattr(serializer, "to_python"):
            return serializer.to_python(value, mode="json", by_alias=True, warnings="error")
        if is_pydantic(cls):
            return _PydanticAdapter(cls).dump(value)
    except Exception as exc:  # pydantic runs the user's own serializers, which may raise anything
        raise RefusedError(f"is a {cls.__name__} that can't be turned into JSON: {exc}") from exc
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, msgspec.Struct):
        config = value.__struct_config__
        names = zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True)
        data = {encoded: getattr(value, name) for name, encoded in names}
        tagged = {config.tag_field: config.tag} if config.tag_field is not None else {}
        return list(data.values()) if config.array_like else tagged | data
    if isinstance(value, tuple):
        return list(cast("tuple[Any, ...]", value))
    if hasattr(cls, "__attrs_attrs__"):
        return {field.name: getattr(value, field.name) for field in cls.__attrs_attrs__}
    raise RefusedError(refusal(value))


def refusal(value: Any, unresolved: list[str] | None = None) -> str:
    """Why a value of this kind isn't stored without help, and what to write instead."""
    cls = cast("type[Any]", type(value))
    name = cls.__name__
    if unresolved and is_model(cls):
        return (
            f"is a {name}, and the return annotation {unresolved[0]!r} can't be evaluated: import its names outside "
            f"TYPE_CHECKING and at module level, or pass output={name}"
        )
    if is_namedtuple(cls):
        return f"is a named tuple: annotate '-> {name}' or pass output={name}, or return tuple(...) of it"
    if is_model(cls):
        return (
            f"is a {name}, which only its type can restore: annotate the function with the type of all that it "
            f"returns ('-> {name}', '-> list[{name}]') or pass it as output={name}"
        )
    if isinstance(value, (bytearray, memoryview)):
        return f"is a {name}, which may still change: store bytes(...) of it"
    if hasattr(value, "__await__"):
        if hasattr(value, "close"):
            value.close()  # or it complains, at some other time, that nobody awaited it
        return f"is a {name} that nobody awaited: did you forget 'await'?"
    if hasattr(value, "__next__") or hasattr(value, "__anext__"):
        return f"is a {name}, which can be read only once: store list(...) of it"
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return f"is the {'class' if isinstance(value, type) else 'function'} {value.__qualname__}: did you mean to call it?"
    if hasattr(value, "item") and hasattr(value, "tolist"):
        return f"is a {cls.__module__}.{name}: store value.tolist(), or int(value) or float(value) of it"
    return (
        f"is a {cls.__module__}.{name}, which can't be stored: return plain data (numbers, strings, lists, dicts), or a "
        "dataclass or model and annotate it"
    )


def difference(before: Any, after: Any, path: str = "$") -> str:
    """Path of the first place at which two unequal values part: `$.items[3].token`."""
    cls = cast("type[Any]", type(before))
    if cls is not type(after):
        return path
    pairs: list[tuple[str, Any, Any]] = []
    if isinstance(before, dict):
        fields = cast("dict[Any, Any]", before)
        pairs = [(step_text(str(key)), item, after.get(key, _MISSING)) for key, item in fields.items()]
    elif isinstance(before, (list, tuple)):
        items = cast("list[Any]", before)
        pairs = [(step_text(i), a, b) for i, (a, b) in enumerate(zip(items, after, strict=False))]
    elif is_model(cls):
        names: Any = getattr(before, "__struct_fields__", None) or list(getattr(before, "__dict__", {}))
        pairs = [(step_text(name), getattr(before, name), getattr(after, name, _MISSING)) for name in names]
    for step, a, b in pairs:
        if unequal(a, b):
            return difference(a, b, path + step)
    return path


def unequal(before: Any, after: Any) -> bool:
    """Whether two values are known to differ; those that can't be compared (arrays, say) are given the benefit."""
    try:
        return bool(before != after)
    except Exception:  # noqa: BLE001  (__eq__ of the user's own classes)
        return False


_MISSING = object()


class _PydanticAdapter:
    def __init__(self, annotation: Any) -> None:
        import pydantic  # (optional, and slow to import)

        self._pydantic = pydantic
        # From 2.11 on a model can be written and read by its field names, whatever its aliases say.
        by_name = tuple(map(int, pydantic.VERSION.split(".")[:2])) >= (2, 11)
        self._reading: dict[str, Any] = {"by_alias": False, "by_name": True} if by_name else {}
        self._writing: dict[str, Any] = {"by_alias": not by_name}
        try:
            self._adapter: Any = pydantic.TypeAdapter(annotation)
            if not getattr(
                self._adapter, "pydantic_complete", True
            ):  # it has put off names that don't resolve
                self._adapter.rebuild(raise_errors=True)
        except Exception as exc:  # schema building runs the user's own hooks
            raise UnsupportedTypeError(f"pydantic can't handle {annotation!r}: {_first_line(exc)}") from exc

    def dump(self, value: Any) -> Any:
        try:
            return self._adapter.dump_python(
                value, mode="json", round_trip=True, warnings="error", **self._writing
            )
        except Exception as exc:  # pydantic runs the user's own serializers, which may raise anything
            raise MisfitError([_serializer_issue(str(exc))]) from exc

    def load(self, text: str) -> Any:
        try:
            return self._adapter.validate_json(text, **self._reading)
        except self._pydantic.ValidationError as exc:
            raise MisfitError(_pydantic_issues(exc)) from exc

    def convert(self, data: Any) -> Any:
        try:
            return self._adapter.validate_python(data, **self._reading)
        except self._pydantic.ValidationError as exc:
            raise MisfitError(_pydantic_issues(exc)) from exc

    def schema(self) -> dict[str, Any]:
        return self._adapter.json_schema()


class PydanticPayload(_PydanticAdapter):
    """The same for what arrives from outside: by alias, as the model itself says."""

    def __init__(self, annotation: Any) -> None:
        super().__init__(annotation)
        self._reading = {}
        self._writing = {"by_alias": True}


class _MsgspecAdapter:
    def __init__(self, annotation: Any) -> None:
        self._annotation = annotation
        try:
            self._decoder: Any = msgspec.json.Decoder(annotation, dec_hook=_unknown)
        except (TypeError, NameError, AttributeError) as exc:
            raise UnsupportedTypeError(
                f"msgspec can't handle {annotation!r} ({_first_line(exc)}); pydantic, once imported, may"
            ) from exc

    def dump(self, value: Any) -> Any:
        try:
            return msgspec.to_builtins(value, str_keys=True, enc_hook=_no_encoding)
        except RecursionError:
            raise RefusedError("is nested too deep, or contains itself; store it flat") from None
        except (TypeError, ValueError, AttributeError) as exc:
            raise MisfitError([{"path": [], "message": _first_line(exc)}]) from exc

    def load(self, text: str) -> Any:
        try:
            return self._decoder.decode(text)
        except msgspec.ValidationError as exc:
            raise MisfitError([_msgspec_issue(str(exc))]) from exc

    def convert(self, data: Any) -> Any:
        try:
            return msgspec.convert(data, self._annotation, str_keys=True, dec_hook=_unknown)
        except msgspec.ValidationError as exc:
            raise MisfitError([_msgspec_issue(str(exc))]) from exc

    def schema(self) -> dict[str, Any]:
        return msgspec.json.schema(self._annotation)


def _no_encoding(value: Any) -> Any:
    raise RefusedError(refusal(value))


def _unknown(cls: type, data: Any) -> Any:
    raise msgspec.ValidationError(f"values of the class {cls.__qualname__} can't be restored")


def _pydantic_issues(error: Any) -> list[dict[str, Any]]:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [{"path": list(issue["loc"]), "message": issue["msg"]} for issue in found]


def _serializer_issue(message: str) -> dict[str, Any]:
    """Shorten pydantic's "...UnexpectedValue(Expected `Page` - ... [field_name='a', input_value=..., input_type=dict])"."""
    if "utf-8" in message:
        message = (
            f"{message}; for bytes that are no text set ser_json_bytes='base64' and val_json_bytes='base64' in the "
            "model's model_config"
        )
    expected = re.search(r"Expected `([^`]*)`", message)
    given = re.search(r"input_type=([\w.]+)", message)
    field = re.search(r"field_name='(\w+)'", message)
    return {
        "path": [field[1]] if field else [],
        "message": f"Expected `{expected[1]}`, got `{given[1]}`" if expected and given else message.strip(),
    }


def _msgspec_issue(message: str) -> dict[str, Any]:
    """Split "Expected `int`, got `str` - at `$.items[3].price`"; msgspec writes `[...]` for an index it doesn't know."""
    text, marker, where = message.rpartition(" - at `")
    if not marker:
        return {"path": [], "message": message}
    path: list[str | int] = []
    for step in where.rstrip("`").removeprefix("key in ").replace("[", ".[").split(".")[1:]:
        if step.startswith("[") and step.endswith("]"):
            index = step[1:-1]
            path.append(int(index) if index.isdigit() else index)
        elif step:
            path.append(step)
    return {"path": path, "message": text}


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
