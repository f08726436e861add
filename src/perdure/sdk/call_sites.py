"""Where in user code an io call was made: for errors that point there."""

from __future__ import annotations

import sys
from types import CodeType
from typing import TypeAlias

CallSite: TypeAlias = tuple[CodeType, int]
"""Code, and the place in it: what a frame gives at once. `at` works out file and line, should anybody ask."""


def call_site(depth: int = 1) -> CallSite:
    """The code that called io; `depth`: so many of the callers are known to be perdure's."""
    frame = sys._getframe(depth)  # pyright: ignore[reportPrivateUsage]
    while frame.f_back is not None and frame.f_globals.get("__package__", "") == __package__:
        frame = frame.f_back
    return (frame.f_code, frame.f_lasti)


def at(site: CallSite) -> str:
    """File, line and function, as people read them."""
    code, place = site
    line = next(
        (line for start, end, line in code.co_lines() if start <= place < end and line), code.co_firstlineno
    )
    return f"{code.co_filename}:{line} in {code.co_name}"
