"""`io.logger`: lines in the log of a run. They ride along with the next write; a replay doesn't write them again."""

from __future__ import annotations

from collections.abc import Generator
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from perdure.schema.execution import LogRecord

from .texts import cut, storable
from .values import to_json

if TYPE_CHECKING:
    from .execution import Execution

LEVELS = ("LOG", "ERROR", "WARN", "INFO", "DEBUG")
"""From what is always written to what is written least (Protocol, log levels)."""


class _Written:
    """So that `await io.logger.info(...)`, as ported code has it, works too."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


_WRITTEN = _Written()


class Logger:
    """Writes lines at or below the job's `log_level` (log < error < warn < info < debug). Needs no await."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._level = LEVELS.index(execution.job.log_level.upper())

    def log(self, message: str, data: Any = None) -> _Written:
        return self._write("LOG", message, data)

    def error(self, message: str, data: Any = None) -> _Written:
        return self._write("ERROR", message, data)

    def warn(self, message: str, data: Any = None) -> _Written:
        return self._write("WARN", message, data)

    warning = warn
    """As the standard library has it."""

    def info(self, message: str, data: Any = None) -> _Written:
        return self._write("INFO", message, data)

    def debug(self, message: str, data: Any = None) -> _Written:
        return self._write("DEBUG", message, data)

    def _write(self, level: str, message: str, data: Any) -> _Written:
        execution = self._execution
        scope = execution.enter()
        text: Any = message
        message = cut(
            storable(text if isinstance(text, str) else str(text)), execution.settings.limits.error_chars_max
        )
        if LEVELS.index(level) > self._level:
            return _WRITTEN
        count = scope.count_line(level, message)
        operation = scope.operation
        place = (operation.record.id, operation.record.attempts) if operation is not None else ("", 0)
        identity = f"{execution.claim.run_id}:{place[0]}:{place[1]}:{level}:{count}:{message}"
        if isinstance(data, BaseException):
            data = {"name": type(data).__name__, "message": str(data)}
        line = LogRecord(
            id=sha256(identity.encode()).hexdigest()[:32],
            level=level,
            message=message,
            at=execution.clock.now(),
            data=None if data is None else self._data(data, message),
            task_id=place[0] or None,
        )
        execution.log(line)
        return _WRITTEN

    def _data(self, data: Any, message: str) -> str:
        limit = self._execution.settings.limits.log_bytes_max
        where = f"data of the log line {message[:100]!r}"
        return to_json(data, where=where, limit=limit, setting="limits.log_bytes_max")
