-- Runs, and where their status puts them: ready (queued), leases (executing), timers (waiting).
-- Queries named leave_* and enter_* take :ids, a JSON list of run ids; leave_* run while the run's row still has the
-- keys by which it was put there, enter_* when it has the new ones.

-- name: guards
-- What guards compare, as two JSON lists: [[run_id, execution], ...] of the leases on :leased, and
-- [[id, status, execution, wakes], ...] of the runs :moved. And whether anything waits for others than time.
select
    (
        select json_group_array(json_array(run_id, execution)) from leases
        where env = :env and run_id in (select value from json_each(:leased)) and is_revoked = 0
    ),
    (
        select json_group_array(json_array(id, status, execution, wakes)) from runs
        where env = :env and id in (select value from json_each(:moved))
    ),
    exists (select 1 from event_waiters where env = :env) or exists (select 1 from operations where env = :env);

-- name: move_runs
-- :moves: [[id, status, add_spent_ms, output, completed_at, rest], ...], one per run, rest: null or [queued_at or null,
-- wake_at, crashes, types, error, reason, failed_tasks, priority or null, failures or null, open_waits, resume_at] as JSON
-- text; null for the three that may be keeps them. Hot.
with batch as materialized (
    select value as r, json_extract(value, '$[0]') as id, json_extract(value, '$[5]') as rest from json_each(:moves)
)
update runs set
    status = json_extract(r, '$[1]'),
    spent_ms = spent_ms + json_extract(r, '$[2]'),
    output = json_extract(r, '$[3]'),
    completed_at = json_extract(r, '$[4]'),
    queued_at = coalesce(json_extract(rest, '$[0]'), queued_at),
    wake_at = json_extract(rest, '$[1]'),
    crashes = coalesce(json_extract(rest, '$[2]'), 0),
    types = json_extract(rest, '$[3]'),
    error = json_extract(rest, '$[4]'),
    reason = json_extract(rest, '$[5]'),
    failed_tasks = coalesce(json_extract(rest, '$[6]'), '[]'),
    priority = coalesce(json_extract(rest, '$[7]'), priority),
    failures = coalesce(json_extract(rest, '$[8]'), failures),
    open_waits = coalesce(json_extract(rest, '$[9]'), 0),
    resume_at = json_extract(rest, '$[10]')
from batch
where runs.env = :env and runs.id = batch.id;

-- name: enter_ready
insert into ready (env, queue, queue_key, priority, ready_at, run_id)
select env, queue, queue_key, priority, queued_at, id from runs
where env = :env and id in (select value from json_each(:ids));

-- name: enter_lanes
-- A new lane comes after those of its queue that haven't had their turn.
insert into lanes (env, queue, queue_key, served, is_blocked)
select distinct runs.env, runs.queue, runs.queue_key, coalesce(queues.served, 0), 0
from runs left join queues on queues.env = runs.env and queues.id = runs.queue
where runs.env = :env and runs.id in (select value from json_each(:ids))
on conflict (env, queue, queue_key) do nothing;

-- name: make_lanes
-- The same of :lanes: [[queue, key], ...].
insert into lanes (env, queue, queue_key, served, is_blocked)
select :env, json_extract(value, '$[0]'), json_extract(value, '$[1]'), coalesce(queues.served, 0), 0
from json_each(:lanes) left join queues on queues.env = :env and queues.id = json_extract(value, '$[0]')
where true
on conflict (env, queue, queue_key) do nothing;

-- name: leave_ready
delete from ready where (env, queue, queue_key, priority, ready_at, run_id) in (
    select env, queue, queue_key, priority, queued_at, id from runs
    where env = :env and id in (select value from json_each(:ids))
);

-- name: leave_lane
-- Of one priority, the first runs up to (:last_at, :last_id).
delete from ready
where
    env = :env and queue = :queue and queue_key = :queue_key and priority = :priority
    and (ready_at, run_id) <= (:last_at, :last_id);

-- name: enter_timers
insert into timers (env, due_at, run_id)
select env, wake_at, id from runs
where env = :env and id in (select value from json_each(:ids)) and wake_at is not null;

-- name: leave_timers
delete from timers where (env, due_at, run_id) in (
    select env, wake_at, id from runs where env = :env and id in (select value from json_each(:ids))
);

