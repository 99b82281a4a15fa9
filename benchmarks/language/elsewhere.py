"""A peer in a process of its own, in the environment that it is installed in: it has none of ours but this folder."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def run_elsewhere(python: str, module: str, job: dict[str, Any], *, seconds: int) -> None:
    """Run ``python -m module JOB``. Raises RuntimeError with the last line of what it says where it fails."""
    done = subprocess.run(
        [python, "-W", "ignore", "-m", module, json.dumps(job)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    if done.returncode:
        raise RuntimeError(f"the peer's process: {done.stderr.strip().splitlines()[-1]}")
