"""The runs of a trace: the model, its examples, and everything the operators said.

    observe(example) ──► Observation      spaces of every named tensor, the records, equations, costs, outputs
    listen(seen, other example)           one more run on the same spaces: what either says holds

Runs on tensors without data; where the model's code needs values (it branches on them), on the real ones.

Invariant: what runs is a twin (`stage`); model, arguments and process stay as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

import secateur.torch.rules  # noqa: F401  importing them registers them
from secateur.core.equations import Attribute
from secateur.core.space import ONE, Space, constant, freeze
from secateur.errors import SecateurError, TraceError
from secateur.torch.running.calls import Args, Kwargs, Operator, Result
from secateur.torch.running.constants import named_constants
from secateur.torch.running.example import Example
from secateur.torch.running.interface import pinned
from secateur.torch.running.outside import Outside
from secateur.torch.running.restoring import abstract_like, named_tensors
from secateur.torch.running.state import State, changed
from secateur.torch.running.walking import named_modules
from secateur.torch.tracing.answers import Answers, Asking
from secateur.torch.tracing.attributes import depthwise, named_sizes, own_sizes, sized_attributes
from secateur.torch.tracing.caches import Caches
from secateur.torch.tracing.carried import tie_kept
from secateur.torch.tracing.heard import Call, steady
from secateur.torch.tracing.records import Record
from secateur.torch.tracing.refused import does_not_run, refuse_compiled
from secateur.torch.tracing.stage import Staging, perform
from secateur.torch.tracing.tracer import Tracer

INPUT, OUTPUT = "the model's input", "the model's output"
_IN_A_ROW = 5  # calls: what one leaves may lie in a queue for some
_OTHER_WEIGHTS = 2  # times a run on numbers is repeated, to tell what comes of them from what comes of sizes


@dataclass(slots=True)
class Run:
    """Through the model, once or several ``times`` in a row. ``whole``: it came to its end, so that it can be rehearsed with
    another network; ``resized``: its inputs are a user's in another size.
    """

    example: Example
    tracer: Tracer
    outputs: list[list[Space]]
    training: bool = False
    whole: bool = True
    times: int = 1
    resized: bool = False
    beside: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UnheardSize:
    """An integer that no run used, what it may be the size of, and the method that takes sizes from it."""

    attribute: Attribute
    sizes: set[int]
    method: str


@dataclass
class Observation:
    """What the runs said. ``spaces`` by tensor name; ``outputs`` in order, ``interior`` the places of those that are no part
    of the interface; ``tracer`` holds records and equations.

    The first run is that of the example in evaluation mode: its ``tracer`` has the costs, and the facts of all.
    ``untrained``: of the runs whose training mode nobody has tried yet.
    """

    example: Example
    outside: Outside
    tracer: Tracer
    spaces: dict[str, list[Space]]
    outputs: list[list[Space]]
    inputs: list[Space] = field(default_factory=list)
    caches: Caches = field(default_factory=Caches)
    interior: list[str] = field(default_factory=list)
    fallback: str | None = None
    keeping: list[Example] = field(default_factory=list)  # those whose call leaves something for the next
    learning: list[Example] = field(default_factory=list)  # and those whose call in training mode does
    by_name: set[Attribute] = field(default_factory=set)  # integers of which nothing but their name says what they are
    further: list[Run] = field(default_factory=list)
    untrained: list[Tracer] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)  # tensors that no code of the model's can come to
    tried: list[UnheardSize] = field(default_factory=list)  # of these the methods were called beside forward
    followed: int = 0  # sizes that trials showed to be those of other widths

    @cached_property
    def modules(self) -> Mapping[str, nn.Module]:
        """The modules of the model, each by its first name, which no run changes."""
        return dict(named_modules(self.example.model))

    @cached_property
    def constants(self) -> Mapping[str, torch.Tensor]:
        """The plain tensors that only its constructors set, by name."""
        return named_constants(self.example.model)

    @cached_property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """Its parameters, buffers and constants, by every name they have."""
        return {**named_tensors(self.example.model), **self.constants}

    @property
    def runs(self) -> list[Run]:
        """All runs, the first one first."""
        return [Run(self.example, self.tracer, self.outputs), *self.further]

    @property
    def whole_calls(self) -> list[Run]:
        """The runs of one call that came to their end."""
        return [run for run in self.runs if run.whole and run.times == 1]

    @property
    def records(self) -> Iterator[Record]:
        """The operators of all runs."""
        return (record for run in self.runs for record in run.tracer.records)


def observe(example: Example) -> Observation:
    """Run the model once and listen. The dimensions of what belongs to the example's interface are frozen.

    Raises InputError for a model that nobody can narrow, and TraceError, with the model's own error as its cause, where it
    cannot be run on this example.
    """
    refuse_compiled(example.model)
    outside = Outside(example.model)
    try:
        return _observe(example, outside, abstract=True)
    except SecateurError:
        raise
    except Exception as abstract_error:
        if any(t.is_meta for t in named_tensors(example.model).values()):
            raise TraceError(does_not_run(example, abstract_error)) from abstract_error
        try:
            seen = _observe_values(example, outside)
        except SecateurError:
            raise
        except Exception as error:
            raise TraceError(does_not_run(example, error)) from error
        seen.fallback = " ".join(f"{type(abstract_error).__name__}: {abstract_error}".split())[:140]
        return seen


def _observe_values(example: Example, outside: Outside) -> Observation:
    """As `_observe`, of code that reads values: answered what it read from numbers, or on numbers where that does not do."""
    answers = _ask(example, outside, training=False)
    try:
        return _observe(example, outside, abstract=True, answers=answers)
    except SecateurError:
        raise
    except Exception:
        return _observe(example, outside, abstract=False)


def _ask(example: Example, outside: Outside, *, training: bool, times: int = 1) -> Answers:
    """Run on numbers, and keep what the code reads of them."""
    asked = Asking()
    witness(Witness(abstract=False, training=training, answers=asked), example, outside, real_like, times)
    return asked.again()


def _steady(run: Run, outside: Outside) -> list[Call]:
    """The calls of a run on numbers, without the numbers that come of them: those are others on other weights."""
    calls = run.tracer.calls
    for seed in range(_OTHER_WEIGHTS):
        generator = torch.Generator().manual_seed(seed)
        mute = Witness(abstract=False, training=run.training)
        with contextlib.suppress(Exception):
            witness(mute, run.example, outside, lambda tensor, drawn=generator: _shuffled(tensor, drawn), run.times)
        calls = steady(calls, mute.calls)
    return calls


def _shuffled(tensor: torch.Tensor, drawn: torch.Generator) -> torch.Tensor:
    made = real_like(tensor)
    if made.is_floating_point() and made.numel() > 1:
        order = torch.randperm(made.numel(), generator=drawn).to(made.device)
        made.data = made.detach().flatten()[order].view(made.shape)
    return made


def witness(
    mute: Witness, example: Example, outside: Outside, like: Callable[[torch.Tensor], torch.Tensor], times: int = 1
) -> None:
    """Run a twin, with what ``like`` makes of its tensors; nothing is said of spaces. Raises what it raises."""

    def taken(tensor: torch.Tensor) -> torch.Tensor:
        return mute.owned(abstract_like(tensor.detach()) if mute.abstract else tensor.detach().clone())

    staging = Staging(
        stand_in=lambda name, tensor: mute.owned(like(tensor)),
        taken=taken,
        training=mute.training,
        reading=False,
        times=times,
    )
    perform(example, mute, staging, lambda output: None, outside)


class Witness(Tracer):
    """Runs operators, and says nothing of them."""

    def observe(self, func: Operator, out: Result, args: Args, kwargs: Kwargs) -> None:
        """No rule is asked."""

    def passes(self, value: object, caller: str, called: str) -> None:
        """Nothing is learnt of who holds what."""


def listen(seen: Observation, example: Example, name: str) -> None:
    """Run a further example on the same spaces. Raises TraceError, with its ``name``, where the model does not run on it."""
    try:
        listen_again(seen, example, training=False)
    except SecateurError:
        raise
    except Exception as error:
        raise TraceError(f"{name}: {does_not_run(example, error)}") from error


def say_own_sizes(seen: Observation) -> None:
    """Where the code uses what a torch.nn module says of itself, that is the size of its tensor."""
    facts = seen.tracer.facts
    used = facts.mentioned()
    for attribute, tensor, axis in own_sizes(seen.modules):
        if attribute in used and tensor in seen.spaces:
            facts.equations.append((attribute, seen.spaces[tensor][axis], f"the size of {tensor}"))
    for attribute, tensor, axis in depthwise(seen.modules):
        if attribute not in used and attribute in facts.attributes and tensor in seen.spaces:
            facts.equations.append((attribute, seen.spaces[tensor][axis], f"the channels of {tensor}"))
    # what no run came to (a constructor's ``reset_parameters``) may use what nothing that ran did
    for attribute, space in named_sizes(seen.modules, facts.attributes, seen.spaces):
        if attribute not in used:
            seen.by_name.add(attribute)
            facts.equations.append((attribute, space, f"the size of a parameter of {attribute.module or 'the model'}"))


def listen_in_a_row(seen: Observation) -> None:
    """Where a call leaves something that the next one may read: these in a row; where one in training mode does, then one in
    evaluation. A model that is good for one call adds what was heard until then."""
    for example, training in [*((e, False) for e in seen.keeping), *((e, True) for e in seen.learning)]:
        with contextlib.suppress(Exception):
            listen_again(seen, example, training=training, times=2 if training else _IN_A_ROW)


def listen_again(
    seen: Observation,
    example: Example,
    *,
    training: bool,
    times: int = 1,
    beside: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """One more run on the spaces of the first; on real tensors where those without data do not do; of modules another method
    ``beside`` forward. Raises what it raises."""
    if any(t.is_meta for t in named_tensors(example.model).values()):
        _heard(seen, example, Tracer(abstract=True, training=training), times, beside)
        return
    with contextlib.suppress(Exception):
        if seen.tracer.abstract and seen.tracer.answers is None:
            _heard(seen, example, Tracer(abstract=True, training=training), times, beside)
            return
    with contextlib.suppress(Exception):
        if seen.tracer.abstract:
            answers = _ask(example, seen.outside, training=training, times=times)
            _heard(seen, example, Tracer(abstract=True, training=training, answers=answers), times, beside)
            return
    _heard(seen, example, Tracer(abstract=False, training=training), times, beside)


def _heard(seen: Observation, example: Example, tracer: Tracer, times: int, beside: Mapping[str, str]) -> Run:
    """A run, its facts joined to those of the first, whether it comes to its end or not."""
    run = Run(example, tracer, [], training=tracer.training, whole=False, times=times, beside=beside)
    seen.further.append(run)
    try:
        run.outputs = _perform(run, seen)
        run.whole = True
    finally:
        seen.tracer.facts.join(run.tracer.facts)
        seen.tracer.unknown |= run.tracer.unknown
        seen.tracer.data_dependent |= run.tracer.data_dependent
    return run


def _observe(example: Example, outside: Outside, *, abstract: bool, answers: Answers | None = None) -> Observation:
    seen = Observation(example, outside, Tracer(abstract=abstract, answers=answers), {}, [])
    seen.outputs = _perform(seen.runs[0], seen)
    return seen


def _perform(run: Run, seen: Observation) -> list[list[Space]]:
    """Run a twin on the spaces seen so far, which it adds to; the spaces of its outputs."""
    tracer = run.tracer
    names = _names_by_tensor(seen.tensors)
    like = abstract_like if tracer.abstract else real_like

    def stand_in(name: str, tensor: torch.Tensor) -> torch.Tensor:
        known = seen.spaces.get(name) or [Space(n) if n != 1 else constant(1, ONE) for n in tensor.shape]
        seen.spaces.update(dict.fromkeys(names[id(tensor)], known))
        if tensor.layout is not torch.strided:  # nor could an artefact hold less of it
            for space in known:
                freeze(space, f"{name} is no dense tensor, and is kept whole")
        return tracer.introduce(like(tensor), known, [tensor.is_floating_point()] * len(known))

    def taken(tensor: torch.Tensor) -> torch.Tensor:
        known = [constant(n, INPUT if n != 1 else ONE) for n in tensor.shape]
        seen.inputs.extend(known)
        if tracer is seen.tracer:
            seen.caches.take(tensor, known)
        made = abstract_like(tensor.detach()) if tracer.abstract else tensor.detach().clone()
        return tracer.introduce(made, known, [False] * len(known))

    def prepare(twin: nn.Module) -> None:
        call_beside(twin, run.beside)
        tracer.facts.attributes.update(sized_attributes(twin, tracer))
        seen.spaces.update(_scripted(twin, tracer))

    def look(output: Any) -> list[tuple[str, list[Space], bool]]:
        returned = pinned(output, run.example.interface)
        tracer.as_numbers([t for _, t, _ in returned], "whoever calls the model")
        if tracer is seen.tracer:
            seen.caches.give(output, tracer)
        tracer.returned.extend(tracer.value(t).number for _, t, _ in returned)
        tracer.borders.pinned.extend(tracer.value(t).number for _, t, own in returned if own)
        return [(place, list(tracer.spaces(t)), own) for place, t, own in returned]

    def leaves(before: State, after: State) -> None:
        tie_kept(tracer, before, after)
        if run.times == 1 and changed(before, after):
            (seen.learning if run.training else seen.keeping).append(run.example)

    staging = Staging(
        stand_in=stand_in, taken=taken, prepare=prepare, leaves=leaves, training=run.training, times=run.times
    )
    returned = perform(run.example, tracer, staging, look, seen.outside)
    if not tracer.abstract:
        tracer.calls = _steady(run, seen.outside)
    for space in (space for _, layout, own in returned if own for space in layout):
        freeze(space, OUTPUT)
    seen.interior.extend(place for place, _, own in returned if not own)
    return [layout for _, layout, _ in returned]


def call_beside(twin: nn.Module, beside: Mapping[str, str]) -> None:
    """Whenever one of these modules of a twin was called, call another method of it with the same; what that raises is its own
    affair."""

    def hook(method: str, module: nn.Module, args: Any, kwargs: Any, output: object) -> None:
        with contextlib.suppress(Exception):
            getattr(module, method)(*args, **kwargs)

    for name, method in beside.items():
        twin.get_submodule(name).register_forward_hook(partial(hook, method), with_kwargs=True)


def _scripted(twin: nn.Module, tracer: Tracer) -> dict[str, list[Space]]:
    """The tensors of TorchScript modules, which run as they are, are constants."""
    found: dict[str, list[Space]] = {}
    for prefix, module in named_modules(twin):
        if isinstance(module, torch.jit.ScriptModule):
            reason = f"{prefix} is TorchScript, whose tensors cannot be replaced"
            for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                known = tracer.value(tensor, reason)
                found[f"{prefix}.{name}"] = known.spaces
    return found


def _names_by_tensor(tensors: Mapping[str, torch.Tensor]) -> dict[int, list[str]]:
    names: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(name)
    return names


def real_like(tensor: torch.Tensor) -> torch.Tensor:
    """A copy that code may write into."""
    made = tensor.detach().clone()
    return nn.Parameter(made, requires_grad=False) if isinstance(tensor, nn.Parameter) else made
