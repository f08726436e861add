-- Queues with limits, delayed events, schedules, waits for events and children, operations of the platform, state.

-- Whom events and runs are for: a user of the application. Written by the first event that names it; lives as long as
-- the database.
create table accounts (
    env text not null,
    id text not null,
    metadata text,  -- JSON
    created_at integer not null,
    primary key (env, id)
) without rowid;

alter table events add column account_id text;
alter table events add column source_context text;     -- JSON: the registration of a schedule or trigger it came from
alter table events add column deliver_at integer;      -- asked for by its sender; null: at once
alter table events add column due_at integer;          -- deliver_at until it has been delivered or cancelled, then null
alter table events add column delivered_at integer;    -- when it first caused or woke something
alter table events add column cancelled_at integer;
alter table events add column run_options text;        -- JSON: tags etc. of the runs it causes
alter table events add column arrived_at integer not null default 0;  -- from when on waits see it
update events set arrived_at = created_at, delivered_at = created_at;

create index events_due_idx on events (env, due_at, id) where due_at is not null;
create index events_name_idx on events (env, name, arrived_at, id);
create index events_arrived_idx on events (env, arrived_at, id);

alter table runs add column number integer not null default 0;  -- 1, 2, 3 ... of its job
alter table runs add column queue text not null default '';
alter table runs add column queue_key text not null default '';  -- concurrency key; '' for none
alter table runs add column account_id text;
alter table runs add column parent_run_id text;        -- the run, and its task, that waits for this one
alter table runs add column parent_task_id text;
alter table runs add column tags text not null default '[]';  -- JSON list; also rows of run_tags
alter table runs add column metadata text;             -- JSON
alter table runs add column is_internal integer not null default 0;
alter table runs add column wakes integer not null default 0;       -- resolutions of its tasks by others
alter table runs add column open_waits integer not null default 0;  -- while waiting: tasks that others have to resolve
alter table runs add column resume_at integer;         -- while waiting: when a partial resolution may wake it at the earliest
update runs set queue = job_id;

create index runs_parent_idx on runs (env, parent_run_id) where parent_run_id is not null;
create index runs_account_idx on runs (env, account_id, id) where account_id is not null;
create index runs_completed_idx on runs (env, completed_at, id) where completed_at is not null;

-- A run that is claimed leaves the index, and comes back when its execution ends: those between are found by their leases.
drop index runs_status_idx;
create index runs_status_idx on runs (env, status, id) where status <> 'EXECUTING';

-- A tag of a run. Lives as long as its run.
create table run_tags (
    env text not null,
    tag text not null,
    run_id text not null,
    primary key (env, tag, run_id)
) without rowid;

-- The highest run number of a job.
create table job_counters (
    env text not null,
    job_id text not null,
    last_number integer not null,
    primary key (env, job_id)
) without rowid;

-- A queue: of one job, or of the jobs that share a limit. Written when it is defined or first used; stays.
create table queues (
    env text not null,
    id text not null,
    concurrency_limit integer,  -- executions at once; null for any number
    key_limit integer,          -- the same per concurrency key
    paused_at integer,          -- since when nothing is claimed from it
    priority integer not null default 0,  -- those of higher priority are served first
    served integer not null default 0,  -- a claim's turn: the queue served longest ago is next
    primary key (env, id)
) without rowid;

-- A concurrency key of a queue under which runs are ready. Lives from the first one's entering until a claim finds it empty.
create table lanes (
    env text not null,
    queue text not null,
    queue_key text not null,
    served integer not null,      -- as in queues
    is_blocked integer not null,  -- a claim found it at its limit; cleared when one of its executions ends
    primary key (env, queue, queue_key)
) without rowid;

create index lanes_turn_idx on lanes (env, queue, is_blocked, served, queue_key);

drop table ready;

-- A queued run, in the order of claims inside its lane. Lives from entering the queue until a claim or another move.
create table ready (
    env text not null,
    queue text not null,
    queue_key text not null,
    priority integer not null,
    ready_at integer not null,
    run_id text not null,
    primary key (env, queue, queue_key, priority desc, ready_at, run_id)
) without rowid;
insert into ready (env, queue, queue_key, priority, ready_at, run_id)
select env, queue, queue_key, priority, queued_at, id from runs where status = 'QUEUED';
insert into queues (env, id) select distinct env, queue from ready;
insert into lanes (env, queue, queue_key, served, is_blocked) select distinct env, queue, queue_key, 0, 0 from ready;

-- The right of one execution to write to its run, and its slot. Lives from the claim until the execution ends or is
-- taken away; one whose run was ended by somebody else is revoked and keeps the slot until it has acknowledged that.
create table new_leases (
    env text not null,
    run_id text not null,
    execution integer not null,
    owner text not null,
    expires_at integer not null,
    claimed_at integer not null,
    seq_claimed integer not null,  -- length of the run's history at the claim: a higher seq is progress
    queue text not null,
    queue_key text not null,
    is_revoked integer not null default 0,
    primary key (env, run_id, execution)
) without rowid;
insert into new_leases (env, run_id, execution, owner, expires_at, claimed_at, seq_claimed, queue, queue_key)
select leases.env, run_id, leases.execution, owner, expires_at, claimed_at, seq_claimed, runs.queue, runs.queue_key
from leases join runs on runs.env = leases.env and runs.id = leases.run_id;
drop table leases;
alter table new_leases rename to leases;

