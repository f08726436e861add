-- Tasks and logs of runs. :ids are run ids.

-- name: record_tasks
-- :tasks: [[run_id, id, idempotency_key, key, name, status, position, opened, seq, attempts, started_at, completed_at,
-- output, rest], ...], rest: null or [parent_id, interrupted, due_at, error, details, types, absorbed] as JSON text; of two
-- rows for one task the later one counts. What somebody else resolved (completed without seq) gives way only to what the
-- run's code has seen of it. Hot.
with batch as materialized (select value as r, json_extract(value, '$[13]') as rest from json_each(:tasks))
insert into tasks (
    env, run_id, id, idempotency_key, key, name, status, position, opened, seq, attempts, started_at, completed_at, output,
    parent_id, interrupted, due_at, error, details, types, absorbed
)
select
    :env, json_extract(r, '$[0]'), json_extract(r, '$[1]'), json_extract(r, '$[2]'), json_extract(r, '$[3]'),
    json_extract(r, '$[4]'), json_extract(r, '$[5]'), json_extract(r, '$[6]'), json_extract(r, '$[7]'),
    json_extract(r, '$[8]'), json_extract(r, '$[9]'), json_extract(r, '$[10]'), json_extract(r, '$[11]'),
    json_extract(r, '$[12]'), json_extract(rest, '$[0]'), json_extract(rest, '$[1]'), json_extract(rest, '$[2]'),
    json_extract(rest, '$[3]'), json_extract(rest, '$[4]'), json_extract(rest, '$[5]'),
    coalesce(json_extract(rest, '$[6]'), 0)
from batch
where true
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
    output = iif(excluded.output is null, output, excluded.output),
    types = iif(excluded.output is null, types, excluded.types)
where
    excluded.seq is not null or excluded.interrupted is not null
    or tasks.completed_at is null or tasks.seq is not null or tasks.interrupted is not null or tasks.status = :canceled;

-- name: insert_logs
-- :logs: [[run_id, id, level, message, at, data, task_id], ...]; known ids are left alone.
with batch as materialized (select key as n, value as r from json_each(:logs))
insert into logs (env, run_id, id, level, message, at, data, task_id)
select
    :env, json_extract(r, '$[0]'), json_extract(r, '$[1]'), json_extract(r, '$[2]'), json_extract(r, '$[3]'),
    json_extract(r, '$[4]'), json_extract(r, '$[5]'), json_extract(r, '$[6]')
from batch
where true
order by n
on conflict (env, run_id, id) do nothing;

-- name: cancel_open_tasks
-- :runs: [[run_id, at], ...]
with batch as materialized (
    select json_extract(value, '$[0]') as run_id, json_extract(value, '$[1]') as at from json_each(:runs)
)
update tasks set status = :canceled, completed_at = batch.at
from batch
where
    tasks.env = :env and tasks.run_id = batch.run_id
    and tasks.seq is null and tasks.interrupted is null and tasks.completed_at is null;

-- name: reset_points
-- Earliest completion among the tasks :tasks ([[run_id, id], ...]) as JSON: [[run_id, seq], ...], runs without left out.
select json_group_array(json_array(run_id, point)) from (
    select tasks.run_id, min(tasks.seq) as point
    from json_each(:tasks) as batch
    cross join tasks
    where
        tasks.env = :env and tasks.run_id = json_extract(batch.value, '$[0]')
        and tasks.id = json_extract(batch.value, '$[1]') and tasks.seq is not null
    group by tasks.run_id
);

-- name: delete_tasks
-- :tasks: [[run_id, id], ...]
delete from tasks where env = :env and (run_id, id) in (
    select json_extract(value, '$[0]'), json_extract(value, '$[1]') from json_each(:tasks)
);

-- name: delete_platform_rows
-- What the platform wrote below the tasks :tasks ([[run_id, id], ...]).
delete from tasks
where
    env = :env and run_id in (select json_extract(value, '$[0]') from json_each(:tasks)) and opened < 0
    and (run_id, parent_id) in (
        select json_extract(value, '$[0]'), json_extract(value, '$[1]') from json_each(:tasks)
    );

-- name: delete_interrupted_tasks
-- Rows of :canceled tasks that were interrupted at or after their run's point; :points: [[run_id, seq], ...]
delete from tasks where env = :env and (run_id, id) in (
    select tasks.run_id, tasks.id
    from json_each(:points) as batch
    cross join tasks
    where
        tasks.env = :env and tasks.run_id = json_extract(batch.value, '$[0]')
        and tasks.interrupted >= json_extract(batch.value, '$[1]') and tasks.status = :canceled
);

