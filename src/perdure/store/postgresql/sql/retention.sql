-- What has ended long ago, and its deletion with all that is its own.

-- name: ended_runs
-- A JSON list of run ids, earliest end first, in one of :statuses (all that have ended, if that is empty), ended before
-- :before, and out of use: no slot is held for it and no parent goes on that may look at it.
select coalesce(json_agg(run_id order by completed_at, run_id), '[]') from (
    select ended.completed_at, ended.run_id
    from perdure.ended
    join perdure.runs on runs.env = ended.env and runs.id = ended.run_id
    where
        ended.env = :env and ended.completed_at < :before
        and (cardinality(:statuses::text[]) = 0 or ended.status = any(:statuses::text[]))
        and not exists (
            select 1 from perdure.runs as parents
            where parents.env = :env and parents.id = runs.parent_run_id and parents.completed_at is null
        )
        and not exists (select 1 from perdure.leases where leases.env = :env and leases.run_id = ended.run_id)
    order by ended.completed_at, ended.run_id
    limit :limit
) as page;

-- name: deletable_runs
-- [[id, event_id], ...] of those of the runs :ids that have ended and are out of use, as ended_runs says.
select coalesce(json_agg(json_build_array(id, event_id)), '[]') from perdure.runs
where
    env = :env and id = any(:ids::text[]) and completed_at is not null
    and not exists (
        select 1 from perdure.runs as parents
        where parents.env = :env and parents.id = runs.parent_run_id and parents.completed_at is null
        offset 0
    )
    and not exists (select 1 from perdure.leases where leases.env = :env and leases.run_id = runs.id offset 0);

-- name: delete_what_runs_have
-- Everything but the runs themselves; to be called while they exist.
with gone as materialized (
    select env, id, tags, completed_at from perdure.runs where env = :env and id = any(:ids::text[])
),

gone_tasks as (delete from perdure.tasks where env = :env and run_id = any(:ids::text[])),

gone_logs as (delete from perdure.logs where env = :env and run_id = any(:ids::text[])),

gone_versions as (delete from perdure.status_versions where env = :env and run_id = any(:ids::text[])),

gone_statuses as (delete from perdure.statuses where env = :env and run_id = any(:ids::text[])),

gone_values as (
    delete from perdure.key_values
    where env = :env and scope in (select 'run:' || id from unnest(:ids::text[]) as batch (id))
),

gone_tags as (
    delete from perdure.run_tags using gone as runs, json_array_elements_text(runs.tags::json) as tags (tag)
    where run_tags.env = any(array[runs.env]) and run_tags.tag = tags.tag and run_tags.run_id = runs.id
)

delete from perdure.ended using gone as runs
where ended.env = any(array[runs.env]) and ended.completed_at = runs.completed_at and ended.run_id = runs.id;

-- name: delete_runs
delete from perdure.runs where env = :env and id = any(:ids::text[]);

-- name: childless_events
-- A JSON list of event ids, earliest first, that arrived before :before and are out of use: no run is left, nothing is
-- to be delivered or compared with waiters.
select coalesce(json_agg(id order by arrived_at, id), '[]') from (
    select id, arrived_at from perdure.events
    where
        env = :env and arrived_at < :before and due_at is null
        and not exists (select 1 from perdure.runs where runs.env = :env and runs.event_id = events.id)
        and not exists (
            select 1 from perdure.matches
            where
                matches.env = :env and matches.arrived_at = events.arrived_at and matches.event_id = events.id
        )
    order by arrived_at, id
    limit :limit
) as page;

-- name: deletable_events
-- Those of the events :ids that are out of use, as childless_events says.
select coalesce(json_agg(id), '[]') from perdure.events
where
    env = :env and id = any(:ids::text[]) and due_at is null
    and not exists (select 1 from perdure.runs where runs.env = :env and runs.event_id = events.id)
    and not exists (
        select 1 from perdure.matches
        where matches.env = :env and matches.arrived_at = events.arrived_at and matches.event_id = events.id
    );

-- name: delete_events
delete from perdure.events where env = :env and id = any(:ids::text[]);
