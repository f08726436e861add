import pytest

from perdure.store.sqlite import SqliteStore
from perdure.testing.store_contract import StoreContract


def open_on(path: str, **options):
    """An `open_store` on one database, and what closes it."""
    first: list[SqliteStore] = []
    opened: dict[str, SqliteStore] = {}

    async def open_store(environment: str) -> SqliteStore:
        if not first:
            first.append(await SqliteStore.open(path, "keeps it open", **options))
        if environment not in opened:
            opened[environment] = first[0].for_environment(environment)
        return opened[environment]

    async def close() -> None:
        for store in [*opened.values(), *first]:
            await store.close()

    return open_store, close


class TestSqliteFile(StoreContract):
    @pytest.fixture
    async def open_store(self, tmp_path):
        open_store, close = open_on(str(tmp_path / "jobs.db"))
        yield open_store
        await close()


class TestSqliteMemory(StoreContract):
    @pytest.fixture
    async def open_store(self):
        open_store, close = open_on(":memory:")
        yield open_store
        await close()


class TestSqliteInline(StoreContract):
    @pytest.fixture
    async def open_store(self):
        open_store, close = open_on(":memory:", inline=True)
        yield open_store
        await close()


def test_no_part_of_the_contract_hides_another():
    parts = [part for part in StoreContract.__mro__ if part is not object]
    names = [name for part in parts for name in vars(part) if name.startswith("test_")]

    assert len(names) == len(set(names))
