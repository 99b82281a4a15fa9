"""What other pruning tools are known to get wrong, one test each.

Every network is pruned to about half, compared with the masked one, trained a step, copied, and its state restored.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.fuzz.networks import TRAPS
from tests.zoo.shim import declare_torchvision_operators
from torch import nn

import secateur as sc
from secateur.core.layout import widths_of
from secateur.errors import InputError
from secateur.torch.narrowing.tolerances import FLOAT32
from secateur.torch.running.example import Example
from secateur.torch.running.outputs import output_tensors

declare_torchvision_operators()

torch.set_num_threads(1)

HALF = {"params": "60%"}


def by_convention(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*inputs, {}) if inputs and isinstance(inputs[-1], dict) else inputs


def outputs(model: nn.Module, inputs: Any) -> list[torch.Tensor]:
    example = Example.of(model, inputs)
    return [t for t in output_tensors(model(*example.args, **example.kwargs)) if t.is_floating_point()]


def pruned(
    model: nn.Module, inputs: Any, constraints: dict[str, Any] = HALF, **config: Any
) -> tuple[nn.Module, sc.PruneResult]:
    """A pruned copy that has been through everything a user does with it."""
    original = model
    small, result = sc.prune(copy.deepcopy(model), "magnitude", constraints, inputs, config=config or None)
    assert result.verification.passed
    assert result.verification.compared or result.verification.not_compared, "nothing was narrowed"
    assert result.params == sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in original.parameters())
    assert [t.shape for t in outputs(small, inputs)] == [t.shape for t in outputs(original, inputs)]
    agrees_with_masked(original, small, result, inputs)
    trains(small, inputs)
    survives_copies(small, inputs)
    return small, result


def agrees_with_masked(original: nn.Module, small: nn.Module, result: sc.PruneResult, inputs: Any) -> None:
    """An opinion beside `verify`'s: the removed slices set to zero by hand, where every narrowed width is exact."""
    if result.verification.not_compared:
        return
    masked = copy.deepcopy(original).eval()
    done: set[int] = set()
    for name, tensor in [*masked.named_parameters(), *masked.named_buffers()]:
        if id(tensor) in done or not tensor.is_floating_point():
            continue
        done.add(id(tensor))
        for axis, kept in enumerate(result.plan.indices(name)):
            if kept is not None and kept.ndim == 1:
                gone = torch.ones(tensor.shape[axis], dtype=torch.bool)
                gone[torch.as_tensor(kept)] = False
                tensor.data.index_fill_(axis, gone.nonzero().flatten(), 0.0)
    if any(kept is not None and kept.ndim == 2 for name in result.plan.layouts for kept in result.plan.indices(name)):
        return
    with torch.no_grad():
        for a, b in zip(outputs(masked, inputs), outputs(copy.deepcopy(small).eval(), inputs), strict=True):
            scale = a.double().abs().max().item()
            assert (a.double() - b.double()).abs().max().item() <= 10 * FLOAT32 * max(scale, 1e-6)


def trains(small: nn.Module, inputs: Any) -> None:
    """One step moves what has a gradient, and the next forward pass is finite."""
    model = copy.deepcopy(small).train()
    optimiser = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    sum(t.float().square().mean() for t in outputs(model, inputs)).backward()
    before = [p.detach().clone() for p in model.parameters()]
    moved = [p.grad is not None and bool(p.grad.any()) for p in model.parameters()]
    optimiser.step()
    assert any(moved)
    for old, new, has_gradient in zip(before, model.parameters(), moved, strict=True):
        assert has_gradient or torch.equal(old, new)
    assert all(bool(t.isfinite().all()) for t in outputs(model.eval(), inputs))


def survives_copies(small: nn.Module, inputs: Any) -> None:
    """A deep copy and a state dict give the same outputs, bit for bit."""
    small = small.eval()
    with torch.no_grad():
        expected = outputs(small, inputs)
        twin = copy.deepcopy(small)
        for tensor in [*twin.parameters(), *twin.buffers()]:
            tensor.data = torch.zeros_like(tensor.data)
        twin.load_state_dict(small.state_dict(), strict=True)
        for name, buffer in small.named_buffers():  # buffers that no state dict holds
            twin.get_buffer(name).data.copy_(buffer)
        assert all(torch.equal(a, b) for a, b in zip(expected, outputs(twin, inputs), strict=True))


