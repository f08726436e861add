-- What runs and applications keep: statuses, values, annotations; queues, accounts, schedules as they are defined.

-- name: statuses_by_key
-- :keys: [[run_id, key], ...], :updates: [[run_id, key, update_id], ...]. Three JSON lists: which of the runs exist,
-- [[run_id, key, label, state, data, version, update_id, created_at, updated_at], ...], and those of the updates that made
-- an earlier version.
select
    (
        select json_group_array(id) from runs
        where env = :env and id in (select json_extract(value, '$[0]') from json_each(:keys))
    ),
    (
        select json_group_array(
            json_array(run_id, key, label, state, data, version, update_id, created_at, updated_at)
        )
        from statuses
        where
            env = :env and (run_id, key) in (
                select json_extract(value, '$[0]'), json_extract(value, '$[1]') from json_each(:keys)
            )
    ),
    (
        select json_group_array(json_array(run_id, key, update_id))
        from status_versions
        where
            env = :env and (run_id, key, update_id) in (
                select json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]')
                from json_each(:updates)
            )
    );

-- name: put_statuses
-- :statuses: [[run_id, key, label, state, data, version, update_id, created_at, updated_at], ...]
with batch as materialized (select value as r from json_each(:statuses))
insert into statuses (env, run_id, key, label, state, data, version, update_id, created_at, updated_at)
select
    :env, json_extract(r, '$[0]'), json_extract(r, '$[1]'), json_extract(r, '$[2]'), json_extract(r, '$[3]'),
    json_extract(r, '$[4]'), json_extract(r, '$[5]'), json_extract(r, '$[6]'), json_extract(r, '$[7]'),
    json_extract(r, '$[8]')
from batch
where true
on conflict (env, run_id, key) do update set
    label = excluded.label,
    state = excluded.state,
    data = excluded.data,
    version = excluded.version,
    update_id = excluded.update_id,
    updated_at = excluded.updated_at;

-- name: put_status_versions
-- :versions: [[run_id, key, version, label, state, data, update_id, at], ...]
with batch as materialized (select value as r from json_each(:versions))
insert into status_versions (env, run_id, key, version, label, state, data, update_id, at)
select
    :env, json_extract(r, '$[0]'), json_extract(r, '$[1]'), json_extract(r, '$[2]'), json_extract(r, '$[3]'),
    json_extract(r, '$[4]'), json_extract(r, '$[5]'), json_extract(r, '$[6]'), json_extract(r, '$[7]')
from batch;

-- name: statuses_by_run
-- A JSON list of StatusRow by creation.
select json_group_array(json(json)) from (
    select json_object(
        'key', key, 'label', label, 'state', state, 'data', data,
        'history', (
            select json_group_array(json(version_json)) || ''  -- text, no part of the JSON around it
            from (
                select json_object('label', label, 'state', state, 'data', json(data), 'at', at) as version_json
                from status_versions
                where
                    status_versions.env = :env and status_versions.run_id = statuses.run_id
                    and status_versions.key = statuses.key
                order by version
            )
        ),
        'created_at', created_at, 'updated_at', updated_at
    ) as json
    from statuses
    where env = :env and run_id = :run_id
    order by created_at, key
);

-- name: known_values
-- :keys: [[scope, key], ...]. Two JSON lists: which of the runs :runs exist, and those of :keys that have a value.
select
    (
        select json_group_array(id) from runs
        where env = :env and id in (select value from json_each(:runs))
    ),
    (
        select json_group_array(json_array(scope, key)) from key_values
        where
            env = :env and (scope, key) in (
                select json_extract(value, '$[0]'), json_extract(value, '$[1]') from json_each(:keys)
            )
    );

-- name: put_values
-- :values: [[scope, key, value, types, updated_at], ...]
with batch as materialized (select value as r from json_each(:values))
insert into key_values (env, scope, key, value, types, updated_at)
select
    :env, json_extract(r, '$[0]'), json_extract(r, '$[1]'), json_extract(r, '$[2]'), json_extract(r, '$[3]'),
    json_extract(r, '$[4]')
