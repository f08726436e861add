"""Credentials of integrations: the application's resolvers are asked for them before each execution of a run.

They are never stored nor logged: a replay asks again, so they may change or expire between executions.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from msgspec import Struct

from perdure.schema.execution import UnresolvedAuth
from perdure.schema.runs import ErrorInfo
from perdure.sdk.failures import describe_error
from perdure.sdk.functions import facts_of
from perdure.sdk.signals import Signal

from .integration import Integration

if TYPE_CHECKING:
    from perdure.sdk.context import Context
    from perdure.sdk.execution import Execution
    from perdure.sdk.io import IO
    from perdure.sdk.sync_io import SyncIO
    from perdure.sdk.sync_run import SyncRun


class Auth(Struct, frozen=True, kw_only=True):
    """Credentials that an auth resolver gives; `repr` doesn't show them. `additional_fields`: what else a service needs."""

    type: Literal["apiKey", "oauth"]
    token: str
    additional_fields: dict[str, str] | None = None

    def __repr__(self) -> str:
        return f"Auth(type={self.type!r}, token='********')"

    __str__ = __repr__


AuthResolver: TypeAlias = "Callable[[Context, Integration], Auth | Mapping[str, Any] | Awaitable[Auth | Mapping[str, Any] | None] | None]"
"""`resolver(ctx, integration)`, sync or async: returns an Auth, or a dict with its fields. None: there are no credentials."""


class _Issue(Struct):
    """Why an integration of a job has no credentials."""

    key: str
    message: str
    stack: str | None = None


class _NoAuthError(Exception):
    """What a resolver gave is no Auth."""


async def run_with_integrations(execution: Execution, payload: Any, io: IO, ctx: Context) -> Any:
    """The run function, once its integrations are there; a run whose integrations lack credentials ends."""
    auths = await _resolve_all(execution, ctx)
    if isinstance(auths, UnresolvedAuth):
        execution.end(auths)
        raise Signal(execution.ending_reason)
    io._integrations = _for_run(execution, io, auths)  # pyright: ignore[reportPrivateUsage]
    return await execution.job.fn(payload, io, ctx)


def run_sync_with_integrations(
    execution: Execution, run: SyncRun, payload: Any, io: SyncIO, ctx: Context
) -> Any:
    """The same for a plain `def`, in the run's thread."""
    auths: dict[str, Auth | None] | UnresolvedAuth = run.await_(_resolve_all(execution, ctx))
    if isinstance(auths, UnresolvedAuth):
        outcome = auths
        run.until(lambda _: execution.end(outcome))
        raise Signal(execution.ending_reason)
    io._integrations = _for_run(execution, io, auths)  # pyright: ignore[reportPrivateUsage]
    return execution.job.fn(payload, io, ctx)


def _for_run(execution: Execution, io: IO | SyncIO, auths: Mapping[str, Auth | None]) -> dict[str, Any]:
    integrations = execution.job.integrations
    return {key: integrations[key].for_run(io, key, auth) for key, auth in auths.items()}


async def _resolve_all(execution: Execution, ctx: Context) -> dict[str, Auth | None] | UnresolvedAuth:
    """Credentials for each integration of the job, by its key there; or why some can't be had."""
    auths: dict[str, Auth | None] = {}
    issues: list[_Issue] = []
    for key, integration in execution.job.integrations.items():
        found = await _resolve(execution, key, integration, ctx)
        if isinstance(found, _Issue):
            issues.append(found)
        else:
            auths[key] = found
    if not issues:
        return auths
    message = "\n".join(f"{issue.key}: {issue.message}" for issue in issues)
    stacks = [issue.stack for issue in issues if issue.stack]
    return UnresolvedAuth(ErrorInfo(name="UnresolvedAuth", message=message, stack="\n".join(stacks) or None))


async def _resolve(
    execution: Execution, key: str, integration: Integration, ctx: Context
) -> Auth | _Issue | None:
    """Messages as the protocol words them (Protocol, integrations, connections, auth resolver)."""
    resolver = execution.job.client.find_auth_resolver(integration)
    if resolver is None:
        if not integration.needs_resolver:
            return None
        return _Issue(
            key,
            f"Something went wrong: Integration {integration.id} is missing auth credentials: it has none of its own, and "
            "the client has no auth resolver for it (client.define_auth_resolver)",
        )
    failed = f"Auth could not be resolved for {integration.id}: auth resolver"
    limit = execution.settings.foreign_await_limit
    timeout = asyncio.timeout(limit)
    try:
        async with timeout:
            found = await _call(execution, resolver, ctx, integration)
        return _Issue(key, f"{failed} returned None") if found is None else _as_auth(found)
    except _NoAuthError as error:
        return _Issue(key, f"{failed} {error}")
    except Exception as error:  # noqa: BLE001 - whatever the application's resolver raises
        if isinstance(error, TimeoutError) and timeout.expired():
            error = TimeoutError(f"it took longer than {limit:g} s")
        info = describe_error(error, execution.settings.limits)
        return _Issue(key, f"{failed} threw. {info.name}: {info.message}", info.stack)


async def _call(execution: Execution, resolver: AuthResolver, ctx: Context, integration: Integration) -> Any:
    if facts_of(resolver).is_async:
        return await cast("Awaitable[Any]", resolver(ctx, integration))
    context = copy_context()
    found = await execution.loop.run_in_executor(
        execution.threads, lambda: context.run(resolver, ctx, integration)
    )
    return await found if inspect.isawaitable(found) else found


def _as_auth(found: Any) -> Auth:
    """What a resolver gave, as an Auth. Nothing of it is shown in an error: it may hold a secret."""
    if isinstance(found, Mapping):
        members = dict(cast("Mapping[str, Any]", found))
        additional = members.pop("additionalFields", None)
        unknown = members.keys() - set(Auth.__struct_fields__)
        if unknown or "type" not in members or "token" not in members:
            raise _NoAuthError("returned a dict that has not just type, token and additional_fields")
        found = Auth(**{"additional_fields": additional, **members})
    if not isinstance(found, Auth):
        raise _NoAuthError(f"returned no Auth, but a {type(found).__name__}")
    given: Any = found
    if given.type not in ("apiKey", "oauth"):
        raise _NoAuthError('returned an Auth whose type is neither "apiKey" nor "oauth"')
    if not isinstance(given.token, str) or not given.token:
        raise _NoAuthError("returned an Auth whose token is no string, or an empty one")
    return found
