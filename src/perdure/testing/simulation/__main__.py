"""`python -m perdure.testing.simulation`: many seeds, in several processes if asked to, or one seed again."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from .simulation import FAULTS, Report, simulate

CHUNK = 20
"""Seeds that a process takes at once."""


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 if all seeds were clean, 1 if not."""
    options = _parser().parse_args(arguments)
    if options.replay is not None:
        report = simulate(options.replay)
        _say(report.describe(options.lines))
        if simulate(options.replay).digest != report.digest:
            _say("a second replay went another way: something in there isn't drawn from the seed")
            return 1
        return 0 if report.is_clean else 1
    return _run(options.first, options.seeds, options.jobs, options.lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m perdure.testing.simulation",
        description="Deterministic simulation of perdure, seed by seed.",
    )
    parser.add_argument("--seeds", type=int, default=500, metavar="N", help="how many seeds (500)")
    parser.add_argument("--first", type=int, default=0, metavar="K", help="the first one (0)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (one per core)"
    )
    parser.add_argument("--replay", type=int, metavar="SEED", help="only this seed, with its trace")
    parser.add_argument("--lines", type=int, default=60, metavar="N", help="lines of the trace to show (60)")
    return parser


def _run(first: int, seeds: int, jobs: int, lines: int) -> int:
    began = time.monotonic()
    failed: list[int] = []
    counts: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    virtual, done = 0.0, 0
    for reports in _reports(first, seeds, jobs):
        for report in reports:
            done += 1
            counts += report.counts
            statuses += report.statuses
            virtual += report.seconds
            if not report.is_clean:
                failed.append(report.seed)
                _progress("")
                _say(f"{report.describe(lines)}\n")
        rate = done / (time.monotonic() - began)
        _progress(f"{done} of {seeds} seeds, {len(failed)} failed, {rate:.0f} seeds/s")
    _progress("")
    faults = ", ".join(f"{counts[kind]:,} {kind}" for kind in FAULTS if counts[kind])
    ends = ", ".join(f"{n:,} {status}" for status, n in sorted(statuses.items()))
    _say(
        f"seeds {first} to {first + seeds - 1} in {time.monotonic() - began:.0f} s: {len(failed)} failed {failed or ''}"
    )
    _say(
        f"{virtual / 86400:,.1f} virtual days, {counts['commit']:,} commits, {counts['body']:,} bodies; runs: {ends}"
    )
    _say(f"faults: {faults or 'none'}")
    return 1 if failed else 0


def _reports(first: int, seeds: int, jobs: int) -> Iterator[list[Report]]:
    chunks = [range(n, min(n + CHUNK, first + seeds)) for n in range(first, first + seeds, CHUNK)]
    if jobs <= 1:
        yield from map(_simulate_all, chunks)
        return
    with _pool(jobs) as pool:
        yield from pool.map(_simulate_all, chunks)


@contextmanager
def _pool(jobs: int) -> Generator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(jobs) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _simulate_all(seeds: range) -> list[Report]:
    reports = [simulate(seed) for seed in seeds]
    for report in reports:
        if report.is_clean:
            report.lines.clear()
    return reports


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
