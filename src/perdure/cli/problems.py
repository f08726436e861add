"""How a command fails: the error's message on stderr, and an exit code.

0: done. 1: it can't be had (no such run, not a database of perdure's, a newer schema). 2: wrong usage or set-up.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

import typer

from perdure.errors import ConfigurationError, PerdureError, UsageError

T = TypeVar("T")

_WRONG_USAGE = (ConfigurationError, UsageError)


class NoSuchRunError(PerdureError):
    """No run in `file` has this id, or an id that begins with it. `look`: the command that lists those there are."""

    code = "not_found"

    def __init__(self, *, run_id: str, file: str, look: str) -> None:
        super().__init__(
            f"there is no run {run_id!r} in {file}; see {look}", run_id=run_id, file=file, look=look
        )


def exit_code(error: PerdureError) -> int:
    """The code a command ends with after `error`."""
    return 2 if isinstance(error, _WRONG_USAGE) else 1


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`. An error of ours ends the command with its message and code; others are bugs and show."""
    try:
        return asyncio.run(work)
    except PerdureError as error:
        print(f"perdure: {error}", file=sys.stderr)
        raise typer.Exit(exit_code(error)) from None
