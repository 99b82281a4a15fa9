"""A scenario that takes two seconds, and how to write it down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SMALL: dict[str, Any] = {
    "name": "small",
    "model": {"source": "zoo:digits", "options": {"widths": [4, 8, 8]}},
    "data": {"source": "digits", "options": {"limit": 150}},
    "stages": [
        {"do": "train", "epochs": 2, "lr": 0.01},
        {"do": "measure", "num_runs": 3},
        {"do": "prune", "mode": "progressive", "constraints": {"macs": "70%"}, "options": {"steps": 2}},
        {"do": "prune", "mode": "magnitude", "constraints": {"params": "70%"}},
        {"do": "finetune", "epochs": 1, "distil": 0.5},
        {"do": "measure", "name": "small", "num_runs": 3},
        {"do": "export", "name": "taken away"},
        {"do": "report"},
    ],
}


def written(folder: Path, data: object = SMALL, name: str = "small.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(json.dumps(data), encoding="utf-8")
    return file
