"""perdure's tables in a SQLite file: for one process, with nothing else to run."""

from .store import SqliteStore as SqliteStore
