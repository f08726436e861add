-- Everything is in the schema perdure, which the migrator makes. Ids and names compare by their bytes, whatever the
-- collation of the database. JSON is text: it has to come back character for character.
--
-- What changes often is kept small and by itself (ready, leases, idle); runs are updated in place (HOT): no index of
-- theirs has a column that changes. That is why their status isn't indexed: ready, leases, idle and ended say it.
--
-- A primary key is made after the other indexes of its table: of two that seem to cost the same, as all do while a table is
-- empty, the planner takes the one that was made last.

create table perdure.events (
    env text collate "C" not null,
    id text collate "C" not null,
    name text collate "C" not null,
    payload text not null,
    context text,
    source text not null,
    timestamp bigint not null,
    is_test boolean not null,
    created_at bigint not null,
    account_id text collate "C",
    source_context text,
    deliver_at bigint,
    due_at bigint,
    delivered_at bigint,
    cancelled_at bigint,
    run_options text,
    arrived_at bigint not null
);
create index events_due_idx on perdure.events (env, due_at, id) where due_at is not null;
create index events_name_idx on perdure.events (env, name, arrived_at, id);
create index events_arrived_idx on perdure.events (env, arrived_at, id);
alter table perdure.events add primary key (env, id);

create table perdure.runs (
    env text collate "C" not null,
    id text collate "C" not null,
    job_id text collate "C" not null,
    job_version text collate "C" not null,
    event_id text collate "C" not null,
    status text not null,
    priority bigint not null,
    execution bigint not null,
    crashes bigint not null,
    failures bigint not null,
    spent_ms bigint not null,
    created_at bigint not null,
    queued_at bigint not null,     -- when it last came into the queue: part of its key in ready
    started_at bigint,
    completed_at bigint,           -- part of its key in ended
    wake_at bigint,                -- its due_at in idle
    reason text,
    error text,                    -- JSON of an ErrorInfo
    failed_tasks text not null,    -- JSON list of task ids
    is_test boolean not null,
    output text,                   -- JSON
    types text,                    -- JSON
    number bigint not null,
    queue text collate "C" not null,
    queue_key text collate "C" not null,
    account_id text collate "C",
    parent_run_id text collate "C",
    parent_task_id text collate "C",
    tags text not null,            -- JSON list
    metadata text,                 -- JSON
    is_internal boolean not null,
    wakes bigint not null,
    open_waits bigint not null,
    resume_at bigint
) with (fillfactor = 60);
create unique index runs_event_idx on perdure.runs (env, event_id, job_id, job_version);
create index runs_job_idx on perdure.runs (env, job_id, id);
create index runs_parent_idx on perdure.runs (env, parent_run_id) where parent_run_id is not null;
create index runs_account_idx on perdure.runs (env, account_id, id) where account_id is not null;
alter table perdure.runs add primary key (env, id);

create table perdure.run_tags (
    env text collate "C" not null,
    tag text collate "C" not null,
    run_id text collate "C" not null,
    primary key (env, tag, run_id)
);

create table perdure.job_counters (
    env text collate "C" not null,
    job_id text collate "C" not null,
    last_number bigint not null,
    primary key (env, job_id)
) with (fillfactor = 20);

-- --- where runs are, by their status -----------------------------------------------------------------------------------

-- Queued.
create table perdure.ready (
    env text collate "C" not null,
    queue text collate "C" not null,
    queue_key text collate "C" not null,
    priority bigint not null,
    ready_at bigint not null,
    run_id text collate "C" not null
);
create unique index ready_idx on perdure.ready (env, queue, queue_key, priority desc, ready_at, run_id);

-- Executing; revoked ones are of runs that were ended from outside.
create table perdure.leases (
    env text collate "C" not null,
    run_id text collate "C" not null,
    execution bigint not null,
    owner text not null,
    expires_at bigint not null,
    claimed_at bigint not null,
    seq_claimed bigint not null,   -- length of the run's history at the claim: a higher seq is progress
    queue text collate "C" not null,
    queue_key text collate "C" not null,
    is_revoked boolean not null,
    primary key (env, run_id, execution)
) with (fillfactor = 50);

-- Neither queued, executing nor ended: waiting, with a timer or without, or pending.
create table perdure.idle (
    env text collate "C" not null,
    run_id text collate "C" not null,
    status text not null,
    due_at bigint
);
create index idle_due_idx on perdure.idle (env, due_at, run_id) where due_at is not null;
alter table perdure.idle add primary key (env, run_id);

