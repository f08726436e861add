"""Idempotency keys: the protocol's vectors, JavaScript's numbers and order, and what is refused."""

from __future__ import annotations

import enum
import shutil
import subprocess
from decimal import localcontext
from hashlib import sha256
from json import dumps, loads
from typing import Any

import pytest

from perdure.errors import LimitExceededError, UsageError
from perdure.ids import task_id
from perdure.sdk.keys import display_key, idempotency_key


def hash_of(text: str) -> str:
    return sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "parent, key, expected",
    [
        ("", "task-1", "547bc3be3eda4089680ecebf2071caa5a8e6307a4ac4ffe07d3adaae25c28d82"),
        (None, "task-1", "547bc3be3eda4089680ecebf2071caa5a8e6307a4ac4ffe07d3adaae25c28d82"),
        (None, ["task-1"], "547bc3be3eda4089680ecebf2071caa5a8e6307a4ac4ffe07d3adaae25c28d82"),
        ("", ["Hello", "INFO"], "071b5067f36f4b42880503973401ad041b63711793f3f9c6fd8e35e070369071"),
        (
            "tsk_9",
            ("a", {"b": 1, "a": [1, 2]}),
            "8dc501f439188954c1772fa842e805ac05eec61024707d122ae7c21b55fc5528",
        ),
        ("", ["n", 1, None, True], "5c91c66db3c3ba8c46acb005a5cffc344a1bcd478ac033979b574f202ae60127"),
    ],
)
def test_vectors_of_the_protocol(parent: str | None, key: Any, expected: str) -> None:
    assert idempotency_key("run_1", parent, key) == expected


NUMBERS = [
    (1.0, "1"), (-0.0, "0"), (1e21, "1e+21"), (1e20, "100000000000000000000"), (123456789012345680000.0, "123456789012345680000"),
    (1e-6, "0.000001"), (1e-7, "1e-7"), (1.5e-7, "1.5e-7"), (0.1, "0.1"), (-1234.5, "-1234.5"), (1.7976931348623157e308, "1.7976931348623157e+308"),
    (5e-324, "5e-324"), (2.0**53, "9007199254740992"), (123e-20, "1.23e-18"), (2**64 + 1, "18446744073709551617"),
]  # fmt: skip


@pytest.mark.parametrize("number, text", NUMBERS)
def test_numbers_print_as_javascript_prints_them(number: float, text: str) -> None:
    with localcontext() as context:
        context.prec = 3  # the user's decimal context is none of our business
        assert idempotency_key("r", None, ["n", number]) == hash_of(f"r::n:{text}")


@pytest.mark.parametrize(
    "part, text",
    [
        ({"b": 1, "10": 2, "9": 3, "01": 4, "a": 5, "4294967295": 6}, '{"9":3,"10":2,"01":4,"4294967295":6,"a":5,"b":1}'),
        ({"\U0001f600": 1, "\uffff": 2}, '{"\U0001f600":1,"\uffff":2}'),
        ([{"y": [1.0], "x": {}}, "ü\n\x01\x7f\u2028\""], '[{"x":{},"y":[1]},"ü\\n\\u0001\x7f\u2028\\""]'),
        ([], "[]"),
        ("a b", "a b"),
        (False, "false"),
    ],
)  # fmt: skip
def test_stable_json(part: Any, text: str) -> None:
    assert idempotency_key("r", "p", ["k", part]) == hash_of(f"r:p:k:{text}")


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to compare with")
def test_javascript_agrees() -> None:
    floats = [float(number) for number, _ in NUMBERS if isinstance(number, float)]
    floats += [
        x * 10.0**e for x in (1, 1.5, 123456789, 9007199254740993, 3.3333333333333335) for e in range(-30, 30)
    ]
    texts = ["a\tb", "\x1f\x7f", "\u2028ü", '"\\/', "\U0001f600"]
    script = "const v=JSON.parse(require('fs').readFileSync(0));console.log(JSON.stringify(v.map(x=>JSON.stringify(x))))"
    # Each value is wrapped, since a string that is a part of its own is hashed as it is.
    parts = [[value] for value in [*floats, *texts]]
    done = subprocess.run(
        ["node", "-e", script], input=dumps(parts), capture_output=True, text=True, check=True
    )

    for part, text in zip(parts, loads(done.stdout), strict=True):
        assert idempotency_key("r", None, ["k", part]) == hash_of(f"r::k:{text}"), part


class Word(enum.StrEnum):
    YES = "yes"


def test_string_subclasses_are_strings() -> None:
    assert idempotency_key("r", None, Word.YES) == idempotency_key("r", None, ["yes"]) == hash_of("r::yes")


@pytest.mark.parametrize(
    "key, words",
    [
        ("", "can't be empty"),
        ([], "empty list"),
        ([""], "can't be empty"),
        ("a\0b", "NUL"),
        (["a", "\0"], "NUL"),
        ("\ud800", "lone surrogate"),
        ({"a": 1}, "a key is a string, or a list"),
        (3, "str\\(...\\)"),
        (None, "a key is a string"),
        (["a", float("nan")], "no JSON number"),
        (["a", {1: 2}], "a key that is no string"),
        (["a", object()], "is none of these"),
        (["a", {"x": {1, 2}}], "is none of these"),
        (b"abc", "a key is a string"),
    ],
)
def test_bad_key_says_what_is_wrong(key: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        idempotency_key("r", None, key)


def test_key_that_contains_itself() -> None:
    part: list[Any] = []
    part.append(part)

    with pytest.raises(UsageError, match="contains itself"):
        idempotency_key("r", None, ["a", part])


def test_long_key_names_the_limit() -> None:
    assert idempotency_key("r", None, "x" * 500)
    with pytest.raises(LimitExceededError, match="key_chars_max"):
        idempotency_key("r", None, "x" * 501)
    with pytest.raises(LimitExceededError):
        idempotency_key("r", None, ["x" * 300, "y" * 300])


def test_task_id_is_five_bits_of_each_of_the_first_26_bytes() -> None:
    assert task_id(bytes(32)) == "task_" + "0" * 26
    assert task_id(b"\xff" * 32) == "task_" + "z" * 26
    assert task_id(b"\x21" + bytes(31)) == "task_1" + "0" * 25
    assert task_id(bytes(25) + b"\xe2" + b"\xff" * 6) == "task_" + "0" * 25 + "2"


def test_display_key_is_as_written() -> None:
    assert display_key("fetch") == "fetch"
    assert display_key(("fetch", 3, "ü")) == '["fetch", 3, "ü"]'
