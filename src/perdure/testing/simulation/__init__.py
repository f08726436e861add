"""Deterministic simulation: engines, clients and user code in one thread, with faults, all drawn from one seed.

    report = simulate(17)
    assert report.is_clean, report.describe()

`python -m perdure.testing.simulation --seeds 500` runs many; docs/reliability.md says what is simulated and what must hold.

The parts: `loop` (the seeded scheduler, processes), `faults` (the weather, and a store in it), `steps` and `programs` (what
jobs do), `clients` (what users do), `node` (one process), `history` and `ledger` (what must hold), `simulation` (one seed).
"""

from .simulation import Report as Report, World as World, simulate as simulate

__all__ = ["Report", "World", "simulate"]
