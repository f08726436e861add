CREATE TABLE schema_migrations (
    version integer primary key,
    name text not null,
    applied_at integer not null
);

CREATE TABLE events (
    env text not null,
    id text not null,
    name text not null,
    payload text not null,  -- JSON
    context text,           -- JSON
    source text not null,
    timestamp integer not null,
    is_test integer not null,
    created_at integer not null, account_id text, source_context text, deliver_at integer, due_at integer, delivered_at integer, cancelled_at integer, run_options text, arrived_at integer not null default 0,
    primary key (env, id)
) without rowid;

CREATE TABLE runs (
    env text not null,
    id text not null,
    job_id text not null,
    job_version text not null,
    event_id text not null,
    status text not null,
    priority integer not null,
    execution integer not null,
    crashes integer not null,
    failures integer not null,
    spent_ms integer not null,
    created_at integer not null,
    queued_at integer not null,  -- when it last came into the queue: its key in ready
    started_at integer,
    completed_at integer,
    wake_at integer,             -- its key in timers
    reason text,
    error text,                  -- JSON of an ErrorInfo
    failed_tasks text not null,  -- JSON list of task ids
    is_test integer not null,
    output text,                 -- JSON
    types text, number integer not null default 0, queue text not null default '', queue_key text not null default '', account_id text, parent_run_id text, parent_task_id text, tags text not null default '[]', metadata text, is_internal integer not null default 0, wakes integer not null default 0, open_waits integer not null default 0, resume_at integer,                  -- JSON
    primary key (env, id)
) without rowid;

CREATE UNIQUE INDEX runs_event_idx on runs (env, event_id, job_id, job_version);

CREATE INDEX runs_job_idx on runs (env, job_id, id);

CREATE TABLE timers (
    env text not null,
    due_at integer not null,
    run_id text not null,
    primary key (env, due_at, run_id)
) without rowid;

CREATE TABLE tasks (
    env text not null,
    run_id text not null,
    id text not null,
    idempotency_key text not null,
    key text not null,
    name text not null,
    status text not null,
    position integer not null,
    opened integer not null,
    absorbed integer not null,
    parent_id text,
    seq integer,
    interrupted integer,
    attempts integer not null,
    due_at integer,
    started_at integer,
    completed_at integer,
    error text,    -- JSON of an ErrorInfo
    details text,  -- JSON
    output text,   -- JSON
    types text,    -- JSON
    primary key (env, run_id, id)
) without rowid;

CREATE TABLE logs (
    line_no integer primary key,
    env text not null,
    run_id text not null,
    id text not null,
    level text not null,
    message text not null,
    at integer not null,
    data text,  -- JSON
    task_id text
);

CREATE UNIQUE INDEX logs_run_idx on logs (env, run_id, id);

CREATE TABLE accounts (
    env text not null,
    id text not null,
    metadata text,  -- JSON
    created_at integer not null,
    primary key (env, id)
) without rowid;

CREATE INDEX events_due_idx on events (env, due_at, id) where due_at is not null;

CREATE INDEX events_name_idx on events (env, name, arrived_at, id);

CREATE INDEX events_arrived_idx on events (env, arrived_at, id);

CREATE INDEX runs_parent_idx on runs (env, parent_run_id) where parent_run_id is not null;

CREATE INDEX runs_account_idx on runs (env, account_id, id) where account_id is not null;

CREATE INDEX runs_completed_idx on runs (env, completed_at, id) where completed_at is not null;

CREATE INDEX runs_status_idx on runs (env, status, id) where status <> 'EXECUTING';

CREATE TABLE run_tags (
    env text not null,
    tag text not null,
    run_id text not null,
    primary key (env, tag, run_id)
) without rowid;

CREATE TABLE job_counters (
    env text not null,
    job_id text not null,
    last_number integer not null,
    primary key (env, job_id)
) without rowid;

CREATE TABLE queues (
    env text not null,
    id text not null,
    concurrency_limit integer,  -- executions at once; null for any number
    key_limit integer,          -- the same per concurrency key
    paused_at integer,          -- since when nothing is claimed from it
    priority integer not null default 0,  -- those of higher priority are served first
    served integer not null default 0,  -- a claim's turn: the queue served longest ago is next
    primary key (env, id)
) without rowid;

CREATE TABLE lanes (
    env text not null,
    queue text not null,
    queue_key text not null,
    served integer not null,      -- as in queues
    is_blocked integer not null,  -- a claim found it at its limit; cleared when one of its executions ends
    primary key (env, queue, queue_key)
) without rowid;

CREATE INDEX lanes_turn_idx on lanes (env, queue, is_blocked, served, queue_key);

CREATE TABLE ready (
    env text not null,
    queue text not null,
    queue_key text not null,
    priority integer not null,
    ready_at integer not null,
    run_id text not null,
    primary key (env, queue, queue_key, priority desc, ready_at, run_id)
) without rowid;

CREATE TABLE "leases" (
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

CREATE TABLE event_waiters (
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

CREATE INDEX event_waiters_name_idx on event_waiters (env, name);

CREATE INDEX event_waiters_unchecked_idx on event_waiters (env, run_id, task_id) where is_checked = 0;

CREATE TABLE matches (
    env text not null,
    arrived_at integer not null,  -- the event's
    event_id text not null,
    primary key (env, arrived_at, event_id)
) without rowid;

CREATE TABLE operations (
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

CREATE INDEX operations_due_idx on operations (env, due_at, run_id, task_id);

CREATE TABLE schedules (
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

CREATE INDEX schedules_due_idx on schedules (env, next_at, id) where is_active = 1;

CREATE INDEX schedules_dispatcher_idx on schedules (env, dispatcher, key);

CREATE TABLE statuses (
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

CREATE TABLE status_versions (
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

CREATE UNIQUE INDEX status_versions_update_idx on status_versions (env, run_id, key, update_id);

CREATE TABLE key_values (
    env text not null,
    scope text not null,
    key text not null,
    value text not null,  -- JSON
    types text,           -- JSON
    updated_at integer not null,
    primary key (env, scope, key)
) without rowid;

CREATE VIEW run_rows (env, id, json) as
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

CREATE VIEW event_rows (env, id, json) as
select env, id, json_object(
    'id', id, 'name', name, 'payload', payload, 'timestamp', timestamp, 'context', context,
    'source', source, 'is_test', json(iif(is_test, 'true', 'false')), 'account_id', account_id,
    'source_context', source_context, 'deliver_at', deliver_at, 'delivered_at', delivered_at,
    'cancelled_at', cancelled_at, 'run_options', run_options
)
from events;

CREATE VIEW schedule_rows (env, id, json) as
select env, id, json_object(
    'id', id, 'dispatcher', dispatcher, 'key', key, 'schedule', schedule,
    'catch_up', json(iif(catch_up, 'true', 'false')), 'metadata', metadata, 'account_id', account_id,
    'is_active', json(iif(is_active, 'true', 'false')), 'next_at', next_at, 'last_at', last_at,
    'created_at', created_at
)
from schedules;

