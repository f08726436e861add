"""perdure: durable background jobs for Python."""

from ._version import __version__ as __version__
from .errors import (
    ConfigurationError as ConfigurationError,
    ConflictError as ConflictError,
    DuplicateKeyError as DuplicateKeyError,
    InternalError as InternalError,
    InvalidPayloadError as InvalidPayloadError,
    LimitExceededError as LimitExceededError,
    NonDeterminismError as NonDeterminismError,
    NotFoundError as NotFoundError,
    PerdureError as PerdureError,
    RunFailedError as RunFailedError,
    SchemaOutdatedError as SchemaOutdatedError,
    SerializationError as SerializationError,
    StoreBrokenError as StoreBrokenError,
    StoreInUseError as StoreInUseError,
    TaskError as TaskError,
    UnavailableError as UnavailableError,
    UsageError as UsageError,
)
from .limits import Limits as Limits
from .schema.queues import Queue as Queue
from .schema.reasons import Reason as Reason
from .schema.registrations import Registration as Registration
from .schema.retention import Pruned as Pruned, Retention as Retention
from .schema.run_filter import BulkResult as BulkResult
from .schema.runs import (
    Account as Account,
    ErrorInfo as ErrorInfo,
    Event as Event,
    EventRun as EventRun,
    Log as Log,
    Run as Run,
    RunStatus as RunStatus,
    Task as Task,
    TaskStatus as TaskStatus,
)
from .schema.statuses import StatusRecord as StatusRecord, StatusVersion as StatusVersion
from .sdk.background import FetchResponse as FetchResponse
from .sdk.client import Client as Client, EventToSend as EventToSend
from .sdk.concurrency import ConcurrencyLimit as ConcurrencyLimit
from .sdk.context import Context as Context
from .sdk.fetch import Backoff as Backoff, FromHeaders as FromHeaders, redact_string as redact_string
from .sdk.functions import task as task
from .sdk.integrations import Auth as Auth, Integration as Integration
from .sdk.io import IO as IO
from .sdk.jobs import Job as Job
from .sdk.notifications import RunNotification as RunNotification
from .sdk.payloads import Example as Example
from .sdk.results import RunResult as RunResult
from .sdk.retry import Retry as Retry
from .sdk.scope import current_task as current_task
from .sdk.sync_io import SyncIO as SyncIO
from .sdk.triggers.dynamic_schedule import DynamicSchedule as DynamicSchedule
from .sdk.triggers.event import event_trigger as event_trigger
from .sdk.triggers.invoke import invoke_trigger as invoke_trigger
from .sdk.triggers.schedule import (
    ScheduledPayload as ScheduledPayload,
    cron_trigger as cron_trigger,
    interval_trigger as interval_trigger,
)
from .sdk.triggers.trigger import Trigger as Trigger

__all__ = [
    "IO",
    "Account",
    "Auth",
    "Backoff",
    "BulkResult",
    "Client",
    "ConcurrencyLimit",
    "ConfigurationError",
    "ConflictError",
    "Context",
    "DuplicateKeyError",
    "DynamicSchedule",
    "ErrorInfo",
    "Event",
    "EventRun",
    "EventToSend",
    "Example",
    "FetchResponse",
    "FromHeaders",
    "Integration",
    "InternalError",
    "InvalidPayloadError",
    "Job",
    "LimitExceededError",
    "Limits",
    "Log",
    "NonDeterminismError",
    "NotFoundError",
    "PerdureError",
    "Pruned",
    "Queue",
    "Reason",
    "Registration",
    "Retention",
    "Retry",
    "Run",
    "RunFailedError",
    "RunNotification",
    "RunResult",
    "RunStatus",
    "ScheduledPayload",
    "SchemaOutdatedError",
    "SerializationError",
    "StatusRecord",
    "StatusVersion",
    "StoreBrokenError",
    "StoreInUseError",
    "SyncIO",
    "Task",
    "TaskError",
    "TaskStatus",
    "Trigger",
    "UnavailableError",
    "UsageError",
    "__version__",
    "cron_trigger",
    "current_task",
    "event_trigger",
    "interval_trigger",
    "invoke_trigger",
    "redact_string",
    "task",
]
