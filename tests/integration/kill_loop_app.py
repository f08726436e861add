"""The application that test_kill_loop kills: it sends events, says so once they are acknowledged, and runs their jobs.

Run as a script it is a zygote, which has perdure imported and forks a child per command, so that a life costs
milliseconds. Commands on stdin, one JSON per line; the answer to each is the child's pid, and to the end of the child its
exit status, each on a line of stdout:

    {"do": "live", "life": 3, "events": 2}              send two events (ids "3-0", "3-1"), execute until killed
    {"do": "finish", "events": ["3-0", ...]}            execute until the runs of all these events have ended
    {"do": "crash", "moment": "before", "commit": 7}    send one event (id "only"), execute, die at the 7th commit

Everything that must be known after a kill goes through one O_APPEND write per line: what was written before SIGKILL is in
the file, and no line is torn.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from perdure import IO, Client, Context, Retry, current_task, event_trigger

END_SECONDS_MAX = 60
LINGER_SECONDS = 0.02
"""So that the waits of the jobs, short as they are, put the runs down."""


class Lines:
    """A file of lines that are appended whole."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def append(self, *words: str) -> None:
        os.write(self._file, (" ".join(words) + "\n").encode())


def make_client(effects: Lines) -> Client:
    client = Client(id="kill-loop")

    def effect() -> str:
        task = current_task()
        effects.append(task.id, task.key)
        return task.key

    async def slow_effect(seconds: float) -> str:
        key = effect()
        await asyncio.sleep(seconds)
        return key

    def effect_in_thread() -> str:
        return effect()

    async def fails_once() -> str:
        key = effect()
        if current_task().attempts == 1:
            raise ConnectionError("the first time")
        return key

    @client.job(id="async", trigger=event_trigger(name="work"))
    async def async_job(payload: dict[str, Any], io: IO, ctx: Context) -> list[str]:
        async def parent() -> list[str]:
            return list(
                await asyncio.gather(
                    io.run_task("child 1", slow_effect, 0.002), io.run_task("child 2", effect_in_thread)
                )
            )

        async def later(seconds: float) -> str:
            await io.wait("short wait", seconds)
            return await io.run_task("after short wait", effect_in_thread)

        done = [await io.run_task("first", slow_effect, 0)]
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(io.run_task("parallel 1", slow_effect, 0.01)),
                group.create_task(io.run_task("parallel 2", effect_in_thread)),
                group.create_task(later(0.03)),
            ]
        done += [task.result() for task in tasks]
        done += await io.run_task("parent", parent)
        done.append(await io.run_task("retried", fails_once, retry=Retry(attempts=3, min_delay=0.01)))
        await io.wait("long wait", 0.1)
        for i in range(3):
            done.append(await io.run_task(["loop", i], slow_effect, 0))
        return done

    @client.job(id="sync", trigger=event_trigger(name="work"))
    def sync_job(payload: dict[str, Any], io: Any, ctx: Context) -> list[str]:
        done = [io.run_task("first", effect)]
        io.wait("wait", 0.05)
        return [*done, io.run_task("last", effect)]

    return client


def embedded(client: Client, folder: Path, **settings: Any) -> Any:
    return client.embedded(f"sqlite:///{folder / 'jobs.db'}", linger=LINGER_SECONDS, **settings)


async def live(folder: Path, command: dict[str, Any]) -> None:
    """Send this life's events, acknowledge each, and execute until killed."""
    acknowledged = Lines(folder / "acknowledged")
    client = make_client(Lines(folder / "effects"))
    async with embedded(client, folder):
        for n in range(command["events"]):
            event = await client.send_event("work", {"n": n}, id=f"{command['life']}-{n}")
            acknowledged.append(event.id)
        await asyncio.Event().wait()


async def finish(folder: Path, command: dict[str, Any]) -> None:
    """Execute until all runs have ended: those of these events, and of events that were stored and not acknowledged."""
    client = make_client(Lines(folder / "effects"))
    async with embedded(client, folder):
        for event_id in command["events"]:
            event = await client.get_event(event_id)
            assert event is not None, f"event {event_id} was acknowledged, and is lost"
        for run in [run async for run in client.iter_runs()]:
            ended = await client.wait_for_run(run.id, timeout=END_SECONDS_MAX)
            if ended.error is not None and ended.error.name == "Poisoned":
                # Killed five times in a row before it got anywhere: taken for the culprit, as documented.
                await client.continue_run(run.id)
                await client.wait_for_run(run.id, timeout=END_SECONDS_MAX)


async def crash(folder: Path, command: dict[str, Any]) -> None:
    """Send one event (the same each time), execute its runs, and die right before or after a commit."""
    commits = 0

    def on_commit(moment: str) -> None:
        nonlocal commits
        commits += moment == "before"
        if moment == command["moment"] and commits == command["commit"]:
            os.kill(os.getpid(), signal.SIGKILL)

    client = make_client(Lines(folder / "effects"))
    async with embedded(client, folder, on_commit=on_commit):
        event = await client.send_event("work", {}, id="only")
        for run in event.runs:
            await client.wait_for_run(run.id, timeout=END_SECONDS_MAX)


DEEDS = {"crash": crash, "finish": finish, "live": live}


def serve() -> None:
    """The zygote."""
    for line in sys.stdin:
        command = json.loads(line)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                asyncio.run(DEEDS[command["do"]](Path(command["folder"]), command))
                status = 0
            except BaseException as error:
                print(f"{command}: {error!r}", file=sys.stderr, flush=True)
            finally:
                os._exit(status)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    import perdure.embedded  # noqa: F401  (so that the children don't have to)

    serve()
