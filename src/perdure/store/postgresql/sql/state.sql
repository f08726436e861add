-- What runs and applications keep: statuses, values, annotations; queues, accounts as they are defined.

-- name: statuses_by_key
-- Of the keys of runs, [[run_id, key, label, state, data, version, update_id, created_at, updated_at], ...] as JSON; and those
-- of the updates (of :of_runs, :of_keys, :updates) that made an earlier version.
select
    (
        select coalesce(json_agg(json_build_array(
            run_id, key, label, state, data, version, update_id, created_at, updated_at
        )), '[]')
        from (
            select distinct :env::text as env, run_id as of_run, key as of_key
            from unnest(:runs::text[], :keys::text[]) as updated (run_id, key)
        ) as batch
        join perdure.statuses
            on statuses.env = any(array[batch.env]) and statuses.run_id = batch.of_run and statuses.key = batch.of_key
    ),
    (
        select coalesce(json_agg(json_build_array(updates.run_id, updates.key, updates.id)), '[]')
        from unnest(:of_runs::text[], :of_keys::text[], :updates::text[]) as updates (run_id, key, id)
        cross join lateral (
            select 1 from perdure.status_versions as versions
            where
                versions.env = :env and versions.run_id = updates.run_id and versions.key = updates.key
                and versions.update_id = updates.id
            offset 0
        ) as made
    );

-- name: put_statuses
insert into perdure.statuses (env, run_id, key, label, state, data, version, update_id, created_at, updated_at)
select :env, run_id, key, label, state, data, version, update_id, created_at, updated_at
from json_to_recordset(:statuses::json) as batch (
    run_id text, key text, label text, state text, data text, version bigint, update_id text, created_at bigint,
    updated_at bigint
)
on conflict (env, run_id, key) do update set
    label = excluded.label,
    state = excluded.state,
    data = excluded.data,
    version = excluded.version,
    update_id = excluded.update_id,
    updated_at = excluded.updated_at;

-- name: put_status_versions
insert into perdure.status_versions (env, run_id, key, version, label, state, data, update_id, at)
select :env, run_id, key, version, label, state, data, update_id, updated_at
from json_to_recordset(:versions::json) as batch (
    run_id text, key text, label text, state text, data text, version bigint, update_id text, updated_at bigint
);

-- name: statuses_by_run
-- A JSON list of StatusRow by creation.
select coalesce(json_agg(json_build_object(
    'key', key, 'label', label, 'state', state, 'data', data,
    'history', (
        select coalesce(json_agg(json_build_object(
            'label', versions.label, 'state', versions.state, 'data', versions.data::json, 'at', versions.at
        ) order by versions.version), '[]')::text  -- text, no part of the JSON around it
        from perdure.status_versions as versions
        where versions.env = :env and versions.run_id = statuses.run_id and versions.key = statuses.key
    ),
    'created_at', created_at, 'updated_at', updated_at
) order by created_at, key), '[]')
from perdure.statuses
where env = :env and run_id = :run_id;

-- name: known_values
-- Those of the keys that have a value: [[scope, key], ...] as JSON; they are locked.
select coalesce(json_agg(json_build_array(scope, key)), '[]') from (
    select stored.scope, stored.key
    from (
        select :env::text as env, scope, key from unnest(:scopes::text[], :keys::text[]) as deleted (scope, key)
        offset 0
    ) as batch
    join perdure.key_values as stored
        on stored.env = any(array[batch.env]) and stored.scope = batch.scope and stored.key = batch.key
    order by batch.scope collate "C", batch.key collate "C"
    for update of stored
) as locked;

-- name: put_values
insert into perdure.key_values (env, scope, key, value, types, updated_at)
select :env, scope, key, value, types, updated_at
from json_to_recordset(:values::json) as batch (scope text, key text, value text, types text, updated_at bigint)
order by scope collate "C", key collate "C"
on conflict (env, scope, key) do update set
    value = excluded.value,
    types = excluded.types,
    updated_at = excluded.updated_at;