from batch
where true
on conflict (env, scope, key) do update set
    value = excluded.value,
    types = excluded.types,
    updated_at = excluded.updated_at;

-- name: delete_values
-- :keys: [[scope, key], ...]
delete from key_values where env = :env and (scope, key) in (
    select json_extract(value, '$[0]'), json_extract(value, '$[1]') from json_each(:keys)
);

-- name: get_value
-- [value, types] as JSON.
select json_array(value, types) from key_values where env = :env and scope = :scope and key = :key;

-- name: annotations
-- [[run_id, tags, metadata], ...] of the runs :ids as JSON.
select json_group_array(json_array(id, json(tags), metadata)) from runs
where env = :env and id in (select value from json_each(:ids));

-- name: annotate_runs
-- :annotations: [[run_id, tags as JSON text, metadata], ...], one per run.
with batch as materialized (select value as r, json_extract(value, '$[0]') as id from json_each(:annotations))
update runs set tags = json_extract(r, '$[1]'), metadata = json_extract(r, '$[2]')
from batch
where runs.env = :env and runs.id = batch.id;

-- name: define_queues
-- :queues: [[id, concurrency_limit, key_limit, priority], ...]
insert into queues (env, id, concurrency_limit, key_limit, priority)
select
    :env, json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
    json_extract(value, '$[3]')
from json_each(:queues)
where true
on conflict (env, id) do update set
    concurrency_limit = excluded.concurrency_limit,
    key_limit = excluded.key_limit,
    priority = excluded.priority;

-- name: pause_queues
-- :queues: [[id, paused_at], ...]
insert into queues (env, id, paused_at)
select :env, json_extract(value, '$[0]'), json_extract(value, '$[1]') from json_each(:queues)
where true
on conflict (env, id) do update set paused_at = excluded.paused_at;

-- name: unblock_queues
-- What a claim found full in the queues :ids may have room now.
update lanes set is_blocked = 0
where env = :env and queue in (select value from json_each(:ids)) and is_blocked = 1;

-- name: queue_ids
-- A JSON list of the queues that were defined or are in use.
select json_group_array(id) from (
    select id from queues where env = :env
    union
    select queue from lanes where env = :env
    union
    select queue from leases where env = :env
);

-- name: queues_by_id
-- The queues :ids as a JSON list of QueueRow, by id.
with held as materialized (
    select queue, count(*) as executing from leases where env = :env group by queue
)

select json_group_array(json(json)) from (
    select json_object(
        'id', ids.value, 'concurrency_limit', concurrency_limit, 'key_limit', key_limit, 'paused_at', paused_at,
        'priority', coalesce(priority, 0),
        'queued', (select count(*) from ready where ready.env = :env and ready.queue = ids.value),
        'executing', coalesce((select executing from held where held.queue = ids.value), 0)
    ) as json
    from json_each(:ids) as ids
    left join queues on queues.env = :env and queues.id = ids.value
    order by ids.value
);

-- name: place_in_queue
-- [queue, ahead, executing_key, executing_all] as JSON of a run of :status.
select json_array(
    runs.queue,
    (
        select count(*) from ready
        where
            ready.env = runs.env and ready.queue = runs.queue and ready.queue_key = runs.queue_key
            and (ready.priority > runs.priority or (
                ready.priority = runs.priority and (ready.ready_at, ready.run_id) < (runs.queued_at, runs.id)
            ))
    ),
    (
        select count(*) from leases
        where leases.env = runs.env and leases.queue = runs.queue and leases.queue_key = runs.queue_key
    ),
    (select count(*) from leases where leases.env = runs.env)
)
from runs
where runs.env = :env and runs.id = :id and runs.status = :status;

-- name: put_accounts
-- :accounts: [[id, metadata, at], ...]
insert into accounts (env, id, metadata, created_at)
select :env, json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]')
from json_each(:accounts)
where true
on conflict (env, id) do update set metadata = excluded.metadata;

-- name: get_account
select json_object('id', id, 'metadata', metadata, 'created_at', created_at) from accounts
where env = :env and id = :id;
