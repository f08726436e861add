"""The contract of integrations: what a job names in `integrations=`, and finds in its `io`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from perdure.errors import UsageError

if TYPE_CHECKING:
    from .auth import Auth


class Integration(ABC):
    """A service that jobs use: `client.job(..., integrations={"slack": slack})` makes it `io.slack` in their runs.

    Example:
        class Slack(Integration):
            def for_run(self, io, key, auth):
                return SlackInRun(io, key, auth.token if auth is not None else self.token)

    Args:
        id: tells it from others, also from another one of the same class; auth resolvers are found by it.
        name: for people; the id if not given.

    Attributes:
        needs_resolver: it has no credentials of its own, so that a run without an auth resolver for it can't begin.
    """

    needs_resolver: bool = False

    def __init__(self, id: str, *, name: str | None = None) -> None:
        if not id:
            raise UsageError("an integration needs an id")
        self.id = id
        self.name = name or id

    @abstractmethod
    def for_run(self, io: Any, key: str, auth: Auth | None) -> Any:
        """What `io.<key>` is in one execution of a run. Called before the run function, in each execution: don't do I/O.

        Args:
            io: of the run (IO or SyncIO): what is done with the service belongs in tasks.
            key: under which the job has the integration.
            auth: what the auth resolver gave; None without a resolver: use credentials of your own.
        """

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id!r}>"


def checked_integrations(
    integrations: Mapping[str, Integration] | None, where: str
) -> dict[str, Integration]:
    """A job's integrations, by what they are called in its `io`.

    Raises:
        UsageError: one is no integration, or has a name that `io` can't give it.
    """
    from perdure.sdk.io import IO

    found = dict(integrations or {})
    for key, integration in found.items():
        if not isinstance(integration, Integration):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"{where}: integrations[{key!r}] is no Integration but {integration!r}")
        if not isinstance(key, str) or not key.isidentifier() or key.startswith("_") or hasattr(IO, key):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(
                f"{where}: an integration can't be called {key!r}: it becomes io.{key}, which has to be a name that io "
                "doesn't have yet"
            )
    return found


class IntegrationIO:
    """The part of `IO` and `SyncIO` about integrations: `io.<name>` for each that the job has."""

    __slots__ = ()

    if TYPE_CHECKING:
        _integrations: dict[str, Any] | None

    def __getattr__(self, name: str) -> Any:
        # Called only for what isn't there otherwise.
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        integrations = self._integrations or {}
        if name in integrations:
            return integrations[name]
        has = f"it has {', '.join(integrations)}" if integrations else "it has none"
        raise AttributeError(
            f"io has no {name!r}, neither of its own nor as an integration of this job ({has}): is it misspelt, or missing in "
            f"the job's integrations={{{name!r}: ...}}?",
            name=name,
            obj=self,
        )
