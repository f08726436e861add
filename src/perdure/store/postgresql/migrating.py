"""Brings the schema `perdure` up to date, whoever else tries the same at the same time.

All in one transaction, under the lock of the table that says which migrations were applied: neither advisory locks nor
anything of a session, so a pooler may be between. A database that is up to date is only read: its role needs no right to
change it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from perdure.clock import Clock
from perdure.errors import ConfigurationError, PerdureError
from perdure.store.migrate import Migration, load_migrations, pending_migrations

from .driver import connect
from .failures import is_lost, sqlstate
from .settings import Settings

_ATTEMPTS = 5

# Two nodes that make the schema at the same moment: one of them finds it made by the other.
_RACES = ("23505", "42P06", "42P07", "40001", "40P01")

_VERSION = "select coalesce(max(version), 0) from perdure.schema_migrations"


def migrations() -> list[Migration]:
    return load_migrations("perdure.store.postgresql")


async def migrate(settings: Settings, clock: Clock) -> None:
    """Apply what is pending.

    Raises:
        SchemaOutdatedError: the schema is newer than this release.
        ConfigurationError: the database can't be reached or migrated; asyncpg isn't installed.
    """
    try:
        connection = await connect(settings)
    except PerdureError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"can't connect to the PostgreSQL database {settings.shown}: {error}"
        ) from error
    try:
        await _bring_up(connection, settings, clock)
    except PerdureError:
        raise
    except Exception as error:
        hint = ""
        if sqlstate(error) == "42501":
            hint = (
                ". Open it once as a role that may create schemas in it, or have such a role run "
                "`create schema perdure authorization <this role>`"
            )
        raise ConfigurationError(
            f"can't migrate the PostgreSQL database {settings.shown}: {error}{hint}"
        ) from error
    finally:
        await connection.close(timeout=5)


async def _bring_up(connection: Any, settings: Settings, clock: Clock) -> None:
    known = migrations()
    for attempt in range(_ATTEMPTS):
        try:
            found = await _version(connection)
            if not pending_migrations(found, known, where=settings.shown, may_migrate=True):
                return
            await _apply(connection, settings, known, clock)
            return
        except Exception as error:
            if sqlstate(error) not in _RACES or attempt == _ATTEMPTS - 1 or is_lost(error):
                raise
        await asyncio.sleep(0.05)


async def _version(connection: Any) -> int:
    """0 without a schema. In one transaction: a pooler may give each the connection of another server process."""
    async with connection.transaction(readonly=True):
        made = await connection.fetchval("select to_regclass('perdure.schema_migrations') is not null")
        return await connection.fetchval(_VERSION) if made else 0


async def _apply(connection: Any, settings: Settings, known: list[Migration], clock: Clock) -> None:
    async with connection.transaction():
        if not await connection.fetchval("select to_regnamespace('perdure') is not null"):
            await connection.execute("create schema perdure")
        await connection.execute(
            "create table if not exists perdure.schema_migrations "
            "(version integer primary key, name text not null, applied_at bigint not null)"
        )
        await connection.execute("lock table perdure.schema_migrations in exclusive mode")
        found = await connection.fetchval(_VERSION)
        for migration in pending_migrations(found, known, where=settings.shown, may_migrate=True):
            await connection.execute(migration.sql)
            await connection.execute(
                "insert into perdure.schema_migrations (version, name, applied_at) values ($1, $2, $3)",
                migration.version,
                migration.name,
                clock.now(),
            )
