-- What has ended long ago, and its deletion with all that is its own.

-- name: ended_runs
-- A JSON list of run ids, earliest end first, in one of :statuses (all that have ended, if that is empty), ended before
-- :before, and out of use: no slot is held for it and no parent goes on that may look at it.
select json_group_array(id) from (
    select id from runs
    where
        env = :env and completed_at < :before
        and (json_array_length(:statuses) = 0 or +status in (select value from json_each(:statuses)))
        and not exists (
            select 1 from runs as parents
            where parents.env = runs.env and parents.id = runs.parent_run_id and parents.completed_at is null
        )
        and not exists (select 1 from leases where leases.env = runs.env and leases.run_id = runs.id)
    order by completed_at, id
    limit :limit
);

-- name: deletable_runs
-- [[id, event_id], ...] of those of the runs :ids that have ended and are out of use, as ended_runs says.
select json_group_array(json_array(id, event_id)) from runs
where
    env = :env and id in (select value from json_each(:ids)) and completed_at is not null
    and not exists (
        select 1 from runs as parents
        where parents.env = runs.env and parents.id = runs.parent_run_id and parents.completed_at is null
    )
    and not exists (select 1 from leases where leases.env = runs.env and leases.run_id = runs.id);

-- name: delete_tasks_of_runs
delete from tasks where env = :env and run_id in (select value from json_each(:ids));

-- name: delete_logs_of_runs
delete from logs where env = :env and run_id in (select value from json_each(:ids));

-- name: delete_status_versions_of_runs
delete from status_versions where env = :env and run_id in (select value from json_each(:ids));

-- name: delete_statuses_of_runs
delete from statuses where env = :env and run_id in (select value from json_each(:ids));

-- name: delete_values_of_runs
delete from key_values where env = :env and scope in (select 'run:' || value from json_each(:ids));

-- name: delete_tags_of_runs
-- To be called while the runs exist.
delete from run_tags where (env, tag, run_id) in (
    select runs.env, tags.value, runs.id
    from runs, json_each(runs.tags) as tags
    where runs.env = :env and runs.id in (select value from json_each(:ids))
);

-- name: delete_runs
delete from runs where env = :env and id in (select value from json_each(:ids));

-- name: childless_events
-- A JSON list of event ids, earliest first, that arrived before :before and are out of use: no run is left, nothing is
-- to be delivered or compared with waiters.
select json_group_array(id) from (
    select id from events
    where
        env = :env and arrived_at < :before and due_at is null
        and not exists (select 1 from runs where runs.env = events.env and runs.event_id = events.id)
        and not exists (
            select 1 from matches
            where matches.env = events.env and matches.arrived_at = events.arrived_at and matches.event_id = events.id
        )
    order by arrived_at, id
    limit :limit
);

-- name: deletable_events
-- Those of the events :ids that are out of use, as childless_events says.
select json_group_array(id) from events
where
    env = :env and id in (select value from json_each(:ids)) and due_at is null
    and not exists (select 1 from runs where runs.env = events.env and runs.event_id = events.id)
    and not exists (
        select 1 from matches
        where matches.env = events.env and matches.arrived_at = events.arrived_at and matches.event_id = events.id
    );

-- name: delete_events
delete from events where env = :env and id in (select value from json_each(:ids));
