"""What runs and applications keep: statuses, values, annotations, accounts; and queues as they are seen."""

from __future__ import annotations

import json
from typing import Any

import pytest

from perdure.engine.store import (
    AccountRow,
    Applied,
    DefineQueue,
    Deleted,
    IngestEvent,
    PauseQueue,
    PutAccount,
    QueueRow,
    Refused,
    RunFilter,
    StatusRow,
    Store,
)
from perdure.schema.effects import AnnotateRun, DeleteValue, SetValue, UpdateStatus
from perdure.schema.runs import RunStatus

from .factories import (
    NOW,
    OpenStore,
    apply,
    claimed,
    executing_run,
    ingest,
    make_event,
    make_run,
    make_task,
    move,
    record,
    stored_run,
)


def update(id: str, **fields: Any) -> UpdateStatus:
    defaults: dict[str, Any] = {"run_id": "run_1", "key": "k", "at": NOW}
    return UpdateStatus(**defaults | fields, id=id)


def versions(status: StatusRow) -> list[dict[str, Any]]:
    """The history without what each store adds."""
    return [
        {name: entry[name] for name in ("label", "state", "data", "at")}
        for entry in json.loads(status.history)
    ]


async def only_status(store: Store, run_id: str = "run_1") -> StatusRow:
    (status,) = await store.get_statuses(run_id)
    return status


