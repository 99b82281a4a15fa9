"""Blocks as widths of kind ``layers``: found, priced, dropped, proved, and undone like any other narrowing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.torch.language import hugging_face, ids, llama, read_back, texts
from tests.zoo.shim import declare_torchvision_operators
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur.torch.apply import verification_of


class Layer(nn.Module):
    """Attention and a feed-forward, each added to what it is given; it also tells its attention weights."""

    def __init__(self, width: int, number: int) -> None:
        super().__init__()
        self.number = number
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 24), nn.GELU(), nn.Linear(24, width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        weights = torch.softmax(q @ k.transpose(1, 2), -1)
        x = x + self.out(weights @ v)
        return x + self.ffn(x), weights


class Transformer(nn.Module):
    """Written by hand: it counts its layers with a number of its own, and each layer has its number."""

    def __init__(self, layers: int = 4, width: int = 16) -> None:
        super().__init__()
        self.num_layers = layers
        self.embed = nn.Embedding(20, width)
        self.layers = nn.ModuleList(Layer(width, i) for i in range(layers))
        self.head = nn.Linear(width, 20)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for i in range(self.num_layers):
            assert self.layers[i].number == i
            x, _ = self.layers[i](x)
        return self.head(x)


class Bottleneck(nn.Module):
    """Convolutions around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


