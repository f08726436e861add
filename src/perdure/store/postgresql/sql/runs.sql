-- Runs, and where their status puts them: ready (queued), leases (executing), idle (waiting or pending), ended.
--
-- Everything that belongs to a run is written under the lock of its row: lock_runs, once at the beginning of a batch for
-- all that it names; claims and wake-ups take, further on, only what nobody else has locked.

-- name: lock_runs
-- The runs :ids, in the order of their ids, as [[id, status, execution, wakes], ...]. Hot.
with batch as materialized (select :env::text as env, id from unnest(:ids::text[]) as ids (id))

select coalesce(json_agg(json_build_array(id, status, execution, wakes)), '[]') from (
    select runs.id, runs.status, runs.execution, runs.wakes
    from batch
    join perdure.runs on runs.env = any(array[batch.env]) and runs.id = batch.id
    order by batch.id collate "C"
    for no key update of runs
) as locked;

-- name: leave_places
-- Runs that leave the ready queue (:queued) or what waits (:idle) and may come back at once; or that go on after their end.
with left_queue as materialized (
    select env, queue, queue_key, priority, queued_at, id from perdure.runs
    where env = :env and id = any(:queued::text[])
),

went_on as materialized (
    select env, completed_at, id from perdure.runs where env = :env and id = any(:ended::text[])
),

unqueued as (
    delete from perdure.ready using left_queue as runs
    where
        ready.env = any(array[runs.env]) and ready.queue = runs.queue
        and ready.queue_key = runs.queue_key and ready.priority = runs.priority and ready.ready_at = runs.queued_at
        and ready.run_id = runs.id
),

revived as (
    delete from perdure.ended using went_on as runs
    where
        ended.env = any(array[runs.env]) and ended.completed_at = runs.completed_at and ended.run_id = runs.id
)

delete from perdure.idle where env = :env and run_id = any(:idle::text[]);

-- name: move_runs
-- A row per run; null for priority and failures keeps them. :executed: runs whose leases end, :revoked: whose leases are
-- kept as revoked. Runs that come to be :queued enter the ready queue, others ended or idle by their completed_at. Of ended
-- ones nothing waits any more. Hot.
with batch as materialized (
    select :env::text as env, moves.* from json_to_recordset(:moves::json) as moves (
        id text, status text, add_spent_ms bigint, output text, completed_at bigint, queued_at bigint, wake_at bigint,
        crashes bigint, types text, error text, reason text, failed_tasks text, priority bigint, failures bigint,
        open_waits bigint, resume_at bigint
    )
),

moved as (
    update perdure.runs set
        status = batch.status,
        spent_ms = spent_ms + batch.add_spent_ms,
        output = batch.output,
        completed_at = batch.completed_at,
        queued_at = coalesce(batch.queued_at, runs.queued_at),
        wake_at = batch.wake_at,
        crashes = coalesce(batch.crashes, 0),
        types = batch.types,
        error = batch.error,
        reason = batch.reason,
        failed_tasks = coalesce(batch.failed_tasks, '[]'),
        priority = coalesce(batch.priority, runs.priority),
        failures = coalesce(batch.failures, runs.failures),
        open_waits = coalesce(batch.open_waits, 0),
        resume_at = batch.resume_at
    from batch
    where runs.env = any(array[batch.env]) and runs.id = batch.id
    returning
        runs.id, runs.status, runs.queue, runs.queue_key, runs.priority, runs.queued_at, runs.wake_at, runs.completed_at
),

unleased as (
    delete from perdure.leases where env = :env and run_id = any(:executed::text[]) and not is_revoked
),

revoked as (
    update perdure.leases set is_revoked = true where env = :env and run_id = any(:revoked::text[]) and not is_revoked
),

entered as (
    insert into perdure.ready (env, queue, queue_key, priority, ready_at, run_id)
    select :env, queue, queue_key, priority, queued_at, id from moved where status = :queued
),

waiting as (
    insert into perdure.idle (env, run_id, status, due_at)
    select :env, id, status, wake_at from moved where status <> :queued and completed_at is null
),

finished as (
    insert into perdure.ended (env, completed_at, run_id, status)
    select :env, completed_at, id, status from moved where completed_at is not null
),

unwaited as (
    delete from perdure.event_waiters where env = :env and run_id = any(:finished::text[])
),

uncalled as (
    delete from perdure.operations where env = :env and run_id = any(:finished::text[])
)

select coalesce(json_agg(json_build_array(queue, queue_key)), '[]') from moved where status = :queued;

-- name: due_ids
-- Waiting runs of :status whose timer is due, earliest first, as a JSON list of ids. They are locked; those that somebody
-- else has locked are left out.
select coalesce(json_agg(run_id order by due_at, run_id), '[]') from (
    select idle.run_id, idle.due_at
    from perdure.idle
    cross join lateral (
        select runs.id from perdure.runs
        where
            runs.env = :env and runs.id = idle.run_id and runs.status = :status
            and runs.wake_at is not distinct from idle.due_at
        for no key update skip locked
    ) as locked
    where idle.env = :env and idle.due_at <= :now
    order by idle.due_at, idle.run_id
    limit :limit
) as due;