-- name: delete_values
-- Those that known_values has locked.
with batch as materialized (
    select :env::text as env, scope, key from unnest(:scopes::text[], :keys::text[]) as deleted (scope, key)
)

delete from perdure.key_values using batch
where key_values.env = any(array[batch.env]) and key_values.scope = batch.scope and key_values.key = batch.key;

-- name: get_value
-- [value, types] as JSON.
select json_build_array(value, types) from perdure.key_values where env = :env and scope = :scope and key = :key;

-- name: annotations
-- [[run_id, tags, metadata], ...] of the runs :ids as JSON.
select coalesce(json_agg(json_build_array(id, tags::json, metadata)), '[]') from perdure.runs
where env = :env and id = any(:ids::text[]);

-- name: annotate_runs
-- One per run.
with batch as materialized (
    select :env::text as env, annotations.* from json_to_recordset(:annotations::json) as annotations (
        id text, tags text, metadata text
    )
)

update perdure.runs set tags = batch.tags, metadata = batch.metadata
from batch
where runs.env = any(array[batch.env]) and runs.id = batch.id;

-- name: define_queues
insert into perdure.queues (env, id, concurrency_limit, key_limit, priority)
select :env, id, concurrency_limit, key_limit, priority
from json_to_recordset(:queues::json) as batch (
    id text, concurrency_limit bigint, key_limit bigint, priority bigint
)
order by id collate "C"
on conflict (env, id) do update set
    concurrency_limit = excluded.concurrency_limit,
    key_limit = excluded.key_limit,
    priority = excluded.priority;

-- name: pause_queues
insert into perdure.queues (env, id, paused_at)
select :env, id, paused_at from unnest(:ids::text[], :ats::bigint[]) as batch (id, paused_at)
order by id collate "C"
on conflict (env, id) do update set paused_at = excluded.paused_at;

-- name: list_queues
-- Those of :ids (all that were defined or are in use, for null) as a JSON list of QueueRow, by id.
with held as materialized (
    select queue, count(*) as executing from perdure.leases where env = :env group by queue
),

waiting as materialized (
    select queue, count(*) as queued from perdure.ready where env = :env group by queue
),

ids as (
    select id from perdure.queues where env = :env
    union
    select id from perdure.queue_turns where env = :env
    union
    select queue from held
)

select coalesce(json_agg(json_build_object(
    'id', ids.id, 'concurrency_limit', concurrency_limit, 'key_limit', key_limit, 'paused_at', paused_at,
    'priority', coalesce(priority, 0), 'queued', coalesce(waiting.queued, 0), 'executing', coalesce(held.executing, 0)
) order by ids.id), '[]')
from ids
left join perdure.queues on queues.env = :env and queues.id = ids.id
left join held on held.queue = ids.id
left join waiting on waiting.queue = ids.id
where :id::text is null or ids.id = :id;

-- name: place_in_queue
-- [queue, ahead, executing_key, executing_all] as JSON of a run of :status.
select json_build_array(
    runs.queue,
    (
        select count(*) from perdure.ready
        where
            ready.env = :env and ready.queue = runs.queue and ready.queue_key = runs.queue_key
            and (ready.priority > runs.priority or (
                ready.priority = runs.priority and (ready.ready_at, ready.run_id) < (runs.queued_at, runs.id)
            ))
    ),
    (
        select count(*) from perdure.leases
        where leases.env = :env and leases.queue = runs.queue and leases.queue_key = runs.queue_key
    ),
    (select count(*) from perdure.leases where leases.env = :env)
)
from perdure.runs
where runs.env = :env and runs.id = :id and runs.status = :status;

-- name: put_accounts
insert into perdure.accounts (env, id, metadata, created_at)
select :env, id, metadata, created_at
from json_to_recordset(:accounts::json) as batch (id text, metadata text, created_at bigint)
order by id collate "C"
on conflict (env, id) do update set metadata = excluded.metadata;

-- name: get_account
select json_build_object('id', id, 'metadata', metadata, 'created_at', created_at) from perdure.accounts
where env = :env and id = :id;
