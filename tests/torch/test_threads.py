"""Eight threads trace, prune and verify, beside one that serves, and two whose own modes are active: nobody notices anybody.

    workers    trace ─ prune ─ verify, each its own network, again and again
    server     answers requests with one of these networks meanwhile
    users      run a network of theirs under a TorchFunctionMode, a TorchDispatchMode

Invariant: graphs, answers and what the modes see are those of a process with one thread; the process is left as it was.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from tests.interruptions.networks import SUBJECTS, Subject
from tests.interruptions.process import process_changes, process_state
from tests.interruptions.state import State
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import secateur as sc
from secateur.core.json.graph import graph_to_json
from secateur.pruners import IterativePruner

WORKERS = ("residual", "mobile", "vision", "tagger", "experts", "tied", "parametrised", "residual")
ROUNDS = 2


class CountingFunctions(TorchFunctionMode):
    """A user's own mode: it counts what it sees."""

    calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


class CountingOperators(TorchDispatchMode):
    """Another one, a level below."""

    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def half(graph: sc.Graph) -> dict[str, int]:
    smallest = graph.cost("params", {width.name: width.choices[0] for width in graph.free})
    return {"params": (graph.params + int(smallest)) // 2}


@dataclass(frozen=True, slots=True)
class Desk:
    """A worker's network, an example, and copies of the network to prune; made beforehand, since that draws numbers."""

    model: nn.Module
    inputs: Any
    copies: list[nn.Module]

    @classmethod
    def of(cls, subject: Subject, copies: int) -> Desk:
        return cls(subject.build().eval(), subject.inputs(2), [subject.build() for _ in range(copies)])


def work(desk: Desk) -> set[str]:
    """Trace a network, narrow copies of it and others like it, all verified; the graphs and plans that were found."""
    found = set()
    for copy in desk.copies:
        graph = sc.trace(desk.model, desk.inputs)
        plan = sc.plan(graph, "l1", half(graph))
        assert sc.verify(desk.model, plan, graph).passed
        sc.apply(desk.model, plan)
        _, result = sc.prune(copy, "magnitude", half(graph), desk.inputs)
        found |= {graph_to_json(replace(graph, seconds={})), f"{plan.kept}", f"{result.plan.kept}"}
    return found


@contextmanager
def in_background(action: Callable[[], None]) -> Iterator[None]:
    """Something that goes on, again and again, while the block runs; what it raises, the block's end raises."""
    over, raised = threading.Event(), []

    def loop() -> None:
        try:
            while not over.is_set():
                action()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if raised:
        raise raised[0]


def serving(model: nn.Module, inputs: Tensor) -> Callable[[], None]:
    """Requests to a network, whose answers must be the ones it gave before."""
    with torch.no_grad():
        expected = model(inputs)

    def serve() -> None:
        with torch.no_grad():
            assert torch.equal(model(inputs), expected), "a served output changed"

    return serve


def under(mode: Callable[[], AbstractContextManager[Any]]) -> Callable[[], None]:
    """A network of the user's own under a mode of the user's own, which must see the same each time."""
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.MultiheadAttention(6, 2)).eval()
    x = torch.randn(3, 4)

    def seen() -> tuple[int, Tensor]:
        with mode() as counting, torch.no_grad():
            h = model[1](model[0](x))
            out = model[2](h, h, h)[0]
        return counting.calls, out

    calls, expected = seen()

    def run() -> None:
        again, out = seen()
        assert again == calls, f"the mode saw {again} calls instead of {calls}"
        assert torch.equal(out, expected)

    return run


@pytest.fixture
def often_switched() -> Iterator[None]:
    """Threads take turns after a tenth of a millisecond: what can go wrong does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


def test_threads_trace_prune_and_verify_beside_one_that_serves_and_users_with_modes(often_switched: None) -> None:
    alone = [work(Desk.of(SUBJECTS[name], 1)) for name in WORKERS]
    desks = [Desk.of(SUBJECTS[name], ROUNDS) for name in WORKERS]
    served, others = desks[0], [desk.model for desk in desks[1:]]
    weights = {name: tensor.clone() for name, tensor in served.model.state_dict().items()}
    beside = [serving(served.model, served.inputs), under(CountingFunctions), under(CountingOperators)]
    state, process = State.of({"models": others}), process_state()
    with (
        in_background(beside[0]),
        in_background(beside[1]),
        in_background(beside[2]),
        ThreadPoolExecutor(len(desks)) as pool,
    ):
        together = list(pool.map(work, desks))
    assert together == alone
    assert not state.changes(State.of({"models": others}))
    assert all(torch.equal(weights[name], tensor) for name, tensor in served.model.state_dict().items())
    assert not process_changes(process, process_state())


def small_network() -> nn.Module:
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.Flatten(), nn.Linear(80, 4)]
    return nn.Sequential(*layers)


def judgements(model: nn.Module, x: Tensor) -> list[Callable[[], Any]]:
    """What looks at a model with data: criteria of every kind, and a search that scores candidates."""
    batches = [(x, torch.arange(len(x)) % 4)] * 2
    graph = sc.trace(model, x[:1])

    def scored(name: str) -> Callable[[], Any]:
        criterion = sc.criteria.CRITERIA[name]()
        given = replace(criterion, data_loader=batches)  # type: ignore[type-var]
        return lambda: {width: values.tolist() for width, values in given(graph, model).items()}

    def analysed() -> Any:
        pruner = IterativePruner(model, x[:1])
        found = pruner.analyze(lambda m: float(m(x).softmax(1).var()), ratios=(0.5,), data_loader=[x])
        return {name: dict(curve) for name, curve in found.scores.items()}

    return [*map(scored, ("taylor", "fisher", "gate_gradient", "second_moment", "apoz")), analysed]


def test_criteria_and_searches_look_at_a_model_that_serves_and_asks_for_gradients(often_switched: None) -> None:
    model, x = small_network().eval(), torch.randn(8, 3, 8, 8)
    model[3].weight.grad = torch.ones_like(model[3].weight)
    looks = judgements(model, x)
    alone = [look() for look in looks]
    state, process = State.of({"model": model}), process_state()
    with in_background(serving(model, x)), ThreadPoolExecutor(len(looks)) as pool:
        together = list(pool.map(lambda look: look(), looks))
    assert together == alone
    assert not state.changes(State.of({"model": model}))
    assert not process_changes(process, process_state())
    assert all(p.requires_grad for p in model.parameters())
