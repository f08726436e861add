"""Opens a SQLite file that somebody else may own, for reading."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from perdure.errors import ConfigurationError, SchemaOutdatedError
from perdure.store.sqlite.store import SqliteStore

_HEADER = b"SQLite format 3\x00"


@asynccontextmanager
async def open_file(db: str) -> AsyncGenerator[SqliteStore]:
    """The store in the file that `db` names, opened for reading: never creates, migrates or locks it."""
    path = _existing_file(db)
    try:
        store = await SqliteStore.open(str(path), environment="dev", read_only=True)
    except SchemaOutdatedError as error:
        if error.found == 0:
            raise ConfigurationError(
                f"{str(path)!r} is no database of perdure's: its tables are missing"
            ) from error
        raise
    try:
        yield store
    finally:
        await store.close()


def _existing_file(db: str) -> Path:
    scheme, separator, rest = db.partition("://")
    if separator and scheme != "sqlite":
        raise ConfigurationError(f"{scheme}://... can't be read by this command; it takes a SQLite file")
    path = Path(rest.removeprefix("/") if separator else db)
    if not path.is_file():
        raise ConfigurationError(
            f"there is no file {str(path)!r}; the path is the one that `client.embedded(...)` was given"
        )
    with path.open("rb") as file:
        header = file.read(len(_HEADER))
    if header != _HEADER:
        raise ConfigurationError(f"{str(path)!r} is not a SQLite file, so no database of perdure's")
    return path
