"""Integers on their way into tensors: which expression of the code is the size of which space.

    B, N, C = x.shape                       sizes read from tensors carry their space
    x.view(B, N, self.num_heads, -1)        an argument that carries an origin states an equation

A torch-function mode sees the calls with their Python arguments, before these become plain integers below.

Invariant: an origin that arrives where no reader is known makes what it stands for constant; none is lost silently.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from secateur.core.sized import Origin, Sized, is_of_input
from secateur.core.space import constant, freeze, unify
from secateur.torch.rules.attention import attention_shape
from secateur.torch.rules.matmul import linear_shape
from secateur.torch.rules.registry import FUNCTION_RULES
from secateur.torch.running.calls import Args, Function, Kwargs, Result
from secateur.torch.running.listening import Listening
from secateur.torch.running.switches import onednn_off
from secateur.torch.tracing.answers import READS
from secateur.torch.tracing.arithmetic import ARITHMETIC
from secateur.torch.tracing.heard import call_of, is_followed
from secateur.torch.tracing.literals import GROUP_ARGUMENT, WRITTEN, groups_of, written
from secateur.torch.tracing.tracer import Tracer
from secateur.torch.tracing.unread import join

COUNTED_BY_INPUT = "the code divides it into as many parts as the input's size says"
Reading = Iterator[tuple[Any, torch.Tensor, int]]  # (integer, tensor, dimension it is the size of)


Reader = Callable[[Tracer, Result, Args, Kwargs], Reading]


_ABSTRACT = {
    torch.nn.functional.linear: linear_shape,
    torch.nn.functional.scaled_dot_product_attention: attention_shape,
}


_RECURRENT = frozenset({torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu})
_CELLS = frozenset({torch.lstm_cell, torch.gru_cell, torch.rnn_tanh_cell, torch.rnn_relu_cell})
_DROPOUTS = frozenset(
    f"{kind}dropout{suffix}"
    for kind in ("", "feature_", "alpha_", "feature_alpha_")
    for suffix in ("", "_", "1d", "2d", "3d")
)
_AS_ANOTHER = frozenset({"view_as", "reshape_as", "expand_as"})  # of the shape of a tensor, which is asked below Python
_SIMPLE = frozenset({torch.Tensor, torch.nn.Parameter, int, bool, float, str, type(None), torch.dtype, torch.device})
_SHAPE = torch.Tensor.shape
_DATA = torch.Tensor.data


class Sizes(Listening):
    """Reads sizes out of calls; runs linear layers and attention as one operator each."""

    def __init__(self, tracer: Tracer, *, reading: bool = True) -> None:
        super().__init__()
        self.tracer, self.reading = tracer, reading

    def called(self, func: Function, args: Args, kwargs: Kwargs) -> Result:
        if (call := call_of(func, args, kwargs, of_tensors=self.tracer.abstract)) is not None:
            self.tracer.hears(call)
        if self.tracer.keeps_all and func.__name__ in _DROPOUTS:
            return args[0]
        if func in FUNCTION_RULES and not any(map(is_followed, args)):
            return self._whole(func, args, kwargs)
        first = len(self.tracer.records)
        if self.tracer.answers is not None and func.__name__ in READS:
            out = self.tracer.answers.function(self.tracer.module, func, args, kwargs)
        elif func in _RECURRENT:
            out = self._recurrent(func, args, kwargs)
        else:
            out = func(*args, **kwargs)
        if not self.reading:
            return out
        if func in _CELLS:  # they demand a state of the size that they give, whatever it came from
            before, after = (state if isinstance(state, torch.Tensor) else state[0] for state in (args[1], out))
            self.tracer.same(self.tracer.spaces(before)[-1], self.tracer.spaces(after)[-1])
        name = func.__name__
        if name in _READS and isinstance(args[0], torch.Tensor) and args[0].dim():
            self.tracer.as_numbers(args[:1], name)
            self.tracer.freeze_all(args[:1], f"its values are read by {name} in {self.tracer.module or 'the model'}")
            return out
        if name in WRITTEN:
            found = written(name, self.tracer, out, args, kwargs, READERS.get(name))
            self.tracer.constants.extend((first, len(self.tracer.records), space) for space in found)
        if name in _EQUAL_PARTS and isinstance(args[1] if len(args) > 1 else None, int):
            self._equal_parts(_EQUAL_PARTS[name], out, args, kwargs)
            return out
        if name == "__get__":
            if func.__self__ is _SHAPE:
                return self._sized_shape(args[0], out)
            if func.__self__ is _DATA and (known := self.tracer.known(args[0])) is not None:
                self.tracer.note(out, known)
            return out
        if name == "__set__" and func.__self__ is _DATA and (known := self.tracer.known(args[1])) is not None:
            self.tracer.note(args[0], known)
            return out
        if name == "size" and isinstance(args[0], torch.Tensor):
            return self._sized_size(args, kwargs, out)
        if name in _AS_ANOTHER or _has_sized(args) or (kwargs and _has_sized(kwargs.values())):
            self._read(name, out, args, kwargs)
        return out

    def _recurrent(self, func: Function, args: Args, kwargs: Kwargs) -> Result:
        tracer, begun = self.tracer, len(self.tracer.allocations.events)
        with contextlib.nullcontext() if tracer.abstract else onednn_off():
            out = func(*args, **kwargs)
        if self.reading:
            span = (begun, len(tracer.allocations.events))
            tracer.scratch.recurrent(func.__name__, args, span, tracer.spaces, tracer.module)
            if func is torch.lstm and out[1].shape[-1] != out[2].shape[-1]:
                # PyTorch knows by their sizes that what it gives is projected, and builds only projections to fewer
                projected, cell = (tracer.spaces(state)[-1] for state in out[1:])
                tracer.branched(cell, ">", projected, outcome=True)
        return out

    def _whole(self, func: Function, args: Args, kwargs: Kwargs) -> Result:
        tracer = self.tracer
        abstract = _ABSTRACT.get(func)
        tracer.muted += 1
        try:
            if abstract is not None and any(isinstance(a, torch.Tensor) and a.is_meta for a in args):
                out = abstract(*args, **kwargs)
            else:
                out = func(*args, **kwargs)
        finally:
            tracer.muted -= 1
        tracer.observe(func, out, args, kwargs)
        return out

    def _equal_parts(self, fixed: int | None, parts: Any, args: Args, kwargs: Kwargs) -> None:
        """``chunk`` and its like divide what they are given evenly: the parts must stay of one size, so they are one space."""
        dim = fixed if fixed is not None else args[2] if len(args) > 2 else kwargs.get("dim", 0)
        if fixed == 1 and args[0].dim() == 1:
            dim = 0
        spaces = [self.tracer.spaces(part)[dim] for part in parts if part.dim()]
        for space in spaces:
            if is_of_input(args[1]):
                freeze(space, COUNTED_BY_INPUT)
            elif space.root().size == spaces[0].root().size:
                unify(spaces[0], space, "equal chunks")
            else:
                freeze(space, "the last of unequal chunks")
                freeze(spaces[0], "unequal chunks")

    def _sized_shape(self, tensor: torch.Tensor, shape: torch.Size) -> torch.Size:
        known = self.tracer.known(tensor)
        if known is None:
            return shape
        join(known)
        listener = self.tracer
        return torch.Size([n if n == 1 else Sized(n, s, listener) for n, s in zip(shape, known.spaces, strict=True)])

    def _sized_size(self, args: Args, kwargs: Kwargs, out: Result) -> Result:
        shape = self._sized_shape(args[0], args[0].shape)
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        return shape if dim is None else shape[dim]

    def _read(self, name: str, out: Result, args: Args, kwargs: Kwargs) -> None:
        tracer = self.tracer
        where = f"{name} in {tracer.module}" if tracer.module else name
        reader = READERS.get(name)
        if reader is not None:
            found = list(reader(tracer, out, args, kwargs))
            for value, tensor, dim in found:
                if isinstance(value, Sized) and tensor.dim():
                    tracer.facts.equations.append((value.origin, tracer.spaces(tensor)[dim % tensor.dim()], where))
            return
        if name in GROUP_ARGUMENT:
            counted = groups_of(tracer, name, args, kwargs)
            if counted is not None and isinstance(counted[0], Sized):
                tracer.facts.equations.append((counted[0].origin, counted[1], where))
            return
        for value in _flat_ints((args, kwargs)):
            if not isinstance(value, Sized):
                continue
            if name in ARITHMETIC:
                tracer.facts.float_uses.append((value.origin, where))
            elif name not in _POSITIONS:
                fixed = constant(abs(int.__index__(value)), f"a size is used as a number in {where}")
                origin = value.origin if value >= 0 else ("-", 0, value.origin)
                tracer.facts.equations.append((origin, fixed, where))


def _has_sized(values: Iterable[Any]) -> bool:
    """Whether an integer among these values, or inside them, is a Sized one."""
    complex_ones = (value for value in values if type(value) not in _SIMPLE)
    return any(isinstance(v, Sized) for value in complex_ones for v in _flat_ints(value))


def _flat_ints(tree: Any) -> Iterator[Any]:
    if isinstance(tree, int):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from _flat_ints(item)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from _flat_ints(item)
    elif isinstance(tree, slice):
        yield from _flat_ints((tree.start, tree.stop, tree.step))


def _size(tracer: Tracer, tensor: torch.Tensor, dim: int) -> int:
    """A dimension's size with its space, for arithmetic with other origins."""
    known = tracer.known(tensor) if tensor.shape[dim] != 1 else None
    return Sized(tensor.shape[dim], known.spaces[dim], _DEAF) if known is not None else tensor.shape[dim]


