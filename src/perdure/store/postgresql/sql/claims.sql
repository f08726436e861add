-- Who gets which runs. A run is claimed under the lock of its row, which is taken only if nobody else has it.

-- name: lock_environment
select 1 from perdure.environments where env = :env for update;

-- name: insert_environment
insert into perdure.environments (env) values (:env) on conflict (env) do nothing;

-- name: insert_queues
-- Queues that come into use, each with its lane of the empty key. Neither is ever deleted.
with turns as (
    insert into perdure.queue_turns (env, id, served)
    select :env, id, 0 from unnest(:ids::text[]) as batch (id)
    order by id collate "C"
    on conflict (env, id) do nothing
)

insert into perdure.lanes (env, queue, queue_key, served)
select :env, batch.id, '', coalesce(queue_turns.served, 0)
from unnest(:ids::text[]) as batch (id)
left join perdure.queue_turns on queue_turns.env = :env and queue_turns.id = batch.id
order by batch.id collate "C"
on conflict (env, queue, queue_key) do nothing;

-- name: insert_lanes
-- A new lane comes after those of its queue that haven't had their turn.
insert into perdure.lanes (env, queue, queue_key, served)
select :env, batch.queue, batch.queue_key, coalesce(queue_turns.served, 0)
from unnest(:queues::text[], :keys::text[]) as batch (queue, queue_key)
left join perdure.queue_turns on queue_turns.env = :env and queue_turns.id = batch.queue
order by batch.queue collate "C", batch.queue_key collate "C"
on conflict (env, queue, queue_key) do nothing;

-- name: keep_lanes
-- No claim that finds these empty may drop them before what enters them now is there to be seen.
with batch as materialized (
    select :env::text as env, queue, queue_key
    from unnest(:queues::text[], :keys::text[]) as entered (queue, queue_key)
)

select count(*) from (
    select 1 from batch
    join perdure.lanes
        on lanes.env = any(array[batch.env]) and lanes.queue = batch.queue and lanes.queue_key = batch.queue_key
    order by batch.queue collate "C", batch.queue_key collate "C"
    for key share of lanes
) as kept;

-- name: ready_queues
-- As JSON: queues with ready runs that aren't paused, in the order of their turns: [[id, priority, concurrency_limit,
-- key_limit, [key, ...]], ...], at most :limit lanes of each that aren't at their limit, in theirs; and, if one of them has a
-- limit or :is_limited, the slots taken: [[queue, key, executions], ...]. (They are counted only then: with a transaction open
-- for long there are many dead leases.) Hot.
with held as materialized (
    select queue, queue_key, count(*) as executions from perdure.leases where env = :env group by queue, queue_key
)

select
    coalesce(json_agg(
        json_build_array(turns.id, coalesce(queues.priority, 0), queues.concurrency_limit, queues.key_limit, lanes.keys)
        order by turns.served, turns.id
    ), '[]'),
    case
        when :is_limited::bool or bool_or(queues.concurrency_limit is not null or queues.key_limit is not null)
            then (select coalesce(json_agg(json_build_array(queue, queue_key, executions)), '[]') from held)
    end
from perdure.queue_turns as turns
left join perdure.queues on queues.env = turns.env and queues.id = turns.id
cross join lateral (
    select json_agg(queue_key order by served, queue_key) as keys
    from (
        select lanes.queue_key, lanes.served from perdure.lanes
        where
            lanes.env = :env and lanes.queue = turns.id
            and exists (
                select 1 from perdure.ready
                where ready.env = :env and ready.queue = lanes.queue and ready.queue_key = lanes.queue_key
                offset 0
            )
            and (
                queues.key_limit is null or queues.key_limit > coalesce((
                    select held.executions from held
                    where held.queue = lanes.queue and held.queue_key = lanes.queue_key
                ), 0)
            )
        order by lanes.served, lanes.queue_key
        limit :limit
    ) as first_lanes
) as lanes
where turns.env = :env and queues.paused_at is null and lanes.keys is not null;

