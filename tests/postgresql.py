"""PostgreSQL for tests: a server of their own in a temporary folder, and databases on it.

`server()` starts Debian's (or anybody's) binaries; one server serves a test session, and a worker of xdist is a session.
PERDURE_TEST_POSTGRESQL=/path/to/bin names the folder of the binaries.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec import Struct

# Nothing survives a power cut of the machine that runs the tests; those that are about durability turn it on.
FAST = {"fsync": "off", "synchronous_commit": "on", "full_page_writes": "off"}


def binaries() -> Path | None:
    """The folder of the newest initdb, pg_ctl and postgres of this machine."""
    if named := os.environ.get("PERDURE_TEST_POSTGRESQL"):
        return Path(named)
    found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()]
    if found:
        return max(found, key=lambda path: float(path.parent.name))
    on_path = shutil.which("initdb")
    return None if on_path is None else Path(on_path).resolve().parent


class Server(Struct):
    """A running server. `url` is that of its first database, of the superuser `perdure_test`."""

    folder: Path
    port: int
    bin: Path
    user: str | None
    url: str

    def url_of(self, database: str) -> str:
        return self.url.replace("/postgres?", f"/{database}?")

    def ctl(self, *arguments: str) -> None:
        """pg_ctl on this server: `server.ctl("restart", "-m", "immediate")`."""
        log = self.folder / "log"
        subprocess.run(
            [self.bin / "pg_ctl", "-D", self.folder / "data", "-l", log, "-w", *arguments],
            check=True,
            user=self.user,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @property
    def pid(self) -> int:
        return int((self.folder / "data" / "postmaster.pid").read_text().split("\n")[0])


def unprivileged() -> str | None:
    """Whose name a server runs under: initdb refuses root. None: our own."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise RuntimeError("PostgreSQL doesn't run as root, and there is no user postgres or nobody")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def server(**settings: str) -> Iterator[Server]:
    """A server with an empty database, stopped and deleted at the end; `settings` go to its configuration."""
    found = binaries()
    assert found is not None, "there is no PostgreSQL: apt-get install postgresql"
    user = unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="perdure-postgresql-"))
    try:
        if user is not None:
            shutil.chown(folder, user)
        run = {"check": True, "user": user, "cwd": folder, "stdout": subprocess.DEVNULL}
        data, port = folder / "data", free_port()
        subprocess.run(
            [
                found / "initdb", "-D", data, "-U", "perdure_test", "-A", "trust", "-E", "UTF8",
                "--locale=C", "--locale-provider=icu", "--icu-locale=en-US", "--no-sync", "--no-instructions",
            ],
            **run,
        )  # fmt: skip
        configured = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": str(folder),
            "max_connections": "60",
            "shared_buffers": "64MB",
            "logging_collector": "off",
            **FAST,
            **settings,
        }
        lines = "".join(f"{name} = '{value}'\n" for name, value in configured.items())
        with (data / "postgresql.conf").open("a") as file:
            file.write(lines)
        url = f"postgresql://perdure_test@/postgres?host={folder}&port={port}"
        running = Server(folder=folder, port=port, bin=found, user=user, url=url)
        running.ctl("start")
        try:
            yield running
        finally:
            _stop(running)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stop(running: Server) -> None:
    """Immediately: whatever is in it is thrown away."""
    try:
        pid = running.pid
    except FileNotFoundError:
        return
    os.kill(pid, signal.SIGQUIT)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not (running.folder / "data" / "postmaster.pid").exists():
            return
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)


_count = itertools.count()


class Databases:
    """A running server, and ways to be alone on it."""

    def __init__(self, running: Server) -> None:
        self.server = running
        self.url = running.url

    def environment(self) -> str:
        """A new one, in the database that all tests share: cheaper than a database, and nobody's rows are in it."""
        return f"env{next(_count)}"

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a new, empty database."""
        name = f"test_{next(_count)}"
        self.sql(f"create database {name}")
        try:
            yield self.server.url_of(name)
        finally:
            self.sql(f"drop database {name} with (force)")

    def sql(self, statement: str, database: str = "postgres") -> str:
        """What psql says to a statement, one row a line."""
        done = subprocess.run(
            [
                self.server.bin / "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1",
                "-h", self.server.folder, "-p", str(self.server.port), "-U", "perdure_test", "-d", database,
                "-c", statement,
            ],
            check=True,
            capture_output=True,
            text=True,
            cwd=self.server.folder,
        )  # fmt: skip
        return done.stdout.strip()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Databases]:
    """One server for the session. Without PostgreSQL its tests are skipped, but not in CI, which installs it."""
    if binaries() is None:
        if os.environ.get("CI"):
            pytest.fail("CI has to install PostgreSQL: see .ci/run")
        pytest.skip("there is no PostgreSQL on this machine: apt-get install postgresql")
    pytest.importorskip("asyncpg", reason="asyncpg isn't installed: pip install 'perdure[postgresql]'")
    with server() as running:
        yield Databases(running)


@contextmanager
def pgbouncer(running: Server, pool_size: int = 4) -> Iterator[str]:
    """PgBouncer in transaction mode in front of a server: the URL of its first database, through it."""
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    folder = Path(tempfile.mkdtemp(prefix="perdure-pgbouncer-"))
    port = free_port()
    settings = {
        "listen_addr": "127.0.0.1",
        "listen_port": str(port),
        "unix_socket_dir": str(folder),
        "auth_type": "any",
        "pool_mode": "transaction",
        "default_pool_size": str(pool_size),
        "max_client_conn": "200",
        "logfile": str(folder / "log"),
        "pidfile": str(folder / "pid"),
    }
    lines = [f"{name} = {value}" for name, value in settings.items()]
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n* = host={running.folder} port={running.port} user=perdure_test\n"
        "[pgbouncer]\n" + "\n".join(lines) + "\n"
    )
    if running.user is not None:
        shutil.chown(folder, running.user)
    process = subprocess.Popen(
        [program, config], user=running.user, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 10
        while not (folder / f".s.PGSQL.{port}").exists():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, "PgBouncer didn't start"
            time.sleep(0.01)
        yield f"postgresql://perdure_test@/postgres?host={folder}&port={port}&pooler=transaction"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def pooled_url(postgresql: Databases) -> Iterator[str]:
    """The shared database, through PgBouncer in transaction mode."""
    if not (shutil.which("pgbouncer") or Path("/usr/sbin/pgbouncer").exists()):
        if os.environ.get("CI"):
            pytest.fail("CI has to install PgBouncer: see .ci/run")
        pytest.skip("there is no PgBouncer on this machine: apt-get install pgbouncer")
    with pgbouncer(postgresql.server) as url:
        yield url