-- name: wake_runs
-- Runs whose waits are over: :ids of runs to be :queued, in the order in which they were made. Nothing is left of the wait.
-- Returns [[queue, key], ...] of them.
with unparked as (
    delete from perdure.idle where env = :env and run_id = any(:ids::text[])
),

woken as (
    update perdure.runs set
        status = :queued, queued_at = created_at, wake_at = null, resume_at = null, open_waits = 0, reason = null,
        error = null
    where env = :env and id = any(:ids::text[])
    returning id, queue, queue_key, priority, queued_at
),

entered as (
    insert into perdure.ready (env, queue, queue_key, priority, ready_at, run_id)
    select :env, queue, queue_key, priority, queued_at, id from woken
)

select coalesce(json_agg(json_build_array(queue, queue_key)), '[]') from woken;

-- name: open_tasks
-- Which tasks can be resolved: [[run_id, id, run's status, open_waits, resume_at, wake_at], ...]
with batch as materialized (
    select :env::text as env, run_id, task_id
    from unnest(:runs::text[], :tasks::text[]) as asked (run_id, task_id)
)

select coalesce(
    json_agg(json_build_array(runs.id, tasks.id, runs.status, runs.open_waits, runs.resume_at, runs.wake_at)), '[]'
)
from batch
join perdure.tasks on tasks.env = any(array[batch.env]) and tasks.run_id = batch.run_id and tasks.id = batch.task_id
join perdure.runs on runs.env = any(array[batch.env]) and runs.id = batch.run_id
where
    tasks.completed_at is null and tasks.seq is null and tasks.interrupted is null and runs.completed_at is null;

-- name: resolve_tasks
with batch as materialized (
    select :env::text as env, resolutions.* from json_to_recordset(:tasks::json) as resolutions (
        run_id text, task_id text, status text, output text, types text, error text, at bigint
    )
)

update perdure.tasks set
    status = batch.status,
    output = batch.output,
    types = batch.types,
    error = batch.error,
    completed_at = batch.at,
    due_at = null
from batch
where tasks.env = any(array[batch.env]) and tasks.run_id = batch.run_id and tasks.id = batch.task_id;

-- name: count_wakes
-- And put forward the timers of those that have one.
with batch as materialized (
    select :env::text as env, wakes.* from json_to_recordset(:runs::json) as wakes (
        id text, resolutions bigint, open_waits bigint, wake_at bigint
    )
),

counted as (
    update perdure.runs set
        wakes = wakes + batch.resolutions,
        open_waits = batch.open_waits,
        wake_at = batch.wake_at
    from batch
    where runs.env = any(array[batch.env]) and runs.id = batch.id
    returning runs.env, runs.id, runs.wake_at
)

update perdure.idle set due_at = counted.wake_at
from counted
where idle.env = any(array[counted.env]) and idle.run_id = counted.id and idle.due_at is distinct from counted.wake_at;

-- name: get_run
select json from perdure.run_rows where env = :env and id = :id;

-- name: runs_by_id
-- The runs :ids as a JSON list of RunRow.
select coalesce(json_agg(json), '[]') from perdure.run_rows where env = :env and id = any(:ids::text[]);

-- name: due_runs
-- Runs of :status whose timer is due, earliest first, as a JSON list of RunRow.
select coalesce(json_agg(json order by due_at, run_id), '[]') from (
    select runs.json, idle.due_at, idle.run_id
    from perdure.idle
    join perdure.run_rows as runs on runs.env = idle.env and runs.id = idle.run_id
    where idle.env = :env and idle.due_at <= :now and runs.status = :status
    order by idle.due_at, idle.run_id
    limit :limit
) as due;

-- name: next_due
select min(due_at) from perdure.idle where env = :env and due_at is not null;

-- name: count_ready
select count(*) from perdure.ready where env = :env;

-- name: count_all_leases
select count(*) from perdure.leases where env = :env and not is_revoked;

-- name: count_by_status
-- {status: number of runs} as JSON.
select coalesce(json_object_agg(status, runs), '{}') from (
    select status, sum(runs)::bigint as runs from (
        select status, count(*) as runs from perdure.ended where env = :env group by status
        union all
        select status, count(*) from perdure.idle where env = :env group by status
        union all
        select :queued, count(*) from perdure.ready where env = :env
        union all
        select :executing, count(*) from perdure.leases where env = :env and not is_revoked
    ) as parts
    group by status
) as counts;

-- name: list_runs
-- Newest first, as a JSON list of RunRow; reads.py adds the conditions below that a filter asks for.
select coalesce(json_agg(json order by id desc), '[]') from (
    select runs.json, runs.id
    from perdure.run_rows as runs
    where runs.env = :env /* conditions */
    order by runs.id desc
    limit :limit
) as page;
