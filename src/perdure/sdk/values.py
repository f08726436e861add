"""The value codec: outputs of tasks and runs as JSON plus a type map, and payloads as plain JSON.

The law: `decode(*encode(value))` equals `value` and has its types at every depth, also in another process; and what a
task's first run returns is what decoding gives, so the first run and a replay can't differ. In detail:

- None, bool, int, float, str, list and dict with string keys are JSON. Subclasses of these are stored as the base type.
- tuple, set, frozenset, bytes, datetime, date, time, timedelta, UUID, Decimal and enums work anywhere inside, by a type
  map beside the JSON (`_pack`). A tzinfo other than a ZoneInfo becomes its fixed offset.
- Models, dataclasses, Structs, NamedTuples and attrs classes are restored by an annotation, never by a stored name.
  Such an annotation validates; one of plain types (`dict`, `list[int]`, a TypedDict) doesn't.
- Everything that would come back different is refused at once, with the path inside the value and what to write instead.
"""

from __future__ import annotations

from typing import Any, Final, Protocol, cast

import msgspec
from msgspec import Struct

from perdure.errors import LimitExceededError, SerializationError
from perdure.limits import DEFAULT_LIMITS

from . import _models
from ._annotations import Survey, Unresolved, return_annotation, strip, survey, union_members
from ._pack import Node, Packer, RefusedError, is_plain, unpack

__all__ = [
    "PLAIN",
    "STORED",
    "Codec",
    "Decodes",
    "Encoded",
    "Unresolved",
    "codec_for",
    "decode",
    "encode",
    "return_annotation",
    "roundtrip",
    "to_json",
    "view",
]

_dumps = msgspec.json.Encoder().encode
_loads = msgspec.json.Decoder[Any]().decode
_ATOMS: Final = frozenset({str, int, float, bool, type(None)})
"""What JSON alone holds, and what is the same after a round trip."""
_AS: Final = '"as:'  # type map of a member of a union of models: "as:Page", or "as:" for what is none of them
_OUTPUT_BYTES_MAX: Final = DEFAULT_LIMITS.output_bytes_max


class Encoded(Struct, frozen=True, gc=False):
    """A value as stored: JSON text, and JSON text of its type map (None where plain JSON says it all)."""

    json: str
    types: str | None = None


def encode(
    value: Any,
    *,
    where: object,
    annotation: Any = None,
    limit: int = _OUTPUT_BYTES_MAX,
    setting: str = "limits.output_bytes_max",
) -> Encoded:
    """JSON and type map of a value.

    Args:
        value: what to store.
        where: begins, as a str, the message of an error: "output of task 'fetch'".
        annotation: type that the value has by its author's word; None (or anything plain) if there is none.
        limit: size that JSON and type map may have together, in bytes.
        setting: name of that limit among `Limits`.

    Raises:
        SerializationError: it can't be stored so that it comes back the same, or doesn't fit the annotation.
        LimitExceededError: it is too large.
    """
    return codec_for(annotation).encode(value, where=where, limit=limit, setting=setting)


def decode(json: str, types: str | None = None, *, where: object, annotation: Any = None) -> Any:
    """The value of what `encode` gave.

    Raises:
        SerializationError: it no longer fits the model or enum; fix that, then continue the run.
    """
    return codec_for(annotation).decode(json, types, where=where)


def roundtrip(
    value: Any,
    *,
    where: object,
    annotation: Any = None,
    limit: int = _OUTPUT_BYTES_MAX,
    setting: str = "limits.output_bytes_max",
) -> tuple[Encoded, Any]:
    """What is stored, and what a replay will see in its place (a first run has to return exactly that)."""
    return codec_for(annotation).roundtrip(value, where=where, limit=limit, setting=setting)


def view(json: str, types: str | None = None) -> Any:
    """The value for a reader who may not have its classes (`get_run`, pages): plain JSON where `decode` fails."""
    try:
        return PLAIN.decode(json, types, where="stored value")
    except SerializationError:
        return _loads(json)


def to_json(
    value: Any,
    *,
    where: object,
    limit: int = DEFAULT_LIMITS.payload_bytes_max,
    setting: str = "limits.payload_bytes_max",
) -> str:
    """Plain JSON of a payload, context or params: the schema at the other end knows the types.

    Models and dataclasses become objects (by alias), NamedTuples, tuples and sets arrays, datetimes and timedeltas ISO
    8601, UUIDs and Decimals strings, bytes base64, enums their values. What is refused is refused as in `encode`.
    """
    raw = _dump_checked(value, _lossy, where)[0]
    if len(raw) > limit:
        raise LimitExceededError(
            what=f"the size in bytes of {where}", size=len(raw), limit=limit, setting=setting
        )
    return raw.decode()


def _dump_checked(value: Any, packer: Packer, where: object) -> tuple[bytes, Node]:
    try:
        if is_plain(value):
            try:
                return _dumps(value), None
            except UnicodeEncodeError:  # a lone surrogate: the packer finds where
                pass
        data, node = packer.pack(value)
        return _dumps(data), node
    except RefusedError as refused:
        raise SerializationError(
            where=str(where), path=refused.path, problem=refused.problem
        ) from refused.__cause__


