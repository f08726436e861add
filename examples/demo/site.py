"""The pages that the demo looks at: a web site on loopback whose pages misbehave on purpose."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

SLOW_SECONDS = 1.0
HOLD_SECONDS_MAX = 60.0
FLAKY_FAILURES = 2

PAGES = {
    "/plain": ("Plain words", "<h1>Plain words</h1><p>Nothing special about this page.</p>"),
    "/slow": (
        "Slow food",
        "<h1>Slow food</h1><p>This page takes its time, and the process is killed meanwhile.</p>",
    ),
    "/flaky": ("Third time lucky", "<p>This page has no heading, and fails twice before it answers.</p>"),
    "/draft": ("A draft", "<h1>A draft</h1><p>Somebody cancels the run that looks at this page.</p>"),
}


class Site:
    """Serves the pages while it is entered.

    Attributes:
        url: where, "http://127.0.0.1:PORT".
        visits: path and status of every request, in order; status None for the one that gets no answer.
        slow_is_asked: set when the first request for /slow has come. It is held, so that the process that asked can be
            killed meanwhile; later ones are answered after `SLOW_SECONDS`.
        released: set it to let go of the held one, and /flaky answer: it fails twice, and on a busy machine until then.

    Args:
        on_visit: called with the path and the status (None: held) of each request, from its thread.
    """

    def __init__(self, on_visit: Callable[[str, int | None], None]) -> None:
        self.visits: list[tuple[str, int | None]] = []
        self.slow_is_asked = threading.Event()
        self.released = threading.Event()
        self._on_visit = on_visit
        self._server = _Server(("127.0.0.1", 0), _handler_for(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def count(self, path: str) -> int:
        """How many requests for `path` were answered."""
        return sum(visited == path and status is not None for visited, status in self.visits)

    def answer(self, path: str) -> tuple[int, str] | None:
        """Status and body for a request; None for the one that gets no answer. Takes its time where the page does."""
        if path == "/slow":
            if not self.slow_is_asked.is_set():
                self.slow_is_asked.set()
                self.note(path, None)
                self.released.wait(HOLD_SECONDS_MAX)
                return None
            time.sleep(SLOW_SECONDS)
        if path == "/gone":
            return 410, "This page was taken down for good."
        if path == "/flaky" and (self.count(path) < FLAKY_FAILURES or not self.released.is_set()):
            return 503, "Not now."
        title, body = PAGES.get(path, ("", ""))
        return (200, _html(title, body)) if title else (404, "No such page.")

    def note(self, path: str, status: int | None) -> None:
        self.visits.append((path, status))
        self._on_visit(path, status)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A visitor that was killed is no error of the site's."""


def _handler_for(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = site.answer(self.path)
            if answer is None:
                self.close_connection = True
                return
            status, body = answer[0], answer[1].encode()
            site.note(self.path, status)
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """The demo tells of visits itself."""

    return Handler


def _html(title: str, body: str) -> str:
    return f'<!doctype html><html lang="en"><title>{title}</title>{body}</html>'
