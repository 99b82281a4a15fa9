"""What a cut leaves over, or the input divides, is no unit: positions beyond the example's, and their like."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur.core.graph import Graph
from secateur.torch.running.example import Example
from secateur.torch.running.resizing import other_numbers, other_sizes

LONGEST = 16


class Scores(nn.Module):
    """Attention whose scores a layer gives for every position there may be (Synthesizer, arXiv:2005.00743)."""

    def __init__(self, cut: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.scores, self.values, self.out = nn.Linear(8, LONGEST), nn.Linear(8, 8), nn.Linear(8, 3)
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cut(self.scores(x), x) @ self.values(x))


class Table(nn.Module):
    """A table of positions that is worked on before as much of it as there are steps is added to them."""

    def __init__(self, work: Callable[[Any, int], Tensor]) -> None:
        super().__init__()
        self.table, self.again = nn.Parameter(torch.randn(LONGEST, 8)), nn.Linear(8, 8)
        self.steps, self.out = nn.Linear(8, 8), nn.Linear(8, 3)
        self.work = work

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.steps(x)) + self.work(self, x.shape[1]))


class Padded(nn.Module):
    """Weights over all positions there may be; what is weighed is written into the first of as many zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.weights, self.values, self.out, self.longest = (
            nn.Linear(8, LONGEST),
            nn.Linear(8, 8),
            nn.Linear(8, 3),
            LONGEST,
        )

    def forward(self, x: Tensor) -> Tensor:
        values = self.values(x)
        padded = values.new_zeros(x.shape[0], self.longest, values.shape[-1])
        padded[:, : x.shape[1]] = values
        return self.out(self.weights(x[:, -1]).softmax(-1).unsqueeze(1) @ padded)


class Identity(nn.Module):
    """To step t is added row t of an identity matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.out = nn.Linear(8, LONGEST), nn.Linear(LONGEST, 3)

    def forward(self, x: Tensor) -> Tensor:
        steps = F.relu(self.steps(x))
        return self.out(steps + torch.eye(steps.shape[-1])[: x.shape[1]])


class Nested(nn.Module):
    """As many features as there are steps are treated otherwise; all are read."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Linear(8, LONGEST), nn.Linear(LONGEST, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, steps = F.relu(self.a(x)), x.shape[1]
        return self.out(torch.cat([h[..., :steps] * 2, h[..., steps:]], -1))


def _numbered(scores: Tensor, x: Tensor) -> Tensor:
    return scores[..., : int(torch.full((x.shape[0],), x.shape[1]).max())].softmax(-1)


CUTS: dict[str, Callable[[], nn.Module]] = {
    "slice": lambda: Scores(lambda a, x: a[..., : x.shape[1]].softmax(-1)),
    "last": lambda: Scores(lambda a, x: a[..., -x.shape[1] :].softmax(-1)),
    "narrow": lambda: Scores(lambda a, x: a.narrow(-1, 0, x.size(1)).softmax(-1)),
    "split": lambda: Scores(lambda a, x: a.split([x.shape[1], a.shape[-1] - x.shape[1]], -1)[0].softmax(-1)),
    "middle": lambda: Scores(lambda a, x: a[..., 2 : 2 + x.shape[1]].softmax(-1)),
    "after the statistic": lambda: Scores(lambda a, x: a.softmax(-1)[..., : x.shape[1]]),
    "how many": lambda: Scores(lambda a, x: a[..., : len(x.unbind(1))].softmax(-1)),
    "a value": lambda: Scores(_numbered),
    "scaled table": lambda: Table(lambda m, n: (m.table * 3)[:n]),
    "normed table": lambda: Table(lambda m, n: F.normalize(m.table, dim=-1)[:n]),
    "projected table": lambda: Table(lambda m, n: m.again(m.table)[:n]),
    "joined table": lambda: Table(lambda m, n: torch.cat([m.table, m.table.flip(0)])[:n]),
    "padded": Padded,
    "identity": Identity,
    "nested": Nested,
}