class StatusContract:
    async def test_status_is_created(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, ingest())

        assert await apply(store, update("u1", label="Images", state="loading", data='{"n": 1}')) == [
            Applied()
        ]

        assert await store.get_statuses("run_1") == [
            StatusRow(
                key="k", label="Images", state="loading", data='{"n": 1}', created_at=NOW, updated_at=NOW
            )
        ]

    async def test_key_is_the_label_of_a_status_created_without(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, ingest(), update("u1", key="images"))

        assert (await only_status(store)).label == "images"

    async def test_what_is_given_replaces_and_the_version_before_is_history(
        self, open_store: OpenStore
    ) -> None:
        store = await open_store("dev")
        await apply(store, ingest(), update("u1", label="Images", state="loading", data='{"n":1,"m":1}'))

        await apply(store, update("u2", state="done", at=NOW + 1))
        await apply(store, update("u3", data='{"n":2}', at=NOW + 2))

        status = await only_status(store)
        assert (status.label, status.state, status.data) == ("Images", "done", '{"n":2}')
        assert (status.created_at, status.updated_at) == (NOW, NOW + 2)
        assert versions(status) == [
            {"label": "Images", "state": "loading", "data": {"n": 1, "m": 1}, "at": NOW},
            {"label": "Images", "state": "done", "data": {"n": 1, "m": 1}, "at": NOW + 1},
        ]

    async def test_several_updates_of_a_batch_in_order(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, ingest())

        await apply(store, *(update(f"u{n}", state=str(n)) for n in range(4)), update("v", key="other"))

        first, other = await store.get_statuses("run_1")
        assert (first.state, [each["state"] for each in versions(first)]) == ("3", ["0", "1", "2"])
        assert (other.key, other.history) == ("other", "[]")

    @pytest.mark.parametrize("repeated", ["u1", "u2", "u3"])
    async def test_update_that_is_known_changes_nothing(self, open_store: OpenStore, repeated: str) -> None:
        store = await open_store("dev")
        await apply(store, ingest(), *(update(each, state=each) for each in ("u1", "u2", "u3")))
        before = await store.get_statuses("run_1")

        assert await apply(store, update(repeated, state="again", at=NOW + 9)) == [Applied()]

        assert await store.get_statuses("run_1") == before

    async def test_statuses_come_by_creation(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, ingest())
        await apply(store, update("u1", key="z"), update("u2", key="a", at=NOW + 1))
        await apply(store, update("u3", key="z", at=NOW + 2))

        assert [status.key for status in await store.get_statuses("run_1")] == ["z", "a"]
        assert await store.get_statuses("run_2") == []

    async def test_status_of_a_missing_run_is_refused(self, open_store: OpenStore) -> None:
        store = await open_store("dev")

        assert await apply(store, update("u1")) == [Refused(run=None)]

        assert await store.get_statuses("run_1") == []

    async def test_status_goes_along_with_a_task(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        change = record(make_task())
        change.effects = [update("u1", state="x"), SetValue(scope="env", key="k", value="1", at=NOW)]
        stale = record(make_task(), execution=2)
        stale.effects = [update("u2", state="y"), SetValue(scope="env", key="k", value="2", at=NOW)]

        applied, refused = await apply(store, change, stale)

        assert (applied, type(refused)) == (Applied(), Refused)
        assert (await only_status(store)).state == "x"
        assert await store.get_value("env", "k") == ("1", None)


def set_value(value: str, **fields: Any) -> SetValue:
    defaults: dict[str, Any] = {"scope": "env", "key": "k", "at": NOW}
    return SetValue(**defaults | fields, value=value)


class ValueContract:
    @pytest.mark.parametrize("scope", ["env", "job:a", "run:run_1"])
    async def test_value_is_kept_replaced_and_forgotten(self, open_store: OpenStore, scope: str) -> None:
        store = await open_store("dev")
        await apply(store, ingest())
        assert await store.get_value(scope, "k") is None

        assert await apply(store, set_value("[1,  2]", scope=scope, types='{"a":1}')) == [Applied()]
        assert await store.get_value(scope, "k") == ("[1,  2]", '{"a":1}')
        await apply(store, set_value("null", scope=scope))
        assert await store.get_value(scope, "k") == ("null", None)

        assert await apply(store, DeleteValue(scope=scope, key="k")) == [Deleted(1)]
        assert await apply(store, DeleteValue(scope=scope, key="k")) == [Deleted(0)]
        assert await store.get_value(scope, "k") is None

    async def test_values_of_scopes_keys_and_environments_are_apart(self, open_store: OpenStore) -> None:
        dev, prod = await open_store("dev"), await open_store("prod")
        await apply(dev, set_value("1"), set_value("2", scope="job:a"), set_value("3", key="l"))
        await apply(prod, set_value("4"))

        assert await apply(dev, DeleteValue(scope="env", key="k")) == [Deleted(1)]

        assert await dev.get_value("env", "k") is None
        assert await dev.get_value("job:a", "k") == ("2", None)
        assert await dev.get_value("env", "l") == ("3", None)
        assert await prod.get_value("env", "k") == ("4", None)

    async def test_changes_of_one_value_in_a_batch_in_order(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        forget = DeleteValue(scope="env", key="k")

        results = await apply(store, forget, set_value("1"), forget, forget, set_value("2"), set_value("3"))

        assert results == [Deleted(0), Applied(), Deleted(1), Deleted(0), Applied(), Applied()]
        assert await store.get_value("env", "k") == ("3", None)
        await apply(store, set_value("4"), forget)
        assert await store.get_value("env", "k") is None

    @pytest.mark.parametrize(
        "text",
        [
            '"\\u0000"',
            '"\\ud83d\\ude00"',
            "\U0001f600",
            "\u2028\ufeff",
            "[1,  2 , 1e999]",
            "'",
            "$[0]",
            "\r\n",
            "",
        ],
    )
    async def test_text_of_values_comes_back_exactly(self, open_store: OpenStore, text: str) -> None:
        store = await open_store("dev")
        await apply(store, ingest(metadata=text, tags=(text,)))

        await apply(store, SetValue(scope=f"job:{text}", key=text, value=text, types=text, at=NOW))
        await apply(store, PutAccount(id=text, metadata=text, at=NOW), update("u", key=text, label=text))

        assert await store.get_value(f"job:{text}", text) == (text, text)
        assert await store.get_account(text) == AccountRow(id=text, metadata=text, created_at=NOW)
        status = await only_status(store)
        assert (status.key, status.label) == (text, text)
        run = await stored_run(store)
        assert (run.metadata, run.tags) == (text, [text])
        assert [found.id for found in await store.list_runs(RunFilter(tags=(text,)))] == ["run_1"]

    async def test_value_of_a_missing_run_is_refused(self, open_store: OpenStore) -> None:
        store = await open_store("dev")

        assert await apply(store, set_value("1", scope="run:run_1")) == [Refused(run=None)]

        assert await store.get_value("run:run_1", "k") is None


class AnnotationContract:
    async def test_tags_are_added_once_in_order(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, ingest(tags=("b",)))

        results = await apply(
            store,
            AnnotateRun(run_id="run_1", tags=("c", "b", "a")),
            AnnotateRun(run_id="run_1", tags=("a", "d")),
        )

        assert results == [Applied(), Applied()]
        assert (await stored_run(store)).tags == ["b", "c", "a", "d"]
        for tag in "abcd":
            assert [run.id for run in await store.list_runs(RunFilter(tags=(tag,)))] == ["run_1"]

    async def test_members_of_metadata_are_replaced_by_name(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, ingest())
        await apply(store, AnnotateRun(run_id="run_1", metadata='{"a":{"x":1},"b":1e1}'))
        assert (await stored_run(store)).metadata == '{"a":{"x":1},"b":1e1}'

        await apply(store, AnnotateRun(run_id="run_1", metadata='{"a":null}'))
        await apply(store, AnnotateRun(run_id="run_1", metadata='{"c":[1,  2]}', tags=("t",)))

        run = await stored_run(store)
        assert run.metadata == '{"a":null,"b":1e1,"c":[1,  2]}'
        assert run.tags == ["t"]

    async def test_claims_carry_annotations(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, ingest(tags=("a",), metadata='{"x":1}'))
        await apply(store, AnnotateRun(run_id="run_1", tags=("b",), metadata='{"y":2}'))

        (claim,) = await claimed(store)

        assert (claim.tags, json.loads(claim.metadata or "")) == (["a", "b"], {"x": 1, "y": 2})

    async def test_annotation_of_a_missing_run_is_refused(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, ingest())

        results = await apply(
            store, AnnotateRun(run_id="run_2", tags=("a",)), AnnotateRun(run_id="run_1", tags=("a",))
        )

        assert results == [Refused(run=None), Applied()]
        assert [run.id for run in await store.list_runs(RunFilter(tags=("a",)))] == ["run_1"]


class AccountContract:
    async def test_account_is_written_by_the_first_event_that_names_it(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        assert await store.get_account("acc") is None

        await apply(store, ingest(event=make_event(account_id="acc")))

        assert await store.get_account("acc") == AccountRow(id="acc", created_at=NOW)

    async def test_metadata_is_replaced_and_stays(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, PutAccount(id="acc", metadata='{"a": 1}', at=NOW))
        await apply(store, ingest(event=make_event(account_id="acc")))
        assert await store.get_account("acc") == AccountRow(id="acc", metadata='{"a": 1}', created_at=NOW)

        assert await apply(store, PutAccount(id="acc", metadata=None, at=NOW + 1)) == [Applied()]

        assert await store.get_account("acc") == AccountRow(id="acc", created_at=NOW)

    async def test_claims_carry_the_accounts_metadata(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, PutAccount(id="acc", metadata='{"a": 1}', at=NOW))
        await apply(store, ingest(event=make_event(account_id="acc")))

        (claim,) = await claimed(store)

        assert claim.account == '{"a": 1}'


class QueueViewContract:
    async def test_queues_show_limits_and_counts(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, DefineQueue(id="a", concurrency_limit=3, key_limit=2), DefineQueue(id="b"))
        await apply(store, *(ingest(f"run_{n}", queue="a") for n in range(3)), ingest("run_9", queue="c"))
        assert len(await claimed(store, 2)) == 2

        queues = {queue.id: queue for queue in await store.list_queues()}

        assert list(queues) == ["a", "b", "c"]
        assert queues["a"].concurrency_limit == 3
        assert queues["a"].key_limit == 2
        assert queues["b"] == QueueRow(id="b")
        assert sum(queue.queued for queue in queues.values()) == 2
        assert sum(queue.executing for queue in queues.values()) == 2
        assert queues["a"].queued + queues["a"].executing == 3

    async def test_limits_change_and_a_pause_stays(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, PauseQueue(id="a", paused_at=NOW))

        assert await apply(store, DefineQueue(id="a", key_limit=2)) == [Applied()]
        assert await store.list_queues() == [QueueRow(id="a", key_limit=2, paused_at=NOW)]

        assert await apply(store, PauseQueue(id="a", paused_at=None)) == [Applied()]
        await apply(store, DefineQueue(id="a", concurrency_limit=1))
        assert await store.list_queues() == [QueueRow(id="a", concurrency_limit=1)]

    async def test_more_room_lets_more_runs_start(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, DefineQueue(id="a", concurrency_limit=1))
        await apply(store, *(ingest(f"run_{n}", queue="a") for n in range(3)))
        assert len(await claimed(store)) == 1
        assert await claimed(store) == []

        await apply(store, DefineQueue(id="a", concurrency_limit=2))

        assert len(await claimed(store)) == 1

    async def test_place_counts_what_is_before_it(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, DefineQueue(id="q", key_limit=1))
        keyed: dict[str, Any] = {"queue": "q", "queue_key": "k"}
        await apply(store, ingest("run_0", **keyed))
        assert len(await claimed(store)) == 1
        await apply(
            store,
            ingest("run_1", **keyed, created_at=NOW + 1),
            ingest("run_2", **keyed, created_at=NOW + 2),
            ingest("run_3", **keyed, created_at=NOW + 3, priority=1),
            ingest("run_4", **keyed, created_at=NOW + 4),
            ingest("run_5", queue="q", queue_key="other", created_at=NOW),
            ingest("run_6", queue="r", created_at=NOW),
        )

        place = await store.place_in_queue("run_2")

        assert place is not None
        assert place.queue == QueueRow(id="q", key_limit=1, queued=5, executing=1)
        assert (place.ahead, place.executing_key, place.executing_all) == (2, 1, 1)
        first = await store.place_in_queue("run_3")
        assert first is not None
        assert first.ahead == 0

    async def test_what_is_not_queued_has_no_place(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, ingest("run_2", status=RunStatus.PENDING))

        for each in ("run_1", "run_2", "run_3"):
            assert await store.place_in_queue(each) is None
        await apply(store, move(RunStatus.QUEUED))
        assert await store.place_in_queue("run_1") is not None


class RunFilterContract:
    @pytest.mark.parametrize(
        "filter, expected",
        [
            pytest.param({}, ["run_4", "run_3", "run_2", "run_1"], id="not the internal one"),
            pytest.param({"internal": True}, ["run_5", "run_4", "run_3", "run_2", "run_1"], id="internal"),
            pytest.param({"job_version": "2.0.0"}, ["run_3"], id="version"),
            pytest.param({"tags": ("a",)}, ["run_3", "run_1"], id="tag"),
            pytest.param({"tags": ("a", "b")}, ["run_3"], id="all tags"),
            pytest.param({"tags": ("a", "a")}, ["run_3", "run_1"], id="tag given twice"),
            pytest.param({"tags": ("a", "c")}, [], id="no such tag"),
            pytest.param({"tags": ("a",), "before": "run_3"}, ["run_1"], id="tag before"),
            pytest.param({"tags": ("a",), "job_id": "j"}, ["run_3"], id="tag and job"),
            pytest.param({"account_id": "acc"}, ["run_2"], id="account"),
            pytest.param({"parent_run_id": "run_1"}, ["run_4", "run_2"], id="parent"),
            pytest.param({"parent_run_id": "run_1", "limit": 1}, ["run_4"], id="limit"),
            pytest.param({"queue": "q"}, ["run_2"], id="queue"),
            pytest.param({"is_test": True}, ["run_4"], id="test"),
            pytest.param({"is_test": False}, ["run_3", "run_2", "run_1"], id="not test"),
            pytest.param({"created_from": NOW + 2}, ["run_4", "run_3", "run_2"], id="from"),
            pytest.param({"created_until": NOW + 2}, ["run_1"], id="until"),
            pytest.param(
                {"created_from": NOW + 2, "created_until": NOW + 4}, ["run_3", "run_2"], id="between"
            ),
            pytest.param({"statuses": (RunStatus.PENDING, RunStatus.FAILED)}, ["run_4"], id="statuses"),
            pytest.param({"tags": ("' or 1=1 --",)}, [], id="quoted"),
        ],
    )
    async def test_more_filters(
        self, open_store: OpenStore, filter: dict[str, Any], expected: list[str]
    ) -> None:
        store = await open_store("dev")
        child: dict[str, Any] = {"parent_run_id": "run_1", "parent_task_id": "t"}
        test = IngestEvent(
            event=make_event("evt_4", is_test=True),
            runs=[make_run("run_4", status=RunStatus.PENDING, created_at=NOW + 4, **child)],
            created_at=NOW,
        )
        await apply(
            store,
            ingest("run_1", tags=("a",), created_at=NOW + 1),
            ingest(
                "run_2",
                event=make_event("evt_2", account_id="acc"),
                queue="q",
                created_at=NOW + 2,
                **child,
            ),
            ingest("run_3", tags=("a", "b"), job_id="j", job_version="2.0.0", created_at=NOW + 3),
            test,
            ingest("run_5", is_internal=True, created_at=NOW),
        )

        assert [run.id for run in await store.list_runs(RunFilter(**filter))] == expected
