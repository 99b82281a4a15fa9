"""A proof says which branches of the user's code no run took; of what they do it knows nothing."""

from __future__ import annotations

import contextlib
import functools
import sys
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.torch.verifying.branches import Branches
from secateur.torch.verifying.uncalled import uncalled

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor, turned: bool = False, scale: float | None = None) -> Tensor:
        if x.dim() != 2:
            raise ValueError(f"two dimensions are needed, not {x.dim()}")
        h = self.first(x).relu()
        h = h.flip(1) if len(x) > 8 else h
        if turned:
            h = torch.roll(h, 1, 1)
            h = h * 2
        for _ in range(2):
            h = h + 1 if scale is None else h * scale
        with torch.enable_grad():
            return self.last(h)

    def sample(self, number: int) -> Tensor:
        return self(torch.randn(number, 6), number > 2)


def proof(dummy_input: Any, model: nn.Module | None = None) -> sc.Verification:
    model = (model or Branching()).eval()
    return sc.prune(model, "magnitude", {"macs": "85%"}, dummy_input)[1].verification


def lines_of(what: str) -> list[int]:
    with open(__file__) as file:
        return [number for number, line in enumerate(file, start=1) if what in line and "lines_of" not in line]


def test_branches_that_no_run_took_are_named_by_the_lines_they_begin_on() -> None:
    (note,) = proof(X).notes
    lines = [*lines_of("h.flip(1)"), *lines_of("torch.roll(h, 1, 1)"), *lines_of("if scale is None")]
    assert len(lines) == 3
    assert f"Branching.forward (test_branches_not_taken.py): {', '.join(map(str, lines))};" in note
    assert "also=" in note


def test_what_further_examples_take_is_not_named() -> None:
    given = sc.Examples(X, also=[(X, True), (torch.randn(9, 6), False, 2.0)])
    with pytest.raises(sc.Infeasible):  # the units have an order there
        proof(given)
    (note,) = proof(sc.Examples(X, also=[(X, False, 2.0)])).notes
    assert f"): {lines_of('h.flip(1)')[0]}, {lines_of('torch.roll(h, 1, 1)')[0]}; " in note


class Rolled(nn.Module):
    """Another unit's number for another argument, by all the ways that code has of going another way."""

    TABLE: ClassVar[Any] = {0: lambda h: h, 1: lambda h: h.roll(1, 1)}

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.first, self.last = way, nn.Linear(6, 12), nn.Linear(12, 4)
        self.make()

    def make(self) -> None:
        nn.init.normal_(self.first.weight, std=0.5)

    def forward(self, x: Tensor, turns: int = 0) -> Tensor:
        return self.last(getattr(self, self.way)(self.first(x).relu(), turns))

    def loop(self, h: Tensor, turns: int) -> Tensor:
        for _ in range(turns):  # loop
            h = h.roll(1, 1)
        return h

    def inside(self, h: Tensor, turns: int) -> Tensor:
        return sum([h.roll(1, 1) for _ in range(turns)], h)  # inside

    def short(self, h: Tensor, turns: int) -> Tensor:
        return h + (turns and h.roll(1, 1))  # short

    def table(self, h: Tensor, turns: int) -> Tensor:
        return self.TABLE[turns](h)

    def encode(self, x: Tensor) -> Tensor:
        return self.first(x)[:, 3]


@pytest.mark.parametrize("way", ["loop", "inside", "short", "table"])
def test_what_else_the_code_could_do_is_named(way: str) -> None:
    (note,) = proof(X, Rolled(way)).notes
    lines = lines_of(f"# {way}")
    assert ("branches of" in note) == bool(lines)
    assert all(f"py): {line};" in note for line in lines)
    assert "arguments that had one value in every run: turns=0; " in note
    assert "methods that no run called: Rolled.encode" in note


def wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def outer(*args: Any) -> Any:
        return function(*args)

    return outer


def bare(function: Any) -> Any:
    return lambda self, *args: function(self, *args)


