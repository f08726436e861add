"""What the sender of an event, or who invokes a job, wants of the runs."""

from __future__ import annotations

import msgspec
from msgspec import Struct


class RunOptions(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """Stored with the event as JSON. None: as the job says. `metadata`: JSON text of an object."""

    tags: tuple[str, ...] = ()
    metadata: str | None = None
    priority: int | None = None
    concurrency_key: str | None = None

    def to_json(self) -> str | None:
        """As EventRecord.run_options has it: None if nothing is asked for."""
        return None if self == NO_OPTIONS else _encode(self).decode()


NO_OPTIONS = RunOptions()

decode_options = msgspec.json.Decoder(RunOptions).decode
_encode = msgspec.json.Encoder().encode
