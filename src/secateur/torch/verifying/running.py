"""One network, run once, apart from the model: what it gave, and what it drew at random.

    side (tensors, plan) ──twin──► network ──scene (inputs, mode)──► Seen: outputs by place, gradients by parameter

``Numbers`` says in which precision: the model's own, or a wide one to which every tensor is cast and every cast and factory
in the code is led, so that a half-precision stem does not blur what follows.

Invariant: neither model nor example nor the process changes, and no tensor of a run outlives it.
"""

from __future__ import annotations

import pickle
import random
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from secateur.core.depth import Passes
from secateur.core.plan import Plan
from secateur.torch.narrowing.host_config import said_of_depth
from secateur.torch.narrowing.installing import install
from secateur.torch.narrowing.slices import remade
from secateur.torch.running.example import Example
from secateur.torch.running.explaining import brief
from secateur.torch.running.generators import UNSEEDED, is_seeded
from secateur.torch.running.interface import pinned
from secateur.torch.running.interrupts import Interrupts
from secateur.torch.running.outputs import Number, as_tensor, numbers_in
from secateur.torch.running.outside import Outside
from secateur.torch.running.passing import pass_over
from secateur.torch.running.randomness import _seed_all
from secateur.torch.running.state import changed, state_of
from secateur.torch.running.switches import ALONE, apart
from secateur.torch.running.twin import copied, twin
from secateur.torch.running.walking import modules_of, named_parameters
from secateur.torch.tracing.stage import let_go, let_go_of_frames
from secateur.torch.verifying.drawing import Lots, drawn, is_fixed
from secateur.torch.verifying.inputs import is_drawn

# On the CPU this kernel takes a batch of one in another memory order for what it is not (seen in PyTorch 2.13): the gradients
# of two layouts of the same numbers differ. What it is given is laid out as its input is.
_NORM_BACKWARD = torch.ops.aten.native_batch_norm_backward.default
# On the CPU this one writes the gradient of a channels-last input though nobody asked for it, and where there is no room (2.13):
# the process dies. It is asked for always.
_GROUPS_BACKWARD = torch.ops.aten.native_group_norm_backward.default
# It reads beyond what it is given where that has other features than its weights, which a packed sequence nobody checks (2.13).
_RECURRENT = torch.ops.aten.mkldnn_rnn_layer.default

_HELD = (random.Random, np.random.Generator, np.random.RandomState)

