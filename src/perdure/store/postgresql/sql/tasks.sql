-- Tasks and logs of runs. :ids are run ids.

-- name: record_tasks
-- At most one row per task. What somebody else resolved (completed without seq) gives way only to what the run's code has
-- seen of it. Hot.
insert into perdure.tasks as tasks (
    env, run_id, id, idempotency_key, key, name, status, position, opened, absorbed, parent_id, seq, interrupted, attempts,
    due_at, started_at, completed_at, error, details, output, types
)
select
    :env, run_id, id, idempotency_key, key, name, status, position, coalesce(opened, 0), coalesce(absorbed, false), parent_id,
    seq, interrupted, coalesce(attempts, 0), due_at, started_at, completed_at, error, details, output, types
from json_to_recordset(:tasks::json) as batch (
    run_id text, id text, idempotency_key text, key text, name text, status text, position bigint, opened bigint,
    absorbed boolean, parent_id text, seq bigint, interrupted bigint, attempts bigint, due_at bigint, started_at bigint,
    completed_at bigint, error text, details text, output text, types text
)
on conflict (env, run_id, id) do update set
    idempotency_key = excluded.idempotency_key,
    key = excluded.key,
    name = excluded.name,
    status = excluded.status,
    position = excluded.position,
    opened = excluded.opened,
    absorbed = excluded.absorbed,
    parent_id = excluded.parent_id,
    seq = excluded.seq,
    interrupted = excluded.interrupted,
    attempts = excluded.attempts,
    due_at = excluded.due_at,
    started_at = excluded.started_at,
    completed_at = excluded.completed_at,
    error = excluded.error,
    details = excluded.details,
    output = case when excluded.output is null then tasks.output else excluded.output end,
    types = case when excluded.output is null then tasks.types else excluded.types end
where
    excluded.seq is not null or excluded.interrupted is not null
    or tasks.completed_at is null or tasks.seq is not null or tasks.interrupted is not null or tasks.status = :canceled;

-- name: insert_logs
-- In the order given; known ids are left alone.
insert into perdure.logs (env, run_id, id, level, message, at, data, task_id)
select :env, run_id, id, level, message, at, data, task_id
from rows from (
    json_to_recordset(:logs::json)
    as (run_id text, id text, level text, message text, at bigint, data text, task_id text)
) with ordinality as batch (run_id, id, level, message, at, data, task_id, n)
order by n
on conflict (env, run_id, id) do nothing;

-- name: cancel_open_tasks
with batch as materialized (
    select :env::text as env, run_id, at from unnest(:runs::text[], :ats::bigint[]) as ended (run_id, at)
)

update perdure.tasks set status = :canceled, completed_at = batch.at
from batch
where
    tasks.env = any(array[batch.env]) and tasks.run_id = batch.run_id
    and tasks.seq is null and tasks.interrupted is null and tasks.completed_at is null;

-- name: reset_points
-- Earliest completion among the tasks :tasks of the runs :runs as JSON: [[run_id, seq], ...], runs without left out.
select coalesce(json_agg(json_build_array(run_id, point)), '[]') from (
    select tasks.run_id, min(tasks.seq) as point
    from (
        select :env::text as env, run_id, task_id
        from unnest(:runs::text[], :tasks::text[]) as reset (run_id, task_id)
        offset 0
    ) as batch
    join perdure.tasks on tasks.env = any(array[batch.env]) and tasks.run_id = batch.run_id and tasks.id = batch.task_id
    where tasks.seq is not null
    group by tasks.run_id
) as points;

-- name: delete_tasks
with batch as materialized (
    select :env::text as env, run_id, task_id from unnest(:runs::text[], :tasks::text[]) as reset (run_id, task_id)
)

delete from perdure.tasks using batch
where tasks.env = any(array[batch.env]) and tasks.run_id = batch.run_id and tasks.id = batch.task_id;

-- name: delete_platform_rows
-- What the platform wrote below the tasks.
with batch as materialized (
    select :env::text as env, run_id, task_id from unnest(:runs::text[], :tasks::text[]) as reset (run_id, task_id)
)

delete from perdure.tasks using batch
where
    tasks.env = any(array[batch.env]) and tasks.run_id = batch.run_id and tasks.opened < 0 and tasks.parent_id = batch.task_id;

-- name: delete_interrupted_tasks
-- Rows of :canceled tasks that were interrupted at or after their run's point.
with batch as materialized (
    select :env::text as env, run_id, point from unnest(:runs::text[], :points::bigint[]) as reset (run_id, point)
)

delete from perdure.tasks using batch
where
    tasks.env = any(array[batch.env]) and tasks.run_id = batch.run_id and tasks.interrupted >= batch.point and tasks.status = :canceled;

-- name: clear_interruptions
with batch as materialized (
    select :env::text as env, run_id, point from unnest(:runs::text[], :points::bigint[]) as reset (run_id, point)
)

update perdure.tasks set interrupted = null
from batch
where tasks.env = any(array[batch.env]) and tasks.run_id = batch.run_id and tasks.interrupted >= batch.point;

-- name: delete_canceled_tasks
-- Rows that cancel_open_tasks made :canceled in the runs :ids.
delete from perdure.tasks
where env = :env and run_id = any(:ids::text[]) and status = :canceled and interrupted is null;

-- name: tasks_by_run
-- The tasks of the runs :ids as [[run_id, TaskRecord], ...] by run and position. Outputs come along while their sum stays
-- within :bytes_max of a run; the others are marked omitted. Rows of the platform's own (opened < 0) come only with an
-- :opened_min below 0. Hot.
select coalesce(json_agg(json_build_array(run_id, json_build_object(
    'id', id, 'idempotency_key', idempotency_key, 'key', key, 'name', name, 'status', status,
    'position', position, 'opened', opened, 'absorbed', absorbed, 'parent_id', parent_id, 'seq', seq,
    'interrupted', interrupted, 'attempts', attempts, 'due_at', due_at, 'started_at', started_at,
    'completed_at', completed_at,
    'output', case when run_bytes <= :bytes_max::bigint then output end,
    'types', case when run_bytes <= :bytes_max::bigint then types end,
    'error', error::json, 'details', details,
    'omitted', output is not null and run_bytes > :bytes_max::bigint
)) order by run_id, position, id), '[]')
from (
    select
        tasks.*,
        sum(coalesce(octet_length(output), 0) + coalesce(octet_length(types), 0))
        over (partition by run_id order by position, id) as run_bytes
    from perdure.tasks
    where env = :env and run_id = any(:ids::text[]) and opened >= :opened_min::bigint
) as sized;

-- name: known_logs
-- Which logs of the runs :ids exist: [[run_id, id], ...]
select coalesce(json_agg(json_build_array(run_id, id)), '[]') from perdure.logs
where env = :env and run_id = any(:ids::text[]);

-- name: logs_by_run
-- A JSON list of LogRecord in the order written.
select coalesce(json_agg(json_build_object(
    'id', id, 'level', level, 'message', message, 'at', at, 'data', data, 'task_id', task_id
) order by line_no), '[]')
from perdure.logs
where env = :env and run_id = :run_id;

-- name: get_output
-- [output, types] as JSON.
select json_build_array(output, types) from perdure.tasks where env = :env and run_id = :run_id and id = :id;