-- name: unblock_lanes
-- Of the executions of the runs :ids, which are about to end.
update lanes set is_blocked = 0
where is_blocked = 1 and (env, queue, queue_key) in (
    select env, queue, queue_key from leases
    where env = :env and run_id in (select value from json_each(:ids)) and is_revoked = 0
);

-- name: has_blocked_lanes
-- Reads all lanes: once, then it is known.
select exists (select 1 from lanes where env = :env and is_blocked = 1);

-- name: leave_leases
delete from leases where env = :env and run_id in (select value from json_each(:ids)) and is_revoked = 0;

-- name: revoke_leases
-- Executions that keep their slots until they have acknowledged the end of their runs :ids.
update leases set is_revoked = 1 where env = :env and run_id in (select value from json_each(:ids));

-- name: unblock_revoked
-- :leases: [[run_id, execution], ...]
update lanes set is_blocked = 0
where is_blocked = 1 and (env, queue, queue_key) in (
    select leases.env, queue, queue_key
    from json_each(:leases) as batch
    cross join leases
    where
        leases.env = :env and leases.run_id = json_extract(batch.value, '$[0]')
        and leases.execution = json_extract(batch.value, '$[1]') and is_revoked = 1
);

-- name: release_leases
-- :leases: [[run_id, execution], ...]
delete from leases where env = :env and is_revoked = 1 and (run_id, execution) in (
    select json_extract(value, '$[0]'), json_extract(value, '$[1]') from json_each(:leases)
);

-- name: ready_queues
-- Queues with ready runs that aren't paused, in the order of their turns:
-- [[id, priority, concurrency_limit, key_limit, [key, ...]], ...], at most :limit lanes of each, in theirs. Hot.
with recursive used (id) as (
    select min(queue) from lanes where env = :env
    union all
    select (select min(queue) from lanes where env = :env and queue > used.id) from used where used.id is not null
)

select json_group_array(json(json)) from (
    select json_array(used.id, coalesce(queues.priority, 0), queues.concurrency_limit, queues.key_limit, json((
        select json_group_array(queue_key) from (
            select queue_key from lanes
            where env = :env and queue = used.id and is_blocked = 0
            order by served, queue_key
            limit :limit
        )
    ))) as json
    from used left join queues on queues.env = :env and queues.id = used.id
    where used.id is not null and queues.paused_at is null
    order by coalesce(queues.served, 0), used.id
);

-- name: slots_taken
-- [[queue, key, executions], ...]
select json_group_array(json_array(queue, queue_key, taken)) from (
    select queue, queue_key, count(*) as taken from leases where env = :env group by queue, queue_key
);

-- name: block_lanes
-- :lanes: [[queue, key], ...]
update lanes set is_blocked = 1 where env = :env and (queue, queue_key) in (
    select json_extract(value, '$[0]'), json_extract(value, '$[1]') from json_each(:lanes)
);

-- name: drop_lanes
-- :lanes: [[queue, key], ...]
delete from lanes where env = :env and (queue, queue_key) in (
    select json_extract(value, '$[0]'), json_extract(value, '$[1]') from json_each(:lanes)
);

-- name: serve_lanes
-- :lanes: [[queue, key, n], ...] had their turns in the order of n. To be called before serve_queues.
with batch as materialized (
    select
        json_extract(value, '$[0]') as queue, json_extract(value, '$[1]') as queue_key,
        json_extract(value, '$[2]') + (select coalesce(max(served), 0) + 1 from queues where env = :env) as served
    from json_each(:lanes)
)
update lanes set served = batch.served
from batch
where lanes.env = :env and lanes.queue = batch.queue and lanes.queue_key = batch.queue_key;

-- name: serve_queues
-- The :queues ({id: n}) had their last turns in the order of n.
insert into queues (env, id, served)
select :env, key, value + (select coalesce(max(served), 0) + 1 from queues where env = :env) from json_each(:queues)
where true
on conflict (env, id) do update set served = excluded.served;

-- name: pick_from_lane
-- A term of pick_runs: the first :lane_share of a lane; :env is bound with the whole.
select
    :env as env,
    json_array(:lane_queue, :lane_key, json_group_array(run_id), min(priority), max(priority), max(ready_at)) as lane
from (
    select run_id, priority, ready_at from ready
    where env = :env and queue = :lane_queue and queue_key = :lane_key
    order by priority desc, ready_at, run_id
    limit :lane_share
)

