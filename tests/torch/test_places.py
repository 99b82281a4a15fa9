"""Blocks that no list holds: residual modules held by name, and the branches of a sum that their caller makes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc


class Residual(nn.Module):
    """Adds to what it is given by itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, channels, 1))

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        return torch.relu(x + self.body(x if shift is None else x + shift))


class Mlp(nn.Module):
    """A branch: somebody else adds what it gives."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.norm, self.wide, self.out = nn.LayerNorm(width), nn.Linear(width, 12), nn.Linear(12, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.wide(self.norm(x))))


class ByHand(nn.Module):
    """Written out, block by block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block1, self.block2, self.block3 = nn.Linear(4, 8), Mlp(), Mlp(), Mlp()
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.block1(x)
        x = x + self.block2(x)
        x = x - 0.5 * self.block3(x)
        return self.head(x)


class Attention(nn.Module):
    """Norms outside of the branches, a dropout, a layer scale, and a branch that gives two things."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp, self.scale, self.drop = Mlp(), nn.Parameter(torch.full((8,), 0.3)), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm1(x)
        x = x + self.drop(self.attention(y, y, y)[0])
        return self.head(x + self.scale * self.mlp(self.norm2(x)))


class UNet(nn.Module):
    """Its middle adds to what it gets; nothing around it does."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.mid, self.up = Residual(16), nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.time, self.out = nn.Linear(1, 16), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        left = self.stem(x)
        shift = self.time(x.new_ones(len(x), 1))[:, :, None, None]
        return self.out(torch.cat([left, self.up(self.mid(self.down(left), shift=shift))], 1))


class Stage(nn.Module):
    """Other channels, then a block of its own."""

    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        self.down, self.res = nn.Conv2d(before, channels, 3, stride=2), Residual(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.res(self.down(x))


class ListOfBranches(nn.Module):
    """The loop adds, not what it calls."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.branches = nn.ModuleList(Mlp() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            x = x + branch(x)
        return self.head(x)


class InPlace(nn.Module):
    """Sums where one of the two lies, this way and that."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second, self.head = nn.Linear(4, 8), Mlp(), Mlp(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.first(x)
        y += x
        y += self.second(y)
        return self.head(y)


def _stages() -> nn.Module:
    stages = nn.ModuleList([Stage(3, 8), Stage(8, 12)])
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))


ROWS, TOKENS, IMAGES = torch.randn(2, 4), torch.randn(2, 5, 4), torch.randn(2, 3, 16, 16)
MODELS: dict[str, tuple[Any, Tensor, list[str]]] = {
    "by hand": (ByHand, ROWS, ["block1", "block2", "block3"]),
    "attention": (Attention, TOKENS, ["attention", "mlp"]),
    "u-net": (UNet, IMAGES, ["mid"]),
    "stages": (_stages, IMAGES, ["0.res", "1.res"]),
    "list of branches": (ListOfBranches, ROWS, ["branches.0", "branches.1", "branches.2"]),
    "in place": (InPlace, ROWS, ["first", "second"]),
}


def _made(kind: Any) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


def _blocks(graph: sc.Graph) -> list[str]:
    return [width.name for width in graph.free if width.kind == "layers"]


@pytest.mark.parametrize("name", MODELS)
def test_blocks_are_found_dropped_and_proved(name: str) -> None:
    kind, example, expected = MODELS[name]
    model = _made(kind)
    graph = sc.trace(model, example, depth=True)
    assert _blocks(graph) == expected
    for drops in {(expected[0],), tuple(expected[1:])} - {()}:
        plan = graph.plan(dict.fromkeys(drops, ()))
        small = sc.apply(model, plan)  # compared with the whole network, in which these blocks add nothing
        gone = {n for n in model.state_dict() if any(n.startswith(f"{block}.") for block in drops)}
        assert small.state_dict().keys() == model.state_dict().keys() - gone
        again = sc.trace(small, example, check=False)
        for metric in graph.costs:
            told, counted = graph.cost(metric, plan.sizes), again.cost(metric)
            assert told >= counted if metric.startswith("peak") else told == counted, metric


def test_what_is_left_computes_the_sum_without_the_branch() -> None:
    model: Any = _made(ByHand)
    small = sc.apply(
        model, sc.trace(model, ROWS, depth=True).plan({"block2": (), "block1.wide.out_features": range(7)})
    )
    x = model.stem(ROWS)
    hidden = torch.relu(model.block1.wide(model.block1.norm(x)))
    x = x + nn.functional.linear(hidden[:, :7], model.block1.out.weight[:, :7], model.block1.out.bias)
    torch.testing.assert_close(small(ROWS), model.head(x - 0.5 * model.block3(x)))
    unet: Any = _made(UNet)
    shallow: Any = sc.apply(unet, sc.trace(unet, IMAGES, depth=True).plan({"mid": ()}))
    left = unet.stem(IMAGES)
    torch.testing.assert_close(shallow(IMAGES), unet.out(torch.cat([left, unet.up(unet.down(left))], 1)))
    assert isinstance(shallow.mid, nn.Identity)


