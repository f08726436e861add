"""The simulation finds bugs: each of those in mutations.py within 500 seeds."""

from __future__ import annotations

import pytest

from perdure.testing.simulation import simulate

from .mutations import MUTATIONS

SEEDS_MAX = 500

PROMISES = {
    "fence dropped": "fences hold",
    "lost wake-up": "no run waits for a resolved reason",
    "double claim": "one execution at a time",
    "leaked slot": "no run waits for a resolved reason",
    "leaked lease": "a run is in one place",
    "non-atomic suspend": "a suspension is atomic",
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
