"""The server that background requests reach in tests: a fake HTTP client of the engine's, whose answers are prepared."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from perdure.engine.core.fetching import HttpRequest, HttpResponse

URL = "https://api.example.com/things?page=1"
SECRET = "sk-very-secret"


class Server:
    """Answers by path, in its turn; the last answer is repeated. An answer may be an exception, or take its time.

    Attributes:
        requests: as they came, with the instant (seconds of loop time).
        most: how many requests were under way at once.
    """

    def __init__(self) -> None:
        self.answers: dict[str, list[Any]] = {}
        self.requests: list[tuple[float, HttpRequest]] = []
        self.delay: float = 0.0
        self.under_way = 0
        self.most = 0
        self.finished = 0

    def answer(self, path: str, *answers: Any) -> None:
        self.answers[path] = list(answers)

    async def send(self, request: HttpRequest) -> HttpResponse:
        self.requests.append((asyncio.get_running_loop().time(), request))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(self.delay)
            path = request.url.partition("?")[0].removeprefix("https://api.example.com")
            answers = self.answers[path]
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if isinstance(answer, Exception):
                raise answer
            self.finished += 1
            if isinstance(answer, HttpResponse):
                return answer
            return answer(request)
        finally:
            self.under_way -= 1

    async def close(self) -> None:
        raise AssertionError("who made it closes it")

    @property
    def times(self) -> list[float]:
        """Seconds between the first request and each."""
        return [round(at - self.requests[0][0], 1) for at, _ in self.requests]


def says(body: Any, status: int = 200, **headers: str) -> HttpResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpResponse(status=status, headers=named, body=json.dumps(body).encode())


@pytest.fixture
def server() -> Server:
    return Server()
