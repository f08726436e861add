import pytest

from perdure.store.postgresql import PostgresqlStore
from perdure.testing.store_contract import StoreContract


def open_on(url: str, prefix: str, **options):
    """An `open_store` whose environments are new on a database, and what closes it."""
    first: list[PostgresqlStore] = []
    opened: dict[str, PostgresqlStore] = {}

    async def open_store(environment: str) -> PostgresqlStore:
        if not first:
            first.append(await PostgresqlStore.open(url, f"{prefix} keeps it open", **options))
        if environment not in opened:
            opened[environment] = first[0].for_environment(f"{prefix} {environment}")
        return opened[environment]

    async def close() -> None:
        for store in [*opened.values(), *first]:
            await store.close()

    return open_store, close


class TestPostgresql(StoreContract):
    @pytest.fixture
    async def open_store(self, postgresql):
        open_store, close = open_on(postgresql.url, postgresql.environment())
        yield open_store
        await close()


@pytest.mark.slow
class TestThroughPgBouncer(StoreContract):
    """In transaction mode: no prepared statements, nothing that belongs to a session."""

    @pytest.fixture
    async def open_store(self, pooled_url, postgresql):
        open_store, close = open_on(pooled_url, postgresql.environment())
        yield open_store
        await close()
