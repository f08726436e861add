"""`ctx`: what a run function is told about its run (Protocol, context)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from perdure.clock import to_datetime
from perdure.schema.execution import Claim


class RunContext(Struct, frozen=True, kw_only=True, gc=False):
    """The run.

    Attributes:
        execution: 1, 2, 3 ...: this one. Every resumption is one.
        attempt: 1, and one more for each time that the job's `retry` has tried the run again.
        started_at: when the first execution began.
        number: 1, 2, 3 ... among the runs of its job.
        tags, metadata: of the run when this execution began; metadata is an object.
    """

    id: str
    execution: int
    attempt: int = 1
    started_at: datetime
    is_test: bool = False
    priority: int = 0
    number: int = 0
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}

    @property
    def is_retry(self) -> bool:
        """Whether the run failed before and is tried again."""
        return self.attempt > 1


class JobContext(Struct, frozen=True, kw_only=True, gc=False):
    """The job, in the version that the run was made for."""

    id: str
    version: str


class EventContext(Struct, frozen=True, kw_only=True):
    """The event that caused the run; `context` is what its sender gave along, `account_id` the user it is for."""

    id: str
    name: str
    context: Any
    timestamp: datetime
    source: str
    account_id: str | None = None


class AccountContext(Struct, frozen=True, kw_only=True):
    """The user of the application that the run is for; `metadata` is what `client.put_account` was given last."""

    id: str
    metadata: dict[str, Any] = {}


class SourceContext(Struct, frozen=True, kw_only=True):
    """The registration of a dynamic schedule that fired: its key and metadata (JSON)."""

    id: str
    metadata: Any = None


class EnvironmentContext(Struct, frozen=True, kw_only=True):
    """The environment; `type` is PRODUCTION, STAGING, DEVELOPMENT or PREVIEW."""

    id: str
    slug: str
    type: str


class Context(Struct, frozen=True, kw_only=True):
    """Passed to every run function as its third argument.

    Attributes:
        account: None unless the event has an `account_id`.
        source: None unless a dynamic schedule fired.
    """

    run: RunContext
    job: JobContext
    event: EventContext
    environment: EnvironmentContext
    account: AccountContext | None = None
    source: SourceContext | None = None


_decode_source = msgspec.json.Decoder(SourceContext).decode


def context_of(claim: Claim, environment: EnvironmentContext) -> Context:
    """The context of a claimed run."""
    event = claim.event
    return Context(
        run=RunContext(
            id=claim.run_id,
            execution=claim.execution,
            attempt=claim.failures + 1,
            started_at=to_datetime(claim.started_at),
            is_test=event.is_test,
            priority=claim.priority,
            number=claim.number,
            tags=tuple(claim.tags),
            metadata={} if claim.metadata is None else msgspec.json.decode(claim.metadata),
        ),
        job=JobContext(id=claim.job_id, version=claim.job_version),
        event=EventContext(
            id=event.id,
            name=event.name,
            context=None if event.context is None else msgspec.json.decode(event.context),
            timestamp=to_datetime(event.timestamp),
            source=event.source,
            account_id=event.account_id,
        ),
        environment=environment,
        account=None
        if event.account_id is None
        else AccountContext(
            id=event.account_id, metadata={} if claim.account is None else msgspec.json.decode(claim.account)
        ),
        source=None if event.source_context is None else _decode_source(event.source_context),
    )
