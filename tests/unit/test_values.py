"""The value codec: what is stored, what comes back, what is refused and with which words."""

from __future__ import annotations

import asyncio
import enum
import subprocess
import sys
import textwrap
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Annotated, Any, NamedTuple, NewType, Optional
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pytest
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict  # pydantic wants this one before 3.12

from perdure.errors import LimitExceededError, SerializationError
from perdure.sdk.values import (
    Unresolved,
    codec_for,
    decode,
    encode,
    return_annotation,
    roundtrip,
    to_json,
    view,
)

WHERE = "output of task 'fetch'"
BERLIN = ZoneInfo("Europe/Berlin")


class Color(enum.Enum):
    RED = 1
    GREEN = "green"
    PAIR = (1, 2)


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    YES = "yes"


class Flags(enum.Flag):
    A = 1
    B = 2


class Holder:
    class Inner(enum.Enum):
        X = "x"


@dataclass
class Item:
    price: Decimal
    tags: list[str] = field(default_factory=list)
    note: Any = None


@dataclass
class Other:
    price: Decimal
    tags: list[str] = field(default_factory=list)
    note: Any = None


class Point(NamedTuple):
    x: int
    y: int


class Row(msgspec.Struct):
    id: int
    when: datetime


class Page(pydantic.BaseModel):
    title: str
    url: pydantic.HttpUrl | None = None
    size: int = pydantic.Field(default=0, alias="pageSize")


class Wider(Page):
    more: int = 1


class Secret(pydantic.BaseModel):
    token: pydantic.SecretStr


@pydantic_dataclass
class Checked:
    n: int


class Shape(TypedDict):
    page: Page


class PlainShape(TypedDict):
    n: int


UserId = NewType("UserId", int)


def store(value: Any, annotation: Any = None) -> Any:
    """What a replay would see."""
    encoded, first = roundtrip(value, where=WHERE, annotation=annotation)
    again = decode(encoded.json, encoded.types, where=WHERE, annotation=annotation)
    assert again == first
    assert type(again) is type(first)
    return first


def refuse(value: Any, annotation: Any = None) -> SerializationError:
    with pytest.raises(SerializationError) as caught:
        encode(value, where=WHERE, annotation=annotation)
    assert str(caught.value).startswith(f"{WHERE}: the value at ")
    return caught.value


PLAIN_VALUES = [
    None, True, 0, -(2**63), 2**64 - 1, 1.0, -0.0, 1e300, 5e-324, "", "äöü \0 \U0001f600", [], {}, [None, [1, {"a": []}]],
    {"a.b/c~d": {"": [1]}, "*": {"0": 1}},
]  # fmt: skip

RICH_VALUES = [
    (), (1, (2, [3])), set(), {1, "a", None}, frozenset({(1, 2), b"x"}), b"", b"\xff\0", date(2024, 2, 29), date.min,
    datetime(2024, 1, 1), datetime.min, datetime.max, datetime(2024, 1, 1, 2, 3, 4, 5, UTC),
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=-3, seconds=7))), datetime(2024, 7, 1, tzinfo=BERLIN),
    time(1, 2, 3, 4), time(1, tzinfo=UTC), time(1, tzinfo=BERLIN), time(1, fold=1),
    timedelta(0), timedelta(days=-1, microseconds=1), timedelta.max, timedelta.min,
    UUID(int=7), Decimal("1.10"), Decimal("-0"), Decimal("1E+30"),
    Color.RED, Color.GREEN, Color.PAIR, Level.LOW, Word.YES, Flags.A | Flags.B, Flags(0), Holder.Inner.X,
    {"a": [date(2024, 1, d) for d in (1, 2, 3)], "*": [1, (2,)], "x.y/z": ({"k": b"v"}, {Color.RED, Color.GREEN})},
]  # fmt: skip


@pytest.mark.parametrize("value", PLAIN_VALUES, ids=repr)
def test_plain_json_needs_no_type_map(value: Any) -> None:
    encoded = encode(value, where=WHERE)

    assert encoded.types is None
    assert repr(store(value)) == repr(value)


@pytest.mark.parametrize("value", RICH_VALUES)
def test_rich_types_come_back(value: Any) -> None:
    back = store(value)

    assert back == value
    assert type(back) is type(value)
    if not isinstance(value, (set, frozenset, dict, tuple)):  # sets inside have no order
        assert repr(back) == repr(value)


def test_what_a_task_returns_is_not_what_it_goes_on_changing() -> None:
    mine = {"a": [1]}

    first = store(mine)
    mine["a"].append(2)

    assert first == {"a": [1]}


