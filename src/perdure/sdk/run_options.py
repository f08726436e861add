"""What senders of events, and who invokes jobs, may want of the runs: checked, and turned into what is stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from perdure.errors import LimitExceededError, UsageError
from perdure.limits import Limits
from perdure.schema.options import RunOptions

from .texts import check_text
from .values import to_json


def run_options(
    where: str,
    limits: Limits,
    *,
    tags: Iterable[str] = (),
    metadata: Mapping[str, Any] | None = None,
    priority: int | None = None,
    concurrency_key: str | None = None,
) -> RunOptions | None:
    """None if nothing is asked for. `where` begins the messages.

    Raises:
        UsageError, SerializationError, LimitExceededError: what is asked for can't be stored; says why.
    """
    if not tags and metadata is None and priority is None and concurrency_key is None:
        return None
    check_priority(priority, where)
    check_text(concurrency_key, f"{where}: concurrency_key", limits.name_chars_max)
    return RunOptions(
        tags=check_tags(tags, where, limits),
        metadata=metadata_json(metadata, where, limits),
        priority=priority,
        concurrency_key=concurrency_key,
    )


def check_tags(tags: Iterable[str], where: str, limits: Limits) -> tuple[str, ...]:
    """The tags, each once.

    Raises:
        UsageError: it is a string, one of them isn't, or is empty.
        LimitExceededError: there are too many, or one is too long.
    """
    given: Any = tags
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise UsageError(f'{where}: tags is a list of strings, ["a", "b"], not {given!r}')
    listed = list(cast("Iterable[Any]", given))
    for tag in listed:
        if not isinstance(tag, str) or not tag:
            raise UsageError(f"{where}: a tag is a string with something in it, not {tag!r}")
        if len(tag) > limits.tag_chars_max:
            raise LimitExceededError(
                what=f"{where}: the length of tag {tag[:20]!r}...",
                size=len(tag),
                limit=limits.tag_chars_max,
                setting="limits.tag_chars_max",
            )
        check_text(tag, f"{where}: tag {tag!r}", limits.tag_chars_max)
    unique = list(dict.fromkeys(listed))
    if len(unique) > limits.tags_per_run_max:
        raise LimitExceededError(
            what=f"{where}: the number of tags",
            size=len(unique),
            limit=limits.tags_per_run_max,
            setting="limits.tags_per_run_max",
        )
    return tuple(unique)


def metadata_json(metadata: Mapping[str, Any] | None, where: str, limits: Limits) -> str | None:
    """JSON text of an object; None for None.

    Raises:
        UsageError: it is none.
        SerializationError, LimitExceededError: as for payloads.
    """
    if metadata is None:
        return None
    text = to_json(
        metadata,
        where=f"metadata of {where}",
        limit=limits.metadata_bytes_max,
        setting="limits.metadata_bytes_max",
    )
    if not text.startswith("{"):
        raise UsageError(f'{where}: metadata is an object, like {{"plan": "free"}}, not {metadata!r}')
    return text


def check_priority(priority: int | None, where: str) -> None:
    """Raises UsageError for what is no whole number of 32 bits."""
    given: Any = priority
    if given is not None and (type(given) is not int or abs(given) >= 2**31):
        raise UsageError(
            f"{where}: priority is a whole number (higher ones are executed first), not {given!r}"
        )
