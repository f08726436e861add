-- Events, and the runs they cause. A batch comes as one JSON text: one statement for all of its rows. Or as bound values,
-- where `values /* rows */` stands (bound.py): some of the rows are null then.

-- name: find_events
-- Which of :ids (JSON list) exist, as [[id, due_at], ...]; and whether anything waits for an event.
select
    (
        select json_group_array(json_array(id, due_at)) from events
        where env = :env and id in (select value from json_each(:ids))
    ),
    exists (select 1 from event_waiters where env = :env);

-- name: insert_events
-- rest: null or [context, is_test, account_id, source_context, deliver_at, due_at, run_options, arrived_at] as JSON text. Hot.
with batch (id, name, payload, source, timestamp, created_at, delivered_at, rest) as (values /* rows */)
insert into events (
    env, id, name, payload, source, timestamp, created_at, delivered_at, context, is_test, account_id, source_context,
    deliver_at, due_at, run_options, arrived_at
)
select
    :env, id, name, payload, source, timestamp, created_at, delivered_at, json_extract(rest, '$[0]'),
    coalesce(json_extract(rest, '$[1]'), 0), json_extract(rest, '$[2]'), json_extract(rest, '$[3]'),
    json_extract(rest, '$[4]'), json_extract(rest, '$[5]'), json_extract(rest, '$[6]'),
    coalesce(json_extract(rest, '$[7]'), created_at)
from batch
where id is not null;

-- name: edit_events
-- Events that are to be delivered, and not too soon: :edits: [[id, payload or null, context or null, deliver_at,
-- edit_before], ...]; null keeps what there is.
with batch as materialized (select value as r, json_extract(value, '$[0]') as id from json_each(:edits))
update events set
    payload = coalesce(json_extract(r, '$[1]'), payload),
    context = coalesce(json_extract(r, '$[2]'), context),
    deliver_at = json_extract(r, '$[3]'),
    due_at = json_extract(r, '$[3]'),
    arrived_at = json_extract(r, '$[3]')
from batch
where events.env = :env and events.id = batch.id and events.due_at >= json_extract(r, '$[4]');

-- name: insert_accounts
-- :accounts: [[id, created_at], ...]; known ones are left alone.
insert into accounts (env, id, created_at)
select :env, json_extract(value, '$[0]'), json_extract(value, '$[1]') from json_each(:accounts)
where true
on conflict (env, id) do nothing;

-- name: last_numbers
-- {job_id: highest run number} of the :jobs that have runs.
select json_group_object(job_id, last_number) from job_counters
where env = :env and job_id in (select value from json_each(:jobs));

-- name: keep_numbers
-- :numbers: {job_id: highest run number}
insert into job_counters (env, job_id, last_number)
select :env, key, value from json_each(:numbers)
where true
on conflict (env, job_id) do update set last_number = excluded.last_number;

-- name: insert_runs
-- rest: null or [reason, is_test, queue_key, account_id, parent_run_id, parent_task_id, tags, metadata, is_internal] as
-- JSON text. Hot.
with batch (id, job_id, job_version, event_id, status, priority, created_at, number, queue, rest) as (values /* rows */)
insert into runs (
    env, id, job_id, job_version, event_id, status, priority, created_at, queued_at, number, queue, reason, is_test,
    queue_key, account_id, parent_run_id, parent_task_id, tags, metadata, is_internal,
    execution, crashes, failures, spent_ms, failed_tasks
)
select
    :env, id, job_id, job_version, event_id, status, priority, created_at, created_at, number, queue,
    json_extract(rest, '$[0]'), coalesce(json_extract(rest, '$[1]'), 0), coalesce(json_extract(rest, '$[2]'), ''),
    json_extract(rest, '$[3]'), json_extract(rest, '$[4]'), json_extract(rest, '$[5]'),
    coalesce(json_extract(rest, '$[6]'), '[]'), json_extract(rest, '$[7]'), coalesce(json_extract(rest, '$[8]'), 0),
    0, 0, 0, 0, '[]'
from batch
where id is not null;

-- name: insert_tags
-- :tags: [[tag, run_id], ...]
insert into run_tags (env, tag, run_id)
select :env, json_extract(value, '$[0]'), json_extract(value, '$[1]') from json_each(:tags)
where true
on conflict (env, tag, run_id) do nothing;

-- name: events_by_id
-- The events :ids as a JSON list of EventRecord.
select json_group_array(json(json)) from event_rows where env = :env and id in (select value from json_each(:ids));

-- name: runs_by_event
-- The runs of the events :ids as a JSON list of RunRow, oldest first.
select json_group_array(json(json)) from (
    select rows.json
    from json_each(:ids) as ids
    cross join runs on runs.event_id = ids.value
    cross join run_rows as rows on rows.env = runs.env and rows.id = runs.id
    where runs.env = :env
    order by runs.id
);

-- name: runs_by_parent
-- The runs that the tasks :tasks ([[run_id, task_id], ...]) have asked for as a JSON list of RunRow, oldest first.
select json_group_array(json(json)) from (
    select rows.json
    from (select distinct json_extract(value, '$[0]') as run_id from json_each(:tasks)) as parents
    cross join runs indexed by runs_parent_idx
    cross join run_rows as rows on rows.env = runs.env and rows.id = runs.id
    where
        runs.env = :env and runs.parent_run_id = parents.run_id
        and (runs.parent_run_id, runs.parent_task_id) in (
            select json_extract(value, '$[0]'), json_extract(value, '$[1]') from json_each(:tasks)
        )
    order by runs.id
);

-- name: get_event
select json from event_rows where env = :env and id = :id;
