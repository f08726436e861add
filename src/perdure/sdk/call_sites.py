"""Where in user code an io call was made: for errors that point there."""

from __future__ import annotations

import sys
from typing import TypeAlias

CallSite: TypeAlias = tuple[str, int, str]
"""File, line and function."""


def call_site() -> CallSite:
    """File, line and function of the code that called io."""
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame.f_back is not None and frame.f_globals.get("__package__", "") == __package__:
        frame = frame.f_back
    return (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


def at(site: CallSite) -> str:
    return f"{site[0]}:{site[1]} in {site[2]}"
