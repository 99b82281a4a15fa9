"""Everything that is the user's, photographed: a trace may not leave a mark on any of it.

    model ── attributes at any depth ── tensors bit for bit, their versions and gradients ── hooks ── closures
    inputs · globals and caches of the user's modules · random states · switches and namespaces of the process

Invariant: a photograph holds on to what it shows, so that no identity is used twice.
"""

from __future__ import annotations

import builtins
import collections
import functools
import gc
import hashlib
import itertools
import math
import random
import sys
import types
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch._dynamo  # loads lazily, and changes namespaces when it does
from torch import Tensor, nn

Photo = dict[str, Any]
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), range, slice, torch.dtype, torch.device)
_ITERATORS = (itertools.count, itertools.cycle, itertools.islice, type(iter([])), type(iter(())), type(iter(range(0))))
_CACHE = type(functools.lru_cache(lambda: None))
_OPAQUE = (types.ModuleType, types.BuiltinFunctionType, types.CodeType, types.FrameType, weakref.ref)
_OUTSIDE = "globals"  # what lies here may grow by values of its own kind: caches do


class Belongings:
    """A photograph of before; `changes` takes another one and says what differs."""

    def __init__(self, model: nn.Module, arguments: Any, packages: tuple[str, ...]) -> None:
        self._packages = packages
        self._roots = {"model": model, "inputs": arguments}
        self._roots |= {f"{_OUTSIDE}.{name}": vars(sys.modules[name]) for name in self._modules_of(model)}
        self._before, self._process = self._photo(), process_state()

    def changes(self, at_most: int = 4) -> list[str]:
        """One sentence a difference between then and now."""
        now, process = self._photo(), process_state()
        found = list(_differences(self._before, now))
        found += [f"process: {name} changed" for name in _other_process(self._process, process)]
        found += [f"{path} holds what only a trace knows ({kind})" for path, kind in self.strangers(now)]
        return found[:at_most]

    def settle(self) -> None:
        """From now on, what is there now counts as before."""
        self._before, self._process = self._photo(), process_state()

    def strangers(self, photo: Photo) -> Iterator[tuple[str, str]]:
        """Tensors without data, and objects of the library, that were not there before."""
        for path, record in photo.items():
            if path not in self._before and record[-1]:
                yield path, record[0].__name__

    def _modules_of(self, model: nn.Module) -> list[str]:
        kinds = {cls for module in model.modules() for cls in type(module).__mro__}
        names = {cls.__module__ for cls in kinds}
        return sorted(n for n in names if n in sys.modules and self._is_users(n))

    def _is_users(self, module_name: str | None) -> bool:
        return bool(module_name) and any(f"{module_name}.".startswith(f"{p}.") for p in self._packages)

    def _photo(self) -> Photo:
        photo: Photo = {}
        seen: dict[int, Any] = {}
        waiting = [(name, root) for name, root in reversed(self._roots.items())]
        while waiting:
            path, value = waiting.pop()
            known = id(value) in seen
            photo[path] = (type(value), *_detail(value), _is_strange(value))
            if known or isinstance(value, _PLAIN) or (_is_strange(value) and not isinstance(value, Tensor)):
                continue
            seen[id(value)] = value
            waiting += [(f"{path}.{key}", item) for key, item in self._inside(value)][::-1]
        photo["\0alive"] = (dict, seen, False)
        return photo

    def _inside(self, value: Any) -> Iterator[tuple[str, Any]]:
        """What a value holds, by a name."""
        if isinstance(value, _OPAQUE):
            return
        if isinstance(value, type):
            if self._is_users(value.__module__):
                yield from ((k, v) for k, v in vars(value).items() if k not in ("__dict__", "__weakref__", "__doc__"))
            return
        if isinstance(value, types.FunctionType):
            if self._is_users(value.__module__):
                yield from _inside_function(value)
            return
        yield from _inside_container(value)
        yield from ((f"@{key}", item) for key, item in getattr(value, "__dict__", {}).items() if key != "_secateur")
        for cls in type(value).__mro__:
            slots = vars(cls).get("__slots__", ())
            for slot in (slots,) if isinstance(slots, str) else slots:
                if slot not in ("__dict__", "__weakref__") and hasattr(value, slot):
                    yield f"@{slot}", getattr(value, slot)


