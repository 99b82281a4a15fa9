"""On data that was not looked at, a compensated network is nearer to the original than one that is only narrowed."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from tests.zoo.shim import declare_torchvision_operators
from torch import nn
from torch.nn import functional as F

import secateur as sc
from secateur.torch.running.data import call, first_of

declare_torchvision_operators()

DIGITS = load_digits()
X = torch.tensor(DIGITS.images, dtype=torch.float32)[:, None] / 8 - 1
Y = torch.tensor(DIGITS.target)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model, batches to fit on, others to compare on, and what ``prune`` is told."""

    model: nn.Module
    batches: list[Any]
    held_out: list[Any]
    share: str = "60%"
    config: dict[str, Any] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    bias: bool = True  # whether moving biases alone is enough to help


class Block(nn.Module):
    """conv, batch norm, relu, conv, batch norm, and the skip; the block's input comes back through a 1×1 where it must."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride=stride) if inputs != outputs else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(y + self.skip(x))


def trained(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int = 3) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(epochs):
        for part in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
    return model.eval()


def digits(batch: int = 128) -> tuple[list[Any], list[Any]]:
    return [(X[i : i + batch], Y[i : i + batch]) for i in range(0, 512, batch)], [(X[1200:1500], Y[1200:1500])]


def residual_cnn() -> Case:
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), Block(12, 12, 1), Block(12, 24, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10),
    )  # fmt: skip
    batches, held_out = digits()
    return Case(model=trained(model, X[:1000], Y[:1000]), batches=batches, held_out=held_out)


class SmallViT(nn.Module):
    """Patches, a class token, `nn.TransformerEncoder`."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 32, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, 32))
        self.place = nn.Parameter(torch.randn(1, 17, 32) * 0.2)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place
        return self.head(self.encoder(x)[:, 0])


def small_vit() -> Case:
    batches, held_out = digits()
    return Case(model=trained(SmallViT(), X[:768], Y[:768], 2), batches=batches, held_out=held_out)


