-- Events, and the runs they cause. A batch comes as one JSON text: one statement for all of its rows.

-- name: find_events
-- Which of :ids (JSON list) exist.
select json_group_array(id) from events where env = :env and id in (select value from json_each(:ids));

-- name: insert_events
-- :events: [[id, name, payload, context, source, timestamp, is_test, created_at], ...]
with batch as materialized (select value as r from json_each(:events))
insert into events (env, id, name, payload, context, source, timestamp, is_test, created_at)
select
    :env, json_extract(r, '$[0]'), json_extract(r, '$[1]'), json_extract(r, '$[2]'), json_extract(r, '$[3]'),
    json_extract(r, '$[4]'), json_extract(r, '$[5]'), json_extract(r, '$[6]'), json_extract(r, '$[7]')
from batch;

-- name: insert_runs
-- :runs: [[id, job_id, job_version, event_id, status, priority, created_at, reason, is_test], ...]
with batch as materialized (select value as r from json_each(:runs))
insert into runs (
    env, id, job_id, job_version, event_id, status, priority, created_at, queued_at, reason, is_test,
    execution, crashes, failures, spent_ms, failed_tasks
)
select
    :env, json_extract(r, '$[0]'), json_extract(r, '$[1]'), json_extract(r, '$[2]'), json_extract(r, '$[3]'),
    json_extract(r, '$[4]'), json_extract(r, '$[5]'), json_extract(r, '$[6]'), json_extract(r, '$[6]'),
    json_extract(r, '$[7]'), json_extract(r, '$[8]'), 0, 0, 0, 0, '[]'
from batch;

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

-- name: get_event
select json from event_rows where env = :env and id = :id;
