"""The examples of the reference run as they are written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from perdure import Client, RunStatus

REFERENCE = (Path(__file__).parents[2] / "docs" / "reference.md").read_text()


def example(section: str) -> dict[str, Any]:
    """What the Python block of a section defines."""
    found = re.search(rf"^## {section}\n.*?^```python\n(.*?)^```", REFERENCE, re.MULTILINE | re.DOTALL)
    assert found, f"section {section!r} has no example"
    names: dict[str, Any] = {}
    exec(found.group(1), names)
    return names


async def test_state():
    names = example("State")
    names["read_rows"] = lambda since: list(range(since, since + 3))
    client = Client(id="docs")
    job = client.define_job(id="import", run=names["import_rows"])
    async with client.embedded(":memory:"):
        for _ in range(2):
            started = await job.invoke({"customer": 7})
            run = await client.wait_for_run(started.id)
            [status] = await client.get_run_statuses(run.id)
        last_row = await client.store.job("import").get("last_row")

    assert run.status is RunStatus.COMPLETED
    assert (status.label, status.data) == ("Read", {"read": 3})
    assert last_row == 6
