"""A trace touches nothing: not the model, not the arguments, not what lies outside both, not the process."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import random
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import secateur as sc
from secateur.errors import InputError, TraceError
from secateur.torch.running.generators import Generators
from secateur.torch.running.hunting import take_out
from secateur.torch.running.interrupts import Interrupts
from secateur.torch.running.listening import Listening
from secateur.torch.running.switches import modes_aside, process_kept

X = torch.rand(2, 6)


class Net(nn.Module):
    """Two layers; ``between`` is what a test wants to happen between them."""

    def __init__(self, between: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
        self.between = [between]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.between[0](self, torch.relu(self.a(x))))


def widths(model: nn.Module, x: Any = X) -> list[tuple[str, int]]:
    return [(w.name, w.size) for w in sc.trace(model, x).free]


# -- places outside the model ------------------------------------------------------------------------------------------

_WINDOWS: dict[Any, torch.Tensor] = {}
_KNOWN: dict[str, Any] = {"steps": 0}
_LAST: torch.Tensor | None = None
_HISTORY: list[torch.Tensor] = []


class _Store:
    def __init__(self) -> None:
        self.held: torch.Tensor | None = None
        self.inner: dict[str, list[torch.Tensor]] = {"x": []}


_STORE = _Store()


@functools.lru_cache
def ramp(n: int) -> torch.Tensor:
    return torch.linspace(0, 1, n)


@functools.cache
def ramps(n: int) -> tuple[torch.Tensor, ...]:
    return (torch.linspace(0, 1, n), torch.linspace(0, 2, n))


def remembered(function: Callable[[int], torch.Tensor]) -> Callable[[int], torch.Tensor]:
    known: dict[int, torch.Tensor] = {}

    def look_up(n: int) -> torch.Tensor:
        if n not in known:
            known[n] = function(n)
        return known[n]

    look_up.known = known  # type: ignore[attr-defined]
    return look_up


@remembered
def scale(n: int) -> torch.Tensor:
    return torch.linspace(1, 2, n)


def in_a_dict(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    key = (x.shape[-1], "ramp")
    if key not in _WINDOWS:
        _WINDOWS[key] = torch.linspace(0, 1, x.shape[-1])
    return x * _WINDOWS[key]


def in_a_cache(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x * ramp(x.shape[-1])


def in_a_cache_of_tuples(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x * ramps(x.shape[-1])[1]


def in_a_closure(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x * scale(x.shape[-1])


def in_a_default(model: nn.Module, x: torch.Tensor, known: dict[int, torch.Tensor] = {}) -> torch.Tensor:  # noqa: B006
    known.setdefault(1, x.detach())
    return x


def in_a_global(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    global _LAST
    _LAST = x
    _HISTORY.append(x)
    return x


def in_an_object(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    _STORE.held = x
    _STORE.inner["x"].append(x)
    return x


class _Counted(Net):
    last: Any = None
    all: tuple[Any, ...] = ()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        type(self).last = x
        type(self).all = (*type(self).all, x)
        return super().forward(x)


OUTSIDE = [in_a_dict, in_a_cache, in_a_cache_of_tuples, in_a_closure, in_a_default, in_a_global, in_an_object]


def held_outside() -> list[Any]:
    stores = [
        _LAST,
        *_HISTORY,
        *_WINDOWS,
        *_WINDOWS.values(),
        _STORE.held,
        *_STORE.inner["x"],
        _Counted.last,
        *_Counted.all,
    ]
    caches = [ramp(8), *ramps(8), *scale.known.values(), *(in_a_default.__defaults__ or ({},))[0].values()]  # type: ignore[attr-defined]
    return [*stores, *caches]


@pytest.mark.parametrize("between", OUTSIDE, ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", [Net, _Counted])
def test_no_tensor_of_a_run_stays_outside_the_model(between: Any, kind: type[Net]) -> None:
    model = kind(between).eval()
    sc.trace(model, X)
    assert not [v for v in held_outside() if isinstance(v, torch.Tensor) and v.is_meta]
    assert not [v for v in held_outside() if type(v).__name__ == "Sized"]
    assert _HISTORY == []
    assert _STORE.inner == {"x": []}
    assert _WINDOWS == {}
    assert torch.isfinite(model(X)).all()
    in_a_default.__defaults__[0].clear()  # type: ignore[index]
    scale.known.clear()  # type: ignore[attr-defined]
    for held in (_WINDOWS, _HISTORY, _STORE.inner["x"]):
        held.clear()
    _Counted.last, _Counted.all = None, ()


def test_what_was_kept_outside_before_stays() -> None:
    model = Net(in_a_dict).eval()
    model(X)
    mine = _WINDOWS[(8, "ramp")]
    sc.trace(model, X)
    assert {(8, "ramp"): mine} == _WINDOWS
    _WINDOWS.clear()


def test_what_other_threads_write_outside_meanwhile_stays() -> None:
    model = Net(in_a_dict).eval()
    stop, written = threading.Event(), 0

    def work() -> None:
        nonlocal written
        while not stop.is_set():
            _KNOWN[f"{written}"] = written
            written += 1
            stop.wait(1e-4)  # at full speed it would outgrow every walk over it

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(5):
            sc.trace(model, X)
    finally:
        stop.set()
        thread.join()
    assert len(_KNOWN) == written + 1
    assert _WINDOWS == {}
    _KNOWN.clear()


class _Secretive:
    """Keeps a tensor where no walk over containers finds it."""

    __slots__ = ("cell",)

    def __init__(self) -> None:
        kept: Any = None

        def swap(value: Any) -> Any:
            nonlocal kept
            before, kept = kept, value
            return before

        self.cell = (swap,)


_SECRET = _Secretive()


def test_what_cannot_be_put_back_is_refused_and_nothing_of_the_run_stays() -> None:
    def keep(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        _SECRET.cell[0](x)
        return x

    with pytest.raises(TraceError, match="keeps a tensor of its run outside the model, in a variable"):
        sc.trace(Net(keep), X)
    assert _SECRET.cell[0].__closure__ is not None
    assert _SECRET.cell[0].__closure__[0].cell_contents is None


@contextlib.contextmanager
def _asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Every time that the collector is asked who holds something."""
    found: list[object] = []
    ask = gc.get_referrers

    def counted(*values: object) -> list[Any]:
        found.append(None)
        return ask(*values)

    with monkeypatch.context() as patch:
        patch.setattr(gc, "get_referrers", counted)
        yield found


