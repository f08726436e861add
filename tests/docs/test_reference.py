"""The reference is complete: every public name, setting, option, limit, error and status is in it, with its default."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import perdure
from perdure import Client, Job, Limits, Retry, RunStatus, TaskStatus
from perdure.embedded import Embedded
from perdure.engine.core.transitions import TRANSITIONS
from perdure.sdk.io import IO
from perdure.sdk.operation import TaskOptions

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
LIFECYCLE = (ROOT / "docs" / "lifecycle.md").read_text()
BLOCKS: list[str] = re.findall(r"^```python\n(.*?)^```$", REFERENCE, re.MULTILINE | re.DOTALL)
PROGRAMS = [block for block in BLOCKS if "asyncio.run(" in block]
"""Those that are whole; parts of programs have tests of their own."""
PROSE = re.sub(r"^```.*?^```$", "", REFERENCE, flags=re.MULTILINE | re.DOTALL)
CODE = set(re.findall(r"[A-Za-z_]\w*", " ".join(re.findall(r"`([^`]+)`", PROSE))))
"""All words that stand between backticks."""


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    assert found, f"there is no section {title!r}"
    return found.group(1)


def rows(title: str) -> dict[str, list[str]]:
    """The tables of a section: what stands between backticks in the first column, each with the other cells."""
    lines = [line for line in section(title).splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    return {name: others for first, *others in cells for name in re.findall(r"`(\w+)", first)}


def public(owner: type) -> list[str]:
    own = [base for base in owner.__mro__ if base.__module__.startswith("perdure")]
    return list(dict.fromkeys(name for base in own for name in vars(base) if not name.startswith("_")))


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_run(program: str, tmp_path: Path):
    (tmp_path / "app.py").write_text(program)

    result = subprocess.run(
        [sys.executable, "app.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )

    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("name", perdure.__all__)
def test_every_public_name_is_there(name: str):
    assert name in CODE


FOR_CARRIERS = {"all_jobs", "connect", "find_auth_resolver", "find_job", "notified", "now", "platform"}


@pytest.mark.parametrize("name", [name for name in public(Client) if name not in FOR_CARRIERS])
def test_every_method_of_a_client_is_there(name: str):
    assert re.search(rf"`[^`]*client\.{name}\b", section("Client"))


@pytest.mark.parametrize("name", public(IO))
def test_every_method_of_io_is_there(name: str):
    assert re.search(rf"`[^`]*io\.{name}\b", section("IO"))


def test_settings_of_embedded_are_there_with_their_defaults():
    parameters = dict(list(inspect.signature(Embedded).parameters.items())[1:])

    told = rows("Embedded")
    assert set(told) == set(parameters)
    for name in ("max_executions", "threads", "grace", "linger", "foreign_await_limit", "lease_seconds"):
        assert told[name][0].removesuffix(" s") == f"{parameters[name].default:g}"


@pytest.mark.parametrize("name", list(inspect.signature(Job).parameters)[2:])
def test_options_of_a_job_are_there(name: str):
    assert name in rows("Jobs")


@pytest.mark.parametrize("name", TaskOptions.__struct_fields__)
def test_options_of_a_task_are_there(name: str):
    assert name in rows("IO")


def test_retry_is_there_with_its_defaults():
    defaults = [f"{name}={value.default!r}" for name, value in inspect.signature(Retry).parameters.items()]

    assert f"`Retry({', '.join(defaults)})`" in REFERENCE


@pytest.mark.parametrize("name", ["Run", "Task", "Event", "EventRun", "Log", "ErrorInfo"])
def test_fields_of_what_is_returned_are_there(name: str):
    fields = getattr(perdure, name).__struct_fields__

    assert [field for field in fields if not re.search(rf"\b{field}\b", section("What is returned"))] == []


def test_limits_are_there_with_their_defaults():
    told = {name: int(cells[0].replace(",", "")) for name, cells in rows("Limits").items()}

    assert told == msgspec.structs.asdict(Limits())


def test_limits_that_nothing_holds_are_said_to_be_so():
    sources = [path for path in (ROOT / "src").rglob("*.py") if path.name != "limits.py"]
    code = "\n".join(path.read_text() for path in sources)

    said = re.search(r"Declared, and not held to yet:(.*?)\n\n", section("Limits"), re.DOTALL)
    assert set(re.findall(r"`(\w+)`", said.group(1) if said else "")) == {
        name for name in Limits.__struct_fields__ if not re.search(rf"\b{name}\b", code)
    }


def test_errors_are_there():
    errors = {
        name
        for name, value in vars(perdure).items()
        if isinstance(value, type) and issubclass(value, perdure.PerdureError)
    }

    assert set(rows("Errors")) | {"PerdureError"} == errors


def test_statuses_are_there_with_their_wire_values():
    assert {name: cells[0].strip("`") for name, cells in rows("Statuses").items()} == {
        status.name: status.value for status in RunStatus
    }
    assert [status.name for status in TaskStatus if f"`{status.name}`" not in section("Statuses")] == []


def test_life_of_a_run_has_every_status_and_transition():
    assert [status.label for status in RunStatus if status.label not in LIFECYCLE] == []
    for (status, event), following in TRANSITIONS.items():
        assert f"| {status.label} | {event.name.lower()} | {following.label} |" in LIFECYCLE
