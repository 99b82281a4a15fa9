"""Whether Secateur does to one architecture what it promises to do to any.

    build ──► prune to half ──► same outputs' shapes? ──► costs as foretold? ──► saved = restored? ──► trains?

Half means half of the MACs; half of the parameters where MACs cannot get there (width-bound); else the least there is.

Invariant: an outcome is `passed`, `refused` (a typed error, whose sentence is kept) or `failed` (anything else at all).
"""

from __future__ import annotations

import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

import secateur
from secateur.core.graph import Graph
from secateur.errors import ApplyError, Infeasible, SecateurError, VerificationError
from secateur.torch.running.interface import pinned
from secateur.torch.running.outputs import output_tensors

from .entry import Entry, Inputs, forward

Outcome = Literal["passed", "refused", "failed"]
Step = Literal["done", "n/a", ""]

_WRONG = (VerificationError, ApplyError)  # typed, but they say that a plan of ours was no good
_LEARNING_RATE = 1e-4
_VALUE_DEPENDENT = ("macs", "peak_activation_bytes", "peak_memory_bytes")
Numbers = list[tuple[list[str], int]]  # of each parameter: its names, and how many

_FIXED = "no width at all: sizes of one, or parts of a fixed layout"


class Wrong(Exception):
    """The narrowed model is not what was promised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """What a graph says: the share of parameters that a free width reaches, numbers of widths, why some are frozen."""

    reachable: float
    num_free: int
    num_frozen: int
    num_exact: int
    reasons: dict[str, int]  # reason -> parameters it holds back
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of one entry; ``reached`` names the budget and the share of it that remains."""

    name: str
    outcome: Outcome
    why: str = ""
    reached: str = ""
    anatomy: Anatomy | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    difference: float | None = None
    num_compared: int = 0
    num_not_compared: int = 0
    training_step: Step = ""

    @property
    def family(self) -> str:
        """timm, torchvision or hf."""
        return self.name.partition("/")[0]


def judge(entry: Entry) -> Verdict:
    """Put one architecture through everything. Never raises for what Secateur did."""
    record: dict[str, Any] = {"name": entry.name}
    try:
        _judge(entry, record)
    except SecateurError as error:
        outcome: Outcome = "failed" if isinstance(error, _WRONG) else "refused"
        return Verdict(**record, outcome=outcome, why=_sentence(error))
    except Exception as error:
        return Verdict(**record, outcome="failed", why=_sentence(error))
    return Verdict(**record, outcome="passed")


def _judge(entry: Entry, record: dict[str, Any]) -> None:
    model, inputs = entry.build(), entry.inputs()
    whole = shape_of(_run(model, inputs))
    numbers = numbers_of(model)  # before: a network that was narrowed has lost most of what is reachable
    model, result, record["reached"] = prune_to_half(
        model, inputs, lambda g: record.update(anatomy=anatomy(g, numbers))
    )
    record["seconds"] = dict(result.seconds)
    record["difference"] = result.verification.max_difference
    record["num_compared"] = len(result.verification.compared)
    record["num_not_compared"] = len(result.verification.not_compared)
    if not result.verification.passed:
        raise Wrong(f"not verified: {result.verification}")
    narrowed = shape_of(_run(model, inputs))
    if narrowed != whole:
        raise Wrong(f"the output was {whole} and is {narrowed}")
    check_costs(model, inputs, result)
    check_restored(entry, model, inputs)
    record["training_step"] = training_step(entry, model, inputs)


def prune_to_half(
    model: nn.Module, inputs: Inputs, look: Callable[[Graph], None]
) -> tuple[nn.Module, secateur.PruneResult, str]:
    """Prune in place to half of the MACs, else of the parameters, else as far as it goes; says which and how far."""
    budgets: list[dict[str, Any]] = [{"macs": "50%"}, {"params": "50%"}]
    for budget in budgets:
        metric = next(iter(budget))
        try:
            model, result = secateur.prune(model, "magnitude", budget, inputs)
        except Infeasible as refusal:
            if len(budgets) == 2 and metric == "params":
                _look_alone(model, inputs, refusal, look)
                budgets.append({"params": refusal.reachable})
            continue
        assert result.plan.graph is not None
        look(result.plan.graph)
        return model, result, f"{metric} {result.after[metric] / result.before[metric]:.0%}"
    raise Wrong("what a refusal called reachable was refused")


def _look_alone(model: nn.Module, inputs: Inputs, refusal: Infeasible, look: Callable[[Graph], None]) -> None:
    graph = secateur.trace(model, inputs)
    look(graph)
    if refusal.reachable >= graph.params:
        raise refusal


