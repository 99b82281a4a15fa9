"""The calls that are interrupted. Each takes a fresh workplace and says what it may change.

Invariant: a call is deterministic: made twice on two equal networks it leaves equal states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import secateur as sc
from secateur.core.graph import Graph
from secateur.core.json.graph import graph_to_json
from secateur.core.plan import Plan
from secateur.torch.narrowing import in_place as streaming

from .networks import Subject
from .state import Document


class Workplace:
    """A network with all that a call needs; ``roots`` is what is compared."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.model = subject.build()
        self.inputs = subject.inputs(2)
        self.loader = [subject.inputs(4, seed) for seed in (1, 2)]
        self.graph = sc.trace(self.model, self.inputs)
        self.budget = half_way(self.graph)
        self.plan = sc.plan(self.graph, "l1", self.budget)

    @property
    def roots(self) -> dict[str, object]:
        """What no call may change unless it says so."""
        return {
            "model": self.model, "inputs": self.inputs, "loader": self.loader,
            "graph": described(self.graph), "plan": described(self.plan), **self.subject.outside(),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Call:
    """``run(workplace)`` is what gets interrupted; ``changes`` the model if it is not."""

    name: str
    run: Callable[[Workplace], Any]
    changes: bool = False


def half_way(graph: Graph) -> dict[str, int]:
    """A budget between the smallest network and the whole one."""
    smallest = graph.cost("params", {width.name: width.choices[0] for width in graph.free})
    return {"params": (graph.params + int(smallest)) // 2}


def described(result: Any) -> Any:
    """What counts of a result: graphs and plans fill caches of their own as they are asked."""
    if isinstance(result, Graph):
        return Document.of(graph_to_json(replace(result, seconds={})))
    return Document.of(result.to_json()) if isinstance(result, Plan) else result


def outcome(output: Any, batch: Any) -> Tensor:
    """A loss of any output."""
    found = output if isinstance(output, Tensor) else output.logits
    return found.float().square().mean()


def _itself(batch: Any) -> Any:
    return batch


def options(work: Workplace, **more: Any) -> dict[str, Any]:
    """Few data, no labels."""
    return {"data_loader": work.loader, "collect_func": _itself, "loss_func": outcome, "num_batches": 2, **more}


@contextmanager
def tensor_by_tensor() -> Iterator[None]:
    """As large networks are narrowed."""
    limit = streaming.LARGE_BYTES
    try:
        streaming.LARGE_BYTES = -1
        yield
    finally:
        streaming.LARGE_BYTES = limit


def _large(run: Callable[[Workplace], Any]) -> Callable[[Workplace], Any]:
    def streamed(work: Workplace) -> Any:
        with tensor_by_tensor():
            return run(work)

    return streamed


def _subnet(work: Workplace) -> None:
    with sc.subnet(work.model, work.plan, data_loader=work.loader, collect_func=_itself) as small:
        assert sum(p.numel() for p in small.parameters()) <= work.budget["params"]


def _prune(mode: str, *, with_data: bool = True, **config: Any) -> Callable[[Workplace], Any]:
    def run(work: Workplace) -> nn.Module:
        given = options(work) if with_data else {}
        return sc.prune(work.model, mode, work.budget, work.inputs, {**given, **config})[0]

    return run


def _score(model: nn.Module) -> float:
    with torch.no_grad():
        return float(sum(p.abs().sum() for p in model.parameters()))


CALLS = (
    Call("trace", lambda work: sc.trace(work.model, work.inputs)),
    Call("plan", lambda work: sc.plan(work.graph, "l2", work.budget)),
    Call("verify", lambda work: sc.verify(work.model, work.plan, work.graph)),
    Call("subnet", _subnet),
    Call("apply", lambda work: sc.apply(work.model, work.plan)),
    Call("apply unverified", lambda work: sc.apply(work.model, work.plan, verify=False)),
    Call("apply in place", lambda work: sc.apply(work.model, work.plan, in_place=True), changes=True),
    Call("apply in place unverified", lambda w: sc.apply(w.model, w.plan, in_place=True, verify=False), changes=True),
    Call("apply large", _large(lambda work: sc.apply(work.model, work.plan, in_place=True)), changes=True),
    Call(
        "apply large unverified",
        _large(lambda work: sc.apply(work.model, work.plan, in_place=True, verify=False)),
        changes=True,
    ),
    Call("prune", _prune("magnitude", with_data=False), changes=True),
    Call("prune unverified", _prune("magnitude", with_data=False, verify=False), changes=True),
    Call("prune gradnas", _prune("gradnas"), changes=True),
    Call("prune progressive", _prune("progressive", steps=2, scoring_samples=4, calibration_samples=8), changes=True),
    Call("prune fastnas", _prune("fastnas", score_func=_score, max_evaluations=4), changes=True),
)
