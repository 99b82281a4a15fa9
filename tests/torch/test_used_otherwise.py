"""What was found by someone who had only the README: other batch sizes, other modes of PyTorch, other defaults."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def _convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.BatchNorm2d(8)),
        *(nn.Flatten(), nn.Linear(8 * 16, 4)),
    )


def _batches() -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 3, 8, 8, generator=generator), torch.arange(8) % 4) for _ in range(3)]


class CentredWhereThereAreSeveral(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        return self.b(h - h.mean(1, keepdim=True) if x.shape[0] > 1 else h)


@pytest.mark.parametrize("also", [(), (torch.ones(2, 8),)])
def test_a_branch_on_the_batch_size_is_heard(also: tuple[Tensor, ...]) -> None:
    torch.manual_seed(0)
    graph = sc.trace(CentredWhereThereAreSeveral().eval(), torch.randn(1, 8), also=also)
    assert not graph["a.out_features"].exact or graph["a.out_features"].frozen


def test_what_is_pruned_in_inference_mode_can_be_trained() -> None:
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    with torch.inference_mode():
        model, _ = sc.prune(model, "magnitude", {"params": "50%"}, torch.randn(2, 8))
        again = sc.apply(model, sc.trace(model, torch.randn(2, 8)).plan({"0.out_features": [0, 1]}))
    for narrowed in (model, again):
        narrowed(torch.randn(2, 8)).sum().backward()
        assert narrowed[0].weight.grad is not None  # type: ignore[index,union-attr]


def test_an_empty_only_is_no_licence_to_prune_everything() -> None:
    with pytest.raises(sc.ConfigError, match=r"only.*empty"):
        sc.prune(_convolutional(), "magnitude", {"params": "50%"}, X, {"only": []})


def test_where_nothing_goes_nothing_changes() -> None:
    model = _convolutional().eval()
    before = model(X)
    sc.prune(model, "magnitude", {"macs": "100%"}, X, {"data_loader": _batches()})
    assert torch.equal(model(X), before)


def test_a_frozen_batch_norm_keeps_its_statistics() -> None:
    model = _convolutional()
    model[1].eval().requires_grad_(False)
    frozen, trained = (model[i].running_mean.clone() for i in (1, 4))  # type: ignore[operator,union-attr]
    _, result = sc.prune(model, "magnitude", {"macs": "60%"}, X, {"data_loader": _batches()})
    kept = list(result.plan.kept["0.out_channels"])
    assert len(kept) < 16
    assert torch.equal(model[1].running_mean, frozen[kept])  # type: ignore[arg-type]
    assert model[4].running_mean.shape != trained.shape or not torch.equal(model[4].running_mean, trained)  # type: ignore[union-attr,arg-type]


class _OverChannels(nn.Module):
    """Efficient channel attention: a convolution over the channels, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.over, self.last = nn.Conv2d(3, 16, 3), nn.Conv1d(1, 1, 3, padding=1), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        gate = self.over(x.mean((2, 3))[:, None])[:, 0].sigmoid()
        return self.last((x * gate[:, :, None, None]).amax((2, 3)))


def test_units_that_stand_side_by_side_for_a_convolution_are_kept_whole_and_said_so() -> None:
    graph = sc.trace(_OverChannels(), torch.randn(2, 3, 8, 8))
    assert graph["first.out_channels"].frozen == "spatial size"
    assert "first.out_channels" in str(graph)


def test_a_model_that_takes_a_dict_is_told_how_it_is_given() -> None:
    class Takes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return self.last(self.first(batch["x"]).relu())

    batch = {"x": torch.randn(2, 4)}
    for given in (batch, (batch,)):
        with pytest.raises(sc.TraceError, match=r"\(batch, \{\}\)"):
            sc.trace(Takes(), given)
    assert sc.trace(Takes(), (batch, {})).free
