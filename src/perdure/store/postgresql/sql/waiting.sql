-- Tasks that wait for events, and calls that the platform makes for tasks.
--
-- A waiter is written in one transaction, and an event that it is for in another; neither may see the other's. So whoever
-- writes an event takes, before it looks for waiters, a lock that conflicts with nothing (events_gate, by an INSERT of no
-- rows), and whoever compares a new waiter with the events before it first waits until the transactions are over that
-- hold that lock just then: those that began later have seen the waiter.

-- name: gate_holders
-- Transactions that are writing events, as a JSON list.
select coalesce(json_agg(distinct virtualtransaction), '[]') from pg_locks
where relation = 'perdure.events_gate'::regclass and pid <> pg_backend_pid() and :env::text is not null;

-- name: insert_waiters
-- One that is there as it is stays checked.
insert into perdure.event_waiters as waiters (
    env, run_id, task_id, name, source, filter, context_filter, account_id, since, is_checked
)
select :env, run_id, task_id, name, source, filter, context_filter, account_id, since, false
from json_to_recordset(:waiters::json) as batch (
    run_id text, task_id text, name text, source text, filter text, context_filter text, account_id text, since bigint
)
on conflict (env, run_id, task_id, name) do update set
    source = excluded.source,
    filter = excluded.filter,
    context_filter = excluded.context_filter,
    account_id = excluded.account_id,
    since = excluded.since,
    is_checked = false
where
    (waiters.source, waiters.filter, waiters.context_filter, waiters.account_id, waiters.since)
    is distinct from
    (excluded.source, excluded.filter, excluded.context_filter, excluded.account_id, excluded.since);

-- name: check_waiters
with batch as materialized (
    select :env::text as env, run_id, task_id from unnest(:runs::text[], :tasks::text[]) as checked (run_id, task_id)
)

update perdure.event_waiters set is_checked = true
from batch
where event_waiters.env = any(array[batch.env]) and event_waiters.run_id = batch.run_id and event_waiters.task_id = batch.task_id;

-- name: waiter_names
select coalesce(json_agg(name order by name), '[]') from (
    select distinct name from perdure.event_waiters where env = :env
) as names;

-- name: unchecked_waiters
-- A JSON list of WaiterRow.
select coalesce(json_agg(json order by run_id, task_id, name), '[]') from (
    select json, run_id, task_id, name from perdure.waiter_rows
    where env = :env and not is_checked
    order by run_id, task_id, name
    limit :limit
) as page;

-- name: matches
-- A JSON list of Match, earliest event first. Waits that began since aren't concerned.
select coalesce(json_agg(json_build_object(
    'event', event_json,
    'waiters', (
        select coalesce(json_agg(rows.json), '[]') from perdure.waiter_rows as rows
        where rows.env = :env and rows.name = page.name and rows.since <= page.arrived_at
    )
) order by arrived_at, event_id), '[]')
from (
    select matches.arrived_at, matches.event_id, events.name, events.json as event_json
    from perdure.matches
    join perdure.event_rows as events on events.env = matches.env and events.id = matches.event_id
    where matches.env = :env
    order by matches.arrived_at, matches.event_id
    limit :limit
) as page;

-- name: delete_matches
-- Those of the events :ids; one that another node deletes just now is left to it.
with free as materialized (
    select events.env, events.arrived_at, events.id
    from perdure.events
    cross join lateral (
        select 1 from perdure.matches
        where
            matches.env = :env and matches.arrived_at = events.arrived_at and matches.event_id = events.id
        for update skip locked
    ) as locked
    where events.env = :env and events.id = any(:ids::text[])
)

delete from perdure.matches using free
where matches.env = any(array[free.env]) and matches.arrived_at = free.arrived_at and matches.event_id = free.id;

-- name: start_operations
-- A known one is left alone, and so are tasks that aren't open.
with batch as materialized (
    select :env::text as env, started.* from json_to_recordset(:operations::json) as started (
        run_id text, task_id text, at bigint, operation text
    )
)

