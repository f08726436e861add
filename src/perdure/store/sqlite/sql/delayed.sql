-- Events that come later: delayed ones and those of schedules; events that wake waiters; lists of events.

-- name: due_of_events
-- [[due_at or null, EventRecord], ...] of the events :ids as JSON.
select json_group_array(json_array(events.due_at, json(event.json)))
from events
join event_rows as event on event.env = events.env and event.id = events.id
where events.env = :env and events.id in (select value from json_each(:ids));

-- name: deliver_events
-- :deliveries: [[id, at, has runs], ...]; from `at` on waits see it.
with batch as materialized (select value as r, json_extract(value, '$[0]') as id from json_each(:deliveries))
update events set
    due_at = null,
    arrived_at = json_extract(r, '$[1]'),
    delivered_at = iif(json_extract(r, '$[2]'), json_extract(r, '$[1]'), null)
from batch
where events.env = :env and events.id = batch.id;

-- name: cancel_events
-- :cancellations: [[id, at], ...]
with batch as materialized (
    select json_extract(value, '$[0]') as id, json_extract(value, '$[1]') as at from json_each(:cancellations)
)
update events set due_at = null, cancelled_at = batch.at
from batch
where events.env = :env and events.id = batch.id;

-- name: awaited_events
-- Which of :ids (JSON list) have arrived, and a waiter of their name. Hot.
select json_group_array(id) from events
where
    env = :env and id in (select value from json_each(:ids)) and due_at is null and cancelled_at is null
    and exists (select 1 from event_waiters where event_waiters.env = events.env and event_waiters.name = events.name);

-- name: insert_matches
insert into matches (env, arrived_at, event_id)
select env, arrived_at, id from events where env = :env and id in (select value from json_each(:ids))
on conflict (env, arrived_at, event_id) do nothing;

-- name: deliver_matches
-- The events :ids cause something, be it no run.
update events set delivered_at = arrived_at
where env = :env and id in (select value from json_each(:ids)) and delivered_at is null;

-- name: due_events
-- A JSON list of EventRecord, earliest first.
select json_group_array(json(json)) from (
    select event.json
    from events
    cross join event_rows as event on event.env = events.env and event.id = events.id
    where events.env = :env and events.due_at <= :now
    order by events.due_at, events.id
    limit :limit
);

-- name: next_event_due
select min(due_at) from events where env = :env and due_at is not null;

-- name: list_events
-- Newest first after the event :before (from the first, if null), as a JSON list of EventRecord.
select json_group_array(json(json)) from (
    select event.json
    from events
    cross join event_rows as event on event.env = events.env and event.id = events.id
    where
        events.env = :env and (events.arrived_at, events.id) < (
            iif(
                :before is null, 9223372036854775807,
                (select arrived_at from events where env = :env and id = :before)
            ),
            coalesce(:before, '')
        )
    order by events.arrived_at desc, events.id desc
    limit :limit
);

-- name: list_events_by_name
-- The same of one name.
select json_group_array(json(json)) from (
    select event.json
    from events
    cross join event_rows as event on event.env = events.env and event.id = events.id
    where
        events.env = :env and events.name = :event_name and (events.arrived_at, events.id) < (
            iif(
                :before is null, 9223372036854775807,
                (select arrived_at from events where env = :env and id = :before)
            ),
            coalesce(:before, '')
        )
    order by events.arrived_at desc, events.id desc
    limit :limit
);

-- name: events_since
-- A JSON list of EventRecord, earliest first after the event :after (from the first, if null).
select json_group_array(json(json)) from (
    select event.json
    from events
    cross join event_rows as event on event.env = events.env and event.id = events.id
    where
        events.env = :env and events.name = :event_name and +events.arrived_at >= :since
        and events.due_at is null and events.cancelled_at is null
        and (events.arrived_at, events.id) > (
            iif(:after is null, :since, (select arrived_at from events where env = :env and id = :after)),
            coalesce(:after, '')
        )
    order by events.arrived_at, events.id
    limit :limit
);

-- name: put_schedules
-- :schedules: [[id, dispatcher, key, schedule, catch_up, metadata, account_id, is_active, next_at, last_at,
-- created_at], ...], one per id.
with batch as materialized (select value as r from json_each(:schedules))
insert or replace into schedules (
    env, id, dispatcher, key, schedule, catch_up, metadata, account_id, is_active, next_at, last_at, created_at
)
select
    :env, json_extract(r, '$[0]'), json_extract(r, '$[1]'), json_extract(r, '$[2]'), json_extract(r, '$[3]'),
    json_extract(r, '$[4]'), json_extract(r, '$[5]'), json_extract(r, '$[6]'), json_extract(r, '$[7]'),
    json_extract(r, '$[8]'), json_extract(r, '$[9]'), json_extract(r, '$[10]')
from batch;

-- name: next_ticks
-- {id: next_at} of the active schedules among :ids that have one, as JSON.
select json_group_object(id, next_at) from schedules
where env = :env and id in (select value from json_each(:ids)) and is_active = 1 and next_at is not null;

-- name: tick_schedules
-- :ticks: [[id, last_at, next_at], ...], one per schedule.
with batch as materialized (select value as r, json_extract(value, '$[0]') as id from json_each(:ticks))
update schedules set last_at = json_extract(r, '$[1]'), next_at = json_extract(r, '$[2]')
from batch
where schedules.env = :env and schedules.id = batch.id;

-- name: due_schedules
-- A JSON list of ScheduleRow, earliest first.
select json_group_array(json(json)) from (
    select schedule.json
    from schedules
    cross join schedule_rows as schedule on schedule.env = schedules.env and schedule.id = schedules.id
    where schedules.env = :env and schedules.is_active = 1 and schedules.next_at <= :now
    order by schedules.next_at, schedules.id
    limit :limit
);

-- name: next_tick
select min(next_at) from schedules where env = :env and is_active = 1 and next_at is not null;

-- name: get_schedule
select json from schedule_rows where env = :env and id = :id;

-- name: list_schedules
-- A JSON list of ScheduleRow by dispatcher and key.
select json_group_array(json(json)) from (
    select schedule.json
    from schedules
    cross join schedule_rows as schedule on schedule.env = schedules.env and schedule.id = schedules.id
    where schedules.env = :env
    order by schedules.dispatcher, schedules.key, schedules.id
);

-- name: list_schedules_of
-- The same of one dispatcher.
select json_group_array(json(json)) from (
    select schedule.json
    from schedules
    cross join schedule_rows as schedule on schedule.env = schedules.env and schedule.id = schedules.id
    where schedules.env = :env and schedules.dispatcher = :dispatcher
    order by schedules.key, schedules.id
);