_COMPLEX = {torch.float64: torch.complex128, torch.float32: torch.complex64}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What both networks do: on which inputs, in which mode, and whether gradients are asked for.

    ``place`` is 0 for the graph's example, 1 for the first further one, ….
    """

    inputs: str
    example: Example
    place: int = 0
    training: bool = False
    backward: bool = False

    @property
    def mode(self) -> str:
        """The mode in words."""
        return "training" if self.training else "evaluation"


@dataclass(frozen=True, slots=True)
class Side:
    """A network to run: the model, where these tensors stand in for its own, with the attributes that a plan gives it.

    ``outside`` puts back what the code writes beside the model. Blocks that are ``passed_over`` give on what they are given.
    """

    model: nn.Module
    outside: Outside
    tensors: Mapping[str, torch.Tensor]
    plan: Plan
    passed_over: Mapping[str, Passes] = field(default_factory=dict)

    @property
    def lacks_blocks(self) -> bool:
        """Whether the network is shallower than the model: caches and looks inside then have fewer places."""
        return bool(self.passed_over or self.plan.drops)


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """The numbers a network runs on: ``wide`` is None for the model's own.

    With ``eps``, weights, inputs and the result of every operator are off by that share, up or down, as ``seed`` has it:
    what that does to the outputs is what rounding does to them.
    """

    wide: torch.dtype | None = None
    eps: float = 0.0
    seed: int = 0

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same numbers in this precision, in memory of their own."""
        return tensor.detach().clone() if self.wide is None else _cast(tensor.detach(), self.wide, copy=True)

    def off(self, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Each number larger or smaller by the share ``eps``, or as it is; whole numbers (masks, counts) stay."""
        if not self.eps or not _has_room(tensor):
            return tensor
        if tensor.is_complex():
            return torch.view_as_complex(self.off(torch.view_as_real(tensor.resolve_conj()), generator))
        signs = torch.randint(-1, 2, tensor.shape, generator=generator, dtype=torch.int8).to(tensor.device)
        return torch.where(tensor == tensor.round(), tensor, tensor + tensor * (signs * self.eps).to(tensor.dtype))


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run gave, copied: outputs by place, gradients by parameter.

    ``eps`` is the last place of the coarsest numbers that were met; ``random`` where the generators of process and network ended,
    and ``drew`` whether that is not where they began. ``keeps``: the call left something for a second one, which was made then;
    ``failed`` says how, where that raised. ``expects``: random numbers had their expected value. ``by_lot``: code may go by what
    it drew: some came from a generator, or what stood for it was compared, or read as a number of Python's.
    """

    outputs: Mapping[str, torch.Tensor]
    gradients: Mapping[str, torch.Tensor | None]
    eps: float
    random: bytes
    drew: bool
    keeps: bool
    failed: str = ""
    expects: bool = False
    by_lot: bool = False

    def of_first(self) -> Seen:
        """What the first call gave."""
        return replace(self, outputs={n: t for n, t in self.outputs.items() if not n.startswith(SECOND)}, keeps=False)


SECOND = "the second call's "  # what the names of its outputs begin with

Shrink = Callable[[int, torch.Tensor], torch.Tensor]  # the n-th output that is a tensor ──► what of it counts


def as_it_is(place: int, tensor: torch.Tensor) -> torch.Tensor:
    """All of an output counts."""
    return tensor


def run(side: Side, scene: Scene, numbers: Numbers, shrink: Shrink = as_it_is) -> Seen:
    """Run a network on a scene, and give what came of it; what its code raises comes through."""
    generator = torch.Generator().manual_seed(numbers.seed)
    arithmetic = _Arithmetic(numbers, generator)
    with ALONE, Interrupts() as interrupts, apart():
        network = None
        try:
            network = _network(side, numbers, generator, training=scene.training)
            arithmetic.generators, arithmetic.training = _generators_of(network), scene.training
            args, kwargs = _arguments(scene.example, numbers, generator)
            before = state_of(network)
            _seed_all(UNSEEDED)
            began, failed = _random_state(network), ""
            with torch.set_grad_enabled(scene.backward), arithmetic, interrupts.welcome():
                outputs = _outputs(scene.example.called(network)(*args, **kwargs), side, scene, shrink)
                gradients = _gradients(network, outputs) if scene.backward else {}
            if keeps := changed(before, state_of(network)):
                args, kwargs = _arguments(scene.example, numbers, generator)
                with torch.set_grad_enabled(scene.backward), arithmetic, interrupts.welcome():
                    second, failed = _second(network, (args, kwargs), side, scene, shrink)
                    outputs |= second
            ended = _random_state(network)
            # copies, made where nobody listens: what was made in the run goes with it
            copies = {place: tensor.detach().clone() for place, tensor in outputs.items()}
            slopes = {name: None if g is None else g.clone() for name, g in gradients.items()}
            drew, expects = ended != began, arithmetic.expects
            by_lot = drew or arithmetic.lots.decide
            return Seen(copies, slopes, arithmetic.coarsest, ended, drew, keeps, failed, expects, by_lot)
        except BaseException as error:
            let_go_of_frames(error)
            raise
        finally:
            outputs = gradients = args = kwargs = before = second = None
            if network is not None:
                let_go(modules_of(network))
                network = None  # with all that its code left in attributes
            side.outside.put_back(arithmetic.made)


def _outputs(returned: object, side: Side, scene: Scene, shrink: Shrink) -> dict[str, torch.Tensor]:
    if side.lacks_blocks:
        return _of_interface(returned, scene, shrink)
    return _shrunk(numbers_in(returned), shrink)


def _second(
    network: nn.Module, given: tuple[tuple[object, ...], dict[str, Any]], side: Side, scene: Scene, shrink: Shrink
) -> tuple[dict[str, torch.Tensor], str]:
    """What a second call in a row gives, where the first left something for it; why nothing, where the model is good for one."""
    try:
        found = _outputs(scene.example.called(network)(*given[0], **given[1]), side, scene, shrink)
        return {f"{SECOND}{place}": tensor for place, tensor in found.items()}, ""
    except Exception as error:
        let_go_of_frames(error)
        return {}, brief(error)


def _network(side: Side, numbers: Numbers, generator: torch.Generator, *, training: bool) -> nn.Module:
    def stand_in(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return remade(tensor, numbers.off(numbers.of(side.tensors.get(name, tensor)), generator))

    network = twin(side.model, stand_in)
    fields = said_of_depth(side.model, side.plan)
    install(network, {}, side.plan.edits, there=side.plan.narrowed, drops=side.plan.instead, fields=fields)
    for name, passes in side.passed_over.items():
        pass_over(network.get_submodule(name), passes)
    return network.train(training)


def _generators_of(network: nn.Module) -> set[int]:
    values = [value for module in modules_of(network) for value in vars(module).values()]
    return {id(value) for value in values if isinstance(value, torch.Generator)}


def _arguments(
    example: Example, numbers: Numbers, generator: torch.Generator
) -> tuple[tuple[object, ...], dict[str, Any]]:
    def argument(tensor: torch.Tensor) -> torch.Tensor:
        made = numbers.of(tensor)
        return numbers.off(made, generator) if numbers.eps and is_drawn(tensor) else made

    return copied((example.args, example.kwargs), argument)


def _shrunk(found: Sequence[tuple[str, Number]], shrink: Shrink) -> dict[str, torch.Tensor]:
    outputs: dict[str, torch.Tensor] = {}
    count = 0
    for place, value in found:
        outputs[place] = shrink(count, value) if isinstance(value, torch.Tensor) else as_tensor(value)
        count += isinstance(value, torch.Tensor)
    return outputs


def _of_interface(returned: object, scene: Scene, shrink: Shrink) -> dict[str, torch.Tensor]:
    """The tensors of an output that the world reads."""
    found = enumerate(pinned(returned, scene.example.interface))
    return {place: shrink(count, tensor) for count, (place, tensor, own) in found if own}


def _gradients(network: nn.Module, outputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor | None]:
    """The gradients of a sum of the outputs, each number times a fixed random one."""
    generator = torch.Generator().manual_seed(0)
    terms: list[torch.Tensor] = []
    for tensor in outputs.values():
        weights = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device)
        if tensor.requires_grad:
            real = torch.view_as_real(tensor).sum(-1) if tensor.is_complex() else tensor
            terms.append((real.double() * weights).sum())
    if terms:
        torch.stack(terms).sum().backward()
    named = named_parameters(network, once=True)
    return {name: None if p.grad is None else p.grad.detach() for name, p in named if p.requires_grad}


def _random_state(network: nn.Module) -> bytes:
    """Where the process's generators are, on the CPU, and those the network holds: one that drew nothing left them alone."""
    held = [value for module in modules_of(network) for value in vars(module).values() if type(value) in _HELD]
    states = random.getstate(), np.random.get_state(legacy=False), held
    return torch.default_generator.get_state().numpy().tobytes() + pickle.dumps(states)


def _cast(tensor: torch.Tensor, wide: torch.dtype, *, copy: bool = False) -> torch.Tensor:
    wider = _wider(tensor.dtype, wide)
    return tensor.to(wider) if wider is not tensor.dtype else tensor.clone() if copy else tensor


class _Arithmetic(TorchDispatchMode):
    """Leads casts and factories to the wide dtype, draws expected values, adds the noise of rounding, and notices the
    coarsest numbers met.
    """

    def __init__(self, numbers: Numbers, generator: torch.Generator) -> None:
        super().__init__()
        self.numbers, self.generator, self.coarsest = numbers, generator, 0.0
        self.made: list[weakref.ref[torch.Tensor]] = []
        self.generators: set[int] = set()  # those the network holds
        self.training = self.expects = False
        self.lots = Lots()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        wide = self.numbers.wide
        if wide is not None:
            args = tuple(_wider(arg, wide) if isinstance(arg, torch.dtype) else arg for arg in args)
            kwargs = {k: _wider(arg, wide) if isinstance(arg, torch.dtype) else arg for k, arg in kwargs.items()}
        if func is _NORM_BACKWARD and args[0] is not None:
            args = (torch.empty_like(args[1], dtype=args[0].dtype).copy_(args[0]), *args[1:])
        if func is _RECURRENT and args[0].shape[-1] != args[1].shape[-1]:
            raise RuntimeError(f"an LSTM of {args[1].shape[-1]} input features is given {args[0].shape[-1]}")
        if func is _GROUPS_BACKWARD:
            args = (*args[:-1], [True, *args[-1][1:]])
        fixed = is_fixed(kwargs.get("generator"), self.generators) or (not self.training and is_seeded())
        expected = None if fixed else drawn(func, args)
        self.expects |= expected is not None
        out = (expected or func)(*args, **kwargs)
        if wide is not None and isinstance(out, torch.Tensor) and not _has_tensors(args):
            out = _cast(out, wide)
        if self.numbers.eps and not any(r.alias_info for r in func._schema.returns):  # views must stay views
            off = partial(self.numbers.off, generator=self.generator)
            out = tree_map_only(torch.Tensor, off, out)
        self.lots.follow(args, out, drawn=expected is not None)
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.made.append(weakref.ref(tensor))
                # a number alone may be a constant of the code's, or the sum of many
                has_many = tensor.dim() or any(isinstance(a, torch.Tensor) and a.dim() for a in args)
                if has_many and (tensor.is_floating_point() or tensor.is_complex()):
                    self.coarsest = max(self.coarsest, torch.finfo(tensor.dtype).eps)
        return out


def _has_room(tensor: torch.Tensor) -> bool:
    """Whether numbers a little larger or smaller can stand in the place of these: no codes, no sparse ones."""
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return False
    return tensor.is_complex() or (tensor.is_floating_point() and tensor.element_size() > 1)


def _wider(dtype: torch.dtype, wide: torch.dtype) -> torch.dtype:
    """The dtype of these numbers in a wide run: never a narrower one, and codes of eight bits stay codes."""
    if dtype.is_complex:
        wide = _COMPLEX.get(wide, dtype)
    elif not dtype.is_floating_point or torch.finfo(dtype).bits < 16:
        return dtype
    return wide if torch.finfo(wide).bits > torch.finfo(dtype).bits else dtype


def _has_tensors(args: tuple[Any, ...]) -> bool:
    return any(
        isinstance(leaf, torch.Tensor) for arg in args for leaf in (arg if isinstance(arg, (list, tuple)) else (arg,))
    )