-- name: pick_runs
-- The first runs of some lanes: [[queue, key, [run_id, ...], lowest priority, highest, last ready_at], ...]. Hot.
select json_group_array(json(lane)) from (/* lanes */) where env = :env;

-- name: read_claims
-- The runs :ids as a JSON list of Claim, as they will be once claimed (without tasks). JSON that comes from a view or a
-- subquery would be parsed once more: hence the event's columns here. Hot.
select json_group_array(json_object(
    'run_id', runs.id, 'execution', runs.execution + 1, 'job_id', runs.job_id, 'job_version', runs.job_version,
    'event', json_object(
        'id', events.id, 'name', events.name, 'payload', events.payload, 'timestamp', events.timestamp,
        'context', events.context, 'source', events.source, 'is_test', json(iif(events.is_test, 'true', 'false')),
        'account_id', events.account_id, 'source_context', events.source_context, 'deliver_at', events.deliver_at,
        'delivered_at', events.delivered_at, 'cancelled_at', events.cancelled_at, 'run_options', events.run_options
    ),
    'started_at', coalesce(runs.started_at, :at), 'lease_expires_at', :expires_at,
    'crashes', runs.crashes, 'failures', runs.failures, 'spent_ms', runs.spent_ms, 'priority', runs.priority,
    'number', runs.number, 'tags', json(runs.tags), 'metadata', runs.metadata, 'wakes', runs.wakes,
    'account', (select metadata from accounts where accounts.env = :env and accounts.id = runs.account_id),
    'created_at', runs.created_at, 'parent_run_id', runs.parent_run_id, 'parent_task_id', runs.parent_task_id,
    'is_internal', json(iif(runs.is_internal, 'true', 'false')), 'queue', runs.queue, 'queue_key', runs.queue_key
))
from json_each(:ids) as picked
cross join runs on runs.env = :env and runs.id = picked.value
cross join events on events.env = runs.env and events.id = runs.event_id
where runs.status = :expected;

-- name: claim_runs
-- Raise the execution of the runs :ids, which were picked in this transaction. Hot.
update runs set status = :status, execution = execution + 1, started_at = coalesce(started_at, :at)
where env = :env and id in (select value from json_each(:ids));

-- name: insert_leases
insert into leases (env, run_id, execution, owner, expires_at, claimed_at, seq_claimed, queue, queue_key)
select
    env, id, execution, :owner, :expires_at, :at,
    iif(execution = 1, 0, (
        select coalesce(max(seq), 0) from tasks where tasks.env = runs.env and tasks.run_id = runs.id
    )), queue, queue_key
from runs
where env = :env and id in (select value from json_each(:ids));

-- name: insert_first_leases
-- The same of runs of one lane that have never executed.
insert into leases (env, run_id, execution, owner, expires_at, claimed_at, seq_claimed, queue, queue_key)
select :env, value, 1, :owner, :expires_at, :at, 0, :queue, :queue_key from json_each(:ids);

-- name: renew_leases
-- :renewals: {owner: expires_at}
update leases set expires_at = renewal.value
from json_each(:renewals) as renewal
where leases.env = :env and leases.owner = renewal.key and leases.is_revoked = 0;

-- name: count_leases
-- {owner: number of leases that can be renewed} as JSON.
select json_group_object(owner, leases) from (
    select owner, count(*) as leases from leases where env = :env and is_revoked = 0 group by owner
);

-- name: get_run
select json from run_rows where env = :env and id = :id;

-- name: runs_by_id
-- The runs :ids as a JSON list of RunRow.
select json_group_array(json(json)) from run_rows where env = :env and id in (select value from json_each(:ids));

-- name: due_runs
-- Runs of :status whose timer is due, earliest first, as a JSON list of RunRow. Hot.
select json_group_array(json(json)) from (
    select rows.json
    from timers
    cross join runs on runs.env = timers.env and runs.id = timers.run_id
    cross join run_rows as rows on rows.env = runs.env and rows.id = runs.id
    where timers.env = :env and timers.due_at <= :now and runs.status = :status
    order by timers.due_at, timers.run_id
    limit :limit
);

-- name: due_ids
-- The same as a JSON list of ids.
select json_group_array(run_id) from (
    select timers.run_id
    from timers
    cross join runs on runs.env = timers.env and runs.id = timers.run_id
    where timers.env = :env and timers.due_at <= :now and runs.status = :status
    order by timers.due_at, timers.run_id
    limit :limit
);

-- name: next_due
select min(due_at) from timers where env = :env;