-- Ended.
create table perdure.ended (
    env text collate "C" not null,
    completed_at bigint not null,
    run_id text collate "C" not null,
    status text not null
);
create index ended_status_idx on perdure.ended (env, status, run_id);
alter table perdure.ended add primary key (env, completed_at, run_id);

-- --- queues ------------------------------------------------------------------------------------------------------------

-- As they are defined. Claims only read it: what they write is in queue_turns.
create table perdure.queues (
    env text collate "C" not null,
    id text collate "C" not null,
    concurrency_limit bigint,      -- executions at once; null for any number
    key_limit bigint,              -- the same per concurrency key
    paused_at bigint,              -- since when nothing is claimed from it
    priority bigint not null default 0,
    primary key (env, id)
);

-- Queues that have been in use. Never deleted.
create table perdure.queue_turns (
    env text collate "C" not null,
    id text collate "C" not null,
    served bigint not null,        -- a claim's turn: the queue served longest ago is next
    primary key (env, id)
) with (fillfactor = 20);

-- Concurrency keys under which runs may be ready. The empty key of a queue in use is never deleted.
create table perdure.lanes (
    env text collate "C" not null,
    queue text collate "C" not null,
    queue_key text collate "C" not null,
    served bigint not null,
    primary key (env, queue, queue_key)
) with (fillfactor = 50);

-- What claims within limits lock, one after the other.
create table perdure.environments (
    env text collate "C" primary key
);

-- --- tasks -------------------------------------------------------------------------------------------------------------

create table perdure.tasks (
    env text collate "C" not null,
    run_id text collate "C" not null,
    id text collate "C" not null,
    idempotency_key text not null,
    key text not null,
    name text not null,
    status text not null,
    position bigint not null,
    opened bigint not null,
    absorbed boolean not null,
    parent_id text collate "C",
    seq bigint,
    interrupted bigint,
    attempts bigint not null,
    due_at bigint,
    started_at bigint,
    completed_at bigint,
    error text,                    -- JSON of an ErrorInfo
    details text,                  -- JSON
    output text,                   -- JSON
    types text,                    -- JSON
    primary key (env, run_id, id)
) with (fillfactor = 90);

create table perdure.logs (
    line_no bigint generated always as identity,
    env text collate "C" not null,
    run_id text collate "C" not null,
    id text collate "C" not null,
    level text not null,
    message text not null,
    at bigint not null,
    data text,                     -- JSON
    task_id text collate "C",
    primary key (env, run_id, id)
);

-- --- waits for others --------------------------------------------------------------------------------------------------

create table perdure.event_waiters (
    env text collate "C" not null,
    run_id text collate "C" not null,
    task_id text collate "C" not null,
    name text collate "C" not null,
    source text,
    filter text,                   -- JSON
    context_filter text,           -- JSON
    account_id text collate "C",
    since bigint not null,         -- events that arrived from then on count
    is_checked boolean not null,   -- whether those that arrived before it was written have been looked at
    primary key (env, run_id, task_id, name)
);
create index event_waiters_name_idx on perdure.event_waiters (env, name);
create index event_waiters_unchecked_idx on perdure.event_waiters (env, run_id, task_id) where not is_checked;

-- Always empty: who writes events holds a lock on it until its end, and who looks for events that came before a waiter
-- was written waits for those. See waiting.sql.
create table perdure.events_gate (nothing boolean) with (autovacuum_enabled = false);

create table perdure.matches (
    env text collate "C" not null,
    arrived_at bigint not null,    -- the event's
    event_id text collate "C" not null,
    primary key (env, arrived_at, event_id)
);

create table perdure.operations (
    env text collate "C" not null,
    run_id text collate "C" not null,
    task_id text collate "C" not null,
    due_at bigint not null,
    attempt bigint not null,       -- of the call that is due: 1, 2, 3 ...
    tries bigint not null,         -- of the same: 1, and one more for each failure in a row before it
    started_at bigint not null,
    operation text not null,       -- JSON
    primary key (env, run_id, task_id)
);
create index operations_due_idx on perdure.operations (env, due_at, run_id, task_id);

create table perdure.schedules (
    env text collate "C" not null,
    id text collate "C" not null,
    dispatcher text collate "C" not null,  -- job:<id> or dynamic:<id>
    key text collate "C" not null,         -- of a registration; the job's id for a job's own
    schedule text not null,                -- JSON
    catch_up boolean not null,
    metadata text,                         -- JSON
    account_id text collate "C",
    is_active boolean not null,
    next_at bigint,
    last_at bigint,
    created_at bigint not null
);
create index schedules_due_idx on perdure.schedules (env, next_at, id) where is_active;
create index schedules_dispatcher_idx on perdure.schedules (env, dispatcher, key);
alter table perdure.schedules add primary key (env, id);