def _inside_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for i, cell in enumerate(function.__closure__ or ()):
        with_contents = [cell.cell_contents] if _is_filled(cell) else []
        yield f"cell{i}", tuple(with_contents)
    yield "defaults", (function.__defaults__, function.__kwdefaults__)
    yield "dict", function.__dict__


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _inside_container(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Tensor):
        yield "grad", value.grad if value.is_leaf else None
        yield "hooks", value._backward_hooks
    elif isinstance(value, (dict, types.MappingProxyType, collections.UserDict)):
        yield from ((_key(k), v) for k, v in value.items())
    elif isinstance(value, (list, tuple, collections.deque)):
        yield from ((str(i), v) for i, v in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        yield from ((_key(v), v) for v in value)
    elif isinstance(value, functools.partial):
        yield from (("func", value.func), ("args", value.args), ("keywords", value.keywords))
    elif isinstance(value, types.MethodType):
        yield from (("self", value.__self__), ("func", value.__func__))
    elif isinstance(value, (property, classmethod, staticmethod)):
        yield "func", getattr(value, "fget", None) or getattr(value, "__func__", None)
    elif isinstance(value, _CACHE):
        yield from (
            (f"cached <{id(item)}>", item) for item in gc.get_referents(value) if isinstance(item, (dict, Tensor))
        )
    elif isinstance(value, types.GeneratorType) and value.gi_frame is not None:
        yield from ((f"local {k}", v) for k, v in value.gi_frame.f_locals.items())
    elif isinstance(value, torch.jit.ScriptModule):
        yield from (dict(value.named_parameters()) | dict(value.named_buffers())).items()


def _key(key: Any) -> str:
    return repr(key) if isinstance(key, _PLAIN) or _is_plain_tuple(key) else f"<{type(key).__name__} {id(key)}>"


def _is_plain_tuple(key: Any) -> bool:
    return type(key) is tuple and all(isinstance(k, _PLAIN) for k in key)


def _detail(value: Any) -> tuple[Any, ...]:
    """What must be equal about a value itself, besides its type."""
    if isinstance(value, _PLAIN):
        return (repr(value),)
    if isinstance(value, Tensor):
        return (id(value), _tensor_detail(value))
    if isinstance(value, np.ndarray):
        return (id(value), value.dtype, value.shape, value.tobytes())
    if isinstance(value, np.generic):
        return (value.dtype, value.tobytes())
    if isinstance(value, torch.Generator):
        return (id(value), value.get_state().numpy().tobytes())
    if isinstance(value, random.Random):
        return (id(value), value.getstate())
    if isinstance(value, np.random.Generator):
        return (id(value), repr(value.bit_generator.state))
    if isinstance(value, np.random.RandomState):
        return (id(value), repr(value.get_state()))
    if isinstance(value, types.GeneratorType):
        return (id(value), value.gi_frame.f_lasti if value.gi_frame else None)
    if isinstance(value, _ITERATORS):
        return (id(value), repr(value.__reduce__()))
    if isinstance(value, Mapping):
        return (id(value), [_key(k) for k in value])
    if isinstance(value, (list, tuple, collections.deque, set, frozenset)):
        return (id(value), len(value)) if not isinstance(value, tuple) else (len(value),)
    if isinstance(value, (types.MethodType, types.CellType)):
        return ()
    return (id(value),)


def _tensor_detail(tensor: Tensor) -> tuple[Any, ...]:
    if torch.nn.parameter.is_lazy(tensor):
        return (tensor.dtype,)
    described = (tensor.dtype, tensor.device, tuple(tensor.shape), tensor.requires_grad, tensor.layout)
    version = None if tensor.is_inference() else tensor._version
    return (*described, version, id(tensor.grad_fn), _digest(tensor))


def _digest(tensor: Tensor) -> Any:
    if tensor.is_meta:
        return None
    plain = tensor.detach()
    if plain.layout is not torch.strided:
        return _digest(plain.to_dense())[2:]  # the dense copy lies elsewhere each time
    if plain.is_quantized:
        plain = plain.int_repr()
    raw = plain.resolve_conj().resolve_neg().contiguous().view(-1)
    where = (tensor.stride(), tensor.data_ptr())
    return (*where, hashlib.sha1(raw.view(torch.uint8).numpy().tobytes()).digest()) if raw.numel() else where


def _is_strange(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.is_meta or type(value).__module__.startswith(("secateur", "torch._subclasses"))
    return type(value).__module__.startswith("secateur")


def _differences(before: Photo, now: Photo) -> Iterator[str]:
    for path, record in before.items():
        if path == "\0alive":
            continue
        if path not in now:
            if not _is_kept_by_a_cache(path):
                yield f"{path} is gone"
        elif not _same(record[:-1], now[path][:-1]) and not _only_grew(path, record, now[path]):
            yield f"{path} changed{_how(record, now[path])}"
    yield from (f"{path} is new" for path in now if path not in before and not path.startswith(_OUTSIDE))


def _is_kept_by_a_cache(path: str) -> bool:
    """What ``functools.cache`` keeps is asked for anew where it was forgotten."""
    return path.startswith(_OUTSIDE) and ".cached <" in path


def _only_grew(path: str, record: tuple[Any, ...], now: tuple[Any, ...]) -> bool:
    if not path.startswith(_OUTSIDE) or record[:2] != now[:2]:
        return False
    if _is_kept_by_a_cache(path) and issubclass(record[0], dict):
        return True
    contents = record[2] if len(record) > 3 else None
    if isinstance(contents, int):
        return contents <= now[2]
    return isinstance(contents, list) and now[2][: len(contents)] == contents


def _how(record: tuple[Any, ...], now: tuple[Any, ...]) -> str:
    if record[0] is not now[0]:
        return f" from {record[0].__name__} to {now[0].__name__}"
    if issubclass(record[0], _PLAIN):
        return f" from {record[1][:40]} to {now[1][:40]}"
    if issubclass(record[0], Tensor) and record[1] == now[1]:
        names = ("dtype", "device", "shape", "requires_grad", "layout", "version counter", "grad_fn", "values")
        return f" ({', '.join(n for n, a, b in zip(names, record[2], now[2]) if not _same(a, b))})"
    return " (another object)" if record[1:2] != now[1:2] else " (contents)"


def _same(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except (ValueError, RuntimeError):
        return a is b


def process_state() -> dict[str, Any]:
    """Random states, switches, mode stacks, global hooks, and what the namespaces that code looks into hold."""
    names = {
        "Python's random state": random.getstate(),
        "NumPy's random state": repr(np.random.get_state()),
        "PyTorch's random state": torch.get_rng_state().numpy().tobytes(),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "default dtype and device": (torch.get_default_dtype(), torch.get_default_device()),
        "determinism": (torch.are_deterministic_algorithms_enabled(), torch.is_anomaly_enabled()),
        "attention fast path": torch.backends.mha.get_fastpath_enabled(),
        "oneDNN": (torch._C._get_mkldnn_enabled(), torch.backends.mkldnn.flags),
        "attention kernels": (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "autocast": (
            torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"),
            torch.is_autocast_cache_enabled(),
        ),
        "mode stacks": (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()),
        "profilers": (sys.getprofile(), sys.gettrace()),
    }
    hooks = {k: dict(v) for k, v in vars(nn.modules.module).items() if k.startswith("_global_") and isinstance(v, dict)}
    places = (torch.nn.functional, torch.functional, torch._tensor, torch, torch.Tensor, nn.Module, math, np, builtins)
    held = {f"namespace {place.__name__}": _identities(place) for place in places}
    return names | {"global module hooks": hooks} | held


def _other_process(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    for name, state in before.items():
        if isinstance(state, dict):  # what a library loads lazily may come; what is there may not change
            yield from (f"{name}: {key}" for key in state if now[name].get(key) != state[key])
        elif not _same(state, now[name]):
            yield name


def _identities(place: Any) -> dict[str, int]:
    lazily = () if not isinstance(place, types.ModuleType) else (types.ModuleType,)
    return {k: id(v) for k, v in vars(place).items() if not isinstance(v, lazily) and k != "_"}
