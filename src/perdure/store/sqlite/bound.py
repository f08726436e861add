"""Rows of a batch as bound values of one statement: less than half the price of taking JSON apart again.

sqlite3's `executemany` would be a statement per row, and let go of the GIL around each. So the query says
`values /* rows */`, and stands for as many rows as a power of two; those that are left over are null.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import NamedTuple

from perdure.store.queries import load_queries

ROWS_MAX = 512
"""Of one statement: at 20 columns a third of what SQLite lets be bound (32,766)."""

_ROWS = "/* rows */"
_COMMENT = re.compile(r"--.*")
_PARAMETER = re.compile(r":(\w+)")


class BoundQuery(NamedTuple):
    """A query for a number of rows: their values are bound first, then those of the parameters, in this order."""

    sql: str
    parameters: list[str]


@cache
def bound_query(name: str, width: int, count: int) -> BoundQuery:
    """The query `name` for `count` rows of `width` columns."""
    sql = _COMMENT.sub("", load_queries("perdure.store.sqlite")[name])
    row = f"({', '.join('?' * width)})"
    return BoundQuery(
        _PARAMETER.sub("?", sql).replace(_ROWS, ", ".join([row] * count)), _PARAMETER.findall(sql)
    )


def flattened(rows: Sequence[tuple[object, ...]]) -> tuple[int, list[object]]:
    """How many rows a statement for these is made for, and the values to bind: theirs, then nulls."""
    count = 1 << (len(rows) - 1).bit_length()
    values = list(chain.from_iterable(rows))
    values += [None] * (len(rows[0]) * (count - len(rows)))
    return count, values
