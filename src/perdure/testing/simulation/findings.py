"""Broken promises: where checks report them, and how a simulation learns that it can stop."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from .trace import Trace

FINDINGS_MAX = 20
"""Of one seed; what follows the first few is mostly their consequence."""


@dataclass(frozen=True)
class Finding:
    """`promise`: which one (a short phrase, as in docs/reliability.md); `what`: how it was broken, with ids."""

    promise: str
    what: str

    def __str__(self) -> str:
        return f"{self.promise}: {self.what}"


class Findings:
    """Those of one seed. `any` is set with the first."""

    def __init__(self, trace: Trace) -> None:
        self.all: list[Finding] = []
        self.any = asyncio.Event()
        self._trace = trace

    def add(self, promise: str, what: str) -> None:
        finding = Finding(promise, what)
        if len(self.all) < FINDINGS_MAX and finding not in self.all:
            self._trace.add("FOUND", str(finding))
            self.all.append(finding)
        self.any.set()
