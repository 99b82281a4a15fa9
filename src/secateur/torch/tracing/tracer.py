"""One forward pass, operator by operator, each saying which dimensions are the same.

    Tracer          sees every ATen operator: runs it, calls its rule, records its output and its cost
    rules.RULES     operator -> rule; without one (or if it fails) everything the operator touches is frozen

Invariant: a tensor whose origin the tracer does not know is frozen; the tracer never guesses.
"""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from types import CodeType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.core.equations import Attribute
from secateur.core.settle import SizeFacts
from secateur.core.sized import Origin, Sized
from secateur.core.space import ONE, Space, align, constant, freeze, mark_inexact, unify
from secateur.torch.rules.protocol import Says
from secateur.torch.rules.registry import find
from secateur.torch.running.calls import Args, Kwargs, Operator, Result
from secateur.torch.running.generators import Generators, draws_the_same
from secateur.torch.running.written import Watch
from secateur.torch.tracing.answers import Answers, writes
from secateur.torch.tracing.blocks import Borders
from secateur.torch.tracing.heard import Call, code_running, names_a_function
from secateur.torch.tracing.meanings import carry, check_numbers, freeze_along
from secateur.torch.tracing.memory import Holdings
from secateur.torch.tracing.meta_kernels import factory_device
from secateur.torch.tracing.meta_kernels import run as run_abstract
from secateur.torch.tracing.records import Memory, Record, Value
from secateur.torch.tracing.scratch import CostTerm, Scratch
from secateur.torch.tracing.trees import flat, held_in, without_out
from secateur.torch.tracing.unread import BLANK, ignored, join, keep_apart


