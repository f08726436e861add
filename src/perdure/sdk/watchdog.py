"""Notices user code that blocks the event loop, and says where it was."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .branches import outside_run

BLOCKED_SECONDS = 1.0
_TICK_SECONDS = 0.25
_NOT_USER_CODE = (str(Path(asyncio.__file__).parent.parent), str(Path(__file__).parent))
"""The standard library and perdure: who blocks the loop in there was called by somebody."""


class Watchdog:
    """A thread that looks on while the loop ticks.

    `report(task, message)` is called in that thread, for the loop may never turn again; `task` is the asyncio task that
    blocks it.
    """

    def __init__(self, report: Callable[[asyncio.Task[Any] | None, str], None]) -> None:
        self._report = report
        self._stopped = threading.Event()
        self._ticks = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._tick()
        threading.Thread(target=self._watch, name="perdure-watchdog", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        self._ticks += 1
        self._timer = outside_run(self._loop, _TICK_SECONDS, self._tick)

    def _watch(self) -> None:
        seen, still = 0, 0.0
        reported = False
        while not self._stopped.wait(_TICK_SECONDS):
            if self._ticks != seen:
                seen, still, reported = self._ticks, 0.0, False
                continue
            still += _TICK_SECONDS
            if still >= BLOCKED_SECONDS + _TICK_SECONDS and not reported:
                reported = True
                self._describe()

    def _describe(self) -> None:
        task = asyncio.current_task(self._loop)
        frame = sys._current_frames().get(self._loop_thread)  # pyright: ignore[reportPrivateUsage]
        if task is None or frame is None:
            return  # idle in the selector, or between callbacks: a suspended machine, not user code
        stack = traceback.extract_stack(frame)
        own = [frame for frame in stack if not frame.filename.startswith(_NOT_USER_CODE)] or stack
        where = f"{own[-1].filename}:{own[-1].lineno} in {own[-1].name}"
        message = (
            f"the event loop has been blocked for more than {BLOCKED_SECONDS:g} s, at {where}: everything else in the "
            "process stands still meanwhile. Give io.run_task a plain def (it runs in a thread), or await\n"
            + "".join(traceback.format_list(stack[-6:]))
        )
        self._report(task, message)
