"""Whether the files of a database are still at their paths.

A file that was deleted or replaced stays open, and takes every write: they are gone when it is closed.
"""

from __future__ import annotations

import os
import time

LOOK_SECONDS = 1.0
"""How often the files are looked at, at most."""


class FileWatch:
    """The file at `path`, and its WAL, as they are when this is made: after they were opened."""

    def __init__(self, path: str) -> None:
        path = os.path.realpath(path)  # as SQLite: a folder or link that is changed later doesn't matter
        self._files = {name: _identity(name) for name in (path, f"{path}-wal")}
        self._look_at = 0.0

    def missing(self) -> str | None:
        """A path at which the opened file isn't any more. Cheap: looks once in LOOK_SECONDS, else there is none."""
        now = time.monotonic()
        if now < self._look_at:
            return None
        self._look_at = now + LOOK_SECONDS
        for path, opened in self._files.items():
            if opened is not None and _identity(path, opened) != opened:
                return path
        return None


def _identity(path: str, unknown: tuple[int, int] | None = None) -> tuple[int, int] | None:
    """Which file is at `path`: None if there is none, `unknown` if the system doesn't say (no permission, say)."""
    try:
        found = os.stat(path)  # noqa: PTH116 - a third of the time of Path.stat
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return unknown
    return (found.st_dev, found.st_ino)