-- name: pick_runs
-- Lock the first runs of each lane: [[id, queue, key, priority, queued_at], ...] as JSON, in the order of the lanes. Hot.
select coalesce(json_agg(
    json_build_array(id, queue, queue_key, priority, queued_at) order by n, priority desc, queued_at, id
), '[]')
from (
    select dealt.n, picked.id, picked.queue, picked.queue_key, picked.priority, picked.queued_at
    from unnest(:queues::text[], :keys::text[], :shares::bigint[]) with ordinality as dealt (queue, queue_key, share, n)
    cross join lateral (
        select locked.* from perdure.ready
        cross join lateral (
            select runs.id, runs.queue, runs.queue_key, runs.priority, runs.queued_at from perdure.runs
            where runs.env = :env and runs.id = ready.run_id and runs.status = :expected
            for no key update skip locked
        ) as locked
        where ready.env = :env and ready.queue = dealt.queue and ready.queue_key = dealt.queue_key
        order by ready.priority desc, ready.ready_at, ready.run_id
        limit dealt.share
    ) as picked
) as runs;

-- name: claim_runs
-- Take the runs that were picked, as a JSON list of Claim without tasks. Hot.
with picked as materialized (
    select :env::text as env, id, queue, queue_key, priority, queued_at
    from unnest(:ids::text[], :queues::text[], :keys::text[], :priorities::bigint[], :queued::bigint[])
        as batch (id, queue, queue_key, priority, queued_at)
),

unqueued as (
    delete from perdure.ready using picked
    where
        ready.env = any(array[picked.env]) and ready.queue = picked.queue and ready.queue_key = picked.queue_key
        and ready.priority = picked.priority and ready.ready_at = picked.queued_at and ready.run_id = picked.id
),

claimed as (
    update perdure.runs set status = :status, execution = runs.execution + 1, started_at = coalesce(started_at, :at::bigint)
    from picked
    where runs.env = any(array[picked.env]) and runs.id = picked.id
    returning runs.*
),

leased as (
    insert into perdure.leases (
        env, run_id, execution, owner, expires_at, claimed_at, seq_claimed, queue, queue_key, is_revoked
    )
    select
        :env, claimed.id, claimed.execution, :owner, :expires_at::bigint, :at::bigint,
        case when claimed.execution = 1 then 0 else (
            select coalesce(max(tasks.seq), 0) from perdure.tasks
            where tasks.env = :env and tasks.run_id = claimed.id
        ) end,
        claimed.queue, claimed.queue_key, false
    from claimed
)

select coalesce(json_agg(json_build_object(
    'run_id', claimed.id, 'execution', claimed.execution, 'job_id', claimed.job_id, 'job_version', claimed.job_version,
    'event', json_build_object(
        'id', events.id, 'name', events.name, 'payload', events.payload, 'timestamp', events.timestamp,
        'context', events.context, 'source', events.source, 'is_test', events.is_test,
        'account_id', events.account_id, 'source_context', events.source_context, 'deliver_at', events.deliver_at,
        'delivered_at', events.delivered_at, 'cancelled_at', events.cancelled_at, 'run_options', events.run_options
    ),
    'started_at', claimed.started_at, 'lease_expires_at', :expires_at::bigint,
    'crashes', claimed.crashes, 'failures', claimed.failures, 'spent_ms', claimed.spent_ms,
    'priority', claimed.priority, 'number', claimed.number, 'tags', claimed.tags::json, 'metadata', claimed.metadata,
    'wakes', claimed.wakes,
    'account', (
        select accounts.metadata from perdure.accounts where accounts.env = :env and accounts.id = claimed.account_id
    ),
    'created_at', claimed.created_at, 'parent_run_id', claimed.parent_run_id,
    'parent_task_id', claimed.parent_task_id, 'is_internal', claimed.is_internal, 'queue', claimed.queue,
    'queue_key', claimed.queue_key
)), '[]')
from claimed
join perdure.events on events.env = any(array[claimed.env]) and events.id = claimed.event_id;

-- name: serve_lanes
-- The lanes, and the queues, had their turns in the order of n; those that another claim serves just now are left to it.
with turn as materialized (
    select coalesce(max(served), 0) + 1 as first from perdure.queue_turns where env = :env
),

free_lanes as materialized (
    select :env::text as env, served.queue, served.queue_key, served.n
    from unnest(:queues::text[], :keys::text[], :turns::bigint[]) as served (queue, queue_key, n)
    cross join lateral (
        select 1 from perdure.lanes
        where lanes.env = :env and lanes.queue = served.queue and lanes.queue_key = served.queue_key
        for no key update skip locked
    ) as locked
),