def of_trap(name: str, constraints: dict[str, Any] = HALF, **config: Any) -> tuple[nn.Module, sc.PruneResult]:
    network = TRAPS[name]()
    return pruned(network.model, by_convention(network.inputs), constraints, **config)


def test_a_channel_flip_keeps_its_pairs_in_order() -> None:
    network = TRAPS["channel_flip"]()
    graph = sc.trace(network.model, network.inputs)
    moved = [w for w in graph.widths if w.frozen and "positions move" in w.frozen]
    assert moved, "a flip moves positions: what it flips may not be narrowed by position"
    if graph.free:
        pruned(network.model, network.inputs, {"params": "90%"})


def test_a_channel_shuffle_keeps_the_same_channels_in_every_group() -> None:
    _small, result = of_trap("channel_shuffle")
    assert result.verification.compared


def test_tokens_and_channels_of_the_same_number_are_told_apart() -> None:
    """T × C with T = C: a linear layer over each, tied only by axis."""
    small, _result = of_trap("token_linear_square", {"params": "80%"})
    assert small.over_tokens.weight.shape == (6, 6)
    assert small.over_channels.weight.shape[1] == small.stem.weight.shape[0] < 6


def test_conv_bn_relu_conv_is_pruned_with_its_batch_norm() -> None:
    small, _result = of_trap("conv_bn_relu_conv")
    assert small.bn1.num_features == small.conv1.out_channels == small.conv2.in_channels < 8
    assert small.bn1.running_mean.shape == small.bn1.running_var.shape == (small.bn1.num_features,)


def test_a_padded_biased_convolution_loses_its_bias_with_its_channel() -> None:
    small, _ = of_trap("padded_biased_conv")
    assert small.conv1.bias.shape == (small.conv1.out_channels,)
    assert small.conv1.out_channels < 6


def test_a_residual_stream_is_one_width() -> None:
    network = TRAPS["residual"]()
    graph = sc.trace(network.model, network.inputs)
    (stream,) = [w for w in graph.free if any(use.tensor == "stem.weight" for use in w.uses)]
    assert {use.tensor for use in stream.uses} >= {"stem.weight", "stem.bias", "head.weight"}
    of_trap("residual")


@pytest.mark.parametrize("allocation", ["global", "local"])
def test_a_16_32_64_chain_is_pruned_under_either_ranking(allocation: str) -> None:
    small, result = of_trap("conv_chain", {"macs": "50%"}, allocation=allocation)
    assert result.macs <= 0.5 * result.before["macs"]
    widths = [m.out_channels for m in small.modules() if isinstance(m, nn.Conv2d)]
    assert all(1 <= got <= was for got, was in zip(widths, (16, 32, 64), strict=True))
    assert list(result.plan.kept), "something must be narrowed"
    for kept in result.plan.kept.values():
        assert list(kept) == sorted(set(kept))
    if allocation == "local":
        shares = [got / was for got, was in zip(widths, (16, 32, 64), strict=True)]
        assert max(shares) - min(shares) < 0.1, "the same share everywhere"


@pytest.mark.parametrize("multiple", [32, 64, 1000])
def test_a_multiple_larger_than_what_is_left_never_leaves_nothing(multiple: int) -> None:
    """Widths of 16, 32 and 64: what cannot be a multiple stays whole, or the budget is refused with what is reachable."""
    try:
        small, _result = of_trap("conv_chain", {"macs": "90%"}, multiple_of=multiple)
    except sc.Infeasible as refusal:
        assert refusal.reachable > refusal.bound  # noqa: PT017  either outcome is right
        return
    except InputError as refusal:
        assert "multiple_of" in str(refusal)  # noqa: PT017
        return
    for module in small.modules():
        if isinstance(module, nn.Conv2d):
            assert module.out_channels % multiple == 0 or module.out_channels in (16, 32, 64)


def test_narrow_widths_survive_a_multiple_of_eight() -> None:
    """Widths of 5, 3 and 12: none is a multiple of 8."""
    try:
        small, _ = of_trap("narrow_width", {"params": "90%"}, multiple_of=8)
    except sc.Infeasible as refusal:
        assert refusal.reachable > refusal.bound  # noqa: PT017  either outcome is right
        return
    assert all(p.numel() for p in small.parameters())


def test_a_class_token_goes_with_the_stream() -> None:
    small, _result = of_trap("class_token", {"params": "70%"})
    assert small.class_token.shape[-1] == small.pos_embedding.shape[-1] == small.conv_proj.out_channels


