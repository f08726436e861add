"""Statuses, values and annotations; what defines queues and accounts: the changes of state.sql.

Each kind comes as all of its changes in a batch, and takes a statement or two whatever their number: what is stored is
read at once, changes are followed in Python in the order given, and what came of them is written at once. What belongs to
a run is written under the lock of its row.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import asdict, replace

from perdure.engine.store import Applied, DefineQueue, Deleted, PauseQueue, PutAccount, Refused
from perdure.schema.effects import AnnotateRun, DeleteValue, SetValue, UpdateStatus

from .ingest import insert_tags
from .rows import Found, columns, decode_pairs, encode, json_text
from .statements import Statements

# --- statuses ------------------------------------------------------------------------------------------------------------


class _Status(msgspec.Struct, array_like=True):
    """A row of statuses."""

    run_id: str
    key: str
    label: str
    state: str | None
    data: str | None
    version: int
    update_id: str
    created_at: int
    updated_at: int


_decode_statuses = msgspec.json.Decoder(list[_Status]).decode
_decode_updates = msgspec.json.Decoder(list[tuple[str, str, str]]).decode


async def update_statuses(db: Statements, changes: list[tuple[int, UpdateStatus]]) -> Found:
    """Refused if there is no such run."""
    runs, keys = columns({(change.run_id, change.key) for _, change in changes}, 2)
    updates = columns([(change.run_id, change.key, change.id) for _, change in changes], 3)
    stored, known = await db.fetch_row(
        "statuses_by_key", runs=runs, keys=keys, of_runs=updates[0], of_keys=updates[1], updates=updates[2]
    )
    known_updates = set(_decode_updates(known))
    statuses = {(status.run_id, status.key): status for status in _decode_statuses(stored)}
    known_updates.update((run_id, key, status.update_id) for (run_id, key), status in statuses.items())
    changed: dict[tuple[str, str], _Status] = {}
    before: list[_Status] = []
    found: Found = []
    for n, change in changes:
        if change.run_id not in db.batch.runs:
            found.append((n, Refused(run=None)))
            continue
        found.append((n, Applied()))
        key, update = (change.run_id, change.key), (change.run_id, change.key, change.id)
        if update in known_updates:
            continue
        known_updates.add(update)
        status = statuses.get(key)
        if status is None:
            statuses[key] = changed[key] = _created(change)
        else:
            before.append(replace(status))
            _update(status, change)
            changed[key] = status
    if changed:
        await db.execute("put_statuses", statuses=encode([asdict(row) for row in changed.values()]))
    if before:
        await db.execute("put_status_versions", versions=encode([asdict(row) for row in before]))
    return found


def _created(change: UpdateStatus) -> _Status:
    return _Status(
        run_id=change.run_id,
        key=change.key,
        label=change.key if change.label is None else change.label,
        state=change.state,
        data=change.data,
        version=1,
        update_id=change.id,
        created_at=change.at,
        updated_at=change.at,
    )


def _update(status: _Status, change: UpdateStatus) -> None:
    status.version += 1
    status.label = status.label if change.label is None else change.label
    status.state = status.state if change.state is None else change.state
    status.data = status.data if change.data is None else change.data
    status.update_id = change.id
    status.updated_at = change.at


# --- values --------------------------------------------------------------------------------------------------------------


async def write_values(db: Statements, changes: list[tuple[int, SetValue | DeleteValue]]) -> Found:
    """In the order given (by n). Setting one of a run that doesn't exist is Refused."""
    changes = sorted(changes, key=lambda pair: pair[0])
    present: set[tuple[str, str]] = set()
    if deleted := {(change.scope, change.key) for _, change in changes if isinstance(change, DeleteValue)}:
        scopes, keys = columns(deleted, 2)
        present = set(decode_pairs(await db.fetch("known_values", scopes=scopes, keys=keys)))
    final: dict[tuple[str, str], SetValue | DeleteValue] = {}
    found: Found = []
    for n, change in changes:
        key = (change.scope, change.key)
        if isinstance(change, DeleteValue):
            found.append((n, Deleted(int(key in present))))
            present.discard(key)
        elif (run_id := run_of_scope(change.scope)) is not None and run_id not in db.batch.runs:
            found.append((n, Refused(run=None)))
            continue
        else:
            found.append((n, Applied()))
            present.add(key)
        final[key] = change
    if put := [
        {
            "scope": change.scope,
            "key": change.key,
            "value": change.value,
            "types": change.types,
            "updated_at": change.at,
        }
        for change in final.values()
        if isinstance(change, SetValue)
    ]:
        await db.execute("put_values", values=encode(put))
    if gone := [key for key, change in final.items() if isinstance(change, DeleteValue)]:
        scopes, keys = columns(gone, 2)
        await db.execute("delete_values", scopes=scopes, keys=keys)
    return found


def run_of_scope(scope: str) -> str | None:
    """The run whose values these are, if they are a run's."""
    return scope.removeprefix("run:") if scope.startswith("run:") else None


# --- annotations ---------------------------------------------------------------------------------------------------------

_decode_annotations = msgspec.json.Decoder(list[tuple[str, list[str], str | None]]).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


async def annotate_runs(db: Statements, changes: list[tuple[int, AnnotateRun]]) -> Found:
    """Refused if there is no such run."""
    ids = list({change.run_id for _, change in changes if change.run_id in db.batch.runs})
    runs = {
        run_id: (dict.fromkeys(tags), metadata)
        for run_id, tags, metadata in _decode_annotations(await db.fetch("annotations", ids=ids))
    }
    found: Found = []
    for n, change in changes:
        if change.run_id not in runs:
            found.append((n, Refused(run=None)))
            continue
        tags, metadata = runs[change.run_id]
        runs[change.run_id] = (tags | dict.fromkeys(change.tags), _merged(metadata, change.metadata))
        found.append((n, Applied()))
    if runs:
        rows = [
            {"id": run_id, "tags": json_text(list(tags)), "metadata": metadata}
            for run_id, (tags, metadata) in runs.items()
        ]
        await db.execute("annotate_runs", annotations=encode(rows))
    await insert_tags(
        db, [(tag, change.run_id) for _, change in changes if change.run_id in runs for tag in change.tags]
    )
    return found


def _merged(metadata: str | None, more: str | None) -> str | None:
    """JSON objects; the members of `more` replace those of the same name."""
    if metadata is None or more is None:
        return metadata if more is None else more
    return msgspec.json.encode(_decode_members(metadata) | _decode_members(more)).decode()


# --- queues and accounts -------------------------------------------------------------------------------------------------


async def define_queues(db: Statements, changes: list[tuple[int, DefineQueue]]) -> Found:
    await db.execute(
        "define_queues", queues=encode([asdict(row) for row in {c.id: c for _, c in changes}.values()])
    )
    return [(n, Applied()) for n, _ in changes]


async def pause_queues(db: Statements, changes: list[tuple[int, PauseQueue]]) -> Found:
    ids, ats = columns({change.id: change.paused_at for _, change in changes}.items(), 2)
    await db.execute("pause_queues", ids=ids, ats=ats)
    return [(n, Applied()) for n, _ in changes]


async def put_accounts(db: Statements, changes: list[tuple[int, PutAccount]]) -> Found:
    accounts = {
        change.id: {"id": change.id, "metadata": change.metadata, "created_at": change.at}
        for _, change in changes
    }
    await db.execute("put_accounts", accounts=encode(list(accounts.values())))
    return [(n, Applied()) for n, _ in changes]
