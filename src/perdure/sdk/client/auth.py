"""Who gives integrations their credentials."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from perdure.errors import ConflictError, UsageError
from perdure.limits import Limits
from perdure.sdk.integrations import AuthResolver, Integration

from .connection import Connection

Resolver = TypeVar("Resolver", bound=AuthResolver)


class ClientAuth(Connection):
    """The part of `Client` about credentials."""

    def __init__(self, id: str, limits: Limits) -> None:
        super().__init__(id, limits)
        self._auth_resolvers: dict[str, AuthResolver] = {}

    def define_auth_resolver(self, integration: Integration | str, resolver: AuthResolver) -> None:
        """Have `resolver(ctx, integration)` give an integration its credentials, before each execution of a run.

        If it returns None or raises, the run ends as Unresolved auth, and can be continued. It may take a minute.

        Args:
            integration: itself, or its id.
            resolver: sync or async; returns an `Auth`, or a dict with `type`, `token` and perhaps `additional_fields`. For whom
                is in `ctx.account`.

        Raises:
            ConflictError: the integration has a resolver.
            UsageError: it isn't callable.
        """
        name = integration if isinstance(integration, str) else integration.id
        given: Any = resolver
        if not callable(given):
            raise UsageError(f"the auth resolver of integration {name!r} isn't callable, it is {resolver!r}")
        if name in self._auth_resolvers:
            raise ConflictError(f"client {self.id!r} has an auth resolver for integration {name!r} already")
        self._auth_resolvers[name] = resolver

    def auth_resolver(self, integration: Integration | str) -> Callable[[Resolver], Resolver]:
        """Decorator for an auth resolver; see `define_auth_resolver`.

        Example:
            @client.auth_resolver(slack)
            async def slack_auth(ctx, integration):
                return Auth(type="oauth", token=await tokens.of(ctx.account.id))
        """

        def define(resolver: Resolver) -> Resolver:
            self.define_auth_resolver(integration, resolver)
            return resolver

        return define

    def find_auth_resolver(self, integration: Integration) -> AuthResolver | None:
        """Its resolver, if it has one. For carriers."""
        return self._auth_resolvers.get(integration.id)