def test_what_a_call_leaves_in_the_twin_goes_with_it_and_is_not_hunted(monkeypatch: pytest.MonkeyPatch) -> None:
    def steps(model: nn.Module, h: torch.Tensor) -> torch.Tensor:
        model.h = h
        for _ in range(5):
            model.h = torch.tanh(model.h) * h
        return model.h

    model = Net(steps)
    graph = sc.trace(model, X)
    with _asked(monkeypatch) as asked:
        assert sc.verify(model, graph.plan({"a.out_features": range(5)}), graph).passed
    assert not asked


def test_what_autograd_holds_goes_with_the_tensor_that_it_made(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, made, h = [X.clone().requires_grad_()], [], X.clone().requires_grad_()
    for _ in range(20):
        h = h * h
        made.append(weakref.ref(h))
    kept[0] = h
    del h
    with _asked(monkeypatch) as asked:
        take_out(made)
    assert kept == []
    assert all(one() is None for one in made)
    assert len(asked) == 1


# -- model, arguments ---------------------------------------------------------------------------------------------------


def test_a_run_writes_into_no_weight_and_no_argument() -> None:
    class Writes(Net):
        def forward(self, x: Any) -> torch.Tensor:  # type: ignore[override]
            self.a.weight.data.clamp_(-0.01, 0.01)
            self.steps = getattr(self, "steps", 0) + 1
            x["seen"].append(x["x"])
            x["x"].add_(1)
            return super().forward(x["x"])

    model = Writes(lambda _, h: h)
    state = copy.deepcopy(model.state_dict())
    batch = {"x": X.clone(), "seen": []}
    sc.trace(model, (batch, {}))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(batch["x"], X)
    assert batch["seen"] == []
    assert not hasattr(model, "steps")
    assert not any(hasattr(tensor, "_secateur") for tensor in [*model.parameters(), batch["x"]])


def test_a_table_with_a_largest_norm_keeps_its_rows() -> None:
    model = nn.Sequential(nn.Embedding(10, 8, max_norm=0.1), nn.Linear(8, 3))
    before = model[0].weight.detach().clone()
    sc.trace(model, torch.tensor([[1, 2]]))
    assert torch.equal(model[0].weight, before)


def test_torchscript_is_refused_whole_and_kept_as_it_is_inside() -> None:
    with pytest.raises(InputError, match="TorchScript"):
        sc.trace(torch.jit.script(nn.Linear(6, 3)), X)
    inner = torch.jit.script(nn.Linear(8, 8))
    model = nn.Sequential(nn.Linear(6, 8), inner, nn.Linear(8, 5), nn.Linear(5, 3))
    before = copy.deepcopy(inner.state_dict())
    graph = sc.trace(model, X)
    assert [w.name for w in graph.free] == ["2.out_features"]
    assert "1 is TorchScript" in str(graph["0.out_features"].frozen)
    assert all(torch.equal(tensor, before[name]) for name, tensor in inner.state_dict().items())
    small = sc.apply(model, graph.plan({"2.out_features": [0, 2]}), verify=False)
    assert small(X).shape == (2, 3)


# -- process ------------------------------------------------------------------------------------------------------------


@contextmanager
def unmoved() -> Iterator[None]:
    def states() -> list[Any]:
        numpy = np.random.get_state()
        flags = (torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled(), torch.get_default_dtype())
        hooks = (len(nn.modules.module._global_forward_hooks), len(nn.modules.module._global_forward_pre_hooks))
        return [torch.get_rng_state().tolist(), random.getstate(), numpy[1].tolist(), numpy[2:], flags, hooks]  # type: ignore[index]

    before = states()
    yield
    assert states() == before


def _draws(model: Any, x: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(3)
    n = x.shape[-1]
    x = x * random.random() + float(np.random.rand()) + torch.rand(n) + torch.randint(0, 3, (1,))
    return nn.functional.dropout(x, 0.5, training=True) + torch.rand(n, generator=model.source)


@pytest.mark.parametrize("reads_values", [False, True])
def test_random_states_and_switches_of_the_process_are_as_they_were(reads_values: bool) -> None:
    def between(model: Any, x: torch.Tensor) -> torch.Tensor:
        torch.set_default_dtype(torch.float64)
        torch.set_default_dtype(torch.float32)
        if reads_values and bool((x > 1e9).any()):
            return -x
        return _draws(model, x)

    model: Any = Net(between)
    model.source = torch.Generator().manual_seed(7)
    before = model.source.get_state()
    functions = {name: getattr(nn.functional, name) for name in ("has_torch_function_variadic", "relu", "linear")}
    with unmoved():
        assert widths(model) == []  # what is drawn from the model's own generator stands where it was drawn
    assert torch.equal(model.source.get_state(), before)
    assert all(getattr(nn.functional, name) is value for name, value in functions.items())


def test_a_forward_that_fails_leaves_switches_as_they_were() -> None:
    def between(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        torch.set_default_dtype(torch.float64)
        raise RuntimeError("no")

    model = Net(between)
    with unmoved(), pytest.raises(TraceError, match="no"):
        sc.trace(model, X)


class _Hearing(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.heard = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.heard += 1
        return func(*args, **(kwargs or {}))


class _Dispatching(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.heard = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.heard += 1
        return func(*args, **(kwargs or {}))


def test_the_callers_own_modes_neither_hear_the_run_nor_change_it() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))
    alone = sc.trace(model, X).to_json()
    with _Hearing() as hearing, _Dispatching() as dispatching:
        with modes_aside():
            torch.ones(3)
        quiet = hearing.heard, dispatching.heard
        torch.ones(3) + 1
        assert hearing.heard > quiet[0]
        assert dispatching.heard > quiet[1]
        before = hearing.heard
        said = _without_seconds(sc.trace(model, X))
        heard = hearing.heard - before
        torch.ones(3) + 1
        assert hearing.heard > before + heard
    assert said == _without_seconds(sc.Graph.from_json(alone))


def _without_seconds(graph: sc.Graph) -> Any:
    return [(w, graph.layouts) for w in graph.widths], graph.equations, graph.cost("macs")


def test_a_device_context_is_still_there_for_the_models_code() -> None:
    found: list[torch.device] = []

    def between(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        _KNOWN["device"] = torch.get_default_device()
        found.append(torch.get_default_device())
        return x

    model = Net(lambda m, x: between(m, x))
    before = torch.get_default_device()
    with torch.device("meta"), modes_aside():
        assert torch.get_default_device() == torch.device("meta")
    assert torch.get_default_device() == before
    sc.trace(model, X)


@pytest.mark.parametrize("outside", [True, False])
def test_inference_mode_hides_nothing(outside: bool) -> None:
    class Judged(nn.Sequential):
        @torch.inference_mode()
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)

    def layers() -> list[nn.Module]:
        return [
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.Flatten(),
            nn.LayerNorm(32),
            nn.Linear(32, 6),
            nn.Linear(6, 2),
        ]

    x = torch.rand(2, 3, 4, 4)
    expected = [(w.name, w.size) for w in sc.trace(nn.Sequential(*layers()).eval(), x).free]
    assert len(expected) == 2
    if outside:
        with torch.inference_mode():
            assert widths(nn.Sequential(*layers()).eval(), x) == expected
    else:
        assert widths(Judged(*layers()).eval(), x) == expected


# -- the parts ----------------------------------------------------------------------------------------------------------


class _Names(Listening):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def called(self, func: Any, args: Any, kwargs: Any) -> Any:
        self.names.append(func.__name__)
        return func(*args, **kwargs)


@pytest.mark.parametrize(
    ("call", "inside"),
    [
        (lambda: nn.functional.group_norm(torch.rand(1, 4), 2), "group_norm"),
        (lambda: nn.functional.max_pool2d(torch.rand(1, 1, 4, 4), 2), "max_pool2d"),
        (lambda: torch.einsum("ij,jk", [torch.rand(2, 2), torch.rand(2, 2)]), "einsum"),
        (lambda: 2 / torch.rand(2), "reciprocal"),
        (lambda: torch.rand(6).unflatten(0, (2, 3)), "unflatten"),
        (lambda: nn.MultiheadAttention(4, 2, batch_first=True).eval()(*[torch.rand(1, 2, 4)] * 3), "linear"),
    ],
)
def test_a_listening_mode_hears_inside_pytorchs_python_functions(call: Any, inside: str) -> None:
    torch.manual_seed(0)
    alone = call()
    torch.manual_seed(0)
    with torch.no_grad(), _Names() as mode:
        heard = call()
    assert inside in mode.names
    first = [t[0] if isinstance(t, tuple) else t for t in (alone, heard)]
    assert torch.equal(first[0], first[1])
    assert "has_torch_function" not in str(mode.names)


def test_two_threads_listen_without_hearing_each_other() -> None:
    heard: dict[int, list[str]] = {}
    barrier = threading.Barrier(2)

    def listen(number: int) -> None:
        with _Names() as mode:
            barrier.wait()
            for _ in range(200):
                nn.functional.softmax(torch.ones(2), 0) if number else nn.functional.softplus(torch.ones(2))
        heard[number] = mode.names

    threads = [threading.Thread(target=listen, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "softmax" in heard[1]
    assert "softmax" not in heard[0]
    assert "softplus" not in heard[1]


@pytest.mark.parametrize(
    ("operator", "args"),
    [
        (torch.ops.aten.rand.default, ([3],)),
        (torch.ops.aten.randperm.default, (8,)),
        (torch.ops.aten.bernoulli_.float, (torch.zeros(8), 0.5)),
        (torch.ops.aten.randint_like.default, (torch.zeros(8), 100)),
        (torch.ops.aten.native_dropout.default, (torch.ones(8), 0.5, True)),
    ],
)
def test_random_operators_draw_from_our_generators(operator: Any, args: Any) -> None:
    before = torch.get_rng_state()
    ours = Generators()
    first, second = ours.run(operator, args, {}), ours.run(operator, args, {})
    again = Generators().run(operator, args, {})
    flat = [t[0] if isinstance(t, tuple) else t for t in (first, second, again)]
    assert torch.equal(torch.get_rng_state(), before)
    assert flat[0].shape == flat[2].shape
    if operator is not torch.ops.aten.bernoulli_.float:
        assert torch.equal(flat[0], flat[2])
        assert not torch.equal(flat[0], flat[1])


def test_states_are_put_back_by_the_outermost_block() -> None:
    before = random.getstate()
    with process_kept():
        with process_kept():
            random.random()
        assert random.getstate() != before
    assert random.getstate() == before


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Python's own answer to Ctrl-C, also where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupt_waits_for_the_end_and_is_raised_at_once_where_it_is_welcome() -> None:
    steps: list[str] = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        with Interrupts():
            signal.raise_signal(signal.SIGINT)
            steps.append("went on")
        steps.append("not reached")
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012, SIM117
        with Interrupts() as interrupts:
            try:
                with interrupts.welcome():
                    signal.raise_signal(signal.SIGINT)
                    steps.append("not reached")
            finally:
                signal.raise_signal(signal.SIGINT)
                steps.append("put back")
    assert steps == ["went on", "put back"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupt_that_the_model_swallows_comes_through() -> None:
    class Swallowing(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            return super().forward(x)

    model = Swallowing(lambda _, x: x)
    with unmoved(), pytest.raises(KeyboardInterrupt):
        sc.trace(model, X)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupt_in_the_model_leaves_all_as_it_was() -> None:
    calls: list[int] = []

    class Interrupted(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            _WINDOWS["x"] = x
            if threading.current_thread() is threading.main_thread():
                signal.raise_signal(signal.SIGINT)
            return super().forward(x)

    model = Interrupted(lambda _, x: x)
    state = copy.deepcopy(model.state_dict())
    with unmoved(), pytest.raises(KeyboardInterrupt):
        sc.trace(model, X)
    assert calls == []
    assert _WINDOWS == {}
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch._C._len_torch_function_stack() == 0


class _Attending(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.TransformerEncoderLayer(width, 2, 2 * width, batch_first=True)
        self.norm, self.head = nn.BatchNorm1d(width), nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.inner(x).mean(1)))


def test_eight_threads_trace_while_their_models_serve() -> None:
    models = [_Attending(8 + 4 * (i % 4)).eval() for i in range(8)]
    inputs = [torch.rand(2, 3, 8 + 4 * (i % 4)) for i in range(8)]
    with torch.no_grad():
        expected = [model(x) for model, x in zip(models, inputs, strict=True)]
    alone = [_without_seconds(sc.trace(model, x)) for model, x in zip(models, inputs, strict=True)]
    stop, faults, served = threading.Event(), [], [0]

    def serve() -> None:
        while not stop.is_set():
            for model, x, y in zip(models, inputs, expected, strict=True):
                with torch.no_grad(), _Hearing():
                    if not torch.allclose(model(x), y, atol=1e-6):
                        faults.append("serving")
                served[0] += 1

    def work(number: int) -> None:
        try:
            for _ in range(2):
                if _without_seconds(sc.trace(models[number], inputs[number])) != alone[number]:
                    faults.append(f"graph {number}")
        except BaseException as error:
            faults.append(repr(error))

    with unmoved():
        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        server = threading.Thread(target=serve)
        for thread in [server, *threads]:
            thread.start()
        for thread in threads:
            thread.join()
        stop.set()
        server.join()
    assert faults == []
    assert served[0] > 8
