"""Copies a database, as of one moment, while its owner goes on writing."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from perdure.errors import ConfigurationError, UnavailableError

_STEP_PAGES = 4096  # copied without giving way: 16 MB


def copy_database(connection: sqlite3.Connection, path: str) -> None:
    """Write what `connection` sees to the new file `path`.

    In a transaction (of reading) on a database in WAL mode that is one snapshot, whatever others write meanwhile. The
    copy grows under the name `<path>.partial`, so that whatever is called `path` is whole and on disk.

    Raises:
        ConfigurationError: `path` exists, or nothing can be written there.
        UnavailableError: the disk is full.
    """
    target, partial = Path(path), Path(f"{path}.partial")
    _refuse_existing(target)
    try:
        partial.unlink(missing_ok=True)  # of a backup that was interrupted
        with closing(sqlite3.connect(partial, isolation_level=None)) as copy:
            connection.backup(copy, pages=_STEP_PAGES, sleep=0)
            copy.execute("pragma journal_mode = delete")  # one file, without a WAL beside it
        _flush(partial)
        _refuse_existing(target)
        partial.rename(target)
        _flush(target.absolute().parent)
    except (OSError, sqlite3.Error) as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise UnavailableError(f"the disk is full: no backup was written to {path}") from error
        raise ConfigurationError(f"can't write a backup to {path}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise ConfigurationError(f"can't write a backup to {target}: it exists; name a new file")


def _flush(path: Path) -> None:
    """Have what is written there survive a power cut, where the system can."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder on Windows
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
