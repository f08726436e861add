"""How `--help` shows a command: a flag takes no value (`--json`, not `--json <bool>`), an argument is a bare word (ID)."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

FLAG = ""
"""The `metavar` of an option that takes no value."""


class Command(TyperCommand):
    """A command."""

    def get_help_option(self, ctx: Any) -> Any:
        return _as_flag(super().get_help_option(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]


class Group(TyperGroup):
    """A group of commands."""

    def get_help_option(self, ctx: Any) -> Any:
        return _as_flag(super().get_help_option(ctx))


def _as_flag(option: Any) -> Any:
    if option is not None:
        option.metavar = FLAG
    return option