insert into perdure.operations (env, run_id, task_id, due_at, attempt, tries, started_at, operation)
select tasks.env, tasks.run_id, tasks.id, batch.at, 1, 1, batch.at, batch.operation
from batch
cross join lateral (
    select env, run_id, id from perdure.tasks
    where
        tasks.env = :env and tasks.run_id = batch.run_id and tasks.id = batch.task_id
        and tasks.completed_at is null and tasks.interrupted is null
    offset 0
) as tasks
on conflict (env, run_id, task_id) do nothing;

-- name: attempts_of_operations
-- [[run_id, task_id, attempt], ...] as JSON.
with batch as materialized (
    select distinct :env::text as env, run_id, task_id
    from unnest(:runs::text[], :tasks::text[]) as repeated (run_id, task_id)
)

select coalesce(json_agg(json_build_array(operations.run_id, operations.task_id, attempt)), '[]')
from batch
join perdure.operations
    on operations.env = any(array[batch.env]) and operations.run_id = batch.run_id and operations.task_id = batch.task_id;

-- name: repeat_operations
with batch as materialized (
    select :env::text as env, repeats.* from json_to_recordset(:repeats::json) as repeats (
        run_id text, task_id text, attempt bigint, due_at bigint, tries bigint
    )
)

update perdure.operations set attempt = batch.attempt, due_at = batch.due_at, tries = batch.tries
from batch
where operations.env = any(array[batch.env]) and operations.run_id = batch.run_id and operations.task_id = batch.task_id;

-- name: due_operations
-- A JSON list of OperationRow, earliest first.
select coalesce(json_agg(json order by due_at, run_id, task_id), '[]') from (
    select due_at, run_id, task_id, json_build_object(
        'run_id', run_id, 'task_id', task_id, 'due_at', due_at, 'attempt', attempt, 'tries', tries,
        'started_at', started_at, 'operation', operation
    ) as json
    from perdure.operations
    where env = :env and due_at <= :now
    order by due_at, run_id, task_id
    limit :limit
) as page;

-- name: next_operation_due
select min(due_at) from perdure.operations where env = :env and due_at > :after;

-- name: delete_other_waiters
-- Those of the runs :ids that aren't of the tasks.
delete from perdure.event_waiters
where
    env = :env and run_id = any(:ids::text[])
    and not exists (
        select 1 from unnest(:runs::text[], :tasks::text[]) as batch (run_id, task_id)
        where batch.run_id = event_waiters.run_id and batch.task_id = event_waiters.task_id
    );

-- name: delete_waiting_by_run
with uncalled as (
    delete from perdure.operations where env = :env and run_id = any(:ids::text[])
)

delete from perdure.event_waiters where env = :env and run_id = any(:ids::text[]);

-- name: delete_waiting_by_task
with batch as materialized (
    select :env::text as env, run_id, task_id from unnest(:runs::text[], :tasks::text[]) as over (run_id, task_id)
),

uncalled as (
    delete from perdure.operations using batch
    where operations.env = any(array[batch.env]) and operations.run_id = batch.run_id and operations.task_id = batch.task_id
)

delete from perdure.event_waiters using batch
where event_waiters.env = any(array[batch.env]) and event_waiters.run_id = batch.run_id and event_waiters.task_id = batch.task_id;

-- name: waiters_by_run
-- A JSON list of WaiterRow.
select coalesce(json_agg(json order by task_id, name), '[]') from perdure.waiter_rows
where env = :env and run_id = :run_id;

-- name: operations_by_run
-- A JSON list of OperationRow.
select coalesce(json_agg(json_build_object(
    'run_id', run_id, 'task_id', task_id, 'due_at', due_at, 'attempt', attempt, 'tries', tries,
    'started_at', started_at, 'operation', operation
) order by task_id), '[]')
from perdure.operations
where env = :env and run_id = :run_id;
