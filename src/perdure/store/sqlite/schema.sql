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
    created_at integer not null,
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
    types text,                  -- JSON
    primary key (env, id)
) without rowid;

CREATE UNIQUE INDEX runs_event_idx on runs (env, event_id, job_id, job_version);

CREATE INDEX runs_job_idx on runs (env, job_id, id);

CREATE INDEX runs_status_idx on runs (env, status, id);

CREATE TABLE ready (
    env text not null,
    priority integer not null,
    ready_at integer not null,
    run_id text not null,
    primary key (env, priority desc, ready_at, run_id)
) without rowid;

CREATE TABLE leases (
    env text not null,
    run_id text not null,
    execution integer not null,
    owner text not null,
    expires_at integer not null,
    claimed_at integer not null,
    seq_claimed integer not null,  -- length of the run's history at the claim: a higher seq is progress
    primary key (env, run_id)
) without rowid;

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

CREATE VIEW run_rows (env, id, json) as
select env, id, json_object(
    'id', id, 'job_id', job_id, 'job_version', job_version, 'event_id', event_id, 'status', status,
    'created_at', created_at, 'priority', priority, 'execution', execution, 'crashes', crashes, 'failures', failures,
    'spent_ms', spent_ms, 'started_at', started_at, 'completed_at', completed_at, 'wake_at', wake_at,
    'output', output, 'types', types, 'error', json(error), 'reason', reason,
    'failed_tasks', json(failed_tasks), 'is_test', json(iif(is_test, 'true', 'false'))
)
from runs;

CREATE VIEW event_rows (env, id, json) as
select env, id, json_object(
    'id', id, 'name', name, 'payload', payload, 'timestamp', timestamp, 'context', context,
    'source', source, 'is_test', json(iif(is_test, 'true', 'false'))
)
from events;

