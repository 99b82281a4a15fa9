"""The scores that a search looked at, for whoever wants to see where it cut.

    from the search's journal where it keeps one, else made again from the network as it was

Invariant: nothing is scored that would take another pass over much data; what is not known is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
from torch import nn

from secateur.core.plan import Plan
from secateur.errors import SecateurError
from secateur.modes import Activation, FastNAS, Magnitude, Mode
from secateur.modes.journalled import journal_path
from secateur.torch.frontend import TorchFrontend
from secateur.torch.trace import trace

Scores: TypeAlias = Mapping[str, tuple[float, ...]]
MOST_UNITS = 20_000


def scores_before(model: nn.Module, example: object, mode: Mode) -> Scores:
    """Scores of the units of each free width, where they can be had without much work."""
    if not isinstance(mode, Magnitude | Activation | FastNAS):
        return {}
    graph = trace(model, example)
    try:
        frontend = TorchFrontend.of(model, graph, mode)
        made = TorchFrontend(model, graph, frontend.data if isinstance(mode, Activation) else None)
        found = made.judge(mode.criterion)(graph)
    except SecateurError:  # a criterion that needs data, which the search itself will have
        return {}
    return _limited({name: np.asarray(values) for name, values in found.items()})


def scores_in(search: Path, plan: Plan, steps: int) -> Scores:
    """Scores of the first round, from the journal of a search."""
    assert plan.graph is not None
    file = journal_path(search, plan.graph, steps)
    if not file.is_file():
        return {}
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    found = {line["key"]: line["values"].get("scores") for line in lines if "key" in line}
    return _limited({name: np.asarray(values) for name, values in found.items() if values is not None})


def _limited(scores: Mapping[str, np.ndarray]) -> Scores:
    flat = {name: values for name, values in scores.items() if values.ndim == 1 and np.isfinite(values).all()}
    if sum(len(values) for values in flat.values()) > MOST_UNITS:
        return {}
    return {name: tuple(map(float, values)) for name, values in flat.items()}