def _stages() -> nn.Module:
    """Two stages, the second behind a change of channels, and nothing else that could go."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *(Bottleneck(8) for _ in range(3)))
    second = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2), nn.BatchNorm2d(12), Bottleneck(12), Bottleneck(12))
    return nn.Sequential(first, second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)).eval()


def _transformer(layers: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return Transformer(layers).eval()


TOKENS = torch.arange(14).view(2, 7) % 20
IMAGES = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def _torchvision(name: str) -> nn.Module:
    declare_torchvision_operators()
    import torchvision

    torch.manual_seed(0)
    return getattr(torchvision.models, name)(num_classes=5).eval()


def _timm(name: str) -> nn.Module:
    declare_torchvision_operators()
    import timm

    torch.manual_seed(0)
    return timm.create_model(name, num_classes=5).eval()


_TINY = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3}
MODELS: dict[str, tuple[Any, Any, list[str]]] = {
    "by hand": (_transformer, TOKENS, [f"layers.{i}" for i in range(4)]),
    "stages": (_stages, IMAGES, ["0.2", "0.3", "0.4", "1.2", "1.3"]),
    "llama": (llama, ids(), [f"model.layers.{i}" for i in range(3)]),
    "bert": (
        lambda: hugging_face("Bert", "ForSequenceClassification", num_attention_heads=4, intermediate_size=48, **_TINY),
        ids(),
        [f"bert.encoder.layer.{i}" for i in range(3)],
    ),
    "gpt2": (
        lambda: hugging_face("GPT2", "LMHeadModel", vocab_size=64, n_embd=32, n_layer=3, n_head=4, n_positions=32),
        ids(),
        [f"transformer.h.{i}" for i in range(3)],
    ),
    "mamba": (
        lambda: hugging_face("Mamba", "ForCausalLM", state_size=4, **_TINY),
        ids(),
        [f"backbone.layers.{i}" for i in range(3)],
    ),
    "resnet": (
        lambda: _torchvision("resnet18"),
        torch.randn(1, 3, 32, 32),
        ["layer1.0", "layer1.1", "layer2.1", "layer3.1", "layer4.1"],
    ),
    "convnext": (
        lambda: _timm("test_convnext"),
        torch.randn(1, 3, 64, 64),
        ["stages.0", *(f"stages.{i}.blocks.{j}" for i, n in enumerate((1, 2, 4, 2)) for j in range(n) if n > 1)],
    ),
}


def _blocks(graph: sc.Graph) -> list[str]:
    return [width.name for width in graph.free if width.kind == "layers"]


@pytest.mark.parametrize("name", MODELS)
def test_blocks_are_found_dropped_and_proved(name: str) -> None:
    make, example, expected = MODELS[name]
    model = make()
    graph = sc.trace(model, example, depth=True)
    assert _blocks(graph) == expected
    drops = expected[1::3]
    plan = graph.plan(dict.fromkeys(drops, ()))
    small = sc.apply(model, plan)  # compared with the whole network, in which these blocks give on what they get
    assert sum(p.numel() for p in small.parameters()) == graph.cost("params", plan.sizes) < graph.params
    again = sc.trace(small, example, check=False)
    for metric in graph.costs:
        assert again.cost(metric) == graph.cost(metric, plan.sizes), metric


@pytest.mark.parametrize("name", ["by hand", "stages", "llama"])
def test_without_depth_nothing_is_said_of_blocks(name: str) -> None:
    make, example, _ = MODELS[name]
    model = make()
    shallow, deep = sc.trace(model, example), sc.trace(model, example, depth=True)
    assert not shallow.stacks
    assert shallow.widths == tuple(width for width in deep.widths if width.kind != "layers")
    assert {m: shallow.cost(m) for m in shallow.costs} == {m: deep.cost(m) for m in deep.costs}


def test_a_dropped_layer_is_the_identity_and_the_others_keep_their_weights() -> None:
    model = _transformer()
    small = sc.apply(model, sc.trace(model, TOKENS, depth=True).plan({"layers.1": ()}))
    assert [layer.number for layer in small.layers] == [0, 1, 2]
    assert small.num_layers == 3
    x = model.embed(TOKENS)
    for i in (0, 2, 3):
        x, _ = model.layers[i](x)
    torch.testing.assert_close(small(TOKENS), model.head(x))
    assert torch.equal(small.layers[1].out.weight, model.layers[2].out.weight)


def test_depth_goes_with_width_in_one_plan() -> None:
    model = _transformer()
    graph = sc.trace(model, TOKENS, depth=True)
    plan = graph.plan({"layers.0": (), "layers.3.ffn.1.out_features": range(10), "embed.embedding_dim": range(12)})
    small = sc.apply(model, plan)
    assert small.layers[2].ffn[1].weight.shape == (10, 12)
    assert sum(p.numel() for p in small.parameters()) == graph.cost("params", plan.sizes)


class Looks(nn.Module):
    """What its second layer makes is read by something else, too."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(8, i) for i in range(3))
        self.gate = nn.Linear(7, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.layers[0](x)
        x, weights = self.layers[1](x)
        x, _ = self.layers[2](x)
        return x * self.gate(weights)


class Shared(nn.Module):
    """Two of its layers hold one feed-forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Bottleneck(8) for _ in range(3)))
        self.layers[0].body = self.layers[1].body

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def test_what_others_read_or_hold_is_no_block() -> None:
    looks = sc.trace(Looks().eval(), torch.randn(2, 7, 8), interface=False, depth=True)
    assert "layers.1" not in [width.name for width in looks.widths]
    shared = sc.trace(Shared().eval(), torch.randn(1, 8, 6, 6), interface=False, depth=True)
    assert _blocks(shared) == ["layers.2"]


def test_layers_without_a_shortcut_are_no_blocks() -> None:
    plain = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(3)))
    graph = sc.trace(plain, torch.randn(2, 8), interface=False, depth=True)
    assert not graph.stacks
    assert any("no block" in note for note in graph.notes)


class Paired(nn.Module):
    """Its code names its layers one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Bottleneck(8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = self.layers
        return third(second(first(x)))


def test_what_does_not_run_without_a_block_says_why() -> None:
    graph = sc.trace(Paired().eval(), torch.randn(1, 8, 6, 6), depth=True)
    assert not _blocks(graph)
    reasons = [width.frozen for width in graph.widths if width.kind == "layers"]
    assert all("not enough values to unpack" in str(reason) for reason in reasons)


class Skips(nn.Module):
    """Runs without any of its layers, but not as if they gave on what they get: places matter."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Bottleneck(8) for _ in range(3))
        self.scales = [1.0, 2.0, 3.0]

    def forward(self, x: Tensor) -> Tensor:
        for scale, layer in zip(self.scales, self.layers, strict=False):
            x = layer(x) * scale
        return x


class Averages(nn.Module):
    """Divides by how many layers it has, which it asks each time."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Bottleneck(8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x) / len(self.layers)
        return x


class StepsTogether(nn.Module):
    """Layers and scales in step, the scales' parameters in a list of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Bottleneck(8) for _ in range(3))
        self.scales = nn.ParameterList(torch.full((1,), 1.0 + i) for i in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer, scale in zip(self.layers, self.scales, strict=False):
            x = layer(x * scale)
        return x


class UpAndDown(nn.Module):
    """What a layer left on the way down is taken on the way up."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(Bottleneck(8) for _ in range(3))
        self.up = nn.ModuleList(Bottleneck(8) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        left = []
        for layer in self.down:
            x = layer(x)
            left.append(x)
        for layer in self.up:
            x = layer(x) + left.pop().tanh()
        return x


@pytest.mark.parametrize("kind", [Skips, Averages, StepsTogether, UpAndDown])
def test_a_block_whose_place_matters_to_others_stays(kind: type[nn.Module]) -> None:
    graph = sc.trace(kind().eval(), torch.randn(2, 8, 6, 6), depth=True)
    reasons = {width.name: width.frozen for width in graph.widths if width.kind == "layers"}
    wrong = {"Skips": "layers.0", "Averages": "layers.1", "StepsTogether": "layers.1", "UpAndDown": "up.0"}
    assert "is not given what it gets now" in str(reasons[wrong[kind.__name__]])


class OfAKind(nn.Module):
    """Adds what a table of its kind makes of its input."""

    def __init__(self, kind: int) -> None:
        super().__init__()
        self.kind, self.body = kind, nn.Linear(8, 8)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        return x + self.body(x * table)


class Tables(nn.Module):
    """Makes a table for each kind of layer that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layers = nn.Linear(4, 8), nn.ModuleList(OfAKind(kind) for kind in (2, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        kinds = dict.fromkeys(layer.kind for layer in self.layers)
        tables = {kind: x.new_full((1,), 0.5 * kind).cos() for kind in kinds}
        for layer in self.layers:
            x = layer(x, tables[layer.kind])
        return x.tanh()


def test_what_only_blocks_need_that_are_gone_need_not_be_made() -> None:
    torch.manual_seed(0)
    model = Tables().eval()
    graph = sc.trace(model, torch.randn(2, 4), depth=True)
    assert _blocks(graph) == ["layers.0", "layers.1", "layers.2"]
    sc.apply(model, graph.plan({"layers.0": ()}))


class Strides(nn.Module):
    """Rolls by a number of its own, which is its place in the list, too."""

    def __init__(self, by: int) -> None:
        super().__init__()
        self.by, self.body = by, nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x.roll(self.by, 0))


def test_a_number_that_code_calculates_with_is_no_place_in_a_list() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(*(Strides(i + 1) for i in range(3))), nn.Linear(8, 2)).eval()
    graph = sc.trace(model, torch.randn(5, 4), depth=True)
    small = sc.apply(model, graph.plan({"1.0": ()}))
    assert [layer.by for layer in small[1]] == [2, 3]  # type: ignore[attr-defined]


class WritesIntoItsInput(nn.Module):
    """Adds to what it is given where that lies."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x += self.body(x)
        return x


def test_a_block_that_writes_into_what_it_is_given_is_proved() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(*(WritesIntoItsInput() for _ in range(3))), nn.Linear(8, 2))
    graph = sc.trace(model.eval(), torch.randn(5, 4), depth=True)
    assert sc.apply(model, graph.plan({"1.1": ()}))[1][1] is not None


class HeldLater(nn.Module):
    """What its first layer was given may still be read in the end."""

    def __init__(self, holds: bool) -> None:
        super().__init__()
        self.stem, self.layers = nn.Conv2d(3, 8, 1), nn.ModuleList(Bottleneck(8) for _ in range(3))
        self.holds = holds

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        first = x if self.holds else x.mean((2, 3))
        for layer in self.layers:
            x = layer(x)
        x = F.relu(x).mean((2, 3))
        return x * F.relu(first).mean((2, 3)) if self.holds else x * first


@pytest.mark.parametrize("holds", [False, True])
@pytest.mark.parametrize("drops", [["layers.0"], ["layers.1"], ["layers.2"], ["layers.0", "layers.1"]])
def test_the_peak_without_a_block_is_what_is_counted_without_it(drops: list[str], holds: bool) -> None:
    model, x = HeldLater(holds).eval(), torch.randn(1, 3, 8, 8)
    graph = sc.trace(model, x, depth=True)
    plan = graph.plan(dict.fromkeys(drops, ()))
    again = sc.trace(sc.apply(model, plan), x, check=False)
    held = 4 * 8 * 8 * 8 if holds and len(drops) > 1 else 0  # told as there although two that are both gone made it
    for metric in ("peak_activation_bytes", "peak_memory_bytes"):
        assert graph.costs[metric].monotone
        assert 0 <= graph.cost(metric, plan.sizes) - again.cost(metric) <= held


def test_one_block_of_each_stack_stays() -> None:
    model = _transformer()
    graph = sc.trace(model, TOKENS, depth=True)
    with pytest.raises(sc.PlanError, match="at least one of its blocks must stay"):
        graph.plan({f"layers.{i}": () for i in range(4)})
    budget = {"params": int(graph.cost("params", {f"layers.{i}": 0 for i in range(3)}))}
    graph = sc.trace(model, TOKENS, depth="only")
    assert len(sc.plan(graph, "l2", budget).drops) == 3
    with pytest.raises(sc.Infeasible):
        sc.plan(graph, "l2", {"params": budget["params"] - 1})


class Adds(nn.Module):
    """A small layer around a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


VECTORS = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def _between(blocks: int) -> nn.Module:
    """Blocks in one list with a stem and a head."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), *(Adds() for _ in range(blocks)), nn.Linear(8, 2)).eval()


@pytest.mark.parametrize("budget", [None, {"params": "50%"}])
@pytest.mark.parametrize("block", [f"layers.{i}" for i in range(4)])
def test_the_block_that_is_asked_to_go_goes_and_of_the_others_one_stays(
    block: str, budget: dict[str, str] | None
) -> None:
    graph = sc.trace(_transformer(), TOKENS, depth="only")
    plan = sc.plan(graph, "l1", budget, sizes={block: 0})
    assert block in plan.drops
    assert budget is not None or plan.drops == {block}
    assert budget is None or graph.cost("params", plan.sizes) <= 0.5 * graph.params


@pytest.mark.parametrize("budget", [None, {"params": "60%"}])
def test_all_blocks_of_a_stack_cannot_be_asked_to_go(budget: dict[str, str] | None) -> None:
    by_hand = sc.trace(_transformer(), TOKENS, depth=True)
    with pytest.raises(sc.InputError, match=r"no other is left of layers. At most 3 of these 4 may go"):
        sc.plan(by_hand, "l1", budget, sizes={f"layers.{i}": 0 for i in range(4)})
    graph = sc.trace(_between(3), VECTORS, depth=True)
    with pytest.raises(sc.InputError, match=r"sizes: 1, 2, 3 cannot all have 0.*At most 2 of these 3 may go"):
        sc.plan(graph, "l1", budget, sizes={"1": 0, "2": 0, "3": 0})
    config = {"depth": True, "sizes": {"1": 0, "2": 0, "3": 0}}
    with pytest.raises(sc.InputError, match="cannot all have 0"):
        sc.prune(_between(3), "magnitude", {"params": "90%"}, VECTORS, config)


def test_a_stem_and_a_head_in_their_list_are_no_blocks_that_stay() -> None:
    graph = sc.trace(_between(3), VECTORS, depth="only")
    assert sc.Graph.from_json(graph.to_json()).stacks == graph.stacks
    with pytest.raises(sc.PlanError, match="at least one of its blocks must stay"):
        graph.plan({"1": (), "2": (), "3": ()})
    least = int(graph.cost("params", {"1": 0, "2": 0}))
    assert len(sc.plan(graph, "l1", {"params": least}).drops) == 2
    with pytest.raises(sc.Infeasible):
        sc.plan(graph, "l1", {"params": least - 1})
    assert len(sc.trace(_between(1), VECTORS, depth=True).plan({"1": ()}).drops) == 1


def test_where_an_entry_like_the_blocks_has_to_stay_all_blocks_may_go() -> None:
    graph = sc.trace(_torchvision("resnet18"), torch.randn(1, 3, 32, 32), depth="only")
    assert graph.plan({"layer2.1": ()}).drops == {"layer2.1"}
    stays = graph.frozen(["layer1.0"], "excluded")
    assert sc.plan(stays, "l1", sizes={"layer1.1": 0}).drops == {"layer1.1"}


def test_graph_and_plan_come_back_from_json() -> None:
    graph = sc.trace(_transformer(), TOKENS, depth=True)
    plan = graph.plan({"layers.2": (), "layers.1.ffn.1.out_features": range(5)})
    assert sc.Graph.from_json(graph.to_json()) == graph
    assert sc.Plan.from_json(plan.to_json()) == plan
    assert "layers.2" in str(plan)
    assert "layers.{0..3}" in str(graph) or "layers.0" in str(graph)


def test_a_plan_read_from_a_file_is_proved_on_an_example() -> None:
    model = _transformer()
    plan = sc.Plan.from_json(sc.trace(model, TOKENS, depth=True).plan({"layers.2": ()}).to_json())
    small = sc.apply(model, plan, dummy_input=TOKENS)
    outcome = verification_of(small)
    assert outcome is not None
    assert outcome.compared == ("layers.2",)


@pytest.mark.parametrize("kept", [{"fc": []}, {"layers.9": []}, {"layers.0.norm": []}])
def test_a_plan_that_drops_what_is_no_block_is_refused(kept: dict[str, Any]) -> None:
    model = _transformer()
    plan = sc.trace(model, TOKENS, depth=True).plan({"layers.2": ()})
    forged = plan.to_json().replace('"layers.2": []', f'"{next(iter(kept))}": []')
    before = list(model.state_dict())
    with pytest.raises(sc.PlanError):
        sc.apply(model, sc.Plan.from_json(forged), in_place=True, verify=False)
    assert list(model.state_dict()) == before


def test_an_artefact_holds_depth_and_several_plans(tmp_path: Path) -> None:
    model = _transformer()
    first = sc.apply(model, sc.trace(model, TOKENS, depth=True).plan({"layers.1": ()}))
    graph = sc.trace(first, TOKENS, depth=True)
    second = sc.apply(first, graph.plan({"layers.0": (), "layers.2.ffn.1.out_features": range(6)}))
    sc.save(second, tmp_path / "a")
    restored = sc.restore(_transformer(), tmp_path / "a")
    assert list(restored.state_dict()) == list(second.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(restored.state_dict().values(), second.state_dict().values()))
    assert torch.equal(restored(TOKENS), second(TOKENS))
    assert [layer.number for layer in restored.layers] == [0, 1]
    second.extra = nn.Linear(2, 2)
    with pytest.raises(sc.ArtifactError, match="extra"):
        sc.save(second, tmp_path / "b")


def test_a_subnet_is_shallower_for_the_length_of_a_block() -> None:
    model = _transformer()
    plan = sc.trace(model, TOKENS, depth=True).plan({"layers.0": (), "layers.3": ()})
    layers, out = list(model.layers), model(TOKENS)
    with sc.subnet(model, plan):
        assert list(model.layers) == layers[1:3]
        assert not torch.equal(model(TOKENS), out)
    assert list(model.layers) == layers
    assert [layer.number for layer in model.layers] == [0, 1, 2, 3]
    assert torch.equal(model(TOKENS), out)


def test_a_state_dict_follows_without_a_live_model() -> None:
    model = _transformer()
    plan = sc.trace(model, TOKENS, depth=True).plan({"layers.1": (), "layers.2.ffn.1.out_features": range(6)})
    small = sc.apply(model, plan)
    made = sc.narrowed(model.state_dict(), plan)
    assert list(made) == list(small.state_dict())
    assert all(torch.equal(made[name], tensor) for name, tensor in small.state_dict().items())


def test_an_optimizer_follows_renumbered_layers() -> None:
    model = _transformer()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(TOKENS).sum().backward()
    optimizer.step()
    momentum = optimizer.state[model.layers[3].out.weight]["momentum_buffer"].clone()
    graph = sc.trace(model, TOKENS, depth=True)
    sc.apply(model, graph.plan({"layers.1": ()}), in_place=True)
    sc.training.remap_optimizer(optimizer, model)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    assert torch.equal(optimizer.state[model.layers[2].out.weight]["momentum_buffer"], momentum)


def _quiet(model: nn.Module, *numbers: int) -> nn.Module:
    """A transformer in which these layers add next to nothing."""
    with torch.no_grad():
        for number in numbers:
            for linear in (model.layers[number].out, model.layers[number].ffn[3]):
                linear.weight.mul_(1e-3)
                linear.bias.mul_(1e-3)
    return model


@pytest.mark.parametrize("criterion", ["l2", "block_influence", "gate_gradient", "taylor"])
def test_criteria_agree_on_layers_that_do_next_to_nothing(criterion: str) -> None:
    model = _quiet(_transformer(), 1, 2)
    options = {} if criterion == "l2" else {"data_loader": [TOKENS, TOKENS.flip(0)], "loss_func": _loss, **WHOLE}
    options |= {"depth": "only", "criterion": criterion}
    _, result = sc.prune(model, "magnitude", {"params": "60%"}, TOKENS, options)
    assert result.plan.drops == {"layers.1", "layers.2"}
    assert len(model.layers) == 2


WHOLE = {"collect_func": lambda batch: batch}


def _loss(output: Tensor, batch: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, 1), (batch.flatten() + 1) % 20)


def test_block_influence_is_one_minus_the_cosine_at_every_token() -> None:
    model = _transformer()
    graph = sc.trace(model, TOKENS, depth=True)
    found = sc.criteria.BlockInfluence(data_loader=[TOKENS], collect_func=lambda batch: batch)(graph, model)
    x = model.embed(TOKENS)
    for i, layer in enumerate(model.layers):
        y, _ = layer(x)
        np.testing.assert_allclose(found[f"layers.{i}"], 1 - F.cosine_similarity(x, y, -1).mean().item(), rtol=1e-5)
        x = y


@pytest.mark.parametrize("mode", ["magnitude", "fastnas", "gradnas"])
def test_searches_choose_between_depth_and_width(mode: str) -> None:
    model = _quiet(_transformer(), 1, 2)
    whole = model(TOKENS).detach()
    config: dict[str, Any] = {"depth": True}
    if mode != "magnitude":
        config |= {"score_func": lambda m: 1 / (1 + float((m(TOKENS) - whole).square().mean()))}
    if mode == "gradnas":
        config = {"depth": True, "data_loader": [TOKENS], "loss_func": _loss, **WHOLE}
    _, result = sc.prune(model, mode, {"params": "70%"}, TOKENS, config)
    assert result.plan.drops <= {"layers.1", "layers.2"}
    assert sum(p.numel() for p in model.parameters()) <= 0.7 * result.plan.graph.params


def test_limits_leave_blocks_alone_by_name_and_by_module() -> None:
    graph = sc.trace(_transformer(), TOKENS, depth=True)
    limits = {"exclude": ["layers.0"], "floor": 0.5, "multiple_of": 4}
    plan = sc.plan(graph, "random", {"params": "60%"}, limits=limits, allocation="per_cost")
    assert plan.drops
    assert not any(name.startswith("layers.0") for name in plan.kept)


def test_rounds_with_compensation_drop_blocks() -> None:
    model = _quiet(_transformer(), 1, 2)
    data = [TOKENS.roll(i, 0) for i in range(4)]
    config = {"depth": True, "data_loader": data, "steps": 3, "loss_func": _loss, **WHOLE}
    _, result = sc.prune(model, "progressive", {"params": "50%"}, TOKENS, config)
    assert result.plan.drops
    assert sum(p.numel() for p in model.parameters()) <= 0.5 * result.plan.graph.params


@pytest.mark.parametrize(
    ("family", "more"),
    [("Llama", {}), ("Gemma2", {"query_pre_attn_scalar": 8, "sliding_window": 4}), ("Mamba", {"state_size": 4})],
)
def test_stock_code_loads_a_shallower_checkpoint(family: str, more: dict[str, Any], tmp_path: Path) -> None:
    heads = {} if family == "Mamba" else {"num_attention_heads": 4, "intermediate_size": 48, "head_dim": 8}
    model = hugging_face(family, "ForCausalLM", vocab_size=64, hidden_size=32, num_hidden_layers=4, **heads, **more)
    stack = "backbone" if family == "Mamba" else "model"
    graph = sc.trace(model, ids(), depth=True)
    small: Any = sc.apply(model, graph.plan({f"{stack}.layers.1": ()}))
    assert small.config.num_hidden_layers == 3
    small.save_pretrained(tmp_path)
    loaded = read_back(small, tmp_path)
    assert torch.equal(loaded(**ids()).logits, small(**ids()).logits)
    generate = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(loaded.generate(**ids(), **generate), small.generate(**ids(), **generate))


_ENCODER_DECODERS: dict[str, tuple[dict[str, Any], str]] = {
    "Bart": (
        {"d_model": 16, "encoder_layers": 3, "decoder_layers": 3, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
        | {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 64},
        "model.encoder.layers.1",
    ),
    "T5": ({"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 3, "num_heads": 4}, "encoder.block.2"),
}


@pytest.mark.parametrize("family", _ENCODER_DECODERS)
def test_an_encoder_may_have_fewer_layers_than_its_decoder(family: str) -> None:
    options, block = _ENCODER_DECODERS[family]
    model = hugging_face(family, "ForConditionalGeneration", vocab_size=64, decoder_start_token_id=0, **options)
    both = {"input_ids": torch.randint(3, 60, (2, 7)), "decoder_input_ids": torch.randint(3, 60, (2, 5))}
    small: Any = sc.apply(model, sc.trace(model, both, depth=True).plan({block: ()}))
    said = type(small)(small.config)  # what stock code makes of the configuration
    assert {n: p.shape for n, p in said.named_parameters()} == {n: p.shape for n, p in small.named_parameters()}
    assert small(**both).logits.shape == (2, 5, 64)


def test_minitron_takes_a_number_of_layers() -> None:
    model: Any = llama(4)
    config = {"data_loader": texts(), **WHOLE}
    sizes = {"num_layers": 3, "intermediate_size": 40}
    _, result = sc.prune(model, "minitron", {"export_config": sizes}, ids(), config)
    assert (model.config.num_hidden_layers, model.config.intermediate_size) == (3, 40)
    assert len(model.model.layers) == 3
    assert len(result.plan.drops) == 1


def test_more_layers_than_there_are_is_refused_with_what_is_possible() -> None:
    config = {"data_loader": texts(), **WHOLE}
    for count in (4, 0):
        with pytest.raises(
            sc.InputError, match=r"num_hidden_layers=\d is not possible: model.layers has 3 layers, 1 must stay"
        ):
            sc.prune(llama(), "minitron", {"export_config": {"num_hidden_layers": count}}, ids(), config)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_sizes_that_are_asked_for_are_had_once_however_many_rounds_there_are(steps: int) -> None:
    """Blocks behind one that goes have other names in the rounds after it."""
    tokens, targets = torch.randint(20, (8, 5)), torch.randint(20, (8, 5))
    asked = {"layers.1": 0, "layers.2.ffn.1.out_features": 5}
    data = {"data_loader": [(tokens, targets)], "loss_func": lambda output, batch: output.square().mean()}
    config = {"depth": True, "sizes": asked, "steps": steps, **data}
    small, result = sc.prune(Transformer(), "magnitude", {"params": "75%"}, tokens, config)
    assert "layers.1" in result.plan.drops
    assert small.layers[1].ffn[1].out_features == result.plan.sizes["layers.2.ffn.1.out_features"] == 5
    assert result.plan.provenance["sizes"] == asked


def test_no_width_is_free_where_only_depth_is_asked_for_and_there_is_no_block() -> None:
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    graph = sc.trace(net, torch.randn(2, 4), depth="only")
    assert not graph.free
    assert "there is no block that could go" in " ".join(graph.notes)
    with pytest.raises(sc.Infeasible, match="only depth is asked for"):
        sc.prune(net, "magnitude", {"params": "50%"}, torch.randn(2, 4), {"depth": "only"})
