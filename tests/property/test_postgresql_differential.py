"""The PostgreSQL store against the model of its port: see test_store_differential.py, which tries SQLite more often."""

from __future__ import annotations

from collections import Counter

import pytest

from perdure.store.postgresql import PostgresqlStore

from .test_store_differential import FIRST, SEEDS, play, unseen

PART = max(1, SEEDS // 2)


@pytest.mark.slow
@pytest.mark.timeout(100 + 10 * PART)
async def test_postgresql_answers_as_its_port_says(postgresql) -> None:
    seen: Counter[tuple[str, str]] = Counter()

    for seed in range(FIRST, FIRST + PART):
        store = await PostgresqlStore.open(postgresql.url, postgresql.environment())
        await play(seed, seen, store, every=20)

    assert unseen(seen) == set()
