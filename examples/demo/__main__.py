"""`make demo`: run jobs, kill the process with SIGKILL in the middle, start it again, and show what happened.

    python -m examples.demo [FOLDER]

The pages are served by this process; the jobs run in another (worker.py), which is killed when the file and the site
say that the moment has come: some tasks recorded, one under way, some runs waiting. What is printed about it at the end
is computed from the file, from the notes of the bodies and from the site's visitors; if any of it is not so, the demo
fails.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from perdure import Run, RunStatus
from perdure.cli.render import RunTree, count

from .findings import Finding, Story, findings, remarks
from .plan import CANCELLED, CAPTIONS, ENDS
from .record import SETTLED, read_notes, read_runs
from .site import FLAKY_FAILURES, Site

ROOT = Path(__file__).parents[2]
SECONDS_MAX = 60.0
COLUMNS_MAX = 100


class DemoError(Exception):
    """The demo could not be shown."""


class Demo:
    """The show: what is printed while it happens, and the process that is killed."""

    def __init__(self, folder: Path, console: Console) -> None:
        self._console = console
        self._columns = min(console.width, COLUMNS_MAX)  # of rules and of the prose below them
        self._database, self._notes, self._log = (
            folder / name for name in ("jobs.db", "bodies.jsonl", "worker.log")
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for old in (self._notes, self._log, *folder.glob("jobs.db*")):
                old.unlink(missing_ok=True)
        except OSError as error:
            raise DemoError(f"the demo needs a folder for its files: {error}") from error
        self._began = time.monotonic()

    def run(self) -> bool:
        """Whether all that it promises held."""
        self._console.print(Text("perdure demo", "bold"), "- one job, six events, kill -9 in the middle\n")
        with Site(self._tell_visit) as site:
            self._tell(f"{site.url} serves pages: plain, slow, flaky, gone")
            with self._worker(site) as first:
                self._until(
                    "the moment to kill the process", first, lambda: _is_the_moment(self.runs(), site)
                )
                first.kill()
                first.wait()
            before = self.runs()
            self._tell_kill(first.pid, before)
            site.released.set()
            with self._worker(site) as second:
                self._until("the process to finish", second, lambda: second.poll() is not None)
            self._tell(f"process {second.pid} has seen all runs end, and ends")
        if second.returncode:
            raise DemoError(f"the second process ended with {second.returncode}:\n{self._log.read_text()}")
        story = Story(
            before=before,
            after=self.runs(),
            notes=read_notes(self._notes),
            visits=[path for path, _ in site.visits],
            first=first.pid,
            second=second.pid,
        )
        self._show_runs(story)
        found = findings(story)
        self._show_findings(found)
        self._show_how_to_look(story)
        return all(finding.holds for finding in found)

    def runs(self) -> dict[str, Run]:
        return read_runs(self._database)

    # --- while it happens --------------------------------------------------------------------------------------------

    @contextmanager
    def _worker(self, site: Site) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "examples.demo.worker", self._database, self._notes, site.url]
        with self._log.open("ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self._tell(f"process {process.pid} starts: examples/quickstart.py on {_shown(self._database)}")
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def _until(self, what: str, process: subprocess.Popen[bytes], holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS_MAX
        while not holds():
            state = {event_id: run.status.label for event_id, run in self.runs().items()}
            if process.poll() not in (None, 0):
                raise DemoError(f"process {process.pid} ended by itself:\n{self._log.read_text()}")
            if time.monotonic() > deadline:
                raise DemoError(
                    f"waited {SECONDS_MAX:g} s for {what}; runs: {state}\n{self._log.read_text()}"
                )
            time.sleep(0.02)

    def _tell(self, what: str, style: str = "") -> None:
        moment = f"{time.monotonic() - self._began:6.2f} s  "
        self._console.print(Text.assemble((moment, "dim"), (what, style)), soft_wrap=True)

    def _tell_visit(self, path: str, status: int | None) -> None:
        self._tell(f"   GET {path:8}{status or '... does not answer yet'}", "dim")

    def _tell_kill(self, pid: int, before: dict[str, Run]) -> None:
        recorded = sum(task.status in SETTLED for run in before.values() for task in run.tasks)
        waiting = sum(run.status is RunStatus.WAITING for run in before.values())
        self._tell(f"kill -9 {pid}", "bold red")
        self._tell(
            f"   in the file: {count(recorded, 'task')} recorded, {count(waiting, 'run')} waiting, /slow under way"
        )

    # --- afterwards --------------------------------------------------------------------------------------------------

    def _show_runs(self, story: Story) -> None:
        self._headline("The six runs")
        when = remarks(story)
        for event_id, run in story.after.items():
            self._console.print(Text.assemble((event_id, "bold"), f"  {CAPTIONS[event_id]}"))
            self._console.print(RunTree(run, annotations=when))
            self._console.print()

    def _show_findings(self, found: list[Finding]) -> None:
        self._headline("What you just saw", space_before=False)
        lines = Table.grid(padding=(0, 1))
        lines.width = self._columns
        ascii_only = self._console.options.ascii_only
        for finding in found:
            sign = ("+" if ascii_only else "✓") if finding.holds else ("x" if ascii_only else "✗")
            lines.add_row(Text(sign, "green" if finding.holds else "bold red"), Text(finding.sentence))
        self._console.print(lines)

    def _show_how_to_look(self, story: Story) -> None:
        self._headline("Look for yourself")
        perdure = _shown(Path(sys.executable).with_name("perdure"))
        database = _shown(self._database)
        for command in ("list", f"show {story.after['slow'].id}"):
            self._console.print(f"{perdure} runs {command} --db {database}", soft_wrap=True)
        self._console.print(
            Text("\nThe job is examples/quickstart.py. It takes URLs of your own, too:", "dim")
        )
        python = _shown(Path(sys.executable))
        self._console.print(f"{python} examples/quickstart.py https://example.com", soft_wrap=True)

    def _headline(self, title: str, *, space_before: bool = True) -> None:
        if space_before:
            self._console.print()
        self._console.print(Rule(Text(title, "bold"), align="left", style="dim"), width=self._columns)


def _is_the_moment(runs: dict[str, Run], site: Site) -> bool:
    """Some tasks are recorded, /slow is under way, the flaky page has failed twice, two runs wait, the others ended."""
    if list(runs) != list(ENDS) or not site.slow_is_asked.is_set() or site.count("/flaky") < FLAKY_FAILURES:
        return False
    if runs["plain"].status.is_terminal:
        raise DemoError(
            "this machine is too busy: a wait was over before the process could be killed; try again"
        )
    ended = all(runs[name].status is ENDS[name] for name in ("gone", "typo", CANCELLED))
    waiting = all(runs[name].status is RunStatus.WAITING for name in ("plain", "flaky"))
    return ended and waiting and bool(runs["slow"].tasks)


def _shown(path: Path) -> Path:
    """Relative to where the reader is, if it is below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def main() -> int:
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".demo"
    try:
        held = Demo(folder.absolute(), Console(highlight=False)).run()
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if not held:
        print("demo: what is marked with a cross above did not hold", file=sys.stderr)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
