"""A job that looks at web pages: fetch, check and summarise each, wait, then see whether it has changed.

    python examples/quickstart.py https://example.com https://www.python.org

Kill it while it works or waits (Ctrl-C, kill -9) and start it again with the same arguments: it goes on. It needs
`pip install 'perdure[pydantic]'`, and keeps its runs in quickstart.db. `make demo` runs this job on pages of its own.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from datetime import timedelta
from urllib.error import HTTPError
from urllib.request import urlopen

from pydantic import BaseModel, HttpUrl

from perdure import IO, Client, Context, Retry, Task, event_trigger, task

client = Client(id="quickstart")
log = logging.getLogger("quickstart")

COOL_DOWN = timedelta(seconds=5)  # days are as good: a waiting run takes neither memory nor a thread

EXPECTED = {"a title": r"<title>\s*\S", "a language": r"<html[^>]+lang=", "a heading": r"<h1"}


class PageToCheck(BaseModel):
    url: HttpUrl


class Page(BaseModel):
    url: str
    html: str


class Summary(BaseModel):
    title: str
    words: int


def give_up_on_refusals(error: Exception, _task: Task) -> bool | None:
    """404 and 410 are answers: asking again won't help. None leaves it to `retry`."""
    return False if isinstance(error, HTTPError) and error.code < 500 else None


@task(retry=Retry(attempts=5, min_delay=1.2, jitter=False), timeout=30, on_error=give_up_on_refusals)
def fetch(url: str) -> Page:  # a plain def: runs in a thread
    log.info("fetching %s", url)
    with urlopen(url, timeout=20) as response:
        return Page(url=url, html=response.read().decode(errors="replace"))


async def check(page: Page) -> list[str]:
    log.info("checking %s", page.url)
    return [what for what, pattern in EXPECTED.items() if not re.search(pattern, page.html, re.IGNORECASE)]


async def summarise(page: Page) -> Summary:
    log.info("summarising %s", page.url)
    title = re.search(r"<title>(.*?)</title>", page.html, re.IGNORECASE | re.DOTALL)
    return Summary(
        title=title.group(1).strip() if title else page.url,
        words=len(re.sub(r"<[^>]*>", " ", page.html).split()),
    )


@client.job(
    id="check-page",
    name="Check a page when the foo.bar event happens",
    version="0.0.1",
    trigger=event_trigger(name="foo.bar", schema=PageToCheck),
)
async def check_page(payload: PageToCheck, io: IO, ctx: Context) -> dict[str, object]:
    page = await io.run_task("fetch", fetch, str(payload.url))
    missing, summary = await asyncio.gather(
        io.run_task("check", check, page),
        io.run_task("summarise", summarise, page),
    )
    await io.wait("cool down", COOL_DOWN)
    later = await io.run_task("fetch again", fetch, page.url)
    return {
        "status": "success",
        "title": summary.title,
        "words": summary.words,
        "missing": missing,
        "changed": later.html != page.html,
    }


async def main(urls: list[str]) -> None:
    async with client.embedded("sqlite:///quickstart.db"):
        for url in urls:
            # Sent again, an event of this id starts nothing new: it leads to the run of the first time.
            event = await client.send_event("foo.bar", {"url": url}, id=f"look at {url}")
            run = await client.wait_for_run(event.runs[0].id)
            print(f"{url}: {run.status.label}", run.error.message if run.error else run.output)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: python {sys.argv[0]} URL...")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    asyncio.run(main(sys.argv[1:]))
