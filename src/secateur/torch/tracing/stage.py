"""Where a network is run to be listened to: a twin of it, apart from the process, gone without trace afterwards.

    model, example ──► twin, copies ──► prepare(twin) ──► twin(*copies), heard by the tracer ──► look(output) ──► nothing left

Invariant: model, arguments and process are as they were, whatever the model's code did or raised.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from secateur.torch.running.example import Example
from secateur.torch.running.generators import unseeded
from secateur.torch.running.interrupts import Interrupts
from secateur.torch.running.outputs import used_up
from secateur.torch.running.outside import Outside
from secateur.torch.running.state import State, changed, state_of
from secateur.torch.running.switches import ALONE, apart, uncollected
from secateur.torch.running.twin import StandIn, twin
from secateur.torch.running.walking import named_modules
from secateur.torch.tracing.arguments import Sizes
from secateur.torch.tracing.blocks import watch
from secateur.torch.tracing.tracer import Tracer

Seen = TypeVar("Seen")
_OURS = -1  # no handle has this number


def _as_it_is(model: nn.Module) -> None:
    pass


_KEPT = "{} is a plain tensor of this size: as a buffer (register_buffer) it would follow; what a call before left there, clear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Staging:
    """How a run is set up: what stands in for each tensor of the model, and for each tensor among the arguments.

    ``prepare`` is called on the twin; ``reading``: sizes that code reads from tensors remember where they came from. The twin
    is called up to so many ``times`` in a row, until a call leaves nothing new for the next; in ``training`` the last of
    several is in evaluation mode. ``leaves`` is told what it keeps before and after, where somebody wants to know.
    """

    stand_in: StandIn
    taken: Callable[[torch.Tensor], torch.Tensor]
    prepare: Callable[[nn.Module], None] = _as_it_is
    leaves: Callable[[State, State], None] | None = None
    training: bool = False
    reading: bool = True
    times: int = 1


def perform(
    example: Example, tracer: Tracer, staging: Staging, look: Callable[[Any], Seen], outside: Outside | None = None
) -> Seen:
    """Run a twin while the tracer listens; what ``look`` makes of its output, which may hold no tensor of the run.

    ``outside``: what lies around this model, where it runs more than once.
    """
    importlib.import_module(
        "torch._dynamo"
    )  # by the first operator it would be, whose tensors its frames would then hold
    with ALONE, Interrupts() as interrupts, uncollected(), apart(), unseeded():
        outside = outside or Outside(example.model)
        try:
            return _perform(example, tracer, staging, look, interrupts)
        except BaseException as error:
            let_go_of_frames(error)
            raise
        finally:
            tracer.forget()
            outside.put_back(tracer.made)


def let_go_of_frames(error: BaseException | None) -> None:
    """Tracebacks hold the variables of the model's code, tensors of the run among them; what they say stays as a note."""
    if isinstance(error, Exception):
        error.add_note("In the model:\n" + "".join(traceback.format_tb(error.__traceback__)[1:]))
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _perform(
    example: Example, tracer: Tracer, staging: Staging, look: Callable[[Any], Seen], interrupts: Interrupts
) -> Seen:
    watching = tracer.watch
    model = twin(example.model, lambda name, tensor: watching.stands_in(staging.stand_in(name, tensor), tensor))
    modules = named_modules(model)
    try:
        for _, module in modules:
            module.training = staging.training
        staging.prepare(model)
        _tell_modules(modules, tracer)
        if example.depth and staging.reading:
            watch(model, tracer)
        before = {} if staging.leaves is None else state_of(model)
        tracer.whose.update({id(kept.tensor): _KEPT.format(place) for place, kept in before.items()})
        output = None
        left = before
        for number in range(staging.times):
            if number:
                left, had = state_of(model), left
                if number > 1 and not changed(had, left):
                    break
            if staging.training and number == staging.times - 1 > 0:
                for _, module in modules:
                    module.training = False
            output = None
            ready = (example if tracer.abstract else example.beside_model()).map(staging.taken)
            with tracer, Sizes(tracer, reading=staging.reading), interrupts.welcome():
                output = used_up(example.called(model)(*ready.args, **ready.kwargs))
        if staging.leaves is not None:
            staging.leaves(before, state_of(model))
        return look(output)
    finally:
        let_go(module for _, module in modules)


def _tell_modules(modules: Iterable[tuple[str, nn.Module]], tracer: Tracer) -> None:
    """Keep ``tracer.module`` the dotted name of the module that is running, and what passes between it and its caller."""
    stack: list[tuple[nn.Module, str]] = []

    def hooks(name: str) -> tuple[Any, Any]:
        def enter(module: nn.Module, args: object, kwargs: object) -> None:
            tracer.passes((args, kwargs), tracer.module, name)
            stack.append((module, tracer.module))
            tracer.module = name

        def leave(module: nn.Module, args: object, kwargs: object, out: object) -> None:
            while stack:  # modules that raised, and were caught by the model's code, are still on it
                left, tracer.module = stack.pop()
                if left is module:
                    break
            tracer.passes(out, tracer.module, name)

        return enter, leave

    for name, module in modules:
        if not isinstance(module, torch.jit.ScriptModule):
            enter, leave = hooks(name)
            # what register_forward_hook does, but for a handle to take it away by
            for table, flags, hook in (
                (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs, enter),
                (module._forward_hooks, module._forward_hooks_with_kwargs, leave),
            ):
                table[_OURS] = hook
                table.move_to_end(_OURS, last=False)  # type: ignore[attr-defined] -- an OrderedDict, whatever its annotation
                flags[_OURS] = True


def let_go(modules: Iterable[nn.Module]) -> None:
    """Twins often hold themselves (hooks, closures); their tensors need not wait for the garbage collector."""
    for module in modules:
        if not isinstance(module, torch.jit.ScriptModule):
            module._parameters.clear()
            module._buffers.clear()