-- name: clear_interruptions
-- :points: [[run_id, seq], ...]
with batch as materialized (
    select json_extract(value, '$[0]') as run_id, json_extract(value, '$[1]') as point from json_each(:points)
)
update tasks set interrupted = null
from batch
where tasks.env = :env and tasks.run_id = batch.run_id and tasks.interrupted >= batch.point;

-- name: delete_canceled_tasks
-- Rows that cancel_open_tasks made :canceled in the runs :ids.
delete from tasks
where
    env = :env and run_id in (select value from json_each(:ids)) and status = :canceled
    and interrupted is null;

-- name: size_tasks
-- Of the outputs (with their types) of the runs :ids, in bytes: those of the largest run, and all. Both are null without tasks.
select max(bytes), sum(bytes) from (
    select sum(coalesce(length(cast(output as blob)), 0) + coalesce(length(cast(types as blob)), 0)) as bytes
    from tasks
    where env = :env and run_id in (select value from json_each(:ids)) and opened >= :opened_min
    group by run_id
);

-- name: whole_tasks_by_run
-- The same as tasks_by_run where every output fits, in no order. Hot.
select json_group_array(json_array(run_id, json_object(
    'id', id, 'idempotency_key', idempotency_key, 'key', key, 'name', name, 'status', status,
    'position', position, 'opened', opened, 'absorbed', json(iif(absorbed, 'true', 'false')), 'parent_id', parent_id,
    'seq', seq, 'interrupted', interrupted, 'attempts', attempts, 'due_at', due_at, 'started_at', started_at,
    'completed_at', completed_at, 'output', output, 'types', types, 'error', json(error), 'details', details
)))
from tasks
where env = :env and run_id in (select value from json_each(:ids)) and opened >= :opened_min;

-- name: tasks_by_run
-- The tasks of the runs :ids as [[run_id, TaskRecord], ...] by position. Outputs come along while their sum stays within
-- :bytes_max of the run and :total_max of all; the others are marked omitted. :total_max keeps the JSON within SQLite's
-- limit for a value. Rows of the platform's own (opened < 0) come only with an :opened_min below 0.
with sized as (
    select run_id, id, position, coalesce(length(cast(output as blob)), 0) + coalesce(length(cast(types as blob)), 0) as bytes
    from tasks
    where env = :env and run_id in (select value from json_each(:ids)) and opened >= :opened_min
),

running as (
    select
        run_id, id,
        sum(bytes) over (partition by run_id order by position, id) as run_bytes,
        sum(bytes) over (order by run_id, position, id) as all_bytes
    from sized
),

fitting as (select run_id, id, run_bytes <= :bytes_max and all_bytes <= :total_max as fits from running)

select json_group_array(json_array(run_id, json(json))) from (
    select tasks.run_id, json_object(
        'id', tasks.id, 'idempotency_key', idempotency_key, 'key', key, 'name', name, 'status', status,
        'position', position, 'opened', opened, 'absorbed', json(iif(absorbed, 'true', 'false')), 'parent_id', parent_id, 'seq', seq, 'interrupted', interrupted,
        'attempts', attempts, 'due_at', due_at, 'started_at', started_at, 'completed_at', completed_at,
        'output', iif(fits, output, null), 'types', iif(fits, types, null),
        'error', json(error), 'details', details,
        'omitted', json(iif(output is not null and not fits, 'true', 'false'))
    ) as json
    from fitting
    cross join tasks on tasks.env = :env and tasks.run_id = fitting.run_id and tasks.id = fitting.id
    order by tasks.run_id, position, tasks.id
);

-- name: known_logs
-- Which logs of the runs :ids exist: [[run_id, id], ...]
select json_group_array(json_array(run_id, id)) from logs
where env = :env and run_id in (select value from json_each(:ids));

-- name: logs_by_run
-- A JSON list of LogRecord in the order written.
select json_group_array(json(json)) from (
    select json_object(
        'id', id, 'level', level, 'message', message, 'at', at, 'data', data, 'task_id', task_id
    ) as json
    from logs
    where env = :env and run_id = :run_id
    order by line_no
);

-- name: get_output
-- [output, types] as JSON.
select json_array(output, types) from tasks where env = :env and run_id = :run_id and id = :id;
