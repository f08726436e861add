-- Tasks that wait for events, and calls that the platform makes for tasks.

-- name: insert_waiters
-- :waiters: [[run_id, task_id, name, source, filter, context_filter, account_id, since], ...]. One that is there as it
-- is stays checked.
with batch as materialized (select value as r from json_each(:waiters))
insert into event_waiters (env, run_id, task_id, name, source, filter, context_filter, account_id, since, is_checked)
select
    :env, json_extract(r, '$[0]'), json_extract(r, '$[1]'), json_extract(r, '$[2]'), json_extract(r, '$[3]'),
    json_extract(r, '$[4]'), json_extract(r, '$[5]'), json_extract(r, '$[6]'), json_extract(r, '$[7]'), 0
from batch
where true
on conflict (env, run_id, task_id, name) do update set
    source = excluded.source,
    filter = excluded.filter,
    context_filter = excluded.context_filter,
    account_id = excluded.account_id,
    since = excluded.since,
    is_checked = 0
where
    (source, filter, context_filter, account_id, since)
    is not (excluded.source, excluded.filter, excluded.context_filter, excluded.account_id, excluded.since);

-- name: check_waiters
-- :tasks: [[run_id, task_id], ...]
update event_waiters set is_checked = 1 where env = :env and (run_id, task_id) in (
    select json_extract(value, '$[0]'), json_extract(value, '$[1]') from json_each(:tasks)
);

-- name: waiter_names
select json_group_array(name) from (select distinct name from event_waiters where env = :env order by name);

-- name: unchecked_waiters
-- A JSON list of WaiterRow.
select json_group_array(json(json)) from (
    select json_object(
        'run_id', run_id, 'task_id', task_id, 'name', name, 'source', source, 'filter', filter,
        'context_filter', context_filter, 'account_id', account_id, 'since', since
    ) as json
    from event_waiters indexed by event_waiters_unchecked_idx
    where env = :env and is_checked = 0
    order by run_id, task_id, name
    limit :limit
);

-- name: matches
-- A JSON list of Match, earliest event first. Waits that began since aren't concerned.
select json_group_array(json(json)) from (
    select json_object(
        'event', json(event.json),
        'waiters', json((
            select json_group_array(json_object(
                'run_id', run_id, 'task_id', task_id, 'name', name, 'source', source, 'filter', filter,
                'context_filter', context_filter, 'account_id', account_id, 'since', since
            ))
            from event_waiters indexed by event_waiters_name_idx
            where
                event_waiters.env = events.env and event_waiters.name = events.name
                and event_waiters.since <= matches.arrived_at
        ))
    ) as json
    from matches
    cross join events on events.env = matches.env and events.id = matches.event_id
    cross join event_rows as event on event.env = events.env and event.id = events.id
    where matches.env = :env
    order by matches.arrived_at, matches.event_id
    limit :limit
);

-- name: delete_matches
-- Those of the events :ids.
delete from matches where (env, arrived_at, event_id) in (
    select env, arrived_at, id from events where env = :env and id in (select value from json_each(:ids))
);

-- name: start_operations
-- :operations: [[run_id, task_id, at, operation], ...]; a known one is left alone, and so are tasks that aren't open.
with batch as materialized (select value as r from json_each(:operations))
insert into operations (env, run_id, task_id, due_at, attempt, tries, started_at, operation)
select
    :env, tasks.run_id, tasks.id, json_extract(r, '$[2]'), 1, 1, json_extract(r, '$[2]'), json_extract(r, '$[3]')
from batch
cross join tasks on
    tasks.env = :env and tasks.run_id = json_extract(r, '$[0]') and tasks.id = json_extract(r, '$[1]')
where tasks.completed_at is null and tasks.interrupted is null
on conflict (env, run_id, task_id) do nothing;

