"""Numbered migrations, forward only: which there are, and which of them a database still needs.

An adapter asks for its version and applies what is pending under a lock, each migration in one transaction together
with its line in `schema_migrations`. Nothing here touches a database.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files

from msgspec import Struct

from perdure.errors import SchemaOutdatedError

_FILE = re.compile(r"^(\d{4})_(\w+)\.sql$")


class Migration(Struct, frozen=True, kw_only=True):
    """`0007_add_run_tags.sql` is version 7, name "add_run_tags"."""

    version: int
    name: str
    sql: str


def load_migrations(package: str, folder: str = "migrations") -> list[Migration]:
    """The migrations in a package's folder, numbered from 1 without a gap."""
    found = [
        Migration(version=int(match[1]), name=match[2], sql=entry.read_text("utf-8"))
        for entry in (files(package) / folder).iterdir()
        if (match := _FILE.match(entry.name))
    ]
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"migrations of {package} are not numbered 1, 2, 3 ...")
    return found


def pending_migrations(
    found: int, migrations: Sequence[Migration], *, where: str, may_migrate: bool
) -> Sequence[Migration]:
    """What a database of version `found` needs to become current.

    Raises:
        SchemaOutdatedError: it is newer than this release; or older, and it is not ours to migrate.
    """
    expected = len(migrations)
    if found > expected or (found < expected and not may_migrate):
        raise SchemaOutdatedError(where=where, found=found, expected=expected)
    return migrations[found:]
