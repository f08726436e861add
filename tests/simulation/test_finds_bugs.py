"""The simulation finds bugs: each of those in mutations.py within 500 seeds."""

from __future__ import annotations

import pytest

from perdure.testing.simulation import simulate

from .mutations import MUTATIONS

SEEDS_MAX = 500

PROMISES = {
    "fence dropped": "fences hold",
    "lost wake-up": "no run waits for a resolved reason",
    "lost announcement": "no run waits for a resolved reason",
    "double claim": "one execution at a time",
    "leaked slot": "no run waits for a resolved reason",
    "leaked execution": "no run waits for a resolved reason",
    "leaked lease": "a run is in one place",
    "non-atomic suspend": "a suspension is atomic",
    "overtaking records": "what is recorded as completed stays",
}
"""Which broken promise shows it, at least."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_seeded_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch):
    MUTATIONS[name](monkeypatch)

    for seed in range(SEEDS_MAX):
        report = simulate(seed)
        if any(finding.promise == PROMISES[name] for finding in report.findings):
            print(f"{name}: found with seed {seed}: {report.findings[0]}")
            return

    pytest.fail(f"{name} isn't found by {SEEDS_MAX} seeds")


def test_a_failing_seed_fails_again_and_says_how_to_replay_it(monkeypatch: pytest.MonkeyPatch):
    MUTATIONS["leaked slot"](monkeypatch)
    report = next(report for report in map(simulate, range(SEEDS_MAX)) if not report.is_clean)

    again = simulate(report.seed)

    assert (again.digest, again.findings, again.lines) == (report.digest, report.findings, report.lines)
    described = report.describe(lines=20)
    assert str(report.findings[0]) in described
    assert "faults injected" in described
    assert f"--replay {report.seed}" in described
    assert set(report.lines[-20:]) <= set(described.splitlines())
