"""How large things may be. One place holds every limit with its unit and default; each is named in the error that it causes.

Sizes of values are those of their JSON in UTF-8, type map included. Raising a limit never changes what is already stored.
"""

from __future__ import annotations

from msgspec import Struct


class Limits(Struct, frozen=True, kw_only=True):
    """Limits of one engine or executor.

    Attributes:
        payload_bytes_max: payload of an event or of an invoked run, bytes.
        context_bytes_max: context sent with an event, bytes.
        params_bytes_max: `params` of a task (display only), and the request of a background fetch, bytes.
        output_bytes_max: output of a task, bytes.
        run_output_bytes_max: return value of a run, bytes.
        log_bytes_max: data of one log line, bytes.
        error_chars_max: message and stack of a recorded error, each; longer ones are cut in the middle, never refused.
        key_chars_max: task key as displayed, characters.
        name_chars_max: names and ids of jobs, events, tasks, schedules, characters.
        tasks_per_run_max: tasks recorded in one run.
        tasks_per_run_warn: tasks in one run from which a warning says that replays get slow.
        history_bytes_max: recorded outputs of one run together, bytes.
        history_bytes_warn: the same, from which there is a warning.
        claim_bytes_max: outputs that a claim carries along, bytes; the rest is fetched by task when asked for.
        events_per_send_max: events in one `send_events`.
        value_bytes_max: a value in a store, and the data of a status, bytes (Protocol, limits: KV value).
        metadata_bytes_max: metadata of one run together, or of an account, bytes.
        tags_per_run_max: tags of one run.
        tag_chars_max: one tag, characters.
    """

    payload_bytes_max: int = 10_000_000
    context_bytes_max: int = 1_000_000
    params_bytes_max: int = 1_000_000
    output_bytes_max: int = 10_000_000
    run_output_bytes_max: int = 10_000_000
    log_bytes_max: int = 1_000_000
    error_chars_max: int = 20_000
    key_chars_max: int = 500
    name_chars_max: int = 500
    tasks_per_run_max: int = 100_000
    tasks_per_run_warn: int = 20_000
    history_bytes_max: int = 1_000_000_000
    history_bytes_warn: int = 100_000_000
    claim_bytes_max: int = 3_500_000
    events_per_send_max: int = 1_000
    value_bytes_max: int = 262_144
    metadata_bytes_max: int = 262_144
    tags_per_run_max: int = 50
    tag_chars_max: int = 128


DEFAULT_LIMITS = Limits()