def test_type_map_mirrors_the_data() -> None:
    encoded = encode({"when.at": [date(2024, 1, 1), 3], "all": [b"a", b"b"], "t": (1, {2})}, where=WHERE)

    assert encoded.json == '{"when.at":["2024-01-01",3],"all":["YQ==","Yg=="],"t":[1,[2]]}'
    assert encoded.types == '{"when.at":{"0":"date"},"all":{"*":"bytes"},"t":["tuple",{"1":"set"}]}'


def test_sets_are_stored_in_one_order() -> None:
    assert encode({"b", "a", "c"}, where=WHERE).json == '["a","b","c"]'


@pytest.mark.parametrize("fold", [0, 1])
def test_repeated_hour_keeps_fold_and_zone(fold: int) -> None:
    moment = datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=fold)

    back = store(moment)

    assert (back.fold, back.tzinfo, back.utcoffset()) == (fold, BERLIN, moment.utcoffset())


def test_hour_that_does_not_exist_keeps_its_wall_time() -> None:
    assert repr(store(datetime(2024, 3, 31, 2, 30, tzinfo=BERLIN))) == repr(
        datetime(2024, 3, 31, 2, 30, tzinfo=BERLIN)
    )


def test_instant_wins_where_zone_rules_changed_or_are_missing() -> None:
    text = '"2024-07-01T12:00:00+05:00"'

    for tag in ('"datetime@Europe/Berlin"', '"datetime@Mars/Olympus"'):
        back = decode(text, tag, where=WHERE)
        assert back == datetime(2024, 7, 1, 7, tzinfo=UTC)
        assert back.utcoffset() == timedelta(hours=5)


def test_foreign_tzinfo_becomes_its_offset() -> None:
    class Odd(tzinfo):
        def utcoffset(self, dt: datetime | None) -> timedelta:
            return timedelta(hours=2)

        def dst(self, dt: datetime | None) -> timedelta | None:
            return None

    back = store(datetime(2024, 1, 1, tzinfo=Odd()))

    assert back.tzinfo == timezone(timedelta(hours=2))


class Text(str):
    __slots__ = ()


class Number(int):
    pass


@pytest.mark.parametrize(
    "value, base",
    [
        pytest.param(defaultdict(list, a=[1]), {"a": [1]}, id="defaultdict"),
        pytest.param(OrderedDict(b=1, a=2), {"b": 1, "a": 2}, id="OrderedDict"),
        pytest.param(Text("x"), "x", id="str"),
        pytest.param({Text("x"): Number(3)}, {"x": 3}, id="key and int"),
        pytest.param(sys.version_info, tuple(sys.version_info), id="structseq"),
    ],
)
def test_subclasses_are_stored_as_their_base(value: Any, base: Any) -> None:
    back = store(value)

    assert back == base
    assert type(back) is type(base)
    assert all(type(key) is str for key in back) or not isinstance(back, dict)


def wrong(value: Any) -> Any:
    """A value of another type than the field it goes into."""
    return value


def circle() -> Any:
    items: list[Any] = []
    items.append(items)
    return items


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value, path, words",
    [
        pytest.param({"a": [1, float("nan")]}, "$.a[1]", "JSON can't hold", id="nan"),
        pytest.param([float("-inf")], "$[0]", "-inf", id="inf"),
        pytest.param(Decimal("NaN"), "$", "no number", id="decimal nan"),
        pytest.param({"id": 2**64}, "$.id", "64 bits", id="int"),
        pytest.param({"id": -(2**63) - 1}, "$.id", "Decimal", id="negative int"),
        pytest.param({"a b": "\ud800"}, "$['a b']", "lone surrogate", id="surrogate"),
        pytest.param({"\udfff": 1}, "$['\\udfff']", "lone surrogate", id="surrogate in key"),
        pytest.param(({"x": {1: 2}},), "$[0].x", "keys of stored dicts are strings", id="int key"),
        pytest.param({Word.YES: 1}, "$", ".value", id="enum key"),
        pytest.param(circle(), None, "contains itself", id="circle"),
        pytest.param(deep(300), None, "200 levels", id="deep"),
        pytest.param(bytearray(b"x"), "$", "bytes(...)", id="bytearray"),
        pytest.param(memoryview(b"x"), "$", "bytes(...)", id="memoryview"),
        pytest.param([print], "$[0]", "did you mean to call it", id="function"),
        pytest.param(int, "$", "the class int", id="class"),
        pytest.param((i for i in [1]), "$", "read only once", id="generator"),
        pytest.param(object(), "$", "plain data", id="object"),
        pytest.param(1j, "$", "plain data", id="complex"),
        pytest.param({1, Point(1, 2)}, "$[...]", "named tuple", id="namedtuple in set"),
        pytest.param({"items": [Item(Decimal(1))]}, "$.items[0]", "output=Item", id="dataclass"),
        pytest.param([Page(title="t")], "$[0]", "'-> Page'", id="pydantic"),
        pytest.param(Row(1, datetime.min), "$", "output=Row", id="Struct"),
        pytest.param(Point(1, 2), "$", "'-> Point'", id="NamedTuple"),
    ],
)
def test_refusal_names_path_and_fix(value: Any, path: str | None, words: str) -> None:
    error = refuse(value)

    assert words in error.problem
    assert path is None or error.path == path
    assert len(error.path) < 150


