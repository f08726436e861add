-- What must hold between the tables, as lists of ids for which it doesn't. Each reads all of a table: for `check` only.

-- name: runs_not_in_ready
-- Runs of :queued that aren't in the ready queue, under the keys that their row has.
select json_group_array(id) from runs
where
    env = :env and status = :queued and not exists (
        select 1 from ready
        where
            ready.env = runs.env and ready.queue = runs.queue and ready.queue_key = runs.queue_key
            and ready.priority = runs.priority and ready.ready_at = runs.queued_at and ready.run_id = runs.id
    );

-- name: ready_without_run
select json_group_array(run_id) from ready
where
    env = :env and not exists (
        select 1 from runs
        where
            runs.env = ready.env and runs.id = ready.run_id and runs.status = :queued and runs.queue = ready.queue
            and runs.queue_key = ready.queue_key and runs.priority = ready.priority and runs.queued_at = ready.ready_at
    );

-- name: ready_without_lane
select json_group_array(run_id) from ready
where
    env = :env and not exists (
        select 1 from lanes
        where lanes.env = ready.env and lanes.queue = ready.queue and lanes.queue_key = ready.queue_key
    );

-- name: runs_without_lease
-- Runs of :executing whose execution holds none.
select json_group_array(id) from runs
where
    env = :env and status = :executing and not exists (
        select 1 from leases
        where
            leases.env = runs.env and leases.run_id = runs.id and leases.execution = runs.execution
            and leases.is_revoked = 0
    );

-- name: leases_without_run
-- Leases that aren't revoked, and not of the latest execution of a run of :executing.
select json_group_array(run_id) from leases
where
    env = :env and is_revoked = 0 and not exists (
        select 1 from runs
        where
            runs.env = leases.env and runs.id = leases.run_id and runs.execution = leases.execution
            and runs.status = :executing
    );

-- name: runs_without_timer
-- Runs of :waiting that are to be woken at an instant for which there is no timer.
select json_group_array(id) from runs
where
    env = :env and status = :waiting and wake_at is not null and not exists (
        select 1 from timers
        where timers.env = runs.env and timers.due_at = runs.wake_at and timers.run_id = runs.id
    );

-- name: timers_without_run
select json_group_array(run_id) from timers
where
    env = :env and not exists (
        select 1 from runs
        where
            runs.env = timers.env and runs.id = timers.run_id and runs.status = :waiting
            and runs.wake_at = timers.due_at
    );

-- name: runs_waiting_for_nothing
select json_group_array(id) from runs
where env = :env and status = :waiting and wake_at is null and open_waits <= 0;

-- name: runs_without_event
select json_group_array(id) from runs
where
    env = :env
    and not exists (select 1 from events where events.env = runs.env and events.id = runs.event_id);

-- name: tasks_without_run
select json_group_array(run_id) from (
    select distinct run_id from tasks
    where env = :env and not exists (select 1 from runs where runs.env = tasks.env and runs.id = tasks.run_id)
);

-- name: waits_without_run
-- Runs that don't exist or have ended, for whose tasks something waits all the same.
select json_group_array(run_id) from (
    select run_id from event_waiters where env = :env
    union
    select run_id from operations where env = :env
) as waits
where
    not exists (
        select 1 from runs where runs.env = :env and runs.id = waits.run_id and runs.completed_at is null
    );

-- name: matches_without_event
select json_group_array(event_id) from matches
where
    env = :env and not exists (
        select 1 from events
        where
            events.env = matches.env and events.id = matches.event_id and events.arrived_at = matches.arrived_at
    );
