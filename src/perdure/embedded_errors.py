"""Translates, at the border of the embedded platform, what only an engine is to know of its store."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, TypeVar

from perdure.errors import StoreBrokenError, UnavailableError

C = TypeVar("C")

_WRITES_ONLY = frozenset({"send", "send_event"})
"""The writer translates by itself; and of these there may be very many under way, for each of which this is a coroutine."""


def tells_unavailable(cls: type[C]) -> type[C]:
    """Class decorator: every async method raises UnavailableError where the store beneath raises StoreBrokenError.

    To whoever calls it there is no difference: nothing was done, and it can be repeated once the store was reopened.
    """
    for name, method in list(vars(cls).items()):
        if inspect.iscoroutinefunction(method) and name not in _WRITES_ONLY:
            setattr(cls, name, _translated(method))
    return cls


def _translated(method: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
    @wraps(method)
    async def call(*args: Any, **options: Any) -> Any:
        try:
            return await method(*args, **options)
        except StoreBrokenError as error:
            raise UnavailableError(
                f"the engine has stopped because its store broke ({error}); reopen it to recover"
            ) from error

    return call
