"""What users do meanwhile: send, invoke, cancel, rerun, continue, look and wait. A new action is a function and a line below.

An action may fail with the errors that the client's methods name; everything else, and every answer that contradicts the
ledger, is a finding.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from perdure import Client, ConflictError, NotFoundError, RunStatus, UnavailableError

from .findings import Findings
from .ledger import Ledger
from .others import SIGNAL
from .programs import DYNAMIC, EVENTS, Program
from .trace import Trace


@dataclass
class Caller:
    """Somebody who calls a client, and remembers what came of it."""

    client: Client
    programs: list[Program]
    ledger: Ledger
    findings: Findings
    trace: Trace
    chance: random.Random

    async def act(self) -> None:
        """Do one thing."""
        (action,) = self.chance.choices([action for action, _ in ACTIONS], [weight for _, weight in ACTIONS])
        name = action.__name__
        try:
            await action(self)
        except (UnavailableError, ConflictError, TimeoutError) as error:
            self.trace.add("client", f"{name}: {type(error).__name__}")
        except NotFoundError as error:
            self.findings.add("nothing acknowledged is lost", f"{name}: {error}")
        except Exception as error:  # noqa: BLE001 - that is what we are looking for
            self.findings.add("clients get the errors they are told of", f"{name}: {error!r}")
        else:
            self.trace.add("client", f"{name}: done")

    def payload(self, may_have_key: bool = True) -> dict[str, str]:
        """Of a tenant; now and then with a concurrency key, which is to be given with the event, too."""
        payload = {"tenant": self.chance.choice("abc")}
        if may_have_key and self.chance.random() < 0.2:
            payload["key"] = "other"
        return payload

    def some_run(self) -> str | None:
        """A run that was acknowledged."""
        known = list(self.ledger.acknowledged)
        return self.chance.choice(known) if known else None


async def send(caller: Caller) -> None:
    """An event, often of an id that was used before."""
    event_id = f"event-{caller.chance.randrange(12)}"
    name = EVENTS[int(event_id[-1]) % 2]
    event = await caller.client.send_event(name, caller.payload(False), id=event_id)
    caller.ledger.sent_event(event.id, [run.id for run in event.runs])


async def send_fresh(caller: Caller) -> None:
    payload = caller.payload()
    event = await caller.client.send_event(
        caller.chance.choice(EVENTS[:2]),
        payload,
        concurrency_key=payload.get("key"),
        priority=caller.chance.choice((None, None, 0, 5)),
    )
    caller.ledger.sent_event(event.id, [run.id for run in event.runs])


async def send_several(caller: Caller) -> None:
    ids = [f"event-{caller.chance.randrange(20)}" for _ in range(3)]
    events = [
        caller.client.event(EVENTS[int(event_id[-1]) % 2], caller.payload(False), id=event_id)
        for event_id in ids
    ]
    for event in await caller.client.send_events(events):
        caller.ledger.sent_event(event.id, [run.id for run in event.runs])


async def invoke(caller: Caller) -> None:
    programs = [program for program in caller.programs if program.schedule is None]
    if not programs:
        return
    program = caller.chance.choice(programs)
    key = f"key-{program.job_id}-{caller.chance.randrange(3)}"
    payload = caller.chance.choice((None, caller.payload()))
    run = await caller.client.invoke(
        program.job_id, payload, key=key, concurrency_key=None if payload is None else payload.get("key")
    )
    caller.ledger.sent_event(key, [run.id])


async def cancel(caller: Caller) -> None:
    run_id = caller.some_run()
    if run_id is not None:
        caller.ledger.cancels.add(run_id)
        run = await caller.client.cancel_run(run_id)
        caller.ledger.saw_run(run_id, run.status)
        caller.ledger.saw_run(run_id, RunStatus.CANCELLED)


async def rerun(caller: Caller) -> None:
    run_id = caller.some_run()
    if run_id is not None:
        run = await caller.client.rerun(run_id)
        caller.ledger.sent_event(run.event_id, [run.id])


async def continue_(caller: Caller) -> None:
    run_id = caller.some_run()
    if run_id is not None:
        run = await caller.client.continue_run(run_id)
        caller.ledger.saw_run(run_id, run.status)


async def look(caller: Caller) -> None:
    run_id = caller.some_run()
    if run_id is not None:
        run = await caller.client.get_run(run_id)
        caller.ledger.saw_run(run_id, None if run is None else run.status)


async def wait_for_end(caller: Caller) -> None:
    run_id = caller.some_run()
    if run_id is not None:
        run = await caller.client.wait_for_run(run_id, timeout=caller.chance.choice((1, 60)))
        caller.ledger.saw_run(run_id, run.status)
        if not run.status.is_terminal:
            caller.findings.add(
                "clients see what is stored", f"wait_for_run returned {run_id} {run.status.name}"
            )


async def send_later(caller: Caller) -> None:
    """Or change one that was; now and then to be delivered at once."""
    event_id = f"later-{caller.chance.randrange(6)}"
    event = await caller.client.send_event(
        EVENTS[int(event_id[-1]) % 2],
        caller.payload(False),
        id=event_id,
        deliver_after=caller.chance.choice((None, 0, 3, 30, 30, 200)),
    )
    caller.ledger.sent_event(event.id, [run.id for run in event.runs])


async def cancel_event(caller: Caller) -> None:
    if caller.ledger.later:
        event_id = caller.chance.choice(sorted(caller.ledger.later))
        await caller.client.cancel_event(event_id)
        caller.ledger.cancelled_event(event_id)


async def register(caller: Caller) -> None:
    """A schedule for a job that can be started by such; else there is nothing to do."""
    if any(program.schedule and program.schedule.how == DYNAMIC for program in caller.programs):
        await caller.client.dynamic_schedule(id=DYNAMIC).register(
            caller.chance.choice("xy"),
            interval=caller.chance.choice((45, 100)),
            metadata=caller.chance.random(),
            catch_up=caller.chance.random() < 0.2,
        )


async def unregister(caller: Caller) -> None:
    if any(program.schedule and program.schedule.how == DYNAMIC for program in caller.programs):
        await caller.client.dynamic_schedule(id=DYNAMIC).unregister(caller.chance.choice("xy"))


async def signal(caller: Caller) -> None:
    event = await caller.client.send_event(
        SIGNAL,
        {"n": caller.chance.randrange(2)},
        deliver_after=caller.chance.choice((None, None, None, 10)),
    )
    caller.ledger.sent_event(event.id, [run.id for run in event.runs])


async def pause(caller: Caller) -> None:
    if caller.programs:
        await caller.client.pause_queue(caller.chance.choice(caller.programs).queue.id)


async def resume(caller: Caller) -> None:
    if caller.programs:
        await caller.client.resume_queue(caller.chance.choice(caller.programs).queue.id)


async def ask_why(caller: Caller) -> None:
    run_id = caller.some_run()
    if run_id is not None:
        await caller.client.why_not_running(run_id)


ACTIONS: tuple[tuple[Callable[[Caller], Awaitable[None]], int], ...] = (
    (send, 6),
    (send_fresh, 3),
    (send_several, 1),
    (invoke, 3),
    (cancel, 3),
    (rerun, 1),
    (continue_, 3),
    (look, 1),
    (wait_for_end, 2),
    (signal, 2),
    (send_later, 3),
    (cancel_event, 1),
    (register, 3),
    (unregister, 1),
    (pause, 1),
    (resume, 2),
    (ask_why, 1),
)
