-- Events, and the runs they cause. A batch comes as one JSON text: one statement for all of its rows.

-- name: insert_events
-- Those of :events that are new, in the order of their ids (whoever inserts the same waits): their ids as a JSON list. Holds
-- events_gate, before anybody looks for waiters. Hot.
with gate as (
    insert into perdure.events_gate (nothing) select true where false
),

inserted as (
    insert into perdure.events (
        env, id, name, payload, source, timestamp, created_at, delivered_at, context, is_test, account_id, source_context,
        deliver_at, due_at, run_options, arrived_at
    )
    select
        :env, id, name, payload, source, timestamp, created_at, delivered_at, context, coalesce(is_test, false), account_id,
        source_context, deliver_at, due_at, run_options, coalesce(arrived_at, created_at)
    from json_to_recordset(:events::json) as batch (
        id text, name text, payload text, source text, timestamp bigint, created_at bigint, delivered_at bigint,
        context text, is_test boolean, account_id text, source_context text, deliver_at bigint, due_at bigint,
        run_options text, arrived_at bigint
    )
    order by id collate "C"
    on conflict (env, id) do nothing
    returning id
)

select coalesce(json_agg(id), '[]') from inserted;

-- name: lock_events
-- The events :ids, of which :if_due only those that are to be delivered: the ids of those that are there, as a JSON list.
with batch as materialized (
    select :env::text as env, id, if_due from unnest(:ids::text[], :if_due::bool[]) as named (id, if_due)
)

select coalesce(json_agg(id), '[]') from (
    select events.id from batch
    join perdure.events on events.env = any(array[batch.env]) and events.id = batch.id
    where not batch.if_due or events.due_at is not null
    order by batch.id collate "C"
    for no key update of events
) as locked;

-- name: edit_events
-- Events that are to be delivered, and not too soon; null keeps what there is.
with batch as materialized (
    select :env::text as env, edits.* from json_to_recordset(:edits::json) as edits (
        id text, payload text, context text, due_at bigint, edit_before bigint
    )
)

update perdure.events set
    payload = coalesce(batch.payload, events.payload),
    context = coalesce(batch.context, events.context),
    deliver_at = batch.due_at,
    due_at = batch.due_at,
    arrived_at = batch.due_at
from batch
where
    events.env = any(array[batch.env]) and events.id = batch.id
    and case when events.due_at >= batch.edit_before then true else false end;  -- not for the index on due_at

-- name: insert_accounts
-- Known ones are left alone.
insert into perdure.accounts (env, id, created_at)
select :env, id, created_at
from json_to_recordset(:accounts::json) as batch (id text, created_at bigint)
order by id collate "C"
on conflict (env, id) do nothing;

-- name: reserve_numbers
-- So many run numbers of each of the jobs, whose counters are locked from now on: {job_id: last of them} as JSON.
with reserved as (
    insert into perdure.job_counters as counters (env, job_id, last_number)
    select :env, job_id, amount
    from unnest(:jobs::text[], :amounts::bigint[]) as batch (job_id, amount)
    order by job_id collate "C"
    on conflict (env, job_id) do update set last_number = counters.last_number + excluded.last_number
    returning job_id, last_number
)

select json_object_agg(job_id, last_number) from reserved;

-- name: return_numbers
-- What reserve_numbers took too many.
with batch as materialized (
    select :env::text as env, job_id, amount from unnest(:jobs::text[], :amounts::bigint[]) as unused (job_id, amount)
)

update perdure.job_counters set last_number = last_number - batch.amount
from batch
where job_counters.env = any(array[batch.env]) and job_counters.job_id = batch.job_id;

-- name: insert_runs
-- With their places in the ready queue, if they are :queued. Hot.
with inserted as (
    insert into perdure.runs (
        env, id, job_id, job_version, event_id, status, priority, created_at, queued_at, number, queue, reason, is_test,
        queue_key, account_id, parent_run_id, parent_task_id, tags, metadata, is_internal,
        execution, crashes, failures, spent_ms, failed_tasks, wakes, open_waits
    )
    select
        :env, id, job_id, job_version, event_id, status, priority, created_at, created_at, number, queue, reason,
        coalesce(is_test, false), coalesce(queue_key, ''), account_id, parent_run_id, parent_task_id, coalesce(tags, '[]'),
        metadata, coalesce(is_internal, false), 0, 0, 0, 0, '[]', 0, 0
    from json_to_recordset(:runs::json) as batch (
        id text, job_id text, job_version text, event_id text, status text, priority bigint, created_at bigint,
        number bigint, queue text, reason text, is_test boolean, queue_key text, account_id text, parent_run_id text,
        parent_task_id text, tags text, metadata text, is_internal boolean
    )
    returning id, queue, queue_key, priority, queued_at, status
),

entered as (
    insert into perdure.ready (env, queue, queue_key, priority, ready_at, run_id)
    select :env, queue, queue_key, priority, queued_at, id from inserted where status = :queued
)

insert into perdure.idle (env, run_id, status)
select :env, id, status from inserted where status <> :queued;

-- name: insert_tags
insert into perdure.run_tags (env, tag, run_id)
select :env, tag, run_id from unnest(:tags::text[], :runs::text[]) as batch (tag, run_id)
on conflict (env, tag, run_id) do nothing;

-- name: runs_by_event
-- The runs of the events :ids as a JSON list of RunRow, oldest first.
select coalesce(json_agg(json order by id), '[]') from perdure.run_rows
where env = :env and event_id = any(:ids::text[]);

-- name: runs_by_parent
-- The runs that tasks have asked for as a JSON list of RunRow, oldest first.
with batch as materialized (
    select distinct run_id, task_id
    from unnest(:parents::text[], :tasks::text[]) as asked (run_id, task_id)
)

select coalesce(json_agg(rows.json order by rows.id), '[]')
from batch
cross join lateral (
    select json, id from perdure.run_rows
    where
        run_rows.env = :env and run_rows.parent_run_id = batch.run_id and run_rows.parent_task_id = batch.task_id
    offset 0
) as rows;

-- name: get_event
select json from perdure.event_rows where env = :env and id = :id;
