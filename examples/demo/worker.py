"""The process that the demo kills: the job of examples/quickstart.py, with a note of every body that begins.

    python -m examples.demo.worker FILE.db NOTES.jsonl SITE_URL

It does the same whenever it is started: opens the file, sends six events, cancels the run of one, waits for all runs.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from pathlib import Path

from examples.quickstart import client, log
from perdure import RunStatus, current_task

from .plan import CANCELLED, events


class Notes(logging.Handler):
    """Writes a line for each body of a task that begins: {"pid": 1, "task": "task_...", "key": "fetch", "attempt": 1}.

    A line is in the file, whatever happens to the process next, when the body's first statement has run.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def emit(self, record: logging.LogRecord) -> None:
        task = current_task()
        note = {"pid": os.getpid(), "task": task.id, "key": task.key, "attempt": task.attempts}
        os.write(self._file, f"{json.dumps(note)}\n".encode())


async def main(database: str, notes: str, site: str) -> None:
    log.addHandler(Notes(Path(notes)))
    log.setLevel(logging.INFO)
    log.propagate = False
    async with client.embedded(f"sqlite:///{database}"):
        sent = await client.send_events(
            [client.event("foo.bar", payload, id=name) for name, payload in events(site).items()]
        )
        runs = {event.id: event.runs[0].id for event in sent}
        await cancel_when_it_waits(runs[CANCELLED])
        for run_id in runs.values():
            await client.wait_for_run(run_id)


async def cancel_when_it_waits(run_id: str) -> None:
    while (run := await client.get_run(run_id)) and run.status is not RunStatus.WAITING:
        if run.status.is_terminal:
            return
        await asyncio.sleep(0.02)
    await client.cancel_run(run_id)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
