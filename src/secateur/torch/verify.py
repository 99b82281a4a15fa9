"""Narrowed against masked: the proof that the right slices went.

    masked      inexact widths narrowed, exact ones kept whole with the removed units' slices set to zero
    narrowed    everything narrowed                                         -> the same outputs, to rounding

Removing a unit of an exact width must equal zeroing it. A statistic over an inexact width sees fewer numbers, so these are
narrowed on both sides, and named in the result as not compared.

Invariant: the model is untouched; a disagreement raises, it is never only reported.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import psutil
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.core.graph import Graph
from secateur.core.layout import Indices, Layout, kept_indices, touches
from secateur.core.plan import Plan
from secateur.core.verification import Verification
from secateur.errors import ApplyError, VerificationError
from secateur.torch.narrowing.installing import install
from secateur.torch.narrowing.slices import kept_mask, narrow_tensor, renewed, slices_of
from secateur.torch.narrowing.tolerances import BY_DTYPE, FLOAT32
from secateur.torch.running.example import Example, output_tensors
from secateur.torch.running.randomness import _seed_all, undo_of_random_state
from secateur.torch.running.restoring import named_tensors
from secateur.torch.running.twin import copied, twin


def verify(model: nn.Module, plan: Plan, graph: Graph, *, dtype: torch.dtype | None = None) -> Verification:
    """Compare the network a plan gives with the masked one, on the graph's example; the model itself is not changed.

    Runs in float64 where memory allows (``dtype`` forces one). Raises VerificationError on a disagreement.
    """
    started = time.perf_counter()
    arrays = plan.arrays
    exact = {name: a for name, a in arrays.items() if graph[name].exact}
    inexact = {name: a for name, a in arrays.items() if name not in exact}
    comparison = _Comparison(model, graph, plan, exact, inexact)
    try:
        masked, narrowed, low_precision, chosen = comparison.run(dtype)
    except Exception as error:
        sentence = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ApplyError(
            f"the narrowed model does not run ({sentence}). The model is unchanged. Keep whole what this names, with exclude=[…]."
        ) from error
    arrays, inexact = comparison.plan.arrays, comparison.base.arrays
    tolerance = FLOAT32 if low_precision and chosen is torch.float64 else BY_DTYPE.get(chosen, FLOAT32)
    difference = _difference(masked, narrowed, graph, arrays, inexact)
    result = Verification(
        max_difference=difference,
        tolerance=tolerance,
        dtype=str(chosen).removeprefix("torch."),
        compared=tuple(exact),
        not_compared=tuple(name for name in plan.kept if name not in exact),
        seconds=time.perf_counter() - started,
    )
    if not result.passed:
        raise VerificationError(_disagreement(result, graph))
    return result


def _disagreement(result: Verification, graph: Graph) -> str:
    return (
        f"the narrowed model differs from the masked one by {result.max_difference:.2e} of its largest output "
        f"(bound {result.tolerance:.0e}, {result.dtype}), with {len(result.compared)} widths compared, "
        f"first {', '.join(result.compared[:3])}. The model is unchanged. Please report this; until it is mended, "
        "keep the widths concerned with exclude=[…]."
    )


def _informative(example: Example) -> Example:
    """An example that is one number everywhere would hide mistakes: replace such inputs by noise of the same shape."""
    generator = torch.Generator().manual_seed(0)

    def one(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point() or tensor.is_meta or tensor.numel() < 2 or bool(tensor.float().std() > 0):
            return tensor
        return torch.randn(tensor.shape, generator=generator).to(tensor)

    return example.map(one)


def _native_dtype(model: nn.Module) -> torch.dtype:
    return next((t.dtype for t in named_tensors(model).values() if t.is_floating_point()), torch.float32)


def _affordable_dtype(model: nn.Module) -> torch.dtype:
    """The widest dtype whose extra copies of the weights fit into a third of the free memory."""
    tensors = [t for t in named_tensors(model).values() if t.is_floating_point()]
    numbers = sum(t.numel() for t in tensors)
    device = tensors[0].device if tensors else torch.device("cpu")
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    for dtype in (torch.float64, torch.float32):
        if numbers * torch.finfo(dtype).bits // 8 * 2 < free // 3:
            return dtype
    return _native_dtype(model)


class _Narrowest(TorchDispatchMode):
    """Notices numbers of less than double precision inside a double-precision run."""

    seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.dtype is not torch.float64:
                self.seen |= tensor.dim() > 0
        return out


class _Comparison:
    """The two runs, with what to fall back on where the code cannot be run as wished."""

    def __init__(
        self, model: nn.Module, graph: Graph, plan: Plan, exact: Mapping[str, Indices], inexact: Mapping[str, Indices]
    ) -> None:
        self.model, self.graph, self.plan, self.exact = model, graph, plan, exact
        self.base = graph.plan(inexact)
        self.example = _informative(graph.example).beside_model()

    def run(self, dtype: torch.dtype | None) -> tuple[list[torch.Tensor], list[torch.Tensor], bool, torch.dtype]:
        """Masked outputs, narrowed outputs, whether numbers of lower precision were met, and the dtype used."""
        native = _native_dtype(self.model)
        wide = dtype or _affordable_dtype(self.model)
        try:
            return self._both(wide)
        except Exception:
            if dtype is None and wide is not native:
                with contextlib.suppress(
                    Exception
                ):  # the code cannot be widened: a constant or a kernel of its own dtype
                    return self._both(native)
            return self._exact_alone(wide if dtype is not None else native)

    def _exact_alone(self, dtype: torch.dtype) -> tuple[list[torch.Tensor], list[torch.Tensor], bool, torch.dtype]:
        """Where the code cannot run with only the inexact widths narrowed: see the plan run, compare the exact ones alone."""
        _run(self.model, _narrowed(self.model, self.plan), self.plan, self.example, dtype)
        self.plan, self.base = self.graph.plan(self.exact), self.graph.plan({})
        return self._both(dtype)

    def _both(self, dtype: torch.dtype) -> tuple[list[torch.Tensor], list[torch.Tensor], bool, torch.dtype]:
        watch, model, example = _Narrowest(), self.model, self.example
        masked = _run(model, _masked_tensors(model, self.base, self.exact), self.base, example, dtype, watch)
        narrowed = _run(model, _narrowed(model, self.plan), self.plan, example, dtype)
        return masked, narrowed, watch.seen, dtype


def _narrowed(model: nn.Module, plan: Plan) -> dict[str, torch.Tensor]:
    live = named_tensors(model)
    return slices_of({name: live.get(name) for name in plan.narrowed}, plan)


def _masked_tensors(model: nn.Module, base: Plan, exact: Mapping[str, Indices]) -> dict[str, torch.Tensor]:
    """Zero the removed units of exact widths, then narrow the inexact ones."""
    made: dict[str, torch.Tensor] = {}
    tied: dict[int, torch.Tensor] = {}
    for name, tensor in named_tensors(model).items():
        layout = base.layouts.get(name, ())
        if not base.narrows(name) and not any(touches(axis, exact) for axis in layout):
            continue
        if id(tensor) not in tied:
            masked = tensor.detach()
            if tensor.is_floating_point():
                masked = torch.where(kept_mask(masked, layout, exact), masked, 0)
            tied[id(tensor)] = renewed(tensor, narrow_tensor(masked, layout, base.arrays))
        made[name] = tied[id(tensor)]
    return made


def _run(
    model: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    plan: Plan,
    example: Example,
    dtype: torch.dtype,
    watch: AbstractContextManager[Any] | None = None,
) -> list[torch.Tensor]:
    """The outputs of a twin of the model that holds these tensors where it is narrowed."""

    def cast(tensor: torch.Tensor) -> torch.Tensor:
        data = tensor.detach()
        return renewed(tensor, data.to(dtype, copy=True) if tensor.is_floating_point() else data.clone())

    network = twin(model, lambda name, tensor: cast(tensors.get(name, tensor)))
    undo = undo_of_random_state()
    try:
        install(network, {}, plan.edits, there=plan.narrowed)
        network.eval()
        _seed_all(0)
        ready = copied((example.args, example.kwargs), cast)
        with torch.no_grad(), watch or contextlib.nullcontext():
            output = network(*ready[0], **ready[1])
    finally:
        undo()
    return [t.detach() for t in output_tensors(output)]


def _difference(
    masked: list[torch.Tensor],
    narrowed: list[torch.Tensor],
    graph: Graph,
    arrays: Mapping[str, Indices],
    inexact: Mapping[str, Indices],
) -> float:
    worst = 0.0
    if len(masked) != len(narrowed):
        return float("inf")
    for place, (a, b) in enumerate(zip(masked, narrowed, strict=True)):
        layout = graph.outputs[place] if place < len(graph.outputs) else ()
        if len(layout) == a.dim():
            a = _narrow_output(a, layout, arrays, inexact)
        if a.shape != b.shape:
            return float("inf")
        if not a.is_floating_point() or not a.numel():
            continue
        a, b = a.double(), b.double()
        gap = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs())
        scale = a[a.isfinite()].abs().max().item() if bool(a.isfinite().any()) else 1.0
        worst = max(worst, gap.nan_to_num(nan=float("inf")).max().item() / max(scale, 1e-30))
    return worst


def _narrow_output(
    output: torch.Tensor, layout: Layout, arrays: Mapping[str, Indices], inexact: Mapping[str, Indices]
) -> torch.Tensor:
    for i, axis in enumerate(layout):
        if touches(axis, arrays):
            whole, kept = kept_indices(axis, inexact), kept_indices(axis, arrays)
            output = output.index_select(i, torch.as_tensor(np.searchsorted(whole, kept)).to(output.device))
    return output