-- name: leases
-- Leases that had expired at :expired_at, all for null, as a JSON list of LeaseRow, earliest first.
select json_group_array(json(json)) from (
    select json_object(
        'run_id', leases.run_id, 'execution', leases.execution, 'owner', leases.owner,
        'expires_at', leases.expires_at, 'claimed_at', leases.claimed_at,
        'crashes', runs.crashes, 'spent_ms', runs.spent_ms, 'priority', runs.priority,
        'is_revoked', json(iif(leases.is_revoked, 'true', 'false')), 'job_id', runs.job_id, 'event_id', runs.event_id,
        'account_id', runs.account_id, 'parent_run_id', runs.parent_run_id, 'parent_task_id', runs.parent_task_id,
        'is_internal', json(iif(runs.is_internal, 'true', 'false')), 'created_at', runs.created_at,
        'progressed', json(iif(exists (
            select 1 from tasks
            where tasks.env = leases.env and tasks.run_id = leases.run_id and tasks.seq > leases.seq_claimed
        ), 'true', 'false')),
        'running', json((
            select json_group_array(key) from (
                select tasks.key from tasks
                where tasks.env = leases.env and tasks.run_id = leases.run_id and tasks.status = :running
                order by tasks.started_at desc, tasks.position desc
            )
        ))
    ) as json
    from leases
    cross join runs on runs.env = leases.env and runs.id = leases.run_id
    where leases.env = :env and (:expired_at is null or leases.expires_at <= :expired_at)
    order by leases.expires_at, leases.run_id
    limit :limit
);

-- name: count_ready
select count(*) from ready where env = :env;

-- name: count_all_leases
select count(*) from leases where env = :env and is_revoked = 0;

-- name: count_by_status
-- {status: number of runs} as JSON. (The index by status doesn't have those that execute.)
select json_group_object(status, runs) from (
    select status, count(*) as runs from runs where env = :env and status <> 'EXECUTING' group by status
    union all
    select 'EXECUTING', count(*) from leases where env = :env and is_revoked = 0
);

-- name: list_runs
-- Newest first, as a JSON list of RunRow; store.py adds the conditions below that a filter asks for.
select json_group_array(json(json)) from (
    select rows.json
    from runs
    join run_rows as rows on rows.env = runs.env and rows.id = runs.id
    where runs.env = :env /* conditions */
    order by runs.id desc
    limit :limit
);

-- name: open_tasks
-- Which of :tasks ([[run_id, id], ...]) can be resolved: [[run_id, id, run's status, open_waits, resume_at, wake_at], ...]
select json_group_array(json_array(runs.id, tasks.id, runs.status, runs.open_waits, runs.resume_at, runs.wake_at))
from json_each(:tasks) as batch
cross join tasks
cross join runs
where
    tasks.env = :env and tasks.run_id = json_extract(batch.value, '$[0]') and tasks.id = json_extract(batch.value, '$[1]')
    and tasks.completed_at is null and tasks.seq is null and tasks.interrupted is null
    and runs.env = :env and runs.id = tasks.run_id and runs.completed_at is null;

-- name: resolve_tasks
-- :tasks: [[run_id, id, status, output, types, error, at], ...]
with batch as materialized (select value as r from json_each(:tasks))
update tasks set
    status = json_extract(r, '$[2]'),
    output = json_extract(r, '$[3]'),
    types = json_extract(r, '$[4]'),
    error = json_extract(r, '$[5]'),
    completed_at = json_extract(r, '$[6]'),
    due_at = null
from batch
where tasks.env = :env and tasks.run_id = json_extract(r, '$[0]') and tasks.id = json_extract(r, '$[1]');

-- name: count_wakes
-- :runs: [[id, resolutions, open_waits, wake_at], ...]
with batch as materialized (select value as r from json_each(:runs))
update runs set
    wakes = wakes + json_extract(r, '$[1]'),
    open_waits = json_extract(r, '$[2]'),
    wake_at = json_extract(r, '$[3]')
from batch
where runs.env = :env and runs.id = json_extract(r, '$[0]');

-- name: wake_runs
-- Runs whose waits are over: :ids of runs to be :queued, in the order in which they were made. Nothing is left of the wait.
update runs set
    status = :queued, queued_at = created_at, wake_at = null, resume_at = null, open_waits = 0, reason = null, error = null
where env = :env and id in (select value from json_each(:ids));
