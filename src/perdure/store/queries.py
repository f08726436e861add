"""Loads an adapter's SQL: files of named blocks, so that the SQL can be read, linted and explained as it is.

A block is `-- name: claim_runs`, comment lines that say what it does, and one statement with `:name` parameters.
"""

from __future__ import annotations

import re
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)[ \t]*$", re.MULTILINE)


def parse_queries(text: str) -> dict[str, str]:
    """The blocks of one file by name: {"claim_runs": "update runs ..."}; comments before the first name are dropped."""
    _, *parts = _NAME.split(text)
    queries: dict[str, str] = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        if name in queries:
            raise ValueError(f"two queries are named {name!r}")
        queries[name] = body.strip()
    return queries


def load_queries(package: str, folder: str = "sql") -> dict[str, str]:
    """Every query of the `.sql` files in a package's folder; a name is unique across them."""
    found = sorted(
        (entry for entry in (files(package) / folder).iterdir() if entry.name.endswith(".sql")), key=str
    )
    return parse_queries("\n".join(entry.read_text("utf-8") for entry in found))