-- --- state -------------------------------------------------------------------------------------------------------------

create table perdure.accounts (
    env text collate "C" not null,
    id text collate "C" not null,
    metadata text,                 -- JSON
    created_at bigint not null,
    primary key (env, id)
);

create table perdure.statuses (
    env text collate "C" not null,
    run_id text collate "C" not null,
    key text collate "C" not null,
    label text not null,
    state text,
    data text,                     -- JSON
    version bigint not null,       -- 1, 2, 3 ...; earlier ones are in status_versions
    update_id text collate "C" not null,
    created_at bigint not null,
    updated_at bigint not null,
    primary key (env, run_id, key)
) with (fillfactor = 80);

create table perdure.status_versions (
    env text collate "C" not null,
    run_id text collate "C" not null,
    key text collate "C" not null,
    version bigint not null,
    label text not null,
    state text,
    data text,                     -- JSON
    update_id text collate "C" not null,
    at bigint not null,            -- from when on
    primary key (env, run_id, key, version)
);
create unique index status_versions_update_idx on perdure.status_versions (env, run_id, key, update_id);

create table perdure.key_values (
    env text collate "C" not null,
    scope text collate "C" not null,
    key text collate "C" not null,
    value text not null,           -- JSON
    types text,                    -- JSON
    updated_at bigint not null,
    primary key (env, scope, key)
) with (fillfactor = 80);

-- --- the store itself --------------------------------------------------------------------------------------------------

-- A row per batch of a node, written in its transaction and deleted soon after: who lost the connection in a COMMIT looks
-- for it. See connection.py.
create table perdure.batches (
    node text collate "C" not null,
    number bigint not null,
    primary key (node, number)
);

-- Small and busy: vacuum them long before the defaults would.
alter table perdure.ready set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
alter table perdure.leases set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
alter table perdure.idle set (autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
alter table perdure.lanes set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
alter table perdure.queue_turns set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
alter table perdure.job_counters set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
alter table perdure.batches set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
alter table perdure.event_waiters set (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);
alter table perdure.matches set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
alter table perdure.operations set (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);
alter table perdure.runs set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);
alter table perdure.tasks set (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.1);

-- --- rows as the port's values, in JSON ---------------------------------------------------------------------------------

create view perdure.run_rows as
select runs.*, json_build_object(
    'id', id, 'job_id', job_id, 'job_version', job_version, 'event_id', event_id, 'status', status,
    'created_at', created_at, 'priority', priority, 'execution', execution, 'crashes', crashes, 'failures', failures,
    'spent_ms', spent_ms, 'started_at', started_at, 'completed_at', completed_at, 'wake_at', wake_at,
    'output', output, 'types', types, 'error', error::json, 'reason', reason,
    'failed_tasks', failed_tasks::json, 'is_test', is_test,
    'number', number, 'queue', queue, 'queue_key', queue_key, 'account_id', account_id,
    'parent_run_id', parent_run_id, 'parent_task_id', parent_task_id, 'tags', tags::json, 'metadata', metadata,
    'is_internal', is_internal, 'wakes', wakes, 'open_waits', open_waits, 'resume_at', resume_at
) as json
from perdure.runs;

create view perdure.event_rows as
select events.*, json_build_object(
    'id', id, 'name', name, 'payload', payload, 'timestamp', timestamp, 'context', context,
    'source', source, 'is_test', is_test, 'account_id', account_id,
    'source_context', source_context, 'deliver_at', deliver_at, 'delivered_at', delivered_at,
    'cancelled_at', cancelled_at, 'run_options', run_options
) as json
from perdure.events;

create view perdure.schedule_rows as
select schedules.*, json_build_object(
    'id', id, 'dispatcher', dispatcher, 'key', key, 'schedule', schedule,
    'catch_up', catch_up, 'metadata', metadata, 'account_id', account_id,
    'is_active', is_active, 'next_at', next_at, 'last_at', last_at,
    'created_at', created_at
) as json
from perdure.schedules;

create view perdure.waiter_rows as
select event_waiters.*, json_build_object(
    'run_id', run_id, 'task_id', task_id, 'name', name, 'source', source, 'filter', filter,
    'context_filter', context_filter, 'account_id', account_id, 'since', since
) as json
from perdure.event_waiters;
