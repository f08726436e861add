"""Ownership of a SQLite file: one process at a time, by an OS lock on `<file>.lock`.

The kernel holds the lock and drops it when the process dies, however it dies, so a stale file means nothing. Its text
("pid 12 on host x, since 2024-01-01T00:00:00+00:00") only tells a person who it is. The file is never deleted: that
would let two processes lock two files of one name.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import sys
import weakref
from pathlib import Path
from typing import IO

from perdure.clock import Clock, SystemClock, to_datetime
from perdure.errors import StoreInUseError

if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: IO[str]) -> bool:
        # Windows locks are mandatory: lock a byte far behind the text, which others want to read.
        file.seek(1 << 30)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(file: IO[str]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


_log = logging.getLogger("perdure.store")


class FileLock:
    """The held lock of one database file."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        _held.add(self)

    @classmethod
    async def acquire(
        cls, path: str, *, wait_seconds: float = 10.0, poll_seconds: float = 0.05, clock: Clock | None = None
    ) -> FileLock:
        """Become the owner of the database at `path`; a former owner that is just leaving gets `wait_seconds` to do so.

        Raises:
            StoreInUseError: it is still owned after that; names the owner.
        """
        file = Path(f"{path}.lock").open("a+", encoding="utf-8")  # noqa: SIM115, ASYNC230 - held until release
        try:
            loop = asyncio.get_running_loop()
            deadline = loop.time() + wait_seconds
            told = False
            while not _try_lock(file):
                if not told:
                    told = True
                    _log.warning(
                        "%s is in use by another process; waiting up to %g s for it to let go",
                        path,
                        wait_seconds,
                    )
                if loop.time() >= deadline:
                    file.seek(0)
                    raise StoreInUseError(path=path, owner=file.read().strip() or "another process")
                await asyncio.sleep(poll_seconds)
            _write_owner(file, clock or SystemClock())
        except BaseException:
            file.close()
            raise
        return cls(file)

    def release(self) -> None:
        """Let go of it; without effect the second time."""
        _held.discard(self)
        self._file.close()


_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _write_owner(file: IO[str], clock: Clock) -> None:
    since = to_datetime(clock.now()).isoformat(timespec="seconds")
    file.seek(0)
    file.truncate()
    file.write(f"pid {os.getpid()} on host {platform.node()}, since {since}\n")
    file.flush()


def _close_inherited() -> None:
    """A forked child shares its parent's lock and would hold it beyond the parent's death."""
    for lock in list(_held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)