class Convolved(nn.Module):
    """Words, a mask as a second input, two convolutions over time, a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 16)
        self.first = nn.Conv1d(16, 32, 3, padding=1)
        self.second = nn.Conv1d(32, 24, 3, padding=2, dilation=2, groups=2)
        self.head = nn.Linear(24, 5)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids).transpose(1, 2)
        x = torch.relu(self.second(torch.relu(self.first(x)))) * mask[:, None]
        return self.head(x.sum(-1) / mask.sum(-1, keepdim=True))


def words(length: int, count: int = 64) -> torch.Tensor:
    return torch.randint(1, 40, (count, length))


def two_inputs() -> Case:
    def batch(length: int) -> Any:
        mask = (torch.arange(length) < torch.randint(3, length, (64, 1))).float()
        return words(length, 64), mask

    return Case(
        model=Convolved().eval(),
        batches=[batch(n) for n in (9, 14, 11, 9)],
        held_out=[batch(n) for n in (10, 13)],
        config={"collect_func": lambda batch: batch},
    )


def hugging_face(name: str, **options: Any) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{name[0]}Config")(vocab_size=40, **options)
    return getattr(transformers, f"{name[0]}{name[1]}")(config).eval()


def bert() -> Case:
    model = hugging_face(
        ("Bert", "ForSequenceClassification"), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, num_labels=3, max_position_embeddings=20, initializer_range=0.2,
    )  # fmt: skip

    def batch(length: int) -> Any:
        mask = (torch.arange(length) < torch.randint(4, length + 1, (64, 1))).long()
        return {"input_ids": words(length), "attention_mask": mask}

    return Case(model=model, batches=[batch(n) for n in (12, 16, 8)], held_out=[batch(n) for n in (10, 16)])


def gpt2() -> Case:
    model = hugging_face(
        ("GPT2", "LMHeadModel"), n_embd=32, n_layer=2, n_head=4, n_positions=24, initializer_range=0.15,
    )  # fmt: skip
    return language_model(model, left=("transformer.wte.weight",))


def llama() -> Case:
    model = hugging_face(
        ("Llama", "ForCausalLM"), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=24, initializer_range=0.15, tie_word_embeddings=False,
    )  # fmt: skip
    return language_model(model, bias=False)


def language_model(model: nn.Module, **more: Any) -> Case:
    def batch(length: int) -> Any:
        return {"input_ids": words(length), "use_cache": False}

    return Case(model=model, batches=[batch(n) for n in (12, 18, 7)], held_out=[batch(n) for n in (9, 20)], **more)


CASES = (residual_cnn, small_vit, two_inputs, bert, gpt2, llama)


def outputs(model: nn.Module, case: Case) -> list[torch.Tensor]:
    collect = case.config.get("collect_func", first_of)
    with torch.no_grad():
        found = [call(model, collect(batch)) for batch in case.held_out]
    return [getattr(output, "logits", output) for output in found]


def distance(model: nn.Module, case: Case, wanted: list[torch.Tensor]) -> float:
    pairs = zip(outputs(model, case), wanted, strict=True)
    return sum(float(F.mse_loss(a, b)) for a, b in pairs)


def pruned(case: Case, mode: str = "magnitude", **config: Any) -> tuple[nn.Module, sc.PruneResult]:
    collect = case.config.get("collect_func", lambda batch: batch[0] if isinstance(batch, tuple) else batch)
    example = collect(case.batches[0])
    options = {"data_loader": case.batches, **case.config, **config}
    return sc.prune(copy.deepcopy(case.model), mode, {"params": case.share}, example, options)


@pytest.fixture(scope="module", params=CASES, ids=lambda build: build.__name__)
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(0)
    return request.param()


def test_a_compensated_network_is_nearer_to_the_original(case: Case) -> None:
    wanted = outputs(case.model, case)
    plain, first = pruned(case)
    biased, second = pruned(case, compensate="bias")
    fitted, third = pruned(case, compensate="least_squares")
    assert first.plan.kept == second.plan.kept == third.plan.kept
    far, nearer, nearest = (distance(model, case, wanted) for model in (plain, biased, fitted))
    assert far > 1e-3  # otherwise nothing was lost
    assert nearer < far if case.bias else nearer <= far
    assert nearest < min(far, nearer)
    assert set(third.left_as_they_are) == set(case.left)
    assert first.refitted == ()
    assert third.refitted


def test_weights_that_are_also_embeddings_stay_as_they_are(case: Case) -> None:
    fitted, result = pruned(case, compensate="least_squares")
    originals = dict(case.model.named_parameters())
    for name in result.left_as_they_are:
        kept = originals[name]
        for axis, indices in enumerate(result.plan.indices(name)):
            kept = kept if indices is None else kept.index_select(axis, torch.as_tensor(indices))
        assert torch.equal(fitted.get_parameter(name), kept)
        assert "embedding" in result.left_as_they_are[name]
        assert name in str(result)
    if case.left:
        assert fitted.lm_head.weight is fitted.get_parameter(case.left[0])


def test_a_forward_loop_fits_as_its_batches_do() -> None:
    torch.manual_seed(0)
    case = two_inputs()

    def loop(model: nn.Module) -> None:
        for batch in case.batches:
            model(*batch)

    by_loader, _ = pruned(case, compensate="least_squares")
    example = case.batches[0]
    options = {"forward_loop": loop, "compensate": "least_squares"}
    by_loop, _ = sc.prune(copy.deepcopy(case.model), "magnitude", {"params": case.share}, example, options)
    for a, b in zip(by_loader.parameters(), by_loop.parameters(), strict=True):
        assert torch.equal(a, b)


def test_more_samples_than_asked_for_are_not_looked_at() -> None:
    torch.manual_seed(0)
    case = two_inputs()
    some, _ = pruned(case, compensate="least_squares", calibration_samples=100)  # the second batch completes them
    same, _ = pruned(case, compensate="least_squares", num_batches=2)
    more, _ = pruned(case, compensate="least_squares")
    assert all(torch.equal(a, b) for a, b in zip(some.parameters(), same.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(some.parameters(), more.parameters(), strict=True))