def test_torchvisions_vit_is_pruned_through_class_token_and_fused_attention() -> None:

    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=16, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=7
    ).eval()
    nn.init.normal_(model.heads.head.weight)
    small, _ = pruned(model, torch.randn(2, 3, 32, 32), {"params": "50%"})
    assert small.class_token.shape[-1] == small.encoder.pos_embedding.shape[-1] == small.conv_proj.out_channels


def test_torchvisions_vit_b_16_has_free_heads_and_feed_forward_widths() -> None:

    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        model = torchvision.models.vit_b_16(image_size=32).eval()
    graph = sc.trace(model, torch.randn(1, 3, 32, 32))
    assert len([w for w in graph.free if w.size == 3072]) == 12
    # nn.MultiheadAttention demands heads × head width = hidden width, so all layers share one set of heads
    assert [w.kind for w in graph.free if w.size == 12] == ["heads"]
    assert any("class_token" in {use.tensor for use in w.uses} for w in graph.free)


def test_timms_vit_is_pruned() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=7).eval()
    _, result = pruned(model, torch.randn(2, 3, 32, 32), {"params": "60%"})
    assert result.plan.kept


def test_grouped_query_attention_keeps_queries_with_their_keys() -> None:
    small, _result = of_trap("grouped_query_attention")
    assert small.q_proj.weight.shape[0] % small.k_proj.weight.shape[0] == 0


def test_a_grouped_query_llama_is_pruned() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        initializer_range=0.2,
        use_cache=False,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    ids = torch.arange(12).view(2, 6)
    small, _result = pruned(model, {"input_ids": ids}, {"params": "60%"})
    attention = small.model.layers[0].self_attn
    assert attention.k_proj.weight.shape == attention.v_proj.weight.shape
    assert attention.q_proj.weight.shape[0] % attention.k_proj.weight.shape[0] == 0


@pytest.mark.parametrize("name", ["c2f_chunk", "c2f_split"])
def test_both_halves_of_a_c2f_block_stay_equally_wide(name: str) -> None:
    small, _ = of_trap(name)
    assert small.cv1.out_channels % 2 == 0
    assert small.cv2.in_channels == 2 * small.cv1.out_channels


def test_a_group_norm_keeps_groups_that_divide_its_channels() -> None:
    small, _ = of_trap("group_norm", {"params": "80%"})
    norms = [m for m in small.modules() if isinstance(m, nn.GroupNorm)]
    assert norms
    assert all(m.num_channels % m.num_groups == 0 == m.weight.numel() - m.num_channels for m in norms)


def test_a_tied_embedding_stays_tied() -> None:
    small, _ = of_trap("tied_embedding", {"params": "80%"})
    assert small.lm_head.weight is small.embed.weight
    assert small.embed.num_embeddings == 13
    assert small.embed.embedding_dim == small.embed.weight.shape[1]


def test_an_lstm_is_narrowed_with_the_linear_layer_behind_it() -> None:
    small, _result = of_trap("lstm_linear")
    assert small.fc.in_features == small.lstm.hidden_size < 7
    assert small.lstm.weight_hh_l1.shape == (4 * small.lstm.hidden_size, small.lstm.hidden_size)


# sizes written into the code, positions used as numbers, an order reversed: right to leave whole
FREES_NOTHING = {"hard_coded_reshape", "flatten_hard_coded", "bf16", "channel_flip", "device_tensor", "dict_input"}
# layers that the example does not reach, and that may share all there is
FREES_NOTHING |= {"dead_branch", "multi_input", "optimizer_state"}


@pytest.mark.parametrize("name", sorted(TRAPS))
def test_every_trap_is_pruned_and_used(name: str) -> None:
    """The rest of the list: whatever is free is narrowed, compared, trained and copied."""
    network = TRAPS[name]()
    inputs = by_convention(network.inputs)
    graph = sc.trace(network.model, inputs)
    for width in graph.free:
        assert all(width.name in set(widths_of(graph.layouts[use.tensor][use.axis])) for use in width.uses)
    if not graph.free:
        assert all(w.frozen for w in graph.widths)
        assert name in FREES_NOTHING, {w.name: w.frozen for w in graph.widths}
        return
    smallest = graph.cost("params", {w.name: w.choices[0] for w in graph.free})
    middle = (smallest + graph.params) / 2
    pruned(network.model, inputs, {"params": float(middle)})