class Tracer(TorchDispatchMode):
    """Runs operators and keeps the equations they state. ``abstract``: floating tensors have no data.

    ``answers`` says what code that reads values reads there; without, such code does not run.
    """

    def __init__(self, *, abstract: bool, training: bool = False, answers: Answers | None = None) -> None:
        super().__init__()
        self.abstract, self.training, self.answers = abstract, training, answers
        self.data_dependent = self.keeps_all = self.speaks = False  # dropout keeps all; some tensor speaks of a space
        self.whose: dict[int, str] = {}  # what a tensor is that the model keeps beside its parameters, by identity
        self.muted, self.where, self.module, self.name = 0, "", "", ""
        self.operator: Any = None
        self.records: list[Record] = []
        self.macs: list[CostTerm] = []
        self.allocations, self.scratch = Holdings(), Scratch()
        self.unknown, self.facts = Counter[str](), SizeFacts()
        self.kept: set[int] = set()  # numbers of the contents of tensors that the run began with
        self.returned: list[int] = []  # and of those that it gave
        self.borders, self._weighed = Borders(), 0
        self.near: dict[str, list[Space]] = {}  # what the code of each module that ran had before it
        self.calls: list[Call] = []
        self.ran: set[CodeType] = set()  # the code that called
        self.constants: list[tuple[int, int, Space]] = []  # records from … to …, and a size written into the code there
        self._over: list[Space] = []
        self._ahead: Space | None = None
        self.made: list[weakref.ref[torch.Tensor]] = []
        self.generators, self.watch, self._run = Generators(), Watch(), object()
        self._strangers: dict[int, tuple[torch.Tensor, Value]] = {}  # held, so that an identity stays theirs

    # -- what rules call ------------------------------------------------------------------------------------------

    def value(self, tensor: torch.Tensor, reason: str = "") -> Value:
        """What is known of a tensor; a tensor of unknown origin is a frozen constant."""
        known = self.known(tensor)
        if known is None:
            reason = reason or self.whose.get(id(tensor), "a constant in the code")
            spaces = [constant(n, reason if n != 1 else ONE) for n in tensor.shape]
            known = Value(spaces, [False] * len(spaces), self._run)
            known.unread = []
            self._strangers[id(tensor)] = tensor, known
        return known

    def keep_whole(self, tensor: torch.Tensor) -> None:
        """An output of which nothing is said: its dimensions are constants."""
        self.value(tensor)

    def known(self, tensor: torch.Tensor) -> Value | None:
        """What this run has said of a tensor; nothing is hung on tensors that are not the run's."""
        known = getattr(tensor, "_secateur", None)
        if known is not None and known.run is self._run:
            return known
        stranger = self._strangers.get(id(tensor))
        return None if stranger is None else stranger[1]

    def introduce(self, tensor: torch.Tensor, spaces: list[Space], zero: list[bool]) -> torch.Tensor:
        """A tensor that the run begins with."""
        known = Value(spaces, zero, self._run)
        self.kept.add(known.number)
        self.note(tensor, known)
        return self.owned(tensor)

    def owned(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor that must not outlive the run."""
        self.made.append(weakref.ref(tensor))
        return tensor

    def note(self, tensor: torch.Tensor, known: Value) -> None:
        """Say what is known of a tensor of this run."""
        tensor._secateur = known  # type: ignore[attr-defined]

    def spaces(self, tensor: torch.Tensor) -> list[Space]:
        """The spaces of a tensor's dimensions."""
        return self.value(tensor).spaces

    def zero(self, tensor: torch.Tensor) -> list[bool]:
        """Along which dimensions removed units are certainly zero."""
        known = self.value(tensor)
        if known.memory is not None and known.memory.spoiled:
            return [False] * len(known.zero)
        return known.zero

    def put(self, tensor: torch.Tensor, spaces: Sequence[Space], zero: Sequence[bool] | None = None) -> None:
        """Say what an output is made of."""
        roots = [s.root() for s in spaces]
        if [s.size for s in roots] != list(tensor.shape):
            raise ValueError(f"{self.where}: {roots} is not the shape {tuple(tensor.shape)}")
        flags = list(zero) if zero is not None else [False] * len(roots)
        known = self.known(tensor)
        if known is None:
            self.note(tensor, Value(roots, flags, self._run))
            return
        writes = torch.Tag.inplace_view not in getattr(self.operator, "tags", ())
        if writes and known.memory is not None and any(a and not b for a, b in zip(known.zero, flags, strict=False)):
            known.memory.spoiled = True
        known.spaces, known.zero = roots, flags

    def same(self, a: Space, b: Space) -> Space:
        """Unify two dimensions, with this operator as the reason."""
        return unify(a, b, self.where)

    def float_use(self, origin: Origin) -> None:
        """The code used a size as a number."""
        self.facts.float_uses.append((origin, self.module))

    def compared(self, a: Origin, b: Origin, *, equal: bool) -> None:
        """The code compared two sizes: an attribute equal to a size is that size, different ones must stay different."""
        if not equal:
            self.facts.differences.append((a, b, self.module))
        elif isinstance(a, Attribute) or isinstance(b, Attribute):
            self.facts.equal(a, b, self.module)

    def branched(self, a: Origin, symbol: str, b: Origin, *, outcome: bool) -> None:
        """The code may have gone one way because of a size. PyTorch's own does so to check what must fit, or to be quick."""
        frame = sys._getframe(1)
        while frame is not None and frame.f_globals.get("__name__") == Sized.__module__:
            frame = frame.f_back
        if frame is not None and str(frame.f_globals.get("__name__")).startswith("torch."):
            return
        if symbol == "==" and outcome:
            self.facts.equal(a, b, self.module)
        self.facts.branches[a, symbol, b] = (outcome, self.module)

    def lost(self, origin: Origin, how: str) -> None:
        """A size went where it cannot be followed."""
        if not names_a_function():
            self.facts.losses.append((origin, f"{how} in {self.module or 'the model'}"))

    def passes(self, value: object, caller: str, called: str) -> None:
        """What one module gives another is in the hands of both."""
        spaces = [s for t in held_in(value) if (known := self.known(t)) is not None for s in known.spaces]
        self.near.setdefault(caller, []).extend(spaces)
        self.near.setdefault(called, []).extend(spaces)

    def hears(self, call: Call) -> None:
        """The code calls a function with these numbers."""
        self.calls.append(call)
        self.ran.add(code_running())

    def forget(self) -> None:
        """Let go of tensors that are not the run's: constants of the model's code."""
        self._strangers.clear()
        self.watch.forget()

    def multiply(self, coefficient: int, *spaces: Space) -> None:
        """Count multiply-accumulates, on the account of the module that is running."""
        self.macs.append((coefficient, spaces, self.module))

    def contract(self, space: Space, *, zero: bool) -> None:
        """A sum runs over this dimension; unless one side is zero at removed units, removing is not exact."""
        self._over.append(space)
        if not zero:
            mark_inexact(space, f"summed in {self.where} where removed units are not zero")

    def statistic(self, space: Space) -> None:
        """A statistic runs over this dimension: removing its units changes the function by design."""
        self._over.append(space)
        if self.training and torch.Tag.nondeterministic_seeded in getattr(self.operator, "tags", ()):
            return  # which numbers are drawn while training is no part of the function
        mark_inexact(space, f"a statistic runs over it in {self.where}")

    def align(self, space: Space, multiple: int) -> None:
        """A kernel takes only sizes that are multiples of a number."""
        align(space, multiple)

    def align_memory(self, tensor: torch.Tensor, multiple: int) -> None:
        """A kernel takes only tensors that lie in memory in steps of a number: so must what they are views of."""
        memory = self.value(tensor).memory
        if memory is not None and memory.innermost is not None:
            align(memory.innermost, multiple)

    def freeze_all(self, tensors: Iterable[torch.Tensor], reason: str) -> None:
        """Nothing that these tensors are made of may be narrowed."""
        for tensor in tensors:
            for space in self.spaces(tensor):
                freeze(space, reason)

    # -- the run --------------------------------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Operator, types: object, args: Args = (), kwargs: Kwargs | None = None
    ) -> Result:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():  # code that turns it on: composite operators arrive whole
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        with torch._C.DisableTorchFunction():  # the sizes that we read ourselves are no reading of the code's
            self.watch.sees(func, args, kwargs)
            if self.answers is None or self.muted:
                out = self._run_operator(func, args, kwargs)
            else:
                out = self.answers.operator(self.module, func, args, kwargs, self._run_operator)
            self.made.extend(weakref.ref(t) for t in flat(out) if isinstance(t, torch.Tensor))
            if not self.muted:
                self.observe(func, out, args, kwargs)
        return out

    def _run_operator(self, func: Operator, args: Args, kwargs: Kwargs) -> Result:
        if self.abstract:
            if args and (out := run_abstract(func, args, kwargs)) is not None:
                return out
            args, kwargs = self._abstract_arguments(func, args, kwargs)
        return self.generators.run(func, args, kwargs)

    def observe(self, func: Operator, out: Result, args: Args, kwargs: Kwargs) -> None:
        """Let the rule of an operator that has run speak, and record it."""
        self.operator = func
        name = func._schema.name if hasattr(func, "_schema") else func.__name__
        if name.startswith("prim::"):
            return
        name = self.name = name.removeprefix("aten::")
        self.where = f"{name} in {self.module}" if self.module else name
        outputs, inputs = ([t for t in flat(tree) if isinstance(t, torch.Tensor)] for tree in (out, (args, kwargs)))
        view = getattr(func, "is_view", False)
        if (blank := ignored(name, args, kwargs)) is not None:
            inputs = [t for t in inputs if t is not blank]
        self.read(inputs, values=not view)
        if self.speaks:
            check_numbers(name, [*map(self.value, inputs)], self.where, view=view)
        rule, kwargs, into = find(func), *without_out(func, kwargs)
        if rule is None and not outputs:
            self.freeze_all((t for t in inputs if t.dim()), f"its values are read in {self.where}")
            return
        self._over.clear()
        self._ahead = None
        before = {id(t): list(self.spaces(t)) for t in into}
        try:
            if rule is None:
                raise NotImplementedError
            rule(self, out, *args, **kwargs)
            if draws_the_same(func, kwargs, training=self.training):
                self.freeze_all(outputs, f"numbers that a seed fixes are drawn for it in {self.where}")
            if view or name in BLANK:
                keep_apart(name, [self.value(t) for t in inputs[:1]], [self.value(t) for t in outputs])
            if self.speaks:
                carry(name, list(map(self.value, inputs)), [(t, self.value(t)) for t in outputs], view=view)
            for tensor in into:
                for old, new in zip(before[id(tensor)], self.spaces(tensor), strict=True):
                    self.same(old, new)
        except Exception as error:  # an operator we cannot explain must never be wrong, only unprunable
            self._give_up(name, inputs, outputs, rule is not None, error)
        self._remember(name, inputs, outputs, view=view)

    def read(self, inputs: Iterable[torch.Tensor], *, values: bool = True) -> None:
        """These tensors' values are used, or only looked at in another shape: freeze what that freezes."""
        for known in filter(None, map(self.known, inputs)):
            if known.when_read is not None:
                freeze(*known.when_read)
            if values:
                join(known)

    def as_numbers(self, tensors: Sequence[torch.Tensor], where: str) -> None:
        """Code outside the run reads these tensors' values."""
        self.read(tensors)
        freeze_along(filter(None, map(self.known, tensors)), f"positions along it are read by {where}")

    def say(self, tensor: torch.Tensor, what: Says, space: Space) -> None:
        """The whole numbers of a tensor are positions along a space, or count its units."""
        self.value(tensor).says = (what, space)
        self.speaks = True

    def said(self, tensor: torch.Tensor, what: Says) -> Space | None:
        """The space that a tensor's numbers are positions along, or count the units of."""
        says = self.value(tensor).says
        return says[1] if says is not None and says[0] == what else None

    def at_least(self, space: Space, count: int) -> None:
        """Fewer units would not do."""
        self.facts.branches[space, ">=", float(count)] = (True, self.where)

    def freeze_when_read(self, tensor: torch.Tensor, space: Space, reason: str) -> None:
        """Freeze a space if anything ever reads the values of this tensor."""
        self.value(tensor).when_read = (space, reason)

    def starts_after(self, space: Space) -> None:
        """What this operator takes begins where that ends, wherever that is in a narrower network."""
        self._ahead = space

    def _give_up(
        self, name: str, inputs: list[torch.Tensor], outputs: list[torch.Tensor], has_rule: bool, error: Exception
    ) -> None:
        reason = f"{self.where}: {error}" if has_rule else f"no rule for operator {name}"
        self.unknown[name] += not has_rule
        self.freeze_all(inputs, reason)
        freeze_along(map(self.value, inputs), reason)
        for tensor in outputs:
            known = self.known(tensor)
            if known is not None:
                self.freeze_all([tensor], reason)
            spaces = [constant(n, reason if n != 1 else ONE) for n in tensor.shape]
            self.note(tensor, Value(spaces, [False] * len(spaces), self._run, known.memory if known else None))

    def _remember(self, name: str, inputs: list[torch.Tensor], outputs: list[torch.Tensor], *, view: bool) -> None:
        self.allocations.note_releases()
        had = [self.value(t) for t in inputs]
        first = had[0] if had else None
        begun = len(self.allocations.events)
        for tensor in outputs:
            known = self.value(tensor)
            if view and first is not None:
                known.number = first.number
            if known.memory is None:
                if view and first is not None and first.memory is not None:
                    known.memory = first.memory
                elif not view:
                    known.memory = Memory(_innermost(tensor, known.spaces))
                    self.allocations.add(known.memory, self._bytes(tensor))
        self.scratch.note(name, inputs, outputs, (begun, len(self.allocations.events)), self._bytes)
        gave = [self.value(t) for t in outputs]
        met, made = ([list(known.spaces) for known in values] for values in (had, gave))
        record = Record(name, self.module, met, made, view)
        record.over, record.ahead = tuple(self._over), self._ahead
        record.weighs, self._weighed = len(self.macs) > self._weighed, len(self.macs)
        record.reads, record.writes = tuple(k.number for k in had), tuple(k.number for k in gave)
        self.records.append(record)

    def _bytes(self, tensor: torch.Tensor) -> CostTerm:
        return tensor.element_size(), tuple(self.spaces(tensor)), self.module

    def _abstract_arguments(self, func: Operator, args: Args, kwargs: Kwargs) -> tuple[Any, dict[str, Any]]:
        """Factories of floating tensors and everything that meets an abstract tensor become abstract."""
        if "device" in kwargs and kwargs["device"] is not None:
            kwargs = {**kwargs, "device": factory_device(func, args, kwargs)}
        has_abstract = has_real = False
        for arg in args:
            if isinstance(arg, torch.Tensor):
                has_abstract |= arg.is_meta
                has_real |= not arg.is_meta
            elif type(arg) in (list, tuple):
                for item in arg:
                    if isinstance(item, torch.Tensor):
                        has_abstract |= item.is_meta
                        has_real |= not item.is_meta
        if not (has_abstract and has_real):
            return args, kwargs
        if writes(func) and isinstance(args[0], torch.Tensor) and not args[0].is_meta:
            raise NotImplementedError("abstract values are written into a real tensor")
        return tuple(self._to_abstract(a) for a in args), kwargs

    def _to_abstract(self, arg: Any) -> Any:
        if isinstance(arg, torch.Tensor) and not arg.is_meta:
            if arg.dim() == 0:
                return arg
            twin = torch.empty_strided(arg.shape, arg.stride(), dtype=arg.dtype, device="meta")
            self.note(twin, self.value(arg))
            return twin
        if type(arg) in (list, tuple):
            return type(arg)(self._to_abstract(a) for a in arg)
        return arg


def _innermost(tensor: torch.Tensor, spaces: Sequence[Space]) -> Space | None:
    if tensor.layout is not torch.strided:
        return None
    beside = [s for s, step, n in zip(spaces, tensor.stride(), tensor.shape, strict=False) if step == 1 and n > 1]
    return beside[-1] if beside else None