free_queues as materialized (
    select :env::text as env, served.id, served.n
    from unnest(:ids::text[], :queue_turns::bigint[]) as served (id, n)
    cross join lateral (
        select 1 from perdure.queue_turns as turns
        where turns.env = :env and turns.id = served.id
        for no key update skip locked
    ) as locked
),

served_lanes as (
    update perdure.lanes set served = turn.first + batch.n
    from turn, free_lanes as batch
    where lanes.env = any(array[batch.env]) and lanes.queue = batch.queue and lanes.queue_key = batch.queue_key
)

update perdure.queue_turns set served = turn.first + batch.n
from turn, free_queues as batch
where queue_turns.env = any(array[batch.env]) and queue_turns.id = batch.id;

-- name: lock_lanes
-- Lanes of a key that nothing is just entering: [[queue, key], ...] as JSON.
select coalesce(json_agg(json_build_array(queue, queue_key)), '[]') from (
    select batch.queue, batch.queue_key
    from unnest(:queues::text[], :keys::text[]) as batch (queue, queue_key)
    cross join lateral (
        select 1 from perdure.lanes
        where lanes.env = :env and lanes.queue = batch.queue and lanes.queue_key = batch.queue_key
        for update skip locked
    ) as locked
) as free;

-- name: drop_lanes
-- Those of the lanes, locked by the statement before, that are empty. (What entered one before it was locked is seen now.)
with batch as materialized (
    select :env::text as env, queue, queue_key
    from unnest(:queues::text[], :keys::text[]) as locked (queue, queue_key)
    where
        not exists (
            select 1 from perdure.ready
            where ready.env = :env and ready.queue = locked.queue and ready.queue_key = locked.queue_key
            offset 0
        )
)

delete from perdure.lanes using batch
where lanes.env = any(array[batch.env]) and lanes.queue = batch.queue and lanes.queue_key = batch.queue_key;

-- name: renew_leases
-- Those of :owner; how many. One that is locked is about to end.
with free as materialized (
    select env, run_id, execution from perdure.leases
    where env = :env and owner = :owner and not is_revoked
    for no key update skip locked
),

renewed as (
    update perdure.leases set expires_at = :expires_at
    from free
    where leases.env = any(array[free.env]) and leases.run_id = free.run_id and leases.execution = free.execution
    returning 1
)

select count(*) from renewed;

-- name: release_leases
-- Revoked ones.
with free as materialized (
    select :env::text as env, batch.run_id, batch.execution
    from unnest(:runs::text[], :executions::bigint[]) as batch (run_id, execution)
    cross join lateral (
        select 1 from perdure.leases
        where
            leases.env = :env and leases.run_id = batch.run_id and leases.execution = batch.execution
            and leases.is_revoked
        for update skip locked
    ) as locked
)

delete from perdure.leases using free
where leases.env = any(array[free.env]) and leases.run_id = free.run_id and leases.execution = free.execution;

-- name: leases
-- Leases that had expired at :expired_at, all for null, as a JSON list of LeaseRow, earliest first.
select coalesce(json_agg(json order by expires_at, run_id), '[]') from (
    select leases.expires_at, leases.run_id, json_build_object(
        'run_id', leases.run_id, 'execution', leases.execution, 'owner', leases.owner,
        'expires_at', leases.expires_at, 'claimed_at', leases.claimed_at,
        'crashes', runs.crashes, 'spent_ms', runs.spent_ms, 'priority', runs.priority,
        'is_revoked', leases.is_revoked, 'job_id', runs.job_id, 'event_id', runs.event_id,
        'account_id', runs.account_id, 'parent_run_id', runs.parent_run_id, 'parent_task_id', runs.parent_task_id,
        'is_internal', runs.is_internal, 'created_at', runs.created_at,
        'progressed', exists (
            select 1 from perdure.tasks
            where tasks.env = leases.env and tasks.run_id = leases.run_id and tasks.seq > leases.seq_claimed
        ),
        'running', (
            select coalesce(json_agg(tasks.key order by tasks.started_at desc nulls last, tasks.position desc), '[]')
            from perdure.tasks
            where tasks.env = leases.env and tasks.run_id = leases.run_id and tasks.status = :running
        )
    ) as json
    from perdure.leases
    join perdure.runs on runs.env = leases.env and runs.id = leases.run_id
    where leases.env = :env and (:expired_at::bigint is null or leases.expires_at <= :expired_at)
    order by leases.expires_at, leases.run_id
    limit :limit
) as found;