class Decorated(nn.Module):
    """Each method reads what the model is made of, whatever is around it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 4)
        self.build()

    def build(self) -> None:
        nn.init.ones_(self.first.bias)

    @wrapped
    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(x).relu())

    @bare
    def hidden(self, x: Tensor) -> Tensor:
        return self.first(x)

    @bare
    def of_closure(self) -> Tensor:
        return self.first.weight

    @wrapped
    def of_wrapper(self) -> Tensor:
        return self.first.weight

    @torch.no_grad()
    def of_no_grad(self) -> Tensor:
        return self.first.weight

    @property
    def of_property(self) -> Tensor:
        return self.first.weight

    @functools.cached_property
    def of_cached_property(self) -> Tensor:
        return self.first.weight

    @staticmethod
    def of_static(model: Any) -> Tensor:
        return model.first.weight

    @classmethod
    def of_class(cls, model: Any) -> Tensor:
        return model.first.weight

    @functools.lru_cache  # noqa: B019
    def of_cache(self) -> Tensor:
        return self.first.weight

    @contextlib.contextmanager
    def of_context(self) -> Any:
        yield self.first.weight

    async def of_async(self) -> Tensor:
        return self.first.weight

    of_lambda = lambda self: self.first.weight
    of_partial = functools.partialmethod(lambda self, how: self.first.weight, 1)


def test_methods_that_no_run_called_are_named_beneath_their_decorators() -> None:
    model = Decorated()
    with Branches() as branches:
        model(X)
    named = uncalled(model, branches._reads)
    assert named == [f"Decorated.{name}" for name in vars(Decorated) if name.startswith("of_")]
    assert branches.not_called(model) == f"{', '.join(named[:8])} and {len(named) - 8} more"


class Roundabout(nn.Module):
    """Methods that come to the parts of a network without naming them, and some that do not come to them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 4)
        self.of_closure = lambda: self.last(torch.zeros(1, 12))
        self.of_nothing = lambda h: h + 1

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())

    def of_text(self) -> Any:
        return getattr(self, "last")  # noqa: B009 - how it is asked for matters

    def of_all(self) -> Any:
        return [p.data for p in self.parameters()]

    def of_state(self) -> Any:
        return self.load_state_dict({"first.weight": torch.zeros(12, 6)}, strict=False)

    def of_apply(self) -> Any:
        return self.apply(lambda m: m)

    def of_other(self) -> Any:
        return later(self)  # type: ignore[arg-type]

    def of_inner(self) -> Any:
        return list((lambda: vars(self))())

    def __getitem__(self, place: int) -> Any:
        return [self.first, self.last][place]

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        state[f"{prefix}first.weight"] = state[f"{prefix}first.weight"].view(12, 6)
        super()._load_from_state_dict(state, prefix, *rest)

    def __getstate__(self) -> Any:
        return super().__getstate__()

    def whole(self, x: Tensor) -> Tensor:
        return self(x).argmax(-1)

    def counted(self) -> int:
        self.count = getattr(torch, "count", 0)
        self.count += 1
        return self.count

    @staticmethod
    def beside(h: Tensor) -> Tensor:
        return later(h)

    def __len__(self) -> int:
        return len([self.first, self.last])


def test_methods_that_come_to_the_parts_in_a_roundabout_way_are_named() -> None:
    model = Roundabout()
    with Branches() as branches:
        model(X)
    named = {each.removeprefix("Roundabout.") for each in uncalled(model, branches._reads)}
    silent = {"of_nothing", "whole", "counted", "beside", "__len__"}
    ways = {name for name in vars(Roundabout) if name.startswith("of_")}
    assert named == ways | {"of_closure", "__getitem__", "_load_from_state_dict", "__getstate__"}
    assert not named & silent


class Asking(nn.Module):
    """Takes what may be given beside the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 4)

    def ends(self, h: Tensor) -> Tensor:
        return self.last(self.first(h).relu())


class Words(Asking):
    def forward(self, x: Tensor, **more: Any) -> Tensor:
        return self.ends(x) * more.get("gain", 1.0)


class Rest(Asking):
    def forward(self, x: Tensor, *more: Any) -> Tensor:
        return self.ends(x) * (*more, 1.0)[0]


class Keys(Asking):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.ends(batch["x"]) * batch.get("gain", 1.0)


class Unread(Asking):
    def forward(self, x: Tensor, **ignored: Any) -> Tensor:
        return self.ends(x)


@pytest.mark.parametrize(
    ("made", "given", "named"),
    [
        (Words, X, "**more (nothing)"),
        (Words, {"x": X, "other": 2}, "more['gain'] (nothing)"),
        (Rest, X, "*more (nothing)"),
        (Keys, ({"x": X}, {}), "batch['gain'] (nothing)"),
        (Keys, ({"x": X, "gain": torch.ones(1)}, {}), ""),
        (Unread, X, ""),
    ],
)
def test_what_no_run_was_given_is_named(made: type[nn.Module], given: Any, named: str) -> None:
    notes = proof(given, made()).notes
    assert notes == () if not named else f"arguments that had one value in every run: {named}. Calls" in notes[0]


def later(h: Tensor) -> Tensor:
    return h.roll(1, 1)


PICKED = {False: torch.relu, True: later}


class Dispatching(nn.Module):
    """Another function for a longer batch, where no condition is written."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 4)
        self.go = {"methods": self.by_methods, "table": self.by_table, "error": self.by_error, "made": self.by_made}[
            way
        ]
        self.ways = [self.same, self.turned]

    def same(self, h: Tensor) -> Tensor:
        return h

    def turned(self, h: Tensor) -> Tensor:
        return h.roll(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.go(self.first(x)))

    def by_methods(self, h: Tensor) -> Tensor:
        return {False: self.same, True: self.turned}[len(h) > 8](h)

    def by_table(self, h: Tensor) -> Tensor:
        return PICKED[len(h) > 8](h)

    def by_error(self, h: Tensor) -> Tensor:
        try:
            return dict.fromkeys(range(16), h)[len(h)]
        except KeyError:  # error
            return h.roll(1, 1)

    def by_made(self, h: Tensor) -> Tensor:
        ways = {
            False: lambda y: y,
            True: lambda y: y.roll(1, 1),  # made
        }
        return ways[len(h) > 8](h)