@pytest.mark.parametrize("cut", CUTS)
def test_positions_beyond_the_example_are_no_units(cut: str) -> None:
    torch.manual_seed(0)
    model = CUTS[cut]().eval()
    graph = sc.trace(model, torch.randn(2, 4, 8))
    for width in graph.free:
        plan = graph.plan({width.name: range(1, width.size, 2)})
        small, masked = sc.apply(model, plan, in_place=False), _masked(model, plan)
        for steps in (4, 3, 7, 12):
            x = torch.randn(2, steps, 8)
            assert torch.allclose(small(x), masked(x), atol=1e-5), f"{width.name} at {steps} steps"


def _masked(model: nn.Module, plan: Any) -> nn.Module:
    """The whole network with zeros where the plan removes."""
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for name, tensor in masked.named_parameters():
            for axis, kept in enumerate(plan.indices(name) or ()):
                if kept is not None:
                    gone = torch.ones(tensor.shape[axis], dtype=torch.bool)
                    gone[torch.as_tensor(kept)] = False
                    tensor.index_fill_(axis, gone.nonzero().flatten(), 0)
    return masked


class Half(nn.Module):
    """A number of the network says how much is taken, and all is read."""

    def __init__(self) -> None:
        super().__init__()
        self.half, self.a, self.out = 8, nn.Linear(8, LONGEST), nn.Linear(LONGEST, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.out(torch.cat([h[..., : self.half].sigmoid(), h[..., self.half :]], -1))


class Beside(nn.Module):
    """A layer gives as many features as the input has, and others beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(8, 12), nn.Linear(12, 20), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        same, more = self.b(F.relu(self.a(x))).split([x.shape[-1], 12], -1)
        return self.out(torch.cat([x + same, F.relu(more)], -1))


class Diagonal(nn.Module):
    """Of a square of features, its diagonal is read: of every unit something."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.out((h[..., :, None] * h[..., None, :]).diagonal(dim1=-2, dim2=-1))


@pytest.mark.parametrize(("made", "free"), [(Half, {8}), (Beside, {12}), (Diagonal, {12})])
def test_what_a_size_of_the_network_cuts_stays_free(made: type[nn.Module], free: set[int]) -> None:
    graph: Graph = sc.trace(made().eval(), torch.randn(2, 4, 8))
    assert {width.size for width in graph.free} == free, [(w.name, w.size, w.frozen) for w in graph.widths]


class Between(nn.Module):
    """Two layers, and between them code under test that is given the example's other arguments too."""

    def __init__(self, code: Callable[..., Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(5, 20), nn.Linear(20, 12), nn.Linear(12, 3)
        self.code = code

    def forward(self, x: Any, *more: Any) -> Tensor:
        steps = [self.b(self.a(each).tanh()) for each in x] if isinstance(x, list) else self.b(self.a(x).tanh())
        return self.out(self.code(steps, *more).relu())


def _as_steps(steps: int) -> tuple[Any, ...]:
    return (torch.randn(2, steps, 5),)


def _with_numbers(*numbers: int) -> tuple[Any, ...]:
    return torch.randn(2, 4, 5), torch.tensor(numbers)


def _as_list(length: int) -> tuple[Any, ...]:
    return ([torch.randn(2, 5) for _ in range(length)],)


def _filled(h: Tensor, n: Tensor) -> Tensor:
    h = h.clone()
    h[..., int(n.max()) :] = 0
    return h


def _mixed(h: Tensor) -> Tensor:
    """The well-known slip: a reshape for a transpose."""
    return h.transpose(1, 2).reshape(h.shape)


STEPS = [_as_steps(n) for n in (3, 5, 16, 33)]
DIVIDED: dict[str, tuple[Callable[..., Tensor], tuple[Any, ...], list[tuple[Any, ...]]]] = {
    "mixed": (_mixed, _as_steps(1), STEPS),
    "mixed by a divisor": (_mixed, _as_steps(4), STEPS),
    "parts": (lambda h: torch.cat(h.chunk(h.shape[1], -1)[::-1], -1), _as_steps(4), STEPS),
    "more parts": (lambda h: torch.cat(h.chunk(1 + h.shape[1] // 16, -1)[::-1], -1), _as_steps(4), STEPS),
    "from": (lambda h: F.pad(h[..., h.shape[1] // 16 :], (h.shape[1] // 16, 0)), _as_steps(8), STEPS),
    "every": (
        lambda h: h[..., :: 1 + h.shape[1] // 16].repeat_interleave(1 + h.shape[1] // 16, -1),
        _as_steps(8),
        [_as_steps(n) for n in (3, 16, 33)],
    ),
    "in turn": (
        lambda h: torch.stack([h[:, t] * h[:, t, t : t + 1] for t in range(h.shape[1])], 1),
        _as_steps(4),
        STEPS[:2],
    ),
    "to a value": (_filled, _with_numbers(4), [_with_numbers(9), _with_numbers(6)]),
    "at values": (
        lambda h, n: h + sum(h[..., j : j + 1] for j in n.tolist()),
        _with_numbers(4, 2),
        [_with_numbers(9, 3), _with_numbers(11, 0)],
    ),
    "in as many as a value": (
        lambda h, n: h.view(2, 4, int(n.max()), -1).transpose(-1, -2).reshape(h.shape),
        _with_numbers(2),
        [_with_numbers(4), _with_numbers(6)],
    ),
    "in as many as are given": (
        lambda hs: torch.cat([h.chunk(len(hs), -1)[k] for k, h in enumerate(hs)], -1),
        _as_list(2),
        [_as_list(3), _as_list(4)],
    ),
}


@pytest.mark.parametrize("way", DIVIDED)
def test_what_the_input_divides_is_no_width(way: str) -> None:
    code, example, others = DIVIDED[way]
    torch.manual_seed(0)
    model = Between(code).eval()
    graph = sc.trace(model, example)
    assert any(width.size == 20 for width in graph.free), "what stands before is as free as ever"
    for width in graph.free:
        plan = graph.plan({width.name: range(1, width.size, 2)})
        small, masked = sc.apply(model, plan), _masked(model, plan)
        for given in (example, *others):
            assert torch.allclose(small(*given), masked(*given), atol=1e-5), width.name


def test_inputs_of_other_sizes_are_compared() -> None:
    model = Between(F.silu).eval()
    _, result = sc.prune(model, "magnitude", {"params": "60%"}, torch.randn(2, 7, 5))
    inputs = [one.inputs for one in result.verification.comparisons]
    assert {"inputs of another size than 2", "inputs of another size than 7"} <= set(inputs)
    assert "inputs of another size than 5" not in inputs, "it does not run on them"


def test_as_many_steps_as_features_are_other_steps_too() -> None:
    model = Between(F.silu).eval()
    _, result = sc.prune(model, "magnitude", {"params": "60%"}, torch.randn(2, 5, 5))
    assert "inputs of another size than 5" in [one.inputs for one in result.verification.comparisons]


def test_an_index_into_the_input_stays_one() -> None:
    nodes, edges = torch.randn(8, 5), torch.tensor([[0, 7, 3], [2, 1, 6]])
    example = Example.of(Between(F.silu), (nodes, edges, 4))
    made = [each for _, others in other_sizes(example) for each in others]
    made += [each for _, others in other_sizes(example, briefly=True) for each in others]
    made += [each for others in other_numbers(example) for each in others]
    assert {each.args[2] for each in made} == {4, 8, 5, 2, 3}
    assert {tuple(each.args[0].shape) for each in made} > {(8, 5)}
    for each in made:
        assert int(each.args[1].min()) >= 0
        assert int(each.args[1].max()) < len(each.args[0])
