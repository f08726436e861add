"""What the project promises about itself: what an import loads, what is exported, packaged and documented."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import os
import re
import subprocess
import sys
import zipfile
from itertools import takewhile
from pathlib import Path

import pytest
import typer.main

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

LINES_MAX = 500
IMPORT_SECONDS_MAX = 0.100
NOT_LOADED_BY_THE_SDK = {
    "asyncpg", "granian", "http.client", "httpx", "httpx2", "litestar", "perdure.cli", "perdure.embedded", "perdure.engine",
    "perdure.server", "perdure.store", "psycopg", "pydantic", "rich", "sqlite3", "typer", "urllib.request", "uvicorn",
}  # fmt: skip


def python(code: str, *, env: dict[str, str] | None = None) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30, env=env
    ).stdout.strip()


# --- the import ---------------------------------------------------------------------------------------------------------


def test_import_loads_no_server_driver_http_client_or_command():
    loaded = set(python("import perdure, sys; print(*sys.modules)").split())

    assert loaded & NOT_LOADED_BY_THE_SDK == set()


def test_import_is_fast(tmp_path: Path):
    # With its bytecode, which installing writes: where PYTHONDONTWRITEBYTECODE is set, half of the time is the compiler's.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPYCACHEPREFIX"] = str(tmp_path)
    measure = "import time; start = time.process_time(); import perdure; print(time.process_time() - start)"

    first, *others = (float(python(measure, env=env)) for _ in range(5))

    assert min(others) <= IMPORT_SECONDS_MAX, first


def test_all_names_what_is_public_and_nothing_else():
    perdure = importlib.import_module("perdure")
    exported: list[str] = perdure.__all__

    public = {
        name
        for name, value in vars(perdure).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert set(exported) - {"__version__"} == public
    assert len(set(exported)) == len(exported)


# --- the package --------------------------------------------------------------------------------------------------------


def test_version_is_said_in_one_place():
    from perdure._version import __version__

    said = [path for path in [*SOURCES, ROOT / "pyproject.toml"] if f'"{__version__}"' in path.read_text()]

    assert [path.name for path in said] == ["_version.py"]
    assert importlib.metadata.version("perdure") == __version__


def test_wheel_has_every_file_of_the_package(tmp_path: Path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    )
    [wheel] = tmp_path.glob("*.whl")

    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("perdure/")}
        entry_points = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "perdure = perdure.cli.main:app" in archive.read(entry_points).decode()
    there = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "perdure").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == there
    assert "perdure/py.typed" in packed


def test_constraints_pin_versions_and_name_no_index():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]

    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line)] == []


# --- the code -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_modules_are_short(path: Path):
    assert len(path.read_text().splitlines()) <= LINES_MAX


# --- the documents ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_make_targets_in_documents_exist(path: Path):
    targets = set(re.findall(r"^([a-z][a-z-]*):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))

    named = {word for words in commands_in(path, "make") for word in words if "=" not in word}

    assert named - targets == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_in_documents_exist(path: Path):
    from perdure.cli.main import app

    root = typer.main.get_command(app)

    assert [words for words in commands_in(path, "perdure") if not is_command(root, words)] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_in_documents_lead_somewhere(path: Path):
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text())

    assert [link for link in links if not (path.parent / link).exists()] == []


def commands_in(path: Path, program: str) -> list[list[str]]:
    """What `program` is called with, in code between backticks and in blocks: its words up to the first option or value."""
    text = path.read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [
        line.removeprefix("$ ") for kind, block in blocks if kind in ("", "sh") for line in block.splitlines()
    ]
    called = [
        line.split()[1:]
        for line in [*lines, *re.findall(r"`([^`\n]+)`", text)]
        if line.startswith(f"{program} ")
    ]
    return [list(takewhile(re.compile(r"[a-z=/A-Z|-]+$").match, words)) for words in called]


def is_command(command: object, words: list[str]) -> bool:
    """Whether `words` name a command, groups by "|" all of them; what comes after a command are its arguments."""
    for word in words:
        subcommands = getattr(command, "commands", None)
        if subcommands is None:
            return True
        if not set(word.split("|")) <= set(subcommands):
            return False
        command = subcommands[word.split("|")[0]]
    return True
