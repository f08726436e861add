"""Statuses, values and annotations; what defines queues and accounts: the changes of state.sql.

Each kind comes as all of its changes in a batch, and takes a statement or two whatever their number: what is stored is
read at once, changes are followed in Python in the order given, and what came of them is written at once.
"""

from __future__ import annotations

import msgspec

from perdure.engine.store import (
    Applied,
    DefineQueue,
    Deleted,
    PauseQueue,
    PutAccount,
    Refused,
    Result,
)
from perdure.schema.effects import AnnotateRun, DeleteValue, SetValue, UpdateStatus

from .rows import Statements, decode_strings, encode

Found = list[tuple[int, Result]]


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


_Version = tuple[str, str, int, str, str | None, str | None, str, int]
"""A row of status_versions: run, key, version, label, state, data, update, since when."""

_decode_statuses = msgspec.json.Decoder(list[_Status]).decode
_decode_updates = msgspec.json.Decoder(list[tuple[str, str, str]]).decode


def update_statuses(db: Statements, changes: list[tuple[int, UpdateStatus]]) -> Found:
    """Refused if there is no such run."""
    if not changes:
        return []
    keys = dict.fromkeys((change.run_id, change.key) for _, change in changes)
    updates = [(change.run_id, change.key, change.id) for _, change in changes]
    runs, stored, known = db.fetch_row("statuses_by_key", keys=encode(list(keys)), updates=encode(updates))
    known_runs, known_updates = set(decode_strings(runs)), set(_decode_updates(known))
    statuses = {(status.run_id, status.key): status for status in _decode_statuses(stored)}
    known_updates.update((run_id, key, status.update_id) for (run_id, key), status in statuses.items())
    changed: dict[tuple[str, str], _Status] = {}
    before: list[_Version] = []
    found: Found = []
    for n, change in changes:
        if change.run_id not in known_runs:
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
            before.append(_version(status))
            _update(status, change)
            changed[key] = status
    if changed:
        db.execute("put_statuses", statuses=encode(list(changed.values())))
    if before:
        db.execute("put_status_versions", versions=encode(before))
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


def _version(status: _Status) -> _Version:
    return (
        status.run_id,
        status.key,
        status.version,
        status.label,
        status.state,
        status.data,
        status.update_id,
        status.updated_at,
    )


def _update(status: _Status, change: UpdateStatus) -> None:
    status.version += 1
    status.label = status.label if change.label is None else change.label
    status.state = status.state if change.state is None else change.state
    status.data = status.data if change.data is None else change.data
    status.update_id = change.id
    status.updated_at = change.at


# --- values --------------------------------------------------------------------------------------------------------------

_decode_keys = msgspec.json.Decoder(list[tuple[str, str]]).decode


def write_values(db: Statements, changes: list[tuple[int, SetValue | DeleteValue]]) -> Found:
    """In the order given (by n). Setting one of a run that doesn't exist is Refused."""
    if not changes:
        return []
    changes = sorted(changes, key=lambda pair: pair[0])
    scopes = {change.scope for _, change in changes if isinstance(change, SetValue)}
    runs = [scope.removeprefix("run:") for scope in scopes if scope.startswith("run:")]
    deleted = list(
        dict.fromkeys((change.scope, change.key) for _, change in changes if isinstance(change, DeleteValue))
    )
    known_runs: set[str] = set()
    present: set[tuple[str, str]] = set()
    if runs or deleted:
        some_runs, some_keys = db.fetch_row("known_values", runs=encode(runs), keys=encode(deleted))
        known_runs, present = set(decode_strings(some_runs)), set(_decode_keys(some_keys))
    final: dict[tuple[str, str], SetValue | DeleteValue] = {}
    found: Found = []
    for n, change in changes:
        key = (change.scope, change.key)
        if isinstance(change, DeleteValue):
            found.append((n, Deleted(int(key in present))))
            present.discard(key)
        elif change.scope.startswith("run:") and change.scope.removeprefix("run:") not in known_runs:
            found.append((n, Refused(run=None)))
            continue
        else:
            found.append((n, Applied()))
            present.add(key)
        final[key] = change
    if put := [
        (change.scope, change.key, change.value, change.types, change.at)
        for change in final.values()
        if isinstance(change, SetValue)
    ]:
        db.execute("put_values", values=encode(put))
    if gone := [key for key, change in final.items() if isinstance(change, DeleteValue)]:
        db.execute("delete_values", keys=encode(gone))
    return found


# --- annotations ---------------------------------------------------------------------------------------------------------

_decode_annotations = msgspec.json.Decoder(list[tuple[str, list[str], str | None]]).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def annotate_runs(db: Statements, changes: list[tuple[int, AnnotateRun]]) -> Found:
    """Refused if there is no such run."""
    if not changes:
        return []
    ids = list(dict.fromkeys(change.run_id for _, change in changes))
    runs = {
        run_id: (dict.fromkeys(tags), metadata)
        for run_id, tags, metadata in _decode_annotations(db.fetch("annotations", ids=encode(ids)))
    }
    found: Found = []
    for n, change in changes:
        if change.run_id not in runs:
            found.append((n, Refused(run=None)))
            continue
        tags, metadata = runs[change.run_id]
        runs[change.run_id] = (tags | dict.fromkeys(change.tags), _merged(metadata, change.metadata))
        db.known.fresh.take(change.run_id)
        found.append((n, Applied()))
    if runs:
        rows = [
            (run_id, msgspec.json.encode(list(tags)).decode(), data) for run_id, (tags, data) in runs.items()
        ]
        db.execute("annotate_runs", annotations=encode(rows))
    if added := [
        (tag, change.run_id) for _, change in changes if change.run_id in runs for tag in change.tags
    ]:
        db.execute("insert_tags", tags=encode(added))
    return found


def _merged(metadata: str | None, more: str | None) -> str | None:
    """JSON objects; the members of `more` replace those of the same name."""
    if metadata is None or more is None:
        return metadata if more is None else more
    return msgspec.json.encode(_decode_members(metadata) | _decode_members(more)).decode()


# --- queues and accounts -------------------------------------------------------------------------------------------------


def define_queues(db: Statements, changes: list[tuple[int, DefineQueue]]) -> Found:
    if changes:
        limits = {
            change.id: (change.concurrency_limit, change.key_limit, change.priority) for _, change in changes
        }
        db.execute("define_queues", queues=encode([(queue, *limit) for queue, limit in limits.items()]))
        db.execute("unblock_queues", ids=encode(list(limits)))
    return [(n, Applied()) for n, _ in changes]


def pause_queues(db: Statements, changes: list[tuple[int, PauseQueue]]) -> Found:
    if changes:
        pauses = {change.id: change.paused_at for _, change in changes}
        db.execute("pause_queues", queues=encode(list(pauses.items())))
        db.execute("unblock_queues", ids=encode(list(pauses)))
    return [(n, Applied()) for n, _ in changes]


def put_accounts(db: Statements, changes: list[tuple[int, PutAccount]]) -> Found:
    if changes:
        accounts = {change.id: (change.id, change.metadata, change.at) for _, change in changes}
        db.execute("put_accounts", accounts=encode(list(accounts.values())))
    return [(n, Applied()) for n, _ in changes]