-- A run's task that waits for an event of this name. Lives until it is resolved or its run ends.
create table event_waiters (
    env text not null,
    run_id text not null,
    task_id text not null,
    name text not null,
    source text,
    filter text,          -- JSON
    context_filter text,  -- JSON
    account_id text,
    since integer not null,       -- events that arrived from then on count
    is_checked integer not null,  -- whether those that arrived before it was written have been looked at
    primary key (env, run_id, task_id, name)
) without rowid;

create index event_waiters_name_idx on event_waiters (env, name);
create index event_waiters_unchecked_idx on event_waiters (env, run_id, task_id) where is_checked = 0;

-- An event that may wake waiters of its name, not yet compared with them.
create table matches (
    env text not null,
    arrived_at integer not null,  -- the event's
    event_id text not null,
    primary key (env, arrived_at, event_id)
) without rowid;

-- What the platform does for a task of a run: an HTTP call. Lives until the task is resolved or its run ends.
create table operations (
    env text not null,
    run_id text not null,
    task_id text not null,
    due_at integer not null,
    attempt integer not null,     -- of the call that is due: 1, 2, 3 ...
    tries integer not null,       -- of the same: 1, and one more for each failure in a row before it
    started_at integer not null,
    operation text not null,      -- JSON
    primary key (env, run_id, task_id)
) without rowid;

create index operations_due_idx on operations (env, due_at, run_id, task_id);

-- What fires at points in time: the schedule of a job, or a registration of a dynamic one.
create table schedules (
    env text not null,
    id text not null,
    dispatcher text not null,     -- job:<id> or dynamic:<id>
    key text not null,            -- of a registration; the job's id for a job's own
    schedule text not null,       -- JSON
    catch_up integer not null,
    metadata text,                -- JSON
    account_id text,
    is_active integer not null,
    next_at integer,
    last_at integer,
    created_at integer not null,
    primary key (env, id)
) without rowid;

create index schedules_due_idx on schedules (env, next_at, id) where is_active = 1;
create index schedules_dispatcher_idx on schedules (env, dispatcher, key);

-- A named progress record of a run, as it is now. Lives as long as its run.
create table statuses (
    env text not null,
    run_id text not null,
    key text not null,
    label text not null,
    state text,
    data text,                -- JSON
    version integer not null, -- 1, 2, 3 ...; earlier ones are in status_versions
    update_id text not null,  -- of the update that made this version
    created_at integer not null,
    updated_at integer not null,
    primary key (env, run_id, key)
) without rowid;

-- What a status said before, a row per version: an update costs the same, however many there were. As long as its run.
create table status_versions (
    env text not null,
    run_id text not null,
    key text not null,
    version integer not null,
    label text not null,
    state text,
    data text,                -- JSON
    update_id text not null,
    at integer not null,      -- from when on
    primary key (env, run_id, key, version)
) without rowid;

create unique index status_versions_update_idx on status_versions (env, run_id, key, update_id);

-- A value that outlives executions. scope: env, job:<id> or run:<id>; the last kind lives as long as its run.
create table key_values (
    env text not null,
    scope text not null,
    key text not null,
    value text not null,  -- JSON
    types text,           -- JSON
    updated_at integer not null,
    primary key (env, scope, key)
) without rowid;

drop view run_rows;

-- A run as the JSON of a RunRow: what every query that returns runs selects.
create view run_rows (env, id, json) as
select env, id, json_object(
    'id', id, 'job_id', job_id, 'job_version', job_version, 'event_id', event_id, 'status', status,
    'created_at', created_at, 'priority', priority, 'execution', execution, 'crashes', crashes, 'failures', failures,
    'spent_ms', spent_ms, 'started_at', started_at, 'completed_at', completed_at, 'wake_at', wake_at,
    'output', output, 'types', types, 'error', json(error), 'reason', reason,
    'failed_tasks', json(failed_tasks), 'is_test', json(iif(is_test, 'true', 'false')),
    'number', number, 'queue', queue, 'queue_key', queue_key, 'account_id', account_id,
    'parent_run_id', parent_run_id, 'parent_task_id', parent_task_id, 'tags', json(tags), 'metadata', metadata,
    'is_internal', json(iif(is_internal, 'true', 'false')), 'wakes', wakes, 'open_waits', open_waits,
    'resume_at', resume_at
)
from runs;

drop view event_rows;

-- An event as the JSON of an EventRecord.
create view event_rows (env, id, json) as
select env, id, json_object(
    'id', id, 'name', name, 'payload', payload, 'timestamp', timestamp, 'context', context,
    'source', source, 'is_test', json(iif(is_test, 'true', 'false')), 'account_id', account_id,
    'source_context', source_context, 'deliver_at', deliver_at, 'delivered_at', delivered_at,
    'cancelled_at', cancelled_at, 'run_options', run_options
)
from events;

-- A schedule as the JSON of a ScheduleRow.
create view schedule_rows (env, id, json) as
select env, id, json_object(
    'id', id, 'dispatcher', dispatcher, 'key', key, 'schedule', schedule,
    'catch_up', json(iif(catch_up, 'true', 'false')), 'metadata', metadata, 'account_id', account_id,
    'is_active', json(iif(is_active, 'true', 'false')), 'next_at', next_at, 'last_at', last_at,
    'created_at', created_at
)
from schedules;