-- name: attempts_of_operations
-- [[run_id, task_id, attempt], ...] of the operations of :tasks ([[run_id, task_id], ...]) as JSON.
select json_group_array(json_array(run_id, task_id, attempt)) from operations
where env = :env and (run_id, task_id) in (
    select json_extract(value, '$[0]'), json_extract(value, '$[1]') from json_each(:tasks)
);

-- name: repeat_operations
-- :repeats: [[run_id, task_id, attempt, due_at, tries], ...]
with batch as materialized (
    select
        json_extract(value, '$[0]') as run_id, json_extract(value, '$[1]') as task_id,
        json_extract(value, '$[2]') as attempt, json_extract(value, '$[3]') as due_at,
        json_extract(value, '$[4]') as tries
    from json_each(:repeats)
)
update operations set attempt = batch.attempt, due_at = batch.due_at, tries = batch.tries
from batch
where operations.env = :env and operations.run_id = batch.run_id and operations.task_id = batch.task_id;

-- name: due_operations
-- A JSON list of OperationRow, earliest first.
select json_group_array(json(json)) from (
    select json_object(
        'run_id', run_id, 'task_id', task_id, 'due_at', due_at, 'attempt', attempt, 'tries', tries,
        'started_at', started_at, 'operation', operation
    ) as json
    from operations
    where env = :env and due_at <= :now
    order by due_at, run_id, task_id
    limit :limit
);

-- name: next_operation_due
select min(due_at) from operations where env = :env and due_at > :after;

-- name: waiting
-- Whether something waits for the runs :ids, or for the tasks :tasks ([[run_id, task_id], ...]). Hot.
select
    exists (select 1 from event_waiters where env = :env and run_id in (select value from json_each(:ids)))
    or exists (select 1 from operations where env = :env and run_id in (select value from json_each(:ids)))
    or exists (
        select 1 from event_waiters where env = :env and (run_id, task_id) in (
            select json_extract(value, '$[0]'), json_extract(value, '$[1]') from json_each(:tasks)
        )
    )
    or exists (
        select 1 from operations where env = :env and (run_id, task_id) in (
            select json_extract(value, '$[0]'), json_extract(value, '$[1]') from json_each(:tasks)
        )
    );

-- name: delete_waiters_by_run
delete from event_waiters where env = :env and run_id in (select value from json_each(:ids));

-- name: delete_other_waiters
-- Those of the runs :ids that aren't of :tasks ([[run_id, task_id], ...]).
delete from event_waiters
where
    env = :env and run_id in (select value from json_each(:ids))
    and (run_id, task_id) not in (
        select json_extract(value, '$[0]'), json_extract(value, '$[1]') from json_each(:tasks)
    );

-- name: delete_operations_by_run
delete from operations where env = :env and run_id in (select value from json_each(:ids));

-- name: delete_waiters_by_task
-- :tasks: [[run_id, task_id], ...]
delete from event_waiters where env = :env and (run_id, task_id) in (
    select json_extract(value, '$[0]'), json_extract(value, '$[1]') from json_each(:tasks)
);

-- name: delete_operations_by_task
-- :tasks: [[run_id, task_id], ...]
delete from operations where env = :env and (run_id, task_id) in (
    select json_extract(value, '$[0]'), json_extract(value, '$[1]') from json_each(:tasks)
);

-- name: waiters_by_run
-- A JSON list of WaiterRow.
select json_group_array(json(json)) from (
    select json_object(
        'run_id', run_id, 'task_id', task_id, 'name', name, 'source', source, 'filter', filter,
        'context_filter', context_filter, 'account_id', account_id, 'since', since
    ) as json
    from event_waiters
    where env = :env and run_id = :run_id
    order by task_id, name
);

-- name: operations_by_run
-- A JSON list of OperationRow.
select json_group_array(json(json)) from (
    select json_object(
        'run_id', run_id, 'task_id', task_id, 'due_at', due_at, 'attempt', attempt, 'tries', tries, 'started_at', started_at,
        'operation', operation
    ) as json
    from operations
    where env = :env and run_id = :run_id
    order by task_id
);
