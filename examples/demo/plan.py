"""What the demo sends, and how each run must end."""

from __future__ import annotations

from perdure import RunStatus

CANCELLED = "draft"

ENDS = {
    "plain": RunStatus.COMPLETED,
    "slow": RunStatus.COMPLETED,
    "flaky": RunStatus.COMPLETED,
    "gone": RunStatus.FAILED,
    "typo": RunStatus.INVALID_PAYLOAD,
    CANCELLED: RunStatus.CANCELLED,
}
"""Status in which the run of each event ends, by the event's id."""

CAPTIONS = {
    "plain": "A page as pages should be. Its run waits when the process is killed.",
    "slow": "A slow page. It is being fetched when the process is killed.",
    "flaky": "A page that answers 503 twice before it answers.",
    "gone": "A page that is gone (410). Asking again would not help.",
    "typo": "An event whose payload is no URL. The job's code never runs.",
    CANCELLED: "A run that is cancelled while it waits.",
}


def events(site: str) -> dict[str, object]:
    """Payloads of the events `foo.bar`, by id."""
    return {name: {"url": "htp:/plain" if name == "typo" else f"{site}/{name}"} for name in ENDS}
