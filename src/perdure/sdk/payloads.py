"""Payloads against the schema that a job gives: parsed from JSON once, at the edge, with all that is wrong listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from perdure.errors import InvalidPayloadError, UsageError

from . import _models
from ._annotations import survey
from .values import to_json


@dataclass(frozen=True)
class Example:
    """A payload to try a job with, offered by the dashboard's test page.

    Attributes:
        id: unique among the examples of one trigger.
        name: as shown.
        payload: anything `send_event` takes; checked against the trigger's schema when the trigger is defined.
        icon: name of an icon, None for the default.
    """

    id: str
    name: str
    payload: Any = None
    icon: str | None = None


class PayloadSchema:
    """Parses payloads into a type: pydantic model, dataclass, TypedDict, Struct, `list[int]`, ...; None takes any JSON.

    Example: `PayloadSchema(FooBar).parse('{"url": "https://example.com"}', job_id="event-1")`

    Raises:
        UsageError: neither pydantic nor msgspec can handle the type.
    """

    def __init__(self, schema: Any = None) -> None:
        self.type = schema
        self._adapter: _models.Adapter | None = None
        if schema is None or schema is Any:
            return
        found = survey(schema)
        try:
            self._adapter = (
                _models.PydanticPayload(schema)
                if found.pydantic
                else _models.adapter_for(schema, pydantic=False)
            )
        except _models.UnsupportedTypeError as exc:
            raise UsageError(f"the payload schema can't be used: {exc}") from exc

    def parse(self, text: str, *, job_id: str) -> Any:
        """The payload in JSON text `text`, as the schema's type.

        Raises:
            InvalidPayloadError: it doesn't fit; `issues` has the path and message of each place.
        """
        try:
            return msgspec.json.decode(text) if self._adapter is None else self._adapter.load(text)
        except _models.MisfitError as misfit:
            raise InvalidPayloadError(job_id=job_id, issues=misfit.issues) from misfit.__cause__
        except (msgspec.DecodeError, UnicodeError) as exc:
            raise InvalidPayloadError(
                job_id=job_id, issues=[{"path": [], "message": f"isn't valid JSON: {exc}"}]
            ) from exc

    def json_schema(self) -> dict[str, Any] | None:
        """JSON schema of payloads; None if any JSON will do or the type has none."""
        if self._adapter is None:
            return None
        try:
            return self._adapter.schema()
        except Exception:  # noqa: BLE001  (types without a JSON schema are refused in several ways)
            return None

    def check_examples(self, examples: Sequence[Example], *, where: str) -> list[dict[str, Any]]:
        """The examples as the wire has them, {"id", "name", "payload", "icon"?}, each checked against the schema.

        Raises:
            UsageError: one doesn't fit, or two have the same id; the message begins with `where`.
        """
        checked: dict[str, dict[str, Any]] = {}
        for example in examples:
            if example.id in checked:
                raise UsageError(
                    f"{where}: two examples have the id {example.id!r}; give each an id of its own"
                )
            text = to_json(example.payload, where=f"payload of example {example.id!r}")
            try:
                self.parse(text, job_id=where)
            except InvalidPayloadError as exc:
                issues = "; ".join(f"{_dotted(issue['path'])}: {issue['message']}" for issue in exc.issues)
                raise UsageError(
                    f"{where}: the example {example.id!r} doesn't fit the schema: {issues}"
                ) from exc
            entry = {"id": example.id, "name": example.name, "payload": msgspec.json.decode(text)}
            checked[example.id] = entry if example.icon is None else entry | {"icon": example.icon}
        return list(checked.values())


def _dotted(path: list[Any]) -> str:
    return ".".join(map(str, path)) or "(payload)"
