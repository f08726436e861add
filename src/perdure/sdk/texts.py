"""Names and messages before they are stored: what no database takes is refused, or replaced where text is only read."""

from __future__ import annotations

from typing import Any

from perdure.errors import LimitExceededError, UsageError


def check_text(text: Any, what: str, chars_max: int) -> None:
    """Let through what can be a name or an id; None is let through too.

    Raises:
        UsageError: it isn't a string, or holds a NUL or a lone surrogate.
        LimitExceededError: it is longer than `chars_max` characters.
    """
    if text is None:
        return
    if not isinstance(text, str):
        raise UsageError(f"{what} must be a string, not a {type(text).__name__}")
    if len(text) > chars_max:
        setting = "limits.name_chars_max"
        raise LimitExceededError(
            what=f"the length of {what}", size=len(text), limit=chars_max, setting=setting
        )
    if "\x00" in text or not _is_unicode(text):
        raise UsageError(f"{what} holds a NUL or a lone surrogate, which can't be stored; remove it")


def check_id(id: Any, what: str, chars_max: int) -> str:
    """The id of something that is asked for, if there can be one.

    Raises:
        UsageError: it is no string, is empty, or holds what can't be stored.
        LimitExceededError: it is longer than `chars_max` characters.
    """
    if not id:
        raise UsageError(f"{what} is a string with something in it, not {id!r}")
    if not isinstance(id, str) and hasattr(id, "id"):
        raise UsageError(f"{what} must be a string, not a {type(id).__name__}: pass its id, like run.id")
    check_text(id, what, chars_max)
    return id


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def storable(text: str) -> str:
    """`text` with what no database takes (lone surrogates, NUL) written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\x00", "\\x00")


def cut(text: str, chars_max: int) -> str:
    """`text`, without its middle if it is too long."""
    if len(text) <= chars_max:
        return text
    half = chars_max // 2
    return f"{text[:half]}\n... ({len(text) - 2 * half:,} characters left out) ...\n{text[-half:]}"