def test_forgotten_await_is_said_and_does_not_warn() -> None:
    async def fetch() -> None:
        await asyncio.sleep(0)

    assert "forget 'await'" in refuse({"x": fetch()}).problem


def test_two_hundred_levels_are_fine() -> None:
    assert store(deep(200)) == deep(200)


def test_size_limit_names_the_setting() -> None:
    with pytest.raises(LimitExceededError) as caught:
        encode("x" * 100, where=WHERE, limit=50, setting="run_output_bytes_max")

    assert (caught.value.size, caught.value.limit, caught.value.setting) == (102, 50, "run_output_bytes_max")


def test_type_map_counts_towards_the_size() -> None:
    encoded = encode((1,), where=WHERE)

    with pytest.raises(LimitExceededError):
        encode((1,), where=WHERE, limit=len(encoded.json) + len(encoded.types or "") - 1)


# Enums: found among loaded modules only.


def test_enum_of_a_module_that_is_not_loaded_is_not_imported() -> None:
    with pytest.raises(SerializationError, match="isn't loaded here") as caught:
        decode('["x"]', '{"0":"enum:wsgiref.types_of_mine:Kind"}', where=WHERE)

    assert caught.value.path == "$[0]"
    assert "wsgiref" not in sys.modules or "wsgiref.types_of_mine" not in sys.modules


@pytest.mark.parametrize(
    "name", ["decimal:Decimal", "os:system", "perdure.sdk.values:Codec.decode", ":", "sys:modules"]
)
def test_stored_name_of_anything_but_an_enum_is_refused(name: str) -> None:
    with pytest.raises(SerializationError, match="isn't loaded here"):
        decode('"x"', f'"enum:{name}"', where=WHERE)


def test_member_that_is_gone_is_an_error_with_the_fix() -> None:
    with pytest.raises(SerializationError, match="no such member now"):
        decode("9", f'"enum:{__name__}:Color"', where=WHERE)


def test_local_enum_needs_an_annotation_and_works_with_one() -> None:
    class Local(enum.Enum):
        A = 1

    assert "annotate '-> Local'" in refuse(Local.A).problem
    assert store({"x": [Local.A]}, dict[str, list[Local]]) == {"x": [Local.A]}


def test_annotation_finds_an_enum_that_moved() -> None:
    assert decode('"green"', '"enum:gone.module:Color"', where=WHERE, annotation=Color | None) is Color.GREEN


@pytest.mark.parametrize(
    "types", ['"uuid"', '{"a":"date"}', '{"0":{"1":"date"}}', '"future-type"', '["tuple"]']
)
def test_type_map_that_does_not_fit_is_a_clear_error(types: str) -> None:
    with pytest.raises(SerializationError):
        decode("[1]", types, where=WHERE)


def test_view_shows_plain_json_where_classes_are_missing() -> None:
    assert view('["x"]', '{"0":"enum:gone:Kind"}') == ["x"]
    assert view('["x"]', '"tuple"') == ("x",)


# Models, by annotation.


PAGE = Page(title="t", url=pydantic.HttpUrl("https://example.com/a"), pageSize=3)
ITEM = Item(Decimal("1.10"), ["a"])