class Decodes(Protocol):
    """Makes a value of what is stored of it; see `Codec.decode`."""

    def decode(self, json: str, types: str | None = None, *, where: object) -> Any: ...


class Codec:
    """Codes the values of one annotation. Get it from `codec_for`, once per function."""

    def __init__(self, found: Survey) -> None:
        self._enums = found.enums
        self._packer = Packer(found.enums, self._refuse)
        self._unresolved = found.unresolved

    def encode(
        self,
        value: Any,
        *,
        where: object,
        limit: int = _OUTPUT_BYTES_MAX,
        setting: str = "limits.output_bytes_max",
    ) -> Encoded:
        """As the function `encode`."""
        return self._measure(*self._dump(value, where), where, limit, setting)

    def decode(self, json: str, types: str | None = None, *, where: object) -> Any:
        """As the function `decode`."""
        data = _loads(json)
        return data if types is None else self._unpack(data, types, where)

    def roundtrip(
        self,
        value: Any,
        *,
        where: object,
        limit: int = _OUTPUT_BYTES_MAX,
        setting: str = "limits.output_bytes_max",
    ) -> tuple[Encoded, Any]:
        """As the function `roundtrip`."""
        if type(value) not in _ATOMS:
            encoded = self._measure(*self._dump(value, where), where, limit, setting)
            return encoded, self.decode(encoded.json, encoded.types, where=where)
        raw, node = self._dump(value, where)
        if node is not None or len(raw) > limit:
            return self._measure(raw, node, where, limit, setting), value
        return Encoded(raw.decode()), value

    def _refuse(self, value: Any) -> Any:
        raise RefusedError(_models.refusal(value, self._unresolved))

    def _dump(self, value: Any, where: object) -> tuple[bytes, Node]:
        return _dump_checked(value, self._packer, where)

    def _measure(self, raw: bytes, node: Node, where: object, limit: int, setting: str) -> Encoded:
        types = None if node is None else _dumps(node)
        size = len(raw) + (0 if types is None else len(types))
        if size > limit:
            raise LimitExceededError(
                what=f"the size in bytes of {where}", size=size, limit=limit, setting=setting
            )
        return Encoded(raw.decode(), None if types is None else types.decode())

    def _unpack(self, data: Any, types: str, where: object) -> Any:
        try:
            return unpack(data, _loads(types), self._enums)
        except RefusedError as refused:
            raise SerializationError(where=str(where), path=refused.path, problem=refused.problem) from None
        except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as exc:
            raise SerializationError(
                where=str(where),
                path="$",
                problem=f"and its type map {types[:100]!r} don't belong together ({exc!r})",
            ) from exc


class _ModelCodec(Codec):
    """Values of an annotation which names models: their library dumps and validates the whole."""

    def __init__(self, annotation: Any, found: Survey) -> None:
        super().__init__(found)
        self._name = _display(annotation)
        self._adapter = _models.adapter_for(annotation, pydantic=found.pydantic)

    def encode(
        self,
        value: Any,
        *,
        where: object,
        limit: int = _OUTPUT_BYTES_MAX,
        setting: str = "limits.output_bytes_max",
    ) -> Encoded:
        return self.roundtrip(value, where=where, limit=limit, setting=setting)[0]

    def decode(self, json: str, types: str | None = None, *, where: object) -> Any:
        try:
            if types is None or types.startswith(_AS):
                return self._adapter.load(json)
            # Written before the function had this annotation.
            return self._adapter.convert(self._unpack(_loads(json), types, where))
        except _models.MisfitError as misfit:
            raise SerializationError(
                where=str(where),
                path=misfit.path,
                problem=f"as stored doesn't fit {self._name}: {misfit.problem}. Make the type accept it, then continue "
                "the run",
            ) from misfit.__cause__

    def roundtrip(
        self,
        value: Any,
        *,
        where: object,
        limit: int = _OUTPUT_BYTES_MAX,
        setting: str = "limits.output_bytes_max",
    ) -> tuple[Encoded, Any]:
        encoded = self._measure(*self._dump(value, where), where, limit, setting)
        try:
            restored = self._adapter.load(encoded.json)
        except _models.MisfitError as misfit:
            raise SerializationError(
                where=str(where), path=misfit.path, problem=f"doesn't fit {self._name}: {misfit.problem}"
            ) from misfit.__cause__
        if _models.unequal(value, restored):
            raise SerializationError(
                where=str(where),
                path=_models.difference(value, restored),
                problem=f"would come back from {self._name} as something else (a type wider than the value, a secret or "
                "excluded field, a validator that changes it?): make the type hold exactly what is returned",
            )
        return encoded, restored

    def _dump(self, value: Any, where: object) -> tuple[bytes, Node]:
        try:
            data = self._adapter.dump(value)
        except RefusedError as refused:
            raise SerializationError(
                where=str(where), path=refused.path, problem=refused.problem
            ) from refused.__cause__
        except _models.MisfitError as misfit:
            raise SerializationError(
                where=str(where), path=misfit.path, problem=f"doesn't fit {self._name}: {misfit.problem}"
            ) from misfit.__cause__
        return _dump_checked(data, self._packer, where)[0], None


