import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta

from perdure.clock import to_datetime
from perdure.testing.virtual_clock import START, VirtualClock, VirtualTimeLoop, run_virtual


def test_days_pass_at_once_and_timers_fire_in_order():
    fired: list[str] = []

    async def main() -> None:
        loop, clock = asyncio.get_running_loop(), VirtualClock()
        loop.call_later(3600, fired.append, "hour")
        loop.call_later(0.001, fired.append, "millisecond")
        await clock.advance(timedelta(days=3))
        fired.append(str(to_datetime(clock.now()) - START))

    before = time.monotonic()
    run_virtual(main())

    assert fired == ["millisecond", "hour", "3 days, 0:00:00"]
    assert time.monotonic() - before < 5


def test_clock_begins_where_it_is_told():
    async def main() -> datetime:
        clock = VirtualClock(datetime(2024, 2, 29, tzinfo=UTC))
        await clock.advance(1.5)
        return to_datetime(clock.now())

    assert run_virtual(main()) == datetime(2024, 2, 29, 0, 0, 1, 500_000, tzinfo=UTC)


def test_time_stands_still_while_a_thread_works():
    release = threading.Event()

    async def main() -> float:
        loop = asyncio.get_running_loop()
        loop.call_later(0.01, release.set)  # must not come before the thread's answer
        was_released = asyncio.to_thread(release.wait, 0.05)
        assert await asyncio.wait_for(was_released, timeout=0.02) is False
        return loop.time()

    assert run_virtual(main()) == 0


def test_time_stands_still_for_a_call_whose_future_was_cancelled():
    release, ended = threading.Event(), threading.Event()

    def call() -> None:
        release.wait()
        ended.set()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(None, call)
        await asyncio.sleep(0)
        future.cancel()
        threading.Timer(0.05, release.set).start()
        await asyncio.sleep(3600)
        assert ended.is_set()

    run_virtual(main())


def test_a_thread_that_waits_for_a_timer_gets_it():
    async def main() -> None:
        fired = threading.Event()
        loop = asyncio.get_running_loop()
        loop.call_later(0.05, fired.set)
        assert await loop.run_in_executor(None, fired.wait, 30)
        assert 0.05 <= loop.time() < 30

    run_virtual(main())


def test_time_does_not_jump_while_it_is_held():
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        answer: asyncio.Future[str] = loop.create_future()

        def work() -> None:
            with loop.hold():
                holding.set()
                time.sleep(0.05)
                loop.call_soon_threadsafe(answer.set_result, "done")

        holding = threading.Event()
        thread = threading.Thread(target=work)
        thread.start()
        holding.wait()
        assert await asyncio.wait_for(answer, timeout=0.001) == "done"
        thread.join()

    run_virtual(main())