def anatomy(graph: Graph, numbers: Numbers) -> Anatomy:
    """How much of a network is open, and what holds back the rest; ``numbers`` are those of the whole network."""
    uses = _widths_by_tensor(graph)
    total = reachable = 0
    reasons: Counter[str] = Counter()
    for names, count in numbers:
        widths = [width for name in names for width in uses.get(name, ())]
        total += count
        if any(width.frozen is None for width in widths):
            reachable += count
            continue
        for reason in {generic(w.frozen) for w in widths if w.frozen} or {_FIXED}:
            reasons[reason] += count
    return Anatomy(
        reachable=reachable / max(total, 1),
        num_free=len(graph.free),
        num_frozen=len(graph.widths) - len(graph.free),
        num_exact=sum(width.exact for width in graph.free),
        reasons=dict(reasons.most_common(5)),
        notes=graph.notes,
    )


def _widths_by_tensor(graph: Graph) -> dict[str, list[secateur.Width]]:
    found: dict[str, list[secateur.Width]] = {}
    for width in graph.widths:
        for use in width.uses:
            found.setdefault(use.tensor, []).append(width)
    return found


def numbers_of(model: nn.Module) -> Numbers:
    """Each parameter once: all names of it, and how many numbers it has."""
    found: dict[int, tuple[list[str], int]] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        found.setdefault(id(tensor), ([], tensor.numel()))[0].append(name)
    return list(found.values())


def generic(reason: str) -> str:
    """A reason without what is particular to one architecture: module names in brackets, numbers."""
    short = re.sub(r"\((?:[\w.]+|the model): ", "(", reason)
    return re.sub(r"\d+", "#", short)[:100]


def check_costs(model: nn.Module, inputs: Inputs, result: secateur.PruneResult) -> None:
    """Raise `Wrong` unless a new trace of the narrowed model, and its tensors, cost what the plan said."""
    again = secateur.trace(model, inputs, check=False)
    for metric, foretold in result.after.items():
        if metric in _VALUE_DEPENDENT and any("depend on the values" in note for note in again.notes):
            continue  # how many tokens an expert gets is not a function of widths; the graph says so
        if again.cost(metric) != foretold:
            raise Wrong(f"{metric} of the narrowed model is {again.cost(metric):,}, the plan said {foretold:,}")
    held = sum(p.numel() for p in model.parameters())
    if held != result.params:
        raise Wrong(f"the narrowed model holds {held:,} parameters, the plan said {result.params:,}")


def check_restored(entry: Entry, model: nn.Module, inputs: Inputs) -> None:
    """Raise `Wrong` unless a model saved and restored is bit for bit the same, in tensors and in what it computes."""
    with tempfile.TemporaryDirectory() as folder:
        secateur.save(model, f"{folder}/small")
        restored = secateur.restore(entry.build(), f"{folder}/small")
    ours, theirs = _tensors(model), _tensors(restored)
    if ours.keys() != theirs.keys():
        raise Wrong(f"restored other tensors: {sorted(ours.keys() ^ theirs.keys())[:3]}")
    for name, tensor in ours.items():
        if not _same(tensor, theirs[name]):
            raise Wrong(f"{name} is not bit for bit what was saved")
    outputs = zip(output_tensors(_run(model, inputs)), output_tensors(_run(restored, inputs)), strict=True)
    if not all(_same(a, b) for a, b in outputs):
        raise Wrong("the restored model computes something else")


def training_step(entry: Entry, model: nn.Module, inputs: Inputs) -> Step:
    """One step of SGD on two copies of the input; "n/a" where the whole model cannot do it either."""
    try:
        _one_step(model, inputs)
    except Exception:
        try:
            _one_step(entry.build(), inputs)
        except Exception:
            return "n/a"
        raise
    return "done"


def _one_step(model: nn.Module, inputs: Inputs) -> None:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=_LEARNING_RATE)
    outputs = output_tensors(forward(model, _twice(inputs)))
    losses = [out.float().square().mean() for out in outputs if out.requires_grad]
    if not losses:
        raise Wrong("no output depends on a parameter")
    torch.stack(losses).sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and parameter.grad.shape != parameter.shape:
            raise Wrong(f"the gradient of {name} has another shape")
    optimizer.step()


def _twice(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.cat([value, value]) if value.dim() and value.shape[0] == 1 else value.clone()
    if isinstance(value, dict):
        return {key: _twice(item) for key, item in value.items()}
    return type(value)(map(_twice, value)) if isinstance(value, (tuple, list)) else value


def shape_of(output: Any) -> dict[str, str]:
    """Shape and dtype of everything in an output that is the model's interface, by place."""
    return {
        place: f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
        for place, tensor, own in pinned(output, True)
        if own
    }


@torch.no_grad()
def _run(model: nn.Module, inputs: Inputs) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return forward(model, inputs)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers()), **model.state_dict()}


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(((a == b) | ((a != a) & (b != b))).all())


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:400]


def timed(entry: Entry) -> tuple[Verdict, float]:
    """The verdict and the seconds all of it took."""
    started = time.perf_counter()
    return judge(entry), time.perf_counter() - started
