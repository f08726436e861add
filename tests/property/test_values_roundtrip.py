"""The law of the value codec: decoding gives the value that was encoded, with its types at every depth."""

from __future__ import annotations

import enum
import pickle
import subprocess
import sys
from dataclasses import dataclass, field, make_dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, assume, given, settings, strategies as st

from perdure.errors import PerdureError, SerializationError
from perdure.sdk.keys import idempotency_key
from perdure.sdk.values import codec_for, decode, encode, roundtrip, to_json

WHERE = "output of task 'k'"


class Kind(enum.Enum):
    ONE = 1
    TWO = "two"
    THREE = (3, "three")
    FOUR = 4.5
    ALSO_ONE = 1  # noqa: PIE796


class Size(enum.IntEnum):
    S = 1
    L = 2


class Word(enum.StrEnum):
    A = "a"
    B = "b"


class Mode(enum.IntFlag):
    R = 4
    W = 2
    X = 1


ZONES = [
    ZoneInfo(key)
    for key in ("Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "UTC")
]
OFFSETS = st.integers(-86_399, 86_399).map(lambda seconds: timezone(timedelta(seconds=seconds)))
TZ = st.none() | st.just(UTC) | OFFSETS | st.sampled_from(ZONES)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ints = st.integers(-(2**63), 2**64 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
folds = st.sampled_from([0, 1])
datetimes = st.builds(
    lambda moment, tz, fold: moment.replace(tzinfo=tz, fold=fold), st.datetimes(), TZ, folds
)
times = st.builds(lambda clock, tz, fold: clock.replace(tzinfo=tz, fold=fold), st.times(), TZ, folds)
enums = st.sampled_from([*Kind, *Size, *Word]) | st.integers(0, 7).map(Mode)
scalars = (
    st.none() | st.booleans() | ints | floats | texts | st.binary(max_size=8) | datetimes | times | st.dates()
    | st.timedeltas() | st.uuids() | st.decimals(allow_nan=False, allow_infinity=False) | enums
)  # fmt: skip
hashables = st.recursive(
    scalars,
    lambda inner: st.frozensets(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple),
    max_leaves=5,
)
values = st.recursive(
    hashables,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(texts, inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(hashables, max_size=4)
    ),
    max_leaves=25,
)


def same(a: Any, b: Any) -> bool:
    """Equal in value and type at every depth; dicts in order too."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (set, frozenset)):
        # 1 == True: equal members may differ in type, so pair them by what they print.
        return len(a) == len(b) and all(any(same(x, y) for y in b) for x in a)
    if isinstance(a, (datetime, time)):
        zones = (getattr(a.tzinfo, "key", None), getattr(b.tzinfo, "key", None))
        return (a.isoformat(), a.fold, zones[0]) == (b.isoformat(), b.fold, zones[1])
    if isinstance(a, Decimal):
        return a.as_tuple() == b.as_tuple()
    if isinstance(a, float):
        return a.hex() == b.hex()
    return a == b


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values)
def test_decoding_gives_what_was_encoded(value: Any) -> None:
    encoded, first = roundtrip(value, where=WHERE)

    assert same(first, value)
    assert same(decode(encoded.json, encoded.types, where=WHERE), value)
    # What was read back is stored as the same text: a value may travel on.
    assert encode(first, where=WHERE) == encoded
    msgspec.json.decode(encoded.json)


@settings(max_examples=100, deadline=None)
@given(values)
def test_payloads_of_any_storable_value_are_json(value: Any) -> None:
    text = to_json(value, where="payload")

    # Plain JSON is a fixed point.
    assert to_json(msgspec.json.decode(text), where="payload") == text


@pytest.mark.slow
def test_another_process_decodes_the_same() -> None:
    sample: list[Any] = []

    @settings(
        max_examples=300,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(values)
    def collect(value: Any) -> None:
        sample.append(value)

    collect()
    stored = [(encoded.json, encoded.types) for encoded in (encode(value, where=WHERE) for value in sample)]
    script = (
        "import sys, pickle\n"
        f"import importlib.util as u; s = u.spec_from_file_location({__name__!r}, {__file__!r})\n"
        f"m = u.module_from_spec(s); sys.modules[{__name__!r}] = m; s.loader.exec_module(m)\n"
        "from perdure.sdk.values import decode\n"
        "stored = pickle.load(sys.stdin.buffer)\n"
        "back = [decode(j, t, where='x') for j, t in stored]\n"
        "sys.stdout.buffer.write(pickle.dumps(back))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script],
        input=pickle.dumps(stored),
        capture_output=True,
        check=True,
        timeout=100,
    )

    assert all(same(a, b) for a, b in zip(pickle.loads(done.stdout), sample, strict=True))


# Anything at all: an error of ours, or the law holds.

junk = st.recursive(
    scalars | st.floats() | st.integers() | st.text(st.characters(categories=["Cs", "L"])) | st.complex_numbers()
    | st.decimals() | st.just(object()) | st.just(print) | st.binary().map(bytearray),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers() | st.just(Word.A), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(junk)
def test_anything_is_stored_exactly_or_refused(value: Any) -> None:
    try:
        encoded = encode(value, where=WHERE)
    except SerializationError as error:
        assert error.path.startswith("$")  # noqa: PT017
        return

    assert same(decode(encoded.json, encoded.types, where=WHERE), value)


nodes = st.recursive(
    st.none() | st.sampled_from(["tuple", "set", "uuid", "date", "datetime/fold@UTC", "enum:os:path", "as:X", "x", ""]) | texts,
    lambda inner: st.dictionaries(st.sampled_from(["*", "0", "1", "a"]) | texts, inner, max_size=3) | st.lists(inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
plain = st.recursive(
    st.none() | st.booleans() | ints | floats | texts,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["0", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(plain, nodes)
def test_damaged_type_map_raises_our_error_only(data: Any, node: Any) -> None:
    try:
        decode(msgspec.json.encode(data).decode(), msgspec.json.encode(node).decode(), where=WHERE)
    except SerializationError as error:
        assert error.where == WHERE  # noqa: PT017


# Annotated: models and dataclasses, some of them made up on the spot.


@dataclass
class Inner:
    a: int
    b: str | None = None
    c: tuple[Decimal, ...] = ()
    d: dict[str, list[date]] = field(default_factory=dict)
    e: frozenset[Size] = frozenset()


class Pair(NamedTuple):
    left: Inner
    right: UUID | None


class Record(msgspec.Struct):
    id: int
    at: datetime
    span: timedelta
    blob: bytes
    inner: list[Inner]
    kind: Word = Word.A


class Model(pydantic.BaseModel):
    name: str
    words: set[Word]
    inner: Inner | None
    pairs: list[Pair]
    size: float = pydantic.Field(alias="itsSize")
    more: dict[str, tuple[int, str]] = {}


utc_datetimes = st.datetimes(timezones=st.just(UTC))
inners = st.builds(
    Inner,
    a=ints.filter(lambda n: n < 2**63),
    b=st.none() | texts,
    c=st.lists(st.decimals(allow_nan=False, allow_infinity=False, places=3), max_size=3).map(tuple),
    d=st.dictionaries(texts, st.lists(st.dates(), max_size=2), max_size=2),
    e=st.frozensets(st.sampled_from(Size)),
)
pairs = st.builds(Pair, inners, st.none() | st.uuids())
records = st.builds(
    Record,
    id=st.integers(0, 2**63 - 1),
    at=utc_datetimes,
    span=st.timedeltas(timedelta(days=-9999), timedelta(days=9999)),
    blob=st.binary(max_size=9),
    inner=st.lists(inners, max_size=2),
    kind=st.sampled_from(Word),
)
models = st.builds(
    Model,
    name=texts,
    words=st.sets(st.sampled_from(Word)),
    inner=st.none() | inners,
    pairs=st.lists(pairs, max_size=2),
    itsSize=floats,
    more=st.dictionaries(texts, st.tuples(st.integers(-9, 9), texts), max_size=2),
)
annotated = st.one_of(
    st.tuples(st.just(Inner), inners),
    st.tuples(st.just(Pair), pairs),
    st.tuples(st.just(Record), records),
    st.tuples(st.just(Model), models),
)
wrapped = st.one_of(
    annotated,
    annotated.map(lambda pair: (list[pair[0]], [pair[1]] * 2)),
    annotated.map(lambda pair: (dict[str, pair[0]], {"k.k/k": pair[1]})),
    annotated.map(lambda pair: (pair[0] | None, pair[1])),
    annotated.map(lambda pair: (tuple[pair[0], int], (pair[1], 3))),
    annotated.map(lambda pair: (Inner | Record | Model | Pair, pair[1])),
    st.tuples(st.just(Record | None), st.none()),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(wrapped)
def test_annotated_values_come_back(case: tuple[Any, Any]) -> None:
    annotation, value = case

    encoded, first = roundtrip(value, where=WHERE, annotation=annotation)

    assert first == value
    assert type(first) is type(value)
    assert decode(encoded.json, encoded.types, where=WHERE, annotation=annotation) == value


FIELDS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers(-(2**63), 2**63 - 1)),
    (str, texts),
    (bool, st.booleans()),
    (float, floats),
    (bytes, st.binary(max_size=5).filter(bytes.isascii)),
    (date, st.dates()),
    (UUID, st.uuids()),
    (list[int], st.lists(st.integers(-5, 5), max_size=3)),
    (dict[str, Decimal], st.dictionaries(texts, st.decimals(allow_nan=False, allow_infinity=False, places=2), max_size=2)),
    (tuple[str, int], st.tuples(texts, st.integers(0, 9))),
    (set[int], st.sets(st.integers(0, 9), max_size=3)),
    (Kind | None, st.none() | st.sampled_from([Kind.ONE])),
    (Size, st.sampled_from(Size)),
    (Inner, inners),
]  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.sampled_from(["dataclass", "pydantic"]))
def test_made_up_models_come_back(data: st.DataObject, maker: str) -> None:
    chosen = data.draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=5))
    names = [f"f{index}" for index in range(len(chosen))]
    types = [kind for kind, _ in chosen]
    arguments = {name: data.draw(strategy) for name, (_, strategy) in zip(names, chosen, strict=True)}
    if maker == "dataclass":
        cls: Any = make_dataclass("Made", list(zip(names, types, strict=True)))
    else:
        fields: dict[str, Any] = {name: (kind, ...) for name, kind in zip(names, types, strict=True)}
        cls = pydantic.create_model("Made", **fields)
    value = cls(**arguments)

    _, first = roundtrip([value, None], where=WHERE, annotation=list[cls | None])

    assert first == [value, None]


# Keys.


@settings(max_examples=200, deadline=None)
@given(st.lists(plain, min_size=1, max_size=4))
def test_equal_keys_hash_alike_whatever_the_order_of_dicts(parts: list[Any]) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shuffled(value[key]) for key in reversed(list(value))}
        return tuple(map(shuffled, value)) if isinstance(value, list) else value

    try:
        first = idempotency_key("r", None, parts)
    except PerdureError:
        assume(False)
        return
    assert first == idempotency_key("r", None, [shuffled(part) for part in parts])
    assert len(first) == 64


def test_codec_cache_keeps_made_up_classes_apart() -> None:
    one, two = (make_dataclass("Made", [("n", kind)]) for kind in (int, str))

    assert codec_for(one) is not codec_for(two)
    assert type(roundtrip(one(1), where=WHERE, annotation=one)[1]) is one
