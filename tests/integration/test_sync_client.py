"""`client.sync`: the same client without `await`, over a loop in the background."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from perdure import Client, ConfigurationError, RunStatus, UsageError, event_trigger


def test_runs_are_started_and_awaited(client):
    with client.sync.embedded(":memory:"):
        event = client.sync.send_event("job", {"n": 1})
        run = client.sync.wait_for_run(event.runs[0].id, timeout=20)

    assert run.status is RunStatus.COMPLETED
    assert run.output == {"n": 1}


def test_async_and_sync_face_see_the_same(client):
    with client.sync.embedded(":memory:"):
        event = client.sync.send_event("job")
        client.sync.drain()

        assert client.sync.get_event(event.id).runs[0].id == event.runs[0].id
        assert client.sync.get_run(event.runs[0].id).status is RunStatus.COMPLETED
        assert len(client.sync.get_runs("job")) == 1


def test_it_is_one_proxy(client):
    assert client.sync is client.sync


def test_threads_may_share_it(client):
    with client.sync.embedded(":memory:"), ThreadPoolExecutor(8) as threads:
        events = list(threads.map(lambda n: client.sync.send_event("job", n), range(40)))
        client.sync.drain()
        outputs = {client.sync.get_run(event.runs[0].id).output for event in events}

    assert outputs == set(range(40))


async def test_inside_a_running_loop_it_refuses_and_says_what_to_write(client):
    with pytest.raises(UsageError, match=r"await client\.send_event"):
        client.sync.send_event("job")


async def test_entering_inside_a_running_loop_is_refused(client):
    with pytest.raises(UsageError):
        client.sync.embedded(":memory:").__enter__()


def test_outside_embedded_it_is_not_configured(client):
    with pytest.raises(ConfigurationError):
        client.sync.send_event("job")


def test_errors_are_those_of_the_async_client(client):
    with client.sync.embedded(":memory:"):
        with pytest.raises(UsageError):
            client.sync.send_event("")


def test_time_out_of_waiting_leaves_the_run_alone():
    client = Client(id="app")
    release = threading.Event()

    @client.job(id="slow", trigger=event_trigger(name="slow"))
    def slow(payload, io, ctx):
        release.wait(20)
        return "end"

    with client.sync.embedded(":memory:"):
        event = client.sync.send_event("slow")
        with pytest.raises(TimeoutError):
            client.sync.wait_for_run(event.runs[0].id, timeout=0.05)
        release.set()
        run = client.sync.wait_for_run(event.runs[0].id, timeout=20)

    assert run.output == "end"


def test_sync_job_may_use_the_sync_client(tmp_path):
    client = Client(id="app")

    @client.job(id="parent", trigger=event_trigger(name="parent"))
    def parent(payload, io, ctx):
        return io.run_task("send", lambda: client.sync.send_event("child").id)

    with client.sync.embedded(":memory:"):
        event = client.sync.send_event("parent")
        run = client.sync.wait_for_run(event.runs[0].id, timeout=20)

        assert client.sync.get_event(run.output).name == "child"


@pytest.fixture
def client():
    client = Client(id="app")

    @client.job(id="job", trigger=event_trigger(name="job"))
    async def job(payload, io, ctx):
        return await io.run_task("task", lambda: payload)

    return client