@pytest.mark.parametrize(
    "value, annotation",
    [
        pytest.param(PAGE, Page, id="pydantic"),
        pytest.param([PAGE, PAGE], list[Page], id="list of pydantic"),
        pytest.param({"a": PAGE}, dict[str, Page], id="dict of pydantic"),
        pytest.param(None, Page | None, id="None or pydantic"),
        pytest.param(PAGE, Optional[Page], id="Optional"),  # noqa: UP045
        pytest.param(PAGE, Annotated[Page, "note"], id="Annotated"),
        pytest.param((PAGE, 1), tuple[Page, int], id="tuple"),
        pytest.param(Checked(3), Checked, id="pydantic dataclass"),
        pytest.param({"page": PAGE}, Shape, id="TypedDict of pydantic"),
        pytest.param({"n": 1, "extra": (1,)}, PlainShape, id="plain TypedDict keeps what it doesn't know"),
        pytest.param(PAGE.url, pydantic.HttpUrl, id="HttpUrl"),
        pytest.param(ITEM, Item, id="dataclass"),
        pytest.param([ITEM], list[Item], id="list of dataclass"),
        pytest.param({ITEM.price: ITEM}, dict[Decimal, Item], id="keys by annotation"),
        pytest.param(ITEM, Item | None, id="None or dataclass"),
        pytest.param(Other(Decimal(1)), Item | Other, id="look-alike dataclasses"),
        pytest.param(None, Item | Other | None, id="None of several"),
        pytest.param({"price": "1"}, Item | dict[str, str], id="dict beside a dataclass"),
        pytest.param([1], Item | list[int], id="list beside a dataclass"),
        pytest.param((1,), Item | tuple[int], id="tuple beside a dataclass"),
        pytest.param(Wider(title="t"), Page | Wider, id="model and its subclass"),
        pytest.param(Point(1, 2), Point, id="NamedTuple"),
        pytest.param({"p": (Point(1, 2), None)}, dict[str, tuple[Point, None]], id="nested NamedTuple"),
        pytest.param(Row(1, datetime(2024, 1, 1, tzinfo=UTC)), Row, id="Struct"),
        pytest.param(UserId(3), UserId, id="NewType"),
        pytest.param((1, 2), list, id="plain annotation doesn't validate"),
    ],
)
def test_annotated_value_comes_back(value: Any, annotation: Any) -> None:
    back = store(value, annotation)

    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    "value, annotation, path, words",
    [
        pytest.param({"title": "t"}, Page, "$", "Expected `Page`, got `dict`", id="dict for a model"),
        pytest.param(
            [Item(wrong("x"))], list[Item], "$[0].price", "doesn't fit", id="dataclass with a wrong field"
        ),
        pytest.param(Wider(title="t"), Page, "$", "something else", id="subclass of the model"),
        pytest.param(
            Secret(token=pydantic.SecretStr("x")), Secret, "$.token._secret_value", "secret", id="secret"
        ),
        pytest.param(
            Item(Decimal(1), note=(1,)), Item, "$.note", "something else", id="tuple in an Any field"
        ),
        pytest.param(Item(Decimal(1), note=float("nan")), Item, "$.note", "nan", id="nan in a field"),
        pytest.param(Item(Decimal(1), note=PAGE), Item, "$", "output=Page", id="model in an Any field"),
        pytest.param(3, Page | None, "$", "Page", id="other type"),
    ],
)
def test_value_that_does_not_fit_its_annotation_fails_at_once(
    value: Any, annotation: Any, path: str, words: str
) -> None:
    error = refuse(value, annotation)

    assert error.path == path
    assert words in error.problem


@pytest.mark.parametrize(
    "text, annotation, path",
    [
        ('{"title":"t","url":"nonsense"}', Page, "$.url"),
        ('[{"title":"t"},{"title":1}]', list[Page], "$[1].title"),
        ('{"price":"1","tags":[1]}', Item, "$.tags[0]"),
        ('{"tags":[]}', Item, "$"),
        ("3", Page | None, "$"),
    ],
)
def test_stored_value_that_no_longer_fits_says_so(text: str, annotation: Any, path: str) -> None:
    with pytest.raises(SerializationError, match="then continue the run") as caught:
        decode(text, None, where=WHERE, annotation=annotation)

    assert caught.value.path == path


def test_model_reads_what_was_stored_before_it_was_annotated() -> None:
    encoded = encode({"id": 1, "when": datetime(2024, 1, 1, tzinfo=UTC)}, where=WHERE)

    back = decode(encoded.json, encoded.types, where=WHERE, annotation=Row)

    assert back == Row(1, datetime(2024, 1, 1, tzinfo=UTC))


