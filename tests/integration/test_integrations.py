"""Integrations of jobs: what `io.<name>` is, and where their credentials come from."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from perdure import Auth, ConflictError, Integration, RunStatus, UsageError

S = RunStatus


class Mail(Integration):
    """Sends mail: notes in `sent` with which token."""

    def __init__(self, id: str = "mail", **options: Any) -> None:
        super().__init__(id, **options)
        self.sent: list[Any] = []

    def for_run(self, io, key, auth):
        return MailInRun(self, io, key, auth)


class MailInRun:
    def __init__(self, mail, io, key, auth):
        self._mail, self._io, self._key = mail, io, key
        self.auth = auth

    def send(self, key, text):
        token = self.auth.token if self.auth is not None else "own"
        return self._io.run_task([self._key, key], lambda: self._mail.sent.append((token, text)))


class NeedsResolver(Mail):
    needs_resolver = True


def token(ctx, integration):
    return Auth(type="apiKey", token="secret-token")


async def sends(payload, io, ctx):
    await io.mail.send("hello", "Hello")
    await io.wait("pause", 3600)
    await io.mail.send("bye", "Bye")


async def test_integration_without_a_resolver_uses_its_own_credentials(app):
    mail = Mail()

    run = await app.run(sends, options={"integrations": {"mail": mail}})

    assert run.status is S.COMPLETED
    assert mail.sent == [("own", "Hello"), ("own", "Bye")]
    assert [task.key for task in run.tasks if "pause" not in task.key] == [
        '["mail", "hello"]',
        '["mail", "bye"]',
    ]


@pytest.mark.parametrize("kind", ["plain", "async", "object", "dict", "camel"])
async def test_resolver_gives_the_credentials(app, kind):
    mail, asked = Mail(), []

    def resolve(ctx, integration):
        asked.append((ctx.run.id, integration))
        match kind:
            case "dict":
                return {"type": "apiKey", "token": "t"}
            case "camel":
                return {"type": "oauth", "token": "t", "additionalFields": {"team": "x"}}
            case _:
                return Auth(type="oauth", token="t", additional_fields={"team": "x"})

    async def resolve_async(ctx, integration):
        await asyncio.sleep(1)
        return resolve(ctx, integration)

    class Resolver:
        async def __call__(self, ctx, integration):
            return resolve(ctx, integration)

    resolver = {"async": resolve_async, "object": Resolver()}.get(kind, resolve)
    app.client.define_auth_resolver(mail, resolver)
    app.define(sends, integrations={"mail": mail})
    async with app.embedded():
        run = await app.end_of(await app.start("sends"))

    assert run.status is S.COMPLETED
    assert mail.sent == [("t", "Hello"), ("t", "Bye")]
    assert asked == [(run.id, mail)] * 2  # once per execution


async def test_resolver_knows_the_account(app):
    mail = Mail()

    @app.client.auth_resolver("mail")
    async def of_account(ctx, integration):
        return Auth(type="oauth", token=f"token of {ctx.account.id}")

    app.define(sends, integrations={"mail": mail})
    async with app.embedded():
        event = await app.client.send_event("sends", account_id="user_1")
        await app.end_of(event.runs[0].id)

    assert mail.sent[0][0] == "token of user_1"


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
async def test_run_whose_auth_cannot_be_resolved_ends_and_can_be_continued(app, is_async):
    mail, works = Mail(), []

    def resolver(ctx, integration):
        if not works:
            raise ValueError("no such account")
        return Auth(type="apiKey", token="t")

    def sends_sync(payload, io, ctx):
        io.mail.send("hello", "Hello")
        io.wait("pause", 3600)
        io.mail.send("bye", "Bye")

    app.client.define_auth_resolver(mail, resolver)
    app.define(sends if is_async else sends_sync, id="sends", integrations={"mail": mail})
    async with app.embedded():
        run = await app.end_of(await app.start("sends"))
        listed = await app.client.get_runs(status=S.UNRESOLVED_AUTH)
        works.append("now")
        await app.client.continue_run(run.id)
        continued = await app.end_of(run.id)

    assert run.status is S.UNRESOLVED_AUTH
    assert run.error.name == "UnresolvedAuth"
    assert run.error.message == (
        "mail: Auth could not be resolved for mail: auth resolver threw. ValueError: no such account"
    )
    assert "no such account" in run.error.stack
    assert run.tasks == []
    assert [each.id for each in listed] == [run.id]
    assert continued.status is S.COMPLETED
    assert continued.error is None
    assert [text for _, text in mail.sent] == ["Hello", "Bye"]


async def test_auth_lost_in_the_middle_of_a_run(app):
    mail, lost = Mail(), []
    app.client.define_auth_resolver(mail, lambda ctx, integration: None if lost else token(ctx, integration))
    app.define(sends, integrations={"mail": mail})
    async with app.embedded():
        started = await app.start("sends")
        await app.client.drain()
        lost.append(True)
        run = await app.end_of(started)
        lost.clear()
        await app.client.continue_run(run.id)
        continued = await app.end_of(run.id)

    assert run.status is S.UNRESOLVED_AUTH
    assert continued.status is S.COMPLETED
    assert [text for _, text in mail.sent] == ["Hello", "Bye"]


SECRET = "sk-do-not-show"


@pytest.mark.parametrize(
    "given, said",
    [
        pytest.param(None, "auth resolver returned None", id="none"),
        pytest.param(SECRET, "returned no Auth, but a str", id="text"),
        pytest.param({"token": SECRET}, "a dict that has not just type, token", id="no type"),
        pytest.param({"type": "apiKey", "token": SECRET, "x": 1}, "a dict that has not just", id="more"),
        pytest.param({"type": "other", "token": SECRET}, 'neither "apiKey" nor "oauth"', id="type"),
        pytest.param({"type": "apiKey", "token": ""}, "an empty one", id="empty"),
        pytest.param({"type": "apiKey", "token": [SECRET]}, "no string", id="list"),
    ],
)
async def test_what_is_no_auth_is_said_without_showing_it(app, given, said, caplog):
    app.client.define_auth_resolver("mail", lambda ctx, integration: given)
    run = await app.run(sends, options={"integrations": {"mail": Mail()}})

    assert run.status is S.UNRESOLVED_AUTH
    assert run.error.message.startswith("mail: Auth could not be resolved for mail: auth resolver returned ")
    assert said in run.error.message
    assert SECRET not in repr(run) + repr(run.error) + caplog.text


async def test_integration_that_needs_a_resolver(app):
    run = await app.run(sends, options={"integrations": {"mail": NeedsResolver()}})

    assert run.status is S.UNRESOLVED_AUTH
    assert "Integration mail is missing auth credentials" in run.error.message
    assert "define_auth_resolver" in run.error.message


async def test_every_integration_without_auth_is_named(app):
    async def job(payload, io, ctx):
        app.done.append("ran")

    def refuses(ctx, integration):
        raise PermissionError("expired")

    for name in ("a", "c"):
        app.client.define_auth_resolver(name, refuses)
    run = await app.run(job, options={"integrations": {"x": Mail("a"), "y": Mail("b"), "z": Mail("c")}})

    assert run.error.message.splitlines() == [
        "x: Auth could not be resolved for a: auth resolver threw. PermissionError: expired",
        "z: Auth could not be resolved for c: auth resolver threw. PermissionError: expired",
    ]
    assert app.done == []


async def test_resolver_that_hangs_is_given_up(app):
    async def hangs(ctx, integration):
        await asyncio.sleep(1_000_000)

    app.client.define_auth_resolver("mail", hangs)
    run = await app.run(sends, options={"integrations": {"mail": Mail()}})

    assert run.status is S.UNRESOLVED_AUTH
    assert "TimeoutError: it took longer than 60 s" in run.error.message
    assert run.execution_duration.total_seconds() < 100


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
async def test_run_cancelled_while_its_auth_is_resolved(app, is_async):
    def never_sends(payload, io, ctx):
        app.done.append("ran")

    async def slow(ctx, integration):
        try:
            await asyncio.sleep(30)
        finally:
            app.done.append("left")
        return token(ctx, integration)

    app.client.define_auth_resolver("mail", slow)
    app.define(sends if is_async else never_sends, id="sends", integrations={"mail": Mail()})
    async with app.embedded():
        started = await app.start("sends")
        await asyncio.sleep(1)
        run = await app.client.cancel_run(started)
        await asyncio.sleep(60)

    assert run.status is S.CANCELLED
    assert app.done == ["left"]


async def test_unresolved_auth_is_told_to_on_failure(app):
    told = []
    app.client.define_auth_resolver("mail", lambda ctx, integration: None)
    app.define(sends, integrations={"mail": Mail()}, on_failure=told.append)
    async with app.embedded():
        run = await app.end_of(await app.start("sends"))
        await app.client.drain()

    assert [(each.id, each.status, each.error) for each in told] == [(run.id, S.UNRESOLVED_AUTH, run.error)]


async def test_the_same_service_twice(app):
    one, two = Mail("mail-one"), Mail("mail-two")
    app.client.define_auth_resolver(one, lambda ctx, integration: Auth(type="apiKey", token=integration.id))

    async def job(payload, io, ctx):
        await io.one.send("k", "1")
        await io.two.send("k", "2")

    run = await app.run(job, options={"integrations": {"one": one, "two": two}})

    assert run.status is S.COMPLETED
    assert one.sent == [("mail-one", "1")]
    assert two.sent == [("own", "2")]


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
async def test_integration_that_isnt_there_is_said_to_be_missing(app, is_async):
    async def job(payload, io, ctx):
        await io.maill.send("k", "x")

    def job_sync(payload, io, ctx):
        io.maill.send("k", "x")

    run = await app.run(job if is_async else job_sync, options={"integrations": {"mail": Mail()}})

    assert run.error.name == "AttributeError"
    assert "io has no 'maill'" in run.error.message
    assert "it has mail" in run.error.message


async def test_io_of_a_job_without_integrations(app):
    async def job(payload, io, ctx):
        return [hasattr(io, "slack"), hasattr(io, "_secret"), hasattr(io, "run_task")]

    assert (await app.run(job)).output == [False, False, True]


@pytest.mark.parametrize("key", ["wait", "store", "_mail", "my mail", "", "logger"])
def test_names_that_io_cannot_have_are_refused(app, key):
    with pytest.raises(UsageError, match="an integration can't be called"):
        app.define(sends, integrations={key: Mail()})


def test_what_is_no_integration_or_resolver_is_refused(app):
    with pytest.raises(UsageError, match="is no Integration"):
        app.define(sends, integrations={"mail": object()})
    with pytest.raises(UsageError, match="isn't callable"):
        app.client.define_auth_resolver("mail", "token")
    app.client.define_auth_resolver("mail", token)
    with pytest.raises(ConflictError, match="has an auth resolver for integration 'mail'"):
        app.client.define_auth_resolver(Mail(), token)
    with pytest.raises(UsageError, match="needs an id"):
        Mail("")


async def test_token_is_neither_stored_nor_shown(app, caplog):
    mail = Mail()
    app.client.define_auth_resolver(mail, lambda ctx, integration: Auth(type="apiKey", token=SECRET))

    async def job(payload, io, ctx):
        shown = f"{io.mail.auth} {io.mail.auth!r}"
        io.logger.info(shown)
        await io.run_task("work", lambda: None)
        raise RuntimeError(f"with {io.mail.auth}")

    run = await app.run(job, options={"integrations": {"mail": mail}})

    assert run.error.message == "with Auth(type='apiKey', token='********')"
    assert SECRET not in caplog.text
    folder = Path(app.url.removeprefix("sqlite:///")).parent
    assert all(SECRET.encode() not in file.read_bytes() for file in folder.iterdir() if file.is_file())
    with sqlite3.connect(app.url.removeprefix("sqlite:///")) as database:
        assert SECRET not in "".join(database.iterdump())
