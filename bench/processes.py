"""Parts of a workload that need a process of their own: to be measured from its start, or to be killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def start(module: str, *arguments: object) -> subprocess.Popen[bytes]:
    """`python -m bench.<module> <arguments>`."""
    command = [sys.executable, "-m", f"bench.{module}", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


def answer(module: str, *arguments: object) -> dict[str, Any]:
    """What such a process prints, as one JSON object; raises CalledProcessError if it fails."""
    with start(module, *arguments) as process:
        out, _ = process.communicate()
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return json.loads(out)