@pytest.mark.parametrize("way", ["methods", "table", "error", "made"])
def test_functions_that_are_picked_without_a_condition_are_named(way: str) -> None:
    (note,) = proof(X, Dispatching(way)).notes
    assert "Dispatching.turned" in note
    if way == "table":
        assert f"later (test_branches_not_taken.py: {lines_of('def later(')[0]})" in note
    lines = lines_of(f"# {way}") if way in ("error", "made") else []
    assert all(f"Dispatching.by_{way} (test_branches_not_taken.py): {line};" in note for line in lines)


def test_clean_up_and_handlers_that_only_raise_are_no_branches() -> None:
    class Careful(Branching):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            with torch.enable_grad():
                try:
                    return self.last(self.first(x))
                except RuntimeError as error:
                    raise ValueError("another size is needed") from error
                finally:
                    self.training = False

    model = Careful().eval()
    with Branches() as branches:
        model(X)
    assert branches.not_taken() is None


def test_calls_with_both_values_leave_no_argument_to_name() -> None:
    (note,) = proof(sc.Examples(X, also=[(X, False, 2.0), (X, False, 3.0)])).notes
    assert "arguments that had one value in every run: turned=False. Calls" in note


def test_arguments_that_do_not_go_to_forward_are_not_spoken_of() -> None:
    class Called(Branching):
        def __call__(self, pair: tuple[Tensor, bool]) -> Tensor:
            return self.forward(*pair)

    (note,) = proof(((X, False),), Called()).notes
    assert "arguments" not in note


def test_a_scripted_part_is_no_code_to_speak_of() -> None:
    model = Branching()
    model.spare = torch.jit.script(nn.Tanh())
    (note,) = proof(X, model).notes
    assert "Branching.forward" in note


def test_code_of_packages_is_not_looked_at() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert proof(torch.randn(2, 3, 8), layer).notes == ()


def test_a_debugger_or_a_measure_of_coverage_is_left_alone() -> None:
    def trace(*_: object) -> None:
        return None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with Branches() as branches:
            Branching()(X)
        assert sys.gettrace() is trace
        assert branches.not_taken() is None
    finally:
        sys.settrace(before)


def test_tracing_ends_with_the_block_also_where_it_raises() -> None:
    before = sys.gettrace()
    with pytest.raises(ValueError, match="two dimensions"), Branches():
        Branching()(X[0])
    assert sys.gettrace() is before


def test_another_thread_that_begins_to_listen_at_the_same_moment_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, settrace = list[object](), sys.settrace

    def busy(function: Any) -> None:
        calls.append(function)
        if len(calls) % 2:
            raise RuntimeError("Cannot install a trace function while another trace function is being installed")
        settrace(function)

    monkeypatch.setattr(sys, "settrace", busy)
    with Branches():
        heard = sys.gettrace()
    assert (heard is not None, sys.gettrace(), len(calls)) == (True, None, 4)


def test_a_refusal_to_listen_that_does_not_pass_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(function: Any) -> None:
        raise RuntimeError("tracing is not for this interpreter")

    monkeypatch.setattr(sys, "settrace", refused)
    monkeypatch.setattr("secateur.torch.verifying.branches._ATTEMPTS", 3)
    with pytest.raises(RuntimeError, match="not for this interpreter"), Branches():
        pass
