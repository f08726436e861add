-- Runs, and where their status puts them: ready (queued), leases (executing), timers (waiting).
-- Queries named leave_* and enter_* take :ids, a JSON list of run ids; leave_* run while the run's row still has the
-- keys by which it was put there, enter_* when it has the new ones.

-- name: guards
-- What guards compare, as two JSON lists: [[run_id, execution], ...] of the leases on :leased, and
-- [[id, status, execution], ...] of the runs :moved.
select
    (
        select json_group_array(json_array(run_id, execution)) from leases
        where env = :env and run_id in (select value from json_each(:leased))
    ),
    (
        select json_group_array(json_array(id, status, execution)) from runs
        where env = :env and id in (select value from json_each(:moved))
    );

-- name: move_runs
-- :moves: [[id, status, queued_at or null, wake_at, add_spent_ms, crashes, output, types, error, reason, failed_tasks,
-- completed_at, priority or null, failures or null], ...], one per run; null for the three that may be keeps them.
with batch as materialized (select value as r, json_extract(value, '$[0]') as id from json_each(:moves))
update runs set
    status = json_extract(r, '$[1]'),
    queued_at = coalesce(json_extract(r, '$[2]'), queued_at),
    wake_at = json_extract(r, '$[3]'),
    spent_ms = spent_ms + json_extract(r, '$[4]'),
    crashes = json_extract(r, '$[5]'),
    output = json_extract(r, '$[6]'),
    types = json_extract(r, '$[7]'),
    error = json_extract(r, '$[8]'),
    reason = json_extract(r, '$[9]'),
    failed_tasks = json_extract(r, '$[10]'),
    completed_at = json_extract(r, '$[11]'),
    priority = coalesce(json_extract(r, '$[12]'), priority),
    failures = coalesce(json_extract(r, '$[13]'), failures)
from batch
where runs.env = :env and runs.id = batch.id;

-- name: enter_ready
insert into ready (env, priority, ready_at, run_id)
select env, priority, queued_at, id from runs where env = :env and id in (select value from json_each(:ids));

-- name: leave_ready
delete from ready where (env, priority, ready_at, run_id) in (
    select env, priority, queued_at, id from runs where env = :env and id in (select value from json_each(:ids))
);

-- name: enter_timers
insert into timers (env, due_at, run_id)
select env, wake_at, id from runs
where env = :env and id in (select value from json_each(:ids)) and wake_at is not null;

-- name: leave_timers
delete from timers where (env, due_at, run_id) in (
    select env, wake_at, id from runs where env = :env and id in (select value from json_each(:ids))
);

-- name: leave_leases
delete from leases where env = :env and run_id in (select value from json_each(:ids));

-- name: pick_runs
-- The first :limit of the queue as a JSON list of Claim, as they will be once claimed (without tasks). Hot.
select json_group_array(json(claim)) from (
    select json_object(
        'run_id', runs.id, 'execution', runs.execution + 1, 'job_id', runs.job_id, 'job_version', runs.job_version,
        'event', json(event.json), 'started_at', coalesce(runs.started_at, :at), 'lease_expires_at', :expires_at,
        'crashes', runs.crashes, 'failures', runs.failures, 'spent_ms', runs.spent_ms, 'priority', runs.priority
    ) as claim
    from ready
    cross join runs on runs.env = ready.env and runs.id = ready.run_id
    cross join event_rows as event on event.env = runs.env and event.id = runs.event_id
    where ready.env = :env and runs.status = :expected
    order by ready.priority desc, ready.ready_at, ready.run_id
    limit :limit
);

-- name: claim_runs
-- Raise the execution of the runs :ids, which were picked in this transaction. Hot.
update runs set status = :status, execution = execution + 1, started_at = coalesce(started_at, :at)
where env = :env and id in (select value from json_each(:ids));

-- name: insert_leases
insert into leases (env, run_id, execution, owner, expires_at, claimed_at, seq_claimed)
select
    env, id, execution, :owner, :expires_at, :at,
    (select coalesce(max(seq), 0) from tasks where tasks.env = runs.env and tasks.run_id = runs.id)
from runs
where env = :env and id in (select value from json_each(:ids));

-- name: renew_leases
-- :renewals: {owner: expires_at}
update leases set expires_at = renewal.value
from json_each(:renewals) as renewal
where leases.env = :env and leases.owner = renewal.key;

-- name: count_leases
-- {owner: number of leases} as JSON.
select json_group_object(owner, leases) from (
    select owner, count(*) as leases from leases where env = :env group by owner
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

-- name: next_due
select min(due_at) from timers where env = :env;

-- name: leases
-- Leases that had expired at :expired_at, all for null, as a JSON list of LeaseRow, earliest first.
select json_group_array(json(json)) from (
    select json_object(
        'run_id', leases.run_id, 'execution', leases.execution, 'owner', leases.owner,
        'expires_at', leases.expires_at, 'claimed_at', leases.claimed_at,
        'crashes', runs.crashes, 'spent_ms', runs.spent_ms, 'priority', runs.priority,
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
select count(*) from leases where env = :env;

-- name: count_by_status
-- {status: number of runs} as JSON.
select json_group_object(status, runs) from (
    select status, count(*) as runs from runs where env = :env group by status
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
