-- Events that come later: delayed ones and those of schedules; events that wake waiters; lists of events.

-- name: due_of_events
-- [[due_at or null, EventRecord], ...] of the events :ids as JSON.
select coalesce(json_agg(json_build_array(due_at, json)), '[]') from perdure.event_rows
where env = :env and id = any(:ids::text[]);

-- name: deliver_events
-- From `at` on waits see them. Holds events_gate.
with gate as (
    insert into perdure.events_gate (nothing) select true where false
),

batch as materialized (
    select :env::text as env, deliveries.* from json_to_recordset(:deliveries::json) as deliveries (
        id text, at bigint, has_runs boolean
    )
)

update perdure.events set
    due_at = null,
    arrived_at = batch.at,
    delivered_at = case when batch.has_runs then batch.at end
from batch
where events.env = any(array[batch.env]) and events.id = batch.id;

-- name: cancel_events
with batch as materialized (
    select :env::text as env, id, at from unnest(:ids::text[], :ats::bigint[]) as cancelled (id, at)
)

update perdure.events set due_at = null, cancelled_at = batch.at
from batch
where events.env = any(array[batch.env]) and events.id = batch.id;

-- name: awaited_events
-- Which of :ids have arrived, and a waiter of their name. Hot.
select coalesce(json_agg(id), '[]') from perdure.events
where
    env = :env and id = any(:ids::text[]) and due_at is null and cancelled_at is null
    and exists (
        select 1 from perdure.event_waiters as waiters where waiters.env = :env and waiters.name = events.name
        offset 0
    );

-- name: insert_matches
-- The events :ids, which somebody waits for, are to be compared; and they cause something, be it no run.
with matched as (
    insert into perdure.matches (env, arrived_at, event_id)
    select env, arrived_at, id from perdure.events where env = :env and id = any(:ids::text[])
    on conflict (env, arrived_at, event_id) do nothing
)

update perdure.events set delivered_at = arrived_at
where env = :env and id = any(:ids::text[]) and delivered_at is null;

-- name: due_events
-- A JSON list of EventRecord, earliest first.
select coalesce(json_agg(json order by due_at, id), '[]') from (
    select events.json, events.due_at, events.id
    from perdure.event_rows as events
    where events.env = :env and events.due_at <= :now
    order by events.due_at, events.id
    limit :limit
) as page;

-- name: next_event_due
select min(due_at) from perdure.events where env = :env and due_at is not null;

-- name: list_events
-- Newest first after the event :before (from the first, if null), as a JSON list of EventRecord.
select coalesce(json_agg(json order by arrived_at desc, id desc), '[]') from (
    select events.json, events.arrived_at, events.id
    from perdure.event_rows as events
    where
        events.env = :env and (events.arrived_at, events.id) < (
            case when :before::text is null then 9223372036854775807 else (
                select before.arrived_at from perdure.events as before where before.env = :env and before.id = :before
            ) end,
            coalesce(:before, '')
        )
    order by events.arrived_at desc, events.id desc
    limit :limit
) as page;

-- name: list_events_by_name
-- The same of one name.
select coalesce(json_agg(json order by arrived_at desc, id desc), '[]') from (
    select events.json, events.arrived_at, events.id
    from perdure.event_rows as events
    where
        events.env = :env and events.name = :event_name and (events.arrived_at, events.id) < (
            case when :before::text is null then 9223372036854775807 else (
                select before.arrived_at from perdure.events as before where before.env = :env and before.id = :before
            ) end,
            coalesce(:before, '')
        )
    order by events.arrived_at desc, events.id desc
    limit :limit
) as page;

-- name: events_since
-- A JSON list of EventRecord, earliest first after the event :after (from the first, if null).
select coalesce(json_agg(json order by arrived_at, id), '[]') from (
    select events.json, events.arrived_at, events.id
    from perdure.event_rows as events
    where
        events.env = :env and events.name = :event_name and events.arrived_at >= :since::bigint
        and events.due_at is null and events.cancelled_at is null
        and (events.arrived_at, events.id) > (
            case when :after::text is null then :since::bigint else (
                select after.arrived_at from perdure.events as after where after.env = :env and after.id = :after
            ) end,
            coalesce(:after, '')
        )
    order by events.arrived_at, events.id
    limit :limit
) as page;

-- name: put_schedules
-- One per id.
insert into perdure.schedules (
    env, id, dispatcher, key, schedule, catch_up, metadata, account_id, is_active, next_at, last_at, created_at
)
select
    :env, id, dispatcher, key, schedule, catch_up, metadata, account_id, is_active, next_at, last_at, created_at
from json_to_recordset(:schedules::json) as batch (
    id text, dispatcher text, key text, schedule text, catch_up boolean, metadata text, account_id text,
    is_active boolean, next_at bigint, last_at bigint, created_at bigint
)
order by id collate "C"
on conflict (env, id) do update set
    dispatcher = excluded.dispatcher,
    key = excluded.key,
    schedule = excluded.schedule,
    catch_up = excluded.catch_up,
    metadata = excluded.metadata,
    account_id = excluded.account_id,
    is_active = excluded.is_active,
    next_at = excluded.next_at,
    last_at = excluded.last_at,
    created_at = excluded.created_at;

-- name: next_ticks
-- {id: next_at} of the active schedules among :ids that have one, as JSON; they are locked.
select coalesce(json_object_agg(id, next_at), '{}') from (
    select found.id, found.next_at
    from (select id from unnest(:ids::text[]) as ids (id) order by id collate "C" offset 0) as batch
    cross join lateral (
        select schedules.id, schedules.next_at from perdure.schedules
        where
            schedules.env = :env and schedules.id = batch.id and schedules.is_active
            and schedules.next_at is not null
        for no key update
    ) as found
) as locked;

-- name: tick_schedules
-- One per schedule.
with batch as materialized (
    select :env::text as env, id, last_at, next_at
    from unnest(:ids::text[], :lasts::bigint[], :nexts::bigint[]) as ticks (id, last_at, next_at)
)

update perdure.schedules set last_at = batch.last_at, next_at = batch.next_at
from batch
where schedules.env = any(array[batch.env]) and schedules.id = batch.id;

-- name: due_schedules
-- A JSON list of ScheduleRow, earliest first.
select coalesce(json_agg(json order by next_at, id), '[]') from (
    select schedules.json, schedules.next_at, schedules.id
    from perdure.schedule_rows as schedules
    where schedules.env = :env and schedules.is_active and schedules.next_at <= :now
    order by schedules.next_at, schedules.id
    limit :limit
) as page;

-- name: next_tick
select min(next_at) from perdure.schedules where env = :env and is_active and next_at is not null;

-- name: get_schedule
select json from perdure.schedule_rows where env = :env and id = :id;

-- name: list_schedules
-- A JSON list of ScheduleRow by dispatcher and key; of one dispatcher, unless it is null.
select coalesce(json_agg(json order by dispatcher, key, id), '[]') from perdure.schedule_rows as schedules
where schedules.env = :env and (:dispatcher::text is null or schedules.dispatcher = :dispatcher);
