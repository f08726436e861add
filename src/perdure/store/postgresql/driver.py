"""The one module that knows asyncpg, which has no types of its own; loaded when a database is opened."""

from __future__ import annotations

from typing import Any

from perdure.errors import ConfigurationError

from .settings import Settings


async def connect(settings: Settings) -> Any:
    """A connection. Raises what asyncpg does, or ConfigurationError if it isn't installed."""
    driver: Any = _driver()
    return await driver.connect(settings.dsn, **settings.connect_options())


def is_interface_error(error: BaseException) -> bool:
    """Whether asyncpg couldn't use its connection (closed, lost), and not because of an argument's value."""
    driver = _driver()
    if isinstance(
        error, driver.InternalClientError
    ):  # the server closed it just when something was asked on it
        return True
    return isinstance(error, driver.InterfaceError) and not isinstance(error, ValueError)


def _driver() -> Any:
    try:
        import asyncpg  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise ConfigurationError(
            "PostgreSQL needs the driver asyncpg: pip install 'perdure[postgresql]'"
        ) from error
    return asyncpg
