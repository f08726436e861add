"""What a PostgreSQL URL says, and what every session is set to."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from msgspec import Struct

from perdure.errors import ConfigurationError

_OURS = ("pooler", "readers")

# Statements are planned once, before there are statistics to speak of, and for tables that may grow a thousandfold within
# the next minute: every access is to be by an index, whatever the planner makes of a table that is still empty. What joins a
# batch says `env = any(array[batch.env])` for the same reason: an equation would make the whole index look sorted for a merge,
# and reading all of it as cheap as looking up keys.
PLANNER = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_material": "off",
    "enable_bitmapscan": "off",
    "jit": "off",
}

# Of every transaction that writes: a node that is stopped in the middle (SIGSTOP, a partition) must not hold up the others.
GUARDS = {"idle_in_transaction_session_timeout": "10s", "lock_timeout": "10s", "statement_timeout": "60s"}


class Settings(Struct, frozen=True, kw_only=True):
    """How a database is reached.

    Attributes:
        dsn: the URL without our own options.
        pooled: a pooler in transaction mode (PgBouncer) is between: no prepared statements, nothing set for a session.
        readers_max: connections for reading, beside the one for writing.
    """

    dsn: str
    pooled: bool
    readers_max: int

    @property
    def shown(self) -> str:
        """The URL without a password or options: for people and logs."""
        parts = urlsplit(self.dsn)
        netloc = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, netloc, parts.path, "", ""))

    def connect_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"timeout": 10, "command_timeout": 90}
        if self.pooled:
            return {**options, "statement_cache_size": 0}
        return {
            **options,
            "statement_cache_size": 400,
            "max_cached_statement_lifetime": 0,
            "max_cacheable_statement_size": 0,
            "server_settings": {"application_name": "perdure"},
        }


def parse_url(url: str) -> Settings:
    """Take our own options out of a URL: `?pooler=transaction` and `?readers=5`; asyncpg knows the others.

    Raises:
        ConfigurationError: an option has no such value.
    """
    parts = urlsplit(url)
    given = parse_qsl(parts.query, keep_blank_values=True)
    ours = {name: value for name, value in given if name in _OURS}
    pooler, readers = ours.get("pooler", "none"), ours.get("readers", "3")
    if pooler not in ("none", "transaction"):
        raise ConfigurationError(
            f"the database URL says pooler={pooler}: write pooler=transaction if a pooler in transaction mode is "
            "between, else leave it out"
        )
    if not readers.isascii() or not readers.isdigit() or not 1 <= int(readers) <= 100:
        raise ConfigurationError(f"the database URL says readers={readers}: a number from 1 to 100 is meant")
    query = urlencode([(name, value) for name, value in given if name not in _OURS], safe="/,:")
    return Settings(
        dsn=urlunsplit(parts._replace(query=query)),
        pooled=pooler == "transaction",
        readers_max=int(readers),
    )


# A server or a role may have it off: then a crash of the server loses what was acknowledged in its last moments.
DURABLE = "select set_config('synchronous_commit', 'on', {local}) where current_setting('synchronous_commit') = 'off';"


def set_local(settings: dict[str, str]) -> str:
    """For the rest of a transaction."""
    return "".join(f"set local {name} to '{value}';" for name, value in settings.items())


def set_session(settings: dict[str, str]) -> str:
    """For as long as a connection lasts; not through a pooler."""
    return "".join(f"set {name} to '{value}';" for name, value in settings.items())
