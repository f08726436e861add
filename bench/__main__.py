"""`make bench`, or `python -m bench --only W3 --repeats 5`."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from . import (
    w1_noop_runs,
    w2_tasks,
    w3_sequential,
    w4_latency,
    w5_waiting,
    w6_kill,
    w7_children,
    w8_history,
    w9_fairness,
)
from .workload import Line, fsync_ms, measure

WORKLOADS = {
    module.WORKLOAD.id: module.WORKLOAD
    for module in (
        w1_noop_runs,
        w2_tasks,
        w3_sequential,
        w4_latency,
        w5_waiting,
        w6_kill,
        w7_children,
        w8_history,
        w9_fairness,
    )
}


def main(
    only: Annotated[list[str] | None, typer.Option(help="W1, W2 ...; may be repeated.")] = None,
    quick: Annotated[
        bool, typer.Option(help="Small sizes, once: does it work? Targets aren't judged.")
    ] = False,
    repeats: Annotated[
        int, typer.Option(help="How often each is measured, in turn with its floor; long ones once.")
    ] = 3,
    folder: Annotated[
        Path | None, typer.Option(help="Where databases are made; a RAM disk hides fsync.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Measure perdure beside the floor: the least that the same durable rows cost on this machine."""
    wanted = list(only or WORKLOADS)
    if unknown := [name for name in wanted if name not in WORKLOADS]:
        raise typer.BadParameter(f"no workload {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    fsync = fsync_ms(folder)
    lines: list[Line] = []
    console = Console(stderr=True)
    for name in wanted:
        with console.status(f"{name}: {WORKLOADS[name].what.format(size=WORKLOADS[name].size)}"):
            lines += measure(WORKLOADS[name], quick=quick, repeats=1 if quick else repeats, folder=folder)
    if as_json:
        typer.echo(
            json.dumps({"fsync_ms": fsync, "lines": [dataclasses.asdict(line) for line in lines]}, indent=2)
        )
    else:
        Console(width=None if console.is_terminal else 140).print(_table(lines, fsync))


def _table(lines: list[Line], fsync: float) -> Table:
    table = Table(
        title="perdure beside its floor",
        caption=f"floor: the least that the same durable rows cost here · {os.cpu_count()} CPUs, "
        f"load {os.getloadavg()[0]:.1f}, one fsync {fsync:.2f} ms · medians; ratio = perdure / floor",
    )
    for name in ("", "workload", "figure"):
        table.add_column(name)
    for name in ("perdure", "floor", "ratio", "target", "met"):
        table.add_column(name, justify="right")
    last = ""
    for line in lines:
        if line.workload != last and last:
            table.add_section()
        first = line.workload != last
        table.add_row(
            line.workload if first else "",
            line.what if first else "",
            line.figure,
            _number(line.perdure),
            _number(line.floor),
            "" if line.ratio is None else f"{line.ratio:.2f}",
            line.target or "",
            {True: "[green]yes", False: "[red]no", None: ""}[line.met],
        )
        last = line.workload
    return table


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


typer.run(main)
