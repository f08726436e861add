"""perdure: durable background jobs for Python."""

from ._version import __version__ as __version__
from .errors import ConfigurationError as ConfigurationError
from .errors import ConflictError as ConflictError
from .errors import DuplicateKeyError as DuplicateKeyError
from .errors import InternalError as InternalError
from .errors import InvalidPayloadError as InvalidPayloadError
from .errors import LimitExceededError as LimitExceededError
from .errors import NonDeterminismError as NonDeterminismError
from .errors import NotFoundError as NotFoundError
from .errors import PerdureError as PerdureError
from .errors import SchemaOutdatedError as SchemaOutdatedError
from .errors import SerializationError as SerializationError
from .errors import StoreBrokenError as StoreBrokenError
from .errors import StoreInUseError as StoreInUseError
from .errors import TaskError as TaskError
from .errors import UnavailableError as UnavailableError
from .errors import UsageError as UsageError
from .limits import Limits as Limits
from .schema.runs import ErrorInfo as ErrorInfo
from .schema.runs import Event as Event
from .schema.runs import EventRun as EventRun
from .schema.runs import Log as Log
from .schema.runs import Run as Run
from .schema.runs import RunStatus as RunStatus
from .schema.runs import Task as Task
from .schema.runs import TaskStatus as TaskStatus
from .sdk.client import Client as Client
from .sdk.client import EventToSend as EventToSend
from .sdk.context import Context as Context
from .sdk.functions import task as task
from .sdk.io import IO as IO
from .sdk.jobs import Job as Job
from .sdk.payloads import Example as Example
from .sdk.retry import Retry as Retry
from .sdk.scope import current_task as current_task
from .sdk.sync_run import SyncIO as SyncIO
from .sdk.triggers.event import event_trigger as event_trigger
from .sdk.triggers.invoke import invoke_trigger as invoke_trigger
from .sdk.triggers.trigger import Trigger as Trigger

__all__ = [
    "Client",
    "ConfigurationError",
    "ConflictError",
    "Context",
    "DuplicateKeyError",
    "ErrorInfo",
    "Event",
    "EventRun",
    "EventToSend",
    "Example",
    "IO",
    "InternalError",
    "InvalidPayloadError",
    "Job",
    "LimitExceededError",
    "Limits",
    "Log",
    "NonDeterminismError",
    "NotFoundError",
    "PerdureError",
    "Retry",
    "Run",
    "RunStatus",
    "SchemaOutdatedError",
    "SerializationError",
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
    "current_task",
    "event_trigger",
    "invoke_trigger",
    "task",
]
