"""The examples of the reference run as they are written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

from perdure import Auth, Client, Integration, RunNotification, RunStatus
from perdure.engine.core.fetching import HttpRequest, HttpResponse

REFERENCE = (Path(__file__).parents[2] / "docs" / "reference.md").read_text()


def example(section: str, **names: Any) -> dict[str, Any]:
    """What the Python block of a section defines, given `names`."""
    found = re.search(rf"^## {section}\n.*?^```python\n(.*?)^```", REFERENCE, re.MULTILINE | re.DOTALL)
    assert found, f"section {section!r} has no example"
    exec(found.group(1), names)
    return names


async def test_state():
    names = example("State")
    names["read_rows"] = lambda since: list(range(since, since + 3))
    client = Client(id="docs")
    job = client.define_job(id="import", run=names["import_rows"])
    async with client.embedded(":memory:"):
        runs = [await client.wait_for_run((await job.invoke({"customer": 7})).id) for _ in range(2)]
        [status] = await client.get_run_statuses(runs[1].id)
        last_row = await client.store.job("import").get("last_row")

    assert [run.status for run in runs] == [RunStatus.COMPLETED] * 2
    assert (status.label, status.data) == ("Read", {"read": 3})
    assert last_row == 6


async def test_background_requests():
    class Reports:
        """A server that makes reports, and needs a moment for each."""

        asked: ClassVar[list[str]] = []

        async def send(self, request: HttpRequest) -> HttpResponse:
            self.asked.append(f"{request.method} {request.url} {request.headers.get('authorization')}")
            state = "ready" if len(self.asked) > 1 else "busy"
            return HttpResponse(status=200, body=f'{{"id": "r1", "state": "{state}"}}'.encode())

        async def close(self) -> None: ...

    client = Client(id="docs")
    job = client.define_job(id="report", run=example("Background requests")["report"])
    async with client.embedded(":memory:", http=Reports()):
        started = await job.invoke({"url": "https://reports.example.com"})
        run = await client.wait_for_run(started.id)

    assert run.output == {"id": "r1", "state": "ready"}
    assert Reports.asked == [
        "POST https://reports.example.com/reports Bearer sk-secret",
        "GET https://reports.example.com/reports/r1 None",
    ]


async def test_notifications():
    client, alerts, receipts = Client(id="docs"), [], []

    def charge_card(payload: Any) -> str:
        if payload == "stolen":
            raise ValueError("card refused")
        return f"paid with {payload}"

    names = example(
        "Notifications",
        client=client,
        RunNotification=RunNotification,
        alerts=alerts,
        receipts=receipts,
        charge_card=charge_card,
    )
    async with client.embedded(":memory:"):
        for card in ("mine", "stolen"):
            await names["charge"].invoke(card)
        await client.drain()

    assert receipts == ["paid with mine"]
    assert len(alerts) == 1
    assert "card refused" in alerts[0]


async def test_dynamic_schedules():
    client = Client(id="docs")
    names = example("Schedules", client=client)
    async with client.embedded(":memory:"):
        await names["customer_came"]("customer-7")
        [registration] = await names["reports"].list()

    assert (registration.key, registration.timezone) == ("customer-7", "Europe/Berlin")
    assert registration.next_at is not None
    assert registration.next_at.weekday() == 0
    assert names["report"].trigger is names["reports"]


async def test_integrations():
    client, posted = Client(id="docs"), []

    async def find_token(account: str) -> str:
        return f"token of {account}"

    def post(token: str, text: str) -> None:
        posted.append((token, text))

    example(
        "Integrations", client=client, Auth=Auth, Integration=Integration, find_token=find_token, post=post
    )
    async with client.embedded(":memory:"):
        started = await client.invoke("greet", "Ada", account_id="user_1")
        run = await client.wait_for_run(started.id)

    assert run.status is RunStatus.COMPLETED
    assert posted == [("token of user_1", "Hello Ada")]
