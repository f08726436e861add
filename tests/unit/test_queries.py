import re
from importlib.resources import files
from pathlib import Path

import pytest

from perdure.errors import SchemaOutdatedError
from perdure.store.migrate import Migration, load_migrations, pending_migrations
from perdure.store.queries import load_queries, parse_queries

ADAPTERS = ["perdure.store.sqlite"]

UNSCOPED: set[str] = set()  # queries that are no environment's


def test_blocks_are_named():
    text = """-- What the file is about.

-- name: one
-- Says what it does.
select 1 -- name: not a name
where a = :a;

-- name: two
select 2;
"""

    assert parse_queries(text) == {
        "one": "-- Says what it does.\nselect 1 -- name: not a name\nwhere a = :a;",
        "two": "select 2;",
    }


def test_a_name_is_used_once():
    with pytest.raises(ValueError, match="'one'"):
        parse_queries("-- name: one\nselect 1;\n-- name: one\nselect 2;\n")


@pytest.mark.parametrize("package", ADAPTERS)
def test_every_query_is_scoped_by_environment(package):
    queries = load_queries(package)

    unscoped = {name for name, sql in queries.items() if ":env" not in _code(sql)}

    assert unscoped == UNSCOPED


@pytest.mark.parametrize("package", ADAPTERS)
def test_every_table_a_query_reads_is_scoped_by_environment(package):
    """Each `from` or `join` of one of our tables has its environment compared in the same select."""
    tables = "|".join(
        re.findall(
            r"create (?:table|view) (\w+)", "".join(_code(each.sql) for each in load_migrations(package))
        )
    )
    for name, sql in load_queries(package).items():
        code = _code(sql)
        uses = len(re.findall(rf"\b(?:from|join|into|update) (?:{tables})\b", code))
        scopes = len(re.findall(r"\benv\b", code))
        assert uses <= scopes, f"{name}: {uses} uses of tables, {scopes} mentions of env"


@pytest.mark.parametrize("package", ADAPTERS)
def test_every_key_starts_with_the_environment(package):
    for migration in load_migrations(package):
        for keys in re.findall(
            r"(?:primary key|create (?:unique )?index \w+ on \w+) \((\w+)", _code(migration.sql)
        ):
            assert keys == "env"


@pytest.mark.parametrize("package", ADAPTERS)
def test_every_query_is_used(package):
    folder = Path(str(files(package)))
    source = "".join(path.read_text() for path in folder.glob("*.py"))

    unused = {name for name in load_queries(package) if f'"{name}"' not in source}

    assert unused == set()


@pytest.mark.parametrize("package", ADAPTERS)
def test_every_query_says_what_it_is_in_lower_case_without_star(package):
    for name, sql in load_queries(package).items():
        code = re.sub(r"'[^']*'", "", _code(sql))
        assert code == code.lower(), name
        assert not re.search(r"select\s+\*|\.\*", code), name


@pytest.mark.parametrize("package", ADAPTERS)
def test_every_table_is_commented(package):
    for migration in load_migrations(package):
        lines = migration.sql.splitlines()
        for n, line in enumerate(lines):
            if line.startswith(("create table", "create view")):
                assert lines[n - 1].startswith("-- "), line


def test_migrations_are_numbered_from_one():
    migrations = load_migrations("perdure.store.sqlite")

    assert [m.version for m in migrations] == list(range(1, len(migrations) + 1))
    assert migrations[0].name == "initial"


def test_pending_migrations():
    migrations = [Migration(version=n, name=f"m{n}", sql="") for n in (1, 2, 3)]

    assert pending_migrations(0, migrations, where="x", may_migrate=True) == migrations
    assert pending_migrations(2, migrations, where="x", may_migrate=True) == migrations[2:]
    assert pending_migrations(3, migrations, where="x", may_migrate=False) == []
    with pytest.raises(SchemaOutdatedError, match=r"version 4, this perdure works with 3: upgrade"):
        pending_migrations(4, migrations, where="x", may_migrate=True)
    with pytest.raises(SchemaOutdatedError, match=r"version 2, this perdure works with 3: open it once"):
        pending_migrations(2, migrations, where="x", may_migrate=False)


def _code(sql: str) -> str:
    return re.sub(r"--.*", "", sql)