class _Deaf:
    """A listener for numbers that our own reading, not the model, does arithmetic with."""

    def float_use(self, origin: Origin) -> None:
        pass

    def compared(self, a: Origin, b: Origin, *, equal: bool) -> None:
        pass

    def branched(self, a: Origin, symbol: str, b: Origin, *, outcome: bool) -> None:
        pass

    def lost(self, origin: Origin, how: str) -> None:
        pass


_DEAF = _Deaf()


def _sizes(args: Args, kwargs: Kwargs, key: str = "size") -> list[Any]:
    flat: list[Any] = []
    for arg in (*args, *([kwargs[key]] if key in kwargs else [])):
        flat.extend(arg if isinstance(arg, (tuple, list)) else [arg])
    return [v for v in flat if isinstance(v, int) and not isinstance(v, bool)]


def _whole_shape(tracer: Tracer, out: Result, args: Args, kwargs: Kwargs) -> Reading:
    start = 1 if args and isinstance(args[0], torch.Tensor) else 0
    sizes = _sizes(args[start:], kwargs, "shape" if "shape" in kwargs else "size")
    if isinstance(out, torch.Tensor) and len(sizes) >= out.dim():
        yield from ((v, out, i) for i, v in enumerate(sizes[: out.dim()]))


def _as_another(tracer: Tracer, out: Result, args: Args, kwargs: Kwargs) -> Reading:
    other = args[1] if len(args) > 1 else kwargs["other"]
    yield from ((_size(tracer, other, i), out, i) for i in range(out.dim()))


