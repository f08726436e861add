"""Payload schemas: every kind a user may give, and errors that list what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest

from perdure.errors import InvalidPayloadError, UsageError
from perdure.sdk.payloads import Example, PayloadSchema


class Model(pydantic.BaseModel):
    url: pydantic.HttpUrl
    size: int = pydantic.Field(default=0, alias="pageSize")


@dataclass
class Data:
    when: datetime
    items: list[int]


class Shape(TypedDict):
    n: int


class Row(msgspec.Struct):
    id: int


@dataclass
class Mixed:
    row: Row
    model: Model


DATA = '{"when":"2024-01-01T00:00:00Z","items":[1]}'


@pytest.mark.parametrize(
    "schema, text, expected",
    [
        (None, '{"a":[1.5,null]}', {"a": [1.5, None]}),
        (Any, "3", 3),
        (dict, "{}", {}),
        (list[int], "[1]", [1]),
        (Model, '{"url":"https://a.b","pageSize":2}', Model(url=pydantic.HttpUrl("https://a.b"), pageSize=2)),
        (list[Model], '[{"url":"https://a.b"}]', [Model(url=pydantic.HttpUrl("https://a.b"))]),
        (Data, DATA, Data(datetime(2024, 1, 1, tzinfo=UTC), [1])),
        (Shape, '{"n":1}', {"n": 1}),
        (Row, '{"id":1}', Row(1)),
        (Row | None, "null", None),
    ],
)
def test_payload_is_parsed_into_its_type(schema: Any, text: str, expected: Any) -> None:
    payload = PayloadSchema(schema).parse(text, job_id="j")

    assert payload == expected
    assert type(payload) is type(expected)


@pytest.mark.parametrize(
    "schema, text, path",
    [
        (Model, '{"url":"nonsense"}', ["url"]),
        (Model, "[]", []),
        (list[Model], '[{"url":"https://a.b","pageSize":"x"}]', [0, "pageSize"]),
        (Data, '{"when":"2024-01-01T00:00:00Z","items":[1,"x"]}', ["items", 1]),
        (Data, '{"items":[]}', []),
        (dict, "[]", []),
        (None, "{", []),
        (Model, "{", []),
        (Row, "{", []),
    ],
)
def test_what_does_not_fit_is_listed(schema: Any, text: str, path: list[Any]) -> None:
    with pytest.raises(InvalidPayloadError) as caught:
        PayloadSchema(schema).parse(text, job_id="resize")

    assert caught.value.job_id == "resize"
    assert caught.value.issues[0]["path"] == path
    assert caught.value.issues[0]["message"]


def test_every_problem_of_a_model_is_an_issue() -> None:
    with pytest.raises(InvalidPayloadError) as caught:
        PayloadSchema(Model).parse('{"pageSize":"x"}', job_id="j")

    assert [issue["path"] for issue in caught.value.issues] == [["url"], ["pageSize"]]


def test_json_schema() -> None:
    assert PayloadSchema().json_schema() is None
    model = PayloadSchema(Model).json_schema()
    assert model is not None
    assert model["properties"]["pageSize"]["type"] == "integer"
    assert PayloadSchema(list[int]).json_schema() == {"type": "array", "items": {"type": "integer"}}


def test_schema_that_cannot_be_used() -> None:
    @dataclass
    class Local:
        model: list[Hidden]

    class Hidden(pydantic.BaseModel):
        n: int

    for schema in (Mixed, Local):
        with pytest.raises(UsageError, match="payload schema can't be used"):
            PayloadSchema(schema)


def test_examples_are_checked_at_definition() -> None:
    schema = PayloadSchema(Model)
    good = Example(
        id="a", name="A", payload=Model(url=pydantic.HttpUrl("https://a.b"), pageSize=1), icon="bolt"
    )

    assert schema.check_examples([good], where="trigger of job 'j'") == [
        {"id": "a", "name": "A", "payload": {"url": "https://a.b/", "pageSize": 1}, "icon": "bolt"}
    ]
    with pytest.raises(UsageError, match="trigger of job 'j': the example 'b' doesn't fit the schema: url: "):
        schema.check_examples([Example(id="b", name="B", payload={"url": "x"})], where="trigger of job 'j'")
    with pytest.raises(UsageError, match="two examples"):
        schema.check_examples([good, good], where="trigger of job 'j'")
