-- What must hold between the tables, as lists of ids for which it doesn't. Each reads all of a table: for `check` only.

-- name: runs_not_in_ready
-- Runs of :queued that aren't in the ready queue, under the keys that their row has.
select coalesce(json_agg(id), '[]') from perdure.runs
where
    env = :env and status = :queued and not exists (
        select 1 from perdure.ready
        where
            ready.env = runs.env and ready.queue = runs.queue and ready.queue_key = runs.queue_key
            and ready.priority = runs.priority and ready.ready_at = runs.queued_at and ready.run_id = runs.id
    );

-- name: ready_without_run
select coalesce(json_agg(run_id), '[]') from perdure.ready
where
    env = :env and not exists (
        select 1 from perdure.runs
        where
            runs.env = ready.env and runs.id = ready.run_id and runs.status = :queued and runs.queue = ready.queue
            and runs.queue_key = ready.queue_key and runs.priority = ready.priority and runs.queued_at = ready.ready_at
    );

-- name: ready_without_lane
select coalesce(json_agg(run_id), '[]') from perdure.ready
where
    env = :env and not exists (
        select 1 from perdure.lanes
        join perdure.queue_turns on queue_turns.env = lanes.env and queue_turns.id = lanes.queue
        where lanes.env = ready.env and lanes.queue = ready.queue and lanes.queue_key = ready.queue_key
    );

-- name: runs_without_lease
-- Runs of :executing whose execution holds none.
select coalesce(json_agg(id), '[]') from perdure.runs
where
    env = :env and status = :executing and not exists (
        select 1 from perdure.leases
        where
            leases.env = runs.env and leases.run_id = runs.id and leases.execution = runs.execution
            and not leases.is_revoked
    );

-- name: leases_without_run
-- Leases that aren't revoked, and not of the latest execution of a run of :executing.
select coalesce(json_agg(run_id), '[]') from perdure.leases
where
    env = :env and not is_revoked and not exists (
        select 1 from perdure.runs
        where
            runs.env = leases.env and runs.id = leases.run_id and runs.execution = leases.execution
            and runs.status = :executing
    );

-- name: runs_not_idle
-- Runs that are neither :queued, :executing nor ended, and not kept as idle in their status and with their timer.
select coalesce(json_agg(id), '[]') from perdure.runs
where
    env = :env and status <> :queued and status <> :executing and completed_at is null and not exists (
        select 1 from perdure.idle
        where
            idle.env = runs.env and idle.run_id = runs.id and idle.status = runs.status
            and idle.due_at is not distinct from runs.wake_at
    );

-- name: idle_without_run
select coalesce(json_agg(run_id), '[]') from perdure.idle
where
    env = :env and not exists (
        select 1 from perdure.runs
        where
            runs.env = idle.env and runs.id = idle.run_id and runs.status = idle.status
            and runs.wake_at is not distinct from idle.due_at
    );

-- name: runs_not_in_ended
select coalesce(json_agg(id), '[]') from perdure.runs
where
    env = :env and completed_at is not null and not exists (
        select 1 from perdure.ended
        where
            ended.env = runs.env and ended.completed_at = runs.completed_at and ended.run_id = runs.id
            and ended.status = runs.status
    );

-- name: ended_without_run
select coalesce(json_agg(run_id), '[]') from perdure.ended
where
    env = :env and not exists (
        select 1 from perdure.runs
        where runs.env = ended.env and runs.id = ended.run_id and runs.completed_at = ended.completed_at
    );

-- name: runs_waiting_for_nothing
select coalesce(json_agg(id), '[]') from perdure.runs
where env = :env and status = :waiting and wake_at is null and open_waits <= 0;

-- name: runs_without_event
select coalesce(json_agg(id), '[]') from perdure.runs
where
    env = :env
    and not exists (select 1 from perdure.events where events.env = runs.env and events.id = runs.event_id);

-- name: tasks_without_run
select coalesce(json_agg(run_id), '[]') from (
    select distinct run_id from perdure.tasks
    where
        env = :env
        and not exists (select 1 from perdure.runs where runs.env = tasks.env and runs.id = tasks.run_id)
) as strays;

-- name: waits_without_run
-- Runs that don't exist or have ended, for whose tasks something waits all the same.
select coalesce(json_agg(run_id), '[]') from (
    select run_id from perdure.event_waiters where env = :env
    union
    select run_id from perdure.operations where env = :env
) as waits
where
    not exists (
        select 1 from perdure.runs
        where runs.env = :env and runs.id = waits.run_id and runs.completed_at is null
    );

-- name: matches_without_event
select coalesce(json_agg(event_id), '[]') from perdure.matches
where
    env = :env and not exists (
        select 1 from perdure.events
        where
            events.env = matches.env and events.id = matches.event_id and events.arrived_at = matches.arrived_at
    );
