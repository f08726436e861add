"""What errors of asyncpg and of PostgreSQL mean for a store."""

from __future__ import annotations

from perdure.errors import UnavailableError

from .driver import is_interface_error

# Classes and codes of SQLSTATE (PostgreSQL, appendix A) after which the same may be tried again, and nothing was written.
_AGAIN = (
    "08",  # connection exceptions
    "25006",  # read only: this is a standby now
    "25P03",  # idle in transaction for too long
    "28",  # a role or password that isn't valid any more
    "3D000",  # no such database
    "42501",  # rights were taken away
    "53",  # disk full, out of memory, too many connections
    "55P03",  # a lock was not to be had in time
    "57",  # cancelled, shut down, crashed, starting up
    "58",  # an I/O error
    "F0",
    "XX000",  # as 58, from extensions and poolers ("query_wait_timeout")
)

# Two transactions were in each other's way: the same transaction, repeated at once, will most likely get through.
_CONFLICTS = ("40001", "40P01")

_NUL = ("22021", "22P05")


class OvertakenError(Exception):
    """What a transaction has read was deleted by another before it could be locked: repeat it."""


def is_conflict(error: BaseException) -> bool:
    """Whether the transaction should simply be repeated: a deadlock, or a statement that a migration has outdated."""
    if isinstance(error, OvertakenError):
        return True
    return sqlstate(error) in _CONFLICTS or type(error).__name__ in (
        "InvalidCachedStatementError",
        "OutdatedSchemaCacheError",
    )


def is_lost(error: BaseException) -> bool:
    """Whether the connection is gone, or can't be relied on: nobody said what became of what was asked last."""
    if is_interface_error(error):
        return True
    if isinstance(error, OSError | TimeoutError | EOFError):
        return True
    state = sqlstate(error)
    return state is not None and (state.startswith("08") or state in ("57P01", "57P02", "57P03", "25P03"))


def sqlstate(error: BaseException) -> str | None:
    found = getattr(error, "sqlstate", None)
    return found if isinstance(found, str) else None


def translated(error: BaseException) -> BaseException:
    """The same in the port's terms, for a transaction that was rolled back."""
    state = sqlstate(error)
    if is_lost(error) or is_conflict(error) or (state is not None and state.startswith(_AGAIN)):
        return UnavailableError(
            f"the PostgreSQL database can't be used now ({_said(error)}); nothing was written, repeat later"
        )
    if state in _NUL:
        return ValueError("text that is to be stored holds a NUL character")
    return error


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