def test_plans_and_artefacts_come_back(tmp_path: Path) -> None:
    model = _made(ListOfBranches)
    graph = sc.trace(model, ROWS, depth=True)
    plan = graph.plan({"branches.1": (), "branches.2.wide.out_features": range(5)})
    assert sc.Graph.from_json(graph.to_json()) == graph
    assert sc.Plan.from_json(plan.to_json()) == plan
    small: Any = sc.apply(model, plan)
    assert small.branches[2].wide.weight.shape == (5, 8)  # it kept its place
    sc.save(small, tmp_path / "artefact")
    restored = sc.restore(_made(ListOfBranches), tmp_path / "artefact")
    assert torch.equal(restored(ROWS), small(ROWS))
    torch.save(small, tmp_path / "model.pt")
    assert torch.equal(torch.load(tmp_path / "model.pt", weights_only=False)(ROWS), small(ROWS))
    further = sc.apply(small, sc.trace(small, ROWS, depth=True).plan({"branches.2": ()}))
    sc.save(further, tmp_path / "further")
    assert torch.equal(sc.restore(_made(ListOfBranches), tmp_path / "further")(ROWS), further(ROWS))


def test_a_plan_from_a_file_gives_on_nothing_that_is_not_there() -> None:
    graph = sc.trace(_made(UNet), IMAGES, depth=True)
    text = graph.plan({"mid": ()}).to_json()
    for before, after in (("[[0, 0]]", "[[3, 0]]"), ('"mid": {', '"out": {')):
        assert before in text
        with pytest.raises(sc.PlanError, match="what stands in its place"):
            sc.Plan.from_json(text.replace(before, after))


def test_one_of_several_stays_and_one_alone_may_go() -> None:
    graph = sc.trace(_made(ByHand), ROWS, depth=True)
    with pytest.raises(sc.PlanError, match="nothing of the model would be left"):
        graph.plan(dict.fromkeys(["block1", "block2", "block3"], ()))
    assert sc.trace(_made(UNet), IMAGES, depth=True).plan({"mid": ()}).drops == {"mid"}


@pytest.mark.parametrize("criterion", ["l2", "block_influence", "gate_gradient"])
def test_every_criterion_has_a_word_on_them(criterion: str) -> None:
    model: Any = _made(ByHand)
    with torch.no_grad():
        for parameter in model.block2.out.parameters():
            parameter.mul_(1e-3)
        model.block2.wide.weight.mul_(1e-3)
    config: dict[str, Any] = {"depth": "only", "criterion": criterion}
    if criterion != "l2":
        config |= {"data_loader": [(torch.randn(8, 4), torch.randint(0, 3, (8,)))]}
    if criterion == "gate_gradient":
        config |= {"loss_func": nn.functional.cross_entropy}
    _, result = sc.prune(model, "magnitude", {"params": "80%"}, ROWS, config)
    assert result.plan.drops == {"block2"}


class Parallel(nn.Module):
    """Two ways that are added; neither is what both were given."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.other, self.head = nn.Linear(4, 8), Mlp(), Mlp(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.one(x) + self.other(x))


class LastOfABranch(nn.Module):
    """What is added was made by several modules: the last one is no branch of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.norm = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return torch.tanh(x + self.norm(torch.relu(self.conv(x))))


class Twice(nn.Module):
    """One module, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Linear(4, 8), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.block(x)
        return torch.tanh(x + self.block(x))


class ReadElsewhere(nn.Module):
    """What the branch gives is looked at by a gate, too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.gate = nn.Linear(4, 8), Mlp(), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.block(x)
        return (x + y) * torch.sigmoid(self.gate(y))


class AllOfIt(nn.Module):
    """A network around which only a sum is left."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Mlp(4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)


@pytest.mark.parametrize("kind", [Parallel, LastOfABranch, Twice, ReadElsewhere, AllOfIt])
def test_what_is_no_block(kind: type[nn.Module]) -> None:
    graph = sc.trace(_made(kind), ROWS, depth=True, interface=False)
    assert not _blocks(graph)
    assert any("no block" in note for note in graph.notes)


class Asked(ByHand):
    """Its code wants to know how wide the block's layer is."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / self.block1.wide.in_features


def test_a_block_that_code_asks_for_something_stays_and_says_why() -> None:
    graph = sc.trace(_made(Asked), ROWS, depth=True)
    assert _blocks(graph) == ["block2", "block3"]
    assert "has no attribute 'wide'" in str(graph["block1"].frozen)


def test_a_mask_cannot_stand_for_a_block_that_goes() -> None:
    model = _made(ByHand)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(sc.PlanError, match="block1 goes whole"):
        sc.pruners.mask_plan(model, sc.trace(model, ROWS, depth=True).plan({"block1": ()}))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_follows_is_fitted_again() -> None:
    torch.manual_seed(0)
    model = _made(ByHand)
    batches = [torch.randn(64, 4) for _ in range(4)]
    held_out = torch.randn(64, 4)
    whole = model(held_out)

    def lost(compensate: str) -> float:
        config = {"data_loader": batches, "collect_func": lambda b: b, "compensate": compensate}
        config |= {"depth": "only", "criterion": "block_influence"}
        small, result = sc.prune(copy.deepcopy(model), "magnitude", {"params": "80%"}, ROWS, config)
        assert result.plan.drops
        return float((small(held_out) - whole).square().mean())

    assert lost("least_squares") < lost("none")