def test_annotation_may_become_a_union_and_back() -> None:
    alone = encode(ITEM, where=WHERE, annotation=Item)
    union = encode(ITEM, where=WHERE, annotation=Item | Other)

    assert decode(alone.json, alone.types, where=WHERE, annotation=Item | Other | None) == ITEM
    assert decode(union.json, union.types, where=WHERE, annotation=Item) == ITEM
    assert decode(union.json, union.types, where=WHERE) == {"price": "1.10", "tags": ["a"], "note": None}
    with pytest.raises(SerializationError, match="no longer in the annotation"):
        decode(union.json, union.types, where=WHERE, annotation=Other | Row)


def test_unresolvable_annotation_is_named_when_it_matters() -> None:
    codec = codec_for(Unresolved("Page"))

    assert codec.encode({"a": 1}, where=WHERE).json == '{"a":1}'
    with pytest.raises(SerializationError, match="TYPE_CHECKING"):
        codec.encode(PAGE, where=WHERE)


def test_codecs_are_made_once() -> None:
    assert codec_for(list[Page]) is codec_for(list[Page])
    assert codec_for(dict[str, int]) is codec_for(None)


def test_bytes_that_are_no_text_say_what_pydantic_needs() -> None:
    class Blob(pydantic.BaseModel):
        data: bytes

    class Base64(Blob):
        model_config = pydantic.ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    assert "ser_json_bytes='base64'" in refuse(Blob(data=b"\xff"), Blob).problem
    assert store(Base64(data=b"\xff"), Base64).data == b"\xff"


# Return annotations.


def test_return_annotation_is_evaluated_alone() -> None:
    def fetch(_client: Missing) -> Page: ...  # type: ignore[name-defined] # noqa: F821

    assert return_annotation(fetch) is Page


def test_return_annotation_sees_local_classes_that_are_used() -> None:
    class Local(pydantic.BaseModel):
        n: int

    def make() -> list[Local]:
        return [Local(n=1)]

    assert return_annotation(make) == list[Local]


def test_return_annotation_that_does_not_resolve() -> None:
    def fetch() -> Missing: ...  # type: ignore[name-defined] # noqa: F821

    assert return_annotation(fetch) == Unresolved("Missing")


def test_return_annotation_of_methods_partials_and_callables() -> None:
    import functools

    class Service:
        def fetch(self) -> Page: ...

        def __call__(self) -> Item: ...

    assert return_annotation(Service().fetch) is Page
    assert return_annotation(functools.partial(Service().fetch)) is Page
    assert return_annotation(Service()) is Item
    assert return_annotation(lambda: 1) is None
    assert return_annotation(print) is None


# Payloads to be sent.


def test_to_json_makes_everything_plain() -> None:
    value = {
        "page": PAGE, "items": [ITEM], "point": Point(1, 2), "row": Row(1, datetime(2024, 1, 1, tzinfo=UTC)),
        "when": datetime(2024, 1, 1, tzinfo=BERLIN), "for": timedelta(minutes=1), "id": UUID(int=1), "color": Color.PAIR,
        "set": {2, 1}, "bytes": b"x", "url": PAGE.url,
    }  # fmt: skip

    assert msgspec.json.decode(to_json(value, where="payload")) == {
        "page": {"title": "t", "url": "https://example.com/a", "pageSize": 3},
        "items": [{"price": "1.10", "tags": ["a"], "note": None}],
        "point": [1, 2],
        "row": {"id": 1, "when": "2024-01-01T00:00:00+00:00"},
        "when": "2024-01-01T00:00:00+01:00",
        "for": "PT60S",
        "id": "00000000-0000-0000-0000-000000000001",
        "color": [1, 2],
        "set": [1, 2],
        "bytes": "eA==",
        "url": "https://example.com/a",
    }


@pytest.mark.parametrize(
    "value", [float("nan"), {1: 2}, object(), Item(wrong(float("inf"))), "\ud800", circle(), 2**64]
)
def test_to_json_refuses_the_same(value: Any) -> None:
    with pytest.raises(SerializationError):
        to_json(value, where="payload")


def test_to_json_has_a_size_limit() -> None:
    with pytest.raises(LimitExceededError, match="payload_bytes_max"):
        to_json("x" * 100, where="payload", limit=10)


def test_codec_does_not_import_pydantic() -> None:
    code = """
        import sys
        from dataclasses import dataclass
        from perdure.sdk.values import decode, encode
        import perdure.sdk.payloads, perdure.sdk.keys, perdure.sdk.retry
        @dataclass
        class A:
            n: int
        e = encode([A(1)], where="x", annotation=list[A])
        assert decode(e.json, e.types, where="x", annotation=list[A]) == [A(1)]
        assert "pydantic" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)