def _eye(tracer: Tracer, out: Result, args: Args, kwargs: Kwargs) -> Reading:
    yield from ((v, out, i) for i, v in enumerate(_sizes(args, kwargs, "n")))


def _full(tracer: Tracer, out: Result, args: Args, kwargs: Kwargs) -> Reading:
    start = 1 if args and isinstance(args[0], torch.Tensor) else 0
    yield from _whole_shape(tracer, out, args[start : start + 1], kwargs)


def _unflatten(tracer: Tracer, out: Result, args: Args, kwargs: Kwargs) -> Reading:
    dim = args[1] if len(args) > 1 else kwargs["dim"]
    sizes = args[2] if len(args) > 2 else kwargs["sizes"]
    first = dim % args[0].dim()
    yield from ((v, out, first + i) for i, v in enumerate(sizes))


def _arange(tracer: Tracer, out: Result, args: Args, kwargs: Kwargs) -> Reading:
    numbers = [a for a in args if isinstance(a, int)]
    end = kwargs.get("end", numbers[0] if len(numbers) == 1 else None)
    if len(numbers) >= 2:
        end = numbers[1] - numbers[0]
    step = kwargs.get("step", numbers[2] if len(numbers) > 2 else 1)
    if end is not None:
        yield (end if step == 1 else (end + step - 1) // step), out, 0


def _split(tracer: Tracer, out: Result, args: Args, kwargs: Kwargs) -> Reading:
    keys = ("split_size_or_sections", "split_size", "split_sizes")
    sizes = args[1] if len(args) > 1 else next((kwargs[k] for k in keys if k in kwargs), None)
    dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    for i, part in enumerate(out):
        yield (sizes[i] if isinstance(sizes, (tuple, list)) else sizes), part, dim


def _tensor_split(tracer: Tracer, out: Result, args: Args, kwargs: Kwargs) -> Reading:
    """Given where to cut, not how much to take: each part but the last is as long as two cuts are apart."""
    cuts = args[1] if len(args) > 1 else kwargs.get("indices", kwargs.get("indices_or_sections"))
    dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    if isinstance(cuts, (tuple, list)):
        for before, cut, part in zip((0, *cuts), cuts, out, strict=False):
            yield cut - before, part, dim


def _narrow(tracer: Tracer, out: Result, args: Args, kwargs: Kwargs) -> Reading:
    dim = args[1] if len(args) > 1 else kwargs["dim"]
    yield (args[3] if len(args) > 3 else kwargs["length"]), out, dim


def _getitem(tracer: Tracer, out: Result, args: Args, kwargs: Kwargs) -> Reading:
    x, index = args[0], args[1]
    index = index if isinstance(index, tuple) else (index,)
    if not isinstance(out, torch.Tensor):
        return
    consumed = sum(1 for q in index if q is not None and q is not Ellipsis)
    source = target = 0
    for q in index:
        if q is Ellipsis:
            skip = x.dim() - consumed
            source, target = source + skip, target + skip
        elif q is None:
            target += 1
        elif isinstance(q, slice):
            length = _slice_length(q, _size(tracer, x, source))
            if length is not None:
                yield length, out, target
            if is_of_input(q.step):
                freeze(tracer.spaces(x)[source], COUNTED_BY_INPUT)
            source, target = source + 1, target + 1
        elif isinstance(q, int):
            source += 1
        else:
            return  # advanced indexing moves dimensions; slices beside it are left to the self-check


def _slice_length(q: slice, size: int) -> Any:
    start, stop = q.start, q.stop
    if q.step not in (None, 1) or not any(isinstance(v, Sized) for v in (start, stop)):
        return None
    start = 0 if start is None else start + size if start < 0 else start
    stop = size if stop is None else stop + size if stop < 0 else stop
    if int(stop) > int(size):
        return None
    return stop - start if int(start) else stop


def _repeat(tracer: Tracer, out: Result, args: Args, kwargs: Kwargs) -> Reading:
    x, counts = args[0], _sizes(args[1:], kwargs, "repeats")
    ahead = out.dim() - x.dim()
    for i, count in enumerate(counts[-out.dim() :]):
        yield count * (_size(tracer, x, i - ahead) if i >= ahead else 1), out, i


def _repeat_interleave(tracer: Tracer, out: Result, args: Args, kwargs: Kwargs) -> Reading:
    x = args[0]
    count = args[1] if len(args) > 1 else kwargs["repeats"]
    dim = args[2] if len(args) > 2 else kwargs.get("dim")
    dim = 0 if dim is None and x.dim() == 1 else dim
    if isinstance(count, int) and dim is not None:
        yield count * _size(tracer, x, dim), out, dim


def _histc(tracer: Tracer, out: Result, args: Args, kwargs: Kwargs) -> Reading:
    """Of positions, the parts are the units: so many, and the greatest number is one less."""
    bins, high = (kwargs.get(key, args[i] if len(args) > i else None) for i, key in ((1, "bins"), (3, "max")))
    yield bins, out, 0
    if isinstance(high, int):
        yield high + 1, out, 0


def _layer_norm(tracer: Tracer, out: Result, args: Args, kwargs: Kwargs) -> Reading:
    shape = args[1] if len(args) > 1 else kwargs["normalized_shape"]
    yield from ((v, args[0], args[0].dim() - len(shape) + i) for i, v in enumerate(shape))


READERS: dict[str, Reader] = {
    **dict.fromkeys(("view", "reshape", "resize_", "expand", "broadcast_to"), _whole_shape),
    **dict.fromkeys(("zeros", "ones", "empty", "rand", "randn", "new_zeros", "new_ones", "new_empty"), _whole_shape),
    **dict.fromkeys(("full", "new_full"), _full),
    **dict.fromkeys(_AS_ANOTHER, _as_another),
    "eye": _eye,
    "unflatten": _unflatten,
    "arange": _arange,
    **dict.fromkeys(("split", "split_with_sizes"), _split),
    "tensor_split": _tensor_split,
    "narrow": _narrow,
    "__getitem__": _getitem,
    **dict.fromkeys(("repeat", "tile"), _repeat),
    "repeat_interleave": _repeat_interleave,
    "histc": _histc,
    **dict.fromkeys(("layer_norm", "rms_norm", "native_layer_norm"), _layer_norm),
}


# functions that divide a dimension into so many parts -> the dimension, where the name says it
_EQUAL_PARTS: dict[str, int | None] = {"chunk": None, "tensor_split": None, "hsplit": 1, "vsplit": 0, "dsplit": 2}


# what hands a tensor's values to code that nobody listens to
_READS = READS | {"untyped_storage", "storage", "_typed_storage", "__dlpack__", "__reduce_ex__"}

# arguments that are positions or flags, not sizes
_POSITIONS = frozenset(
    ["__setitem__", "dim", "ndim", "stride", "__get__", "__set__", "__len__", "numel", "transpose", "permute"]
)