class _UnionCodec(Codec):
    """A union of several model classes: the type map has the name of the member, so that look-alikes aren't mixed up."""

    def __init__(self, members: dict[str, tuple[type, Codec]], rest: Codec, found: Survey) -> None:
        super().__init__(found)
        self._members = members
        self._rest = rest

    def encode(
        self,
        value: Any,
        *,
        where: object,
        limit: int = _OUTPUT_BYTES_MAX,
        setting: str = "limits.output_bytes_max",
    ) -> Encoded:
        return self.roundtrip(value, where=where, limit=limit, setting=setting)[0]

    def decode(self, json: str, types: str | None = None, *, where: object) -> Any:
        if types is None:
            return self._guess(json, where)
        if not types.startswith(_AS):
            return self._rest.decode(json, types, where=where)
        name = types[len(_AS) : -1]
        if not name:
            return self._rest.decode(json, None, where=where)
        if name not in self._members:
            raise SerializationError(
                where=str(where),
                path="$",
                problem=f"was stored as a {name}, which is no longer in the annotation: add it, then continue the run",
            )
        return self._members[name][1].decode(json, None, where=where)

    def roundtrip(
        self,
        value: Any,
        *,
        where: object,
        limit: int = _OUTPUT_BYTES_MAX,
        setting: str = "limits.output_bytes_max",
    ) -> tuple[Encoded, Any]:
        for name, (cls, codec) in self._members.items():
            if type(value) is cls:
                encoded, restored = codec.roundtrip(value, where=where, limit=limit, setting=setting)
                return Encoded(encoded.json, f'{_AS}{name}"'), restored
        encoded, restored = self._rest.roundtrip(value, where=where, limit=limit, setting=setting)
        if encoded.types is None and encoded.json[0] in "{[":
            encoded = Encoded(encoded.json, f'{_AS}"')
        return encoded, restored

    def _guess(self, json: str, where: object) -> Any:
        """Written before there was a union: by one of its members alone, most likely."""
        if json[0] in "{[":
            for _, codec in self._members.values():
                try:
                    return codec.decode(json, None, where=where)
                except SerializationError:
                    continue
        return self._rest.decode(json, None, where=where)


class _Unsupported(Codec):
    """An annotation that no library can code: said when a value of it comes along, not when the function is defined."""

    def __init__(self, problem: str, found: Survey) -> None:
        super().__init__(found)
        self._problem = problem

    def decode(self, json: str, types: str | None = None, *, where: object) -> Any:
        raise SerializationError(where=str(where), path="$", problem=f"can't be restored: {self._problem}")

    def _dump(self, value: Any, where: object) -> tuple[bytes, Node]:
        raise SerializationError(where=str(where), path="$", problem=f"can't be stored: {self._problem}")


class _StoredCodec(Codec):
    """Values that are read where no annotation is at hand."""

    def _refuse(self, value: Any) -> Any:
        cls = cast("type[Any]", type(value))
        if _models.is_model(cls):
            raise RefusedError(
                f"is a {cls.__name__}, which can't be restored where it is read: store plain data (model_dump() of "
                "it, or dataclasses.asdict), and make the model of that again"
            )
        return super()._refuse(value)


PLAIN: Final = Codec(Survey())
"""Codes what has no annotation."""

STORED: Final = _StoredCodec(Survey())
"""Codes what is put into a store."""

_lossy = Packer({}, _models.jsonable, lossy=True)
_codecs: dict[Any, Codec] = {}


def codec_for(annotation: Any) -> Codec:
    """The codec of an annotation (`return_annotation(fn)`, or what was passed as `output=`)."""
    if annotation is None:
        return PLAIN
    try:
        known = _codecs.get(annotation)
    except TypeError:  # unhashable metadata inside Annotated
        return _make_codec(annotation)
    if known is None:
        known = _codecs[annotation] = _make_codec(annotation)
    return known


def _make_codec(annotation: Any) -> Codec:
    found = survey(annotation)
    if not found.structured:
        return Codec(found) if found.enums or found.unresolved else PLAIN
    members = union_members(annotation)
    models = [cls for cls in map(strip, members) if isinstance(cls, type) and _models.is_model(cls)]
    rest = tuple(member for member in members if strip(member) not in models)
    several = len(models) > 1 or (len(models) == 1 and any(member is not type(None) for member in rest))
    if several and len({cls.__qualname__ for cls in models}) == len(models):
        return _UnionCodec(
            {cls.__qualname__: (cls, codec_for(cls)) for cls in models},
            codec_for(_union(rest)),
            found,
        )
    try:
        return _ModelCodec(annotation, found)
    except _models.UnsupportedTypeError as exc:
        return _Unsupported(str(exc), found)


def _union(members: tuple[Any, ...]) -> Any:
    joined: Any = None
    for member in members:
        joined = member if joined is None else joined | member
    return joined


def _display(annotation: Any) -> str:
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
