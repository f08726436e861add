"""Errors keep their facts: pickling, copying, codes."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest

from perdure import errors
from perdure.errors import PerdureError, TaskError, qualified_name

FACTS: dict[str, Any] = {
    "job_id": "j", "issues": [{"path": ["a", 0], "message": "wrong"}], "where": "output of 'k'", "path": "$.a", "problem": "is odd",
    "what": "the size", "size": 10, "limit": 5, "setting": "output_bytes_max", "kind": "run", "id": "run_1", "key": "k",
    "first": "a.py:1 in f", "second": "a.py:2 in f", "found": 3, "expected": 2, "owner": "pid 1", "error_name": "ValueError",
    "error_message": "no", "error_types": ["ValueError"], "stack": "Traceback", "run_id": "run_1", "status": "Failed", "task_id": "task_1",
}  # fmt: skip


def every_class(base: type[PerdureError] = PerdureError) -> list[type[PerdureError]]:
    return [
        cls
        for sub in base.__subclasses__()
        for cls in (sub, *every_class(sub))
        if cls.__module__ == errors.__name__
    ]


PUBLIC = [cls for cls in every_class() if not cls.__name__.startswith("_")]


def make(cls: type[PerdureError]) -> PerdureError:
    code = cls.__init__.__code__
    wanted = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
    if "message" in wanted:
        return cls("something went wrong")
    build: Any = cls
    return build(**{name: FACTS[name] for name in wanted})


@pytest.mark.parametrize("cls", PUBLIC)
def test_error_survives_pickling_and_copying(cls: type[PerdureError]) -> None:
    error = make(cls)

    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is cls
        assert str(again) == str(error)
        assert again.facts == error.facts
        assert vars(again) == vars(error)


@pytest.mark.parametrize("cls", PUBLIC)
def test_facts_are_json_and_attributes(cls: type[PerdureError]) -> None:
    error = make(cls)

    assert json.loads(json.dumps(error.facts)) == error.facts
    assert all(getattr(error, name) == value for name, value in error.facts.items() if name != "message")


@pytest.mark.parametrize("cls", PUBLIC)
def test_name_docstring_and_place_in_the_tree(cls: type[PerdureError]) -> None:
    assert cls.__name__.endswith("Error")
    assert cls.__doc__
    assert cls.__name__ in (errors.__doc__ or "")


def test_codes_are_unique() -> None:
    codes = [cls.code for cls in PUBLIC]

    assert len(set(codes)) == len(codes)
    assert PerdureError.code not in codes


class CustomError(LookupError):
    pass


@pytest.mark.parametrize(
    "kinds, expected",
    [
        ((CustomError,), True),
        ((LookupError,), True),
        (("CustomError",), True),
        ((f"{__name__}.CustomError",), True),
        ((KeyError, "LookupError"), True),
        ((KeyError, "Lookup"), False),
        ((), False),
    ],
)
def test_task_error_matches(kinds: Any, expected: bool) -> None:
    types = [qualified_name(cls) for cls in CustomError.__mro__[:-2]]
    error = TaskError(key="k", error_name="CustomError", error_message="no", error_types=types)

    assert error.matches(*kinds) is expected


def test_task_error_names_key_and_cause() -> None:
    assert (
        str(TaskError(key="fetch", error_name="ValueError", error_message="no"))
        == "task 'fetch' failed: ValueError: no"
    )
