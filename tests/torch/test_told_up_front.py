"""What cannot be narrowed, or is given wrongly, is told at once; what others hang on a layer follows it."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm

import secateur as sc

X = torch.randn(4, 8)
LABELS = torch.tensor([0, 1, 2, 1])


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 3))


def exported() -> Any:
    return torch.export.export(net(), (X,))


@pytest.mark.parametrize(
    ("model", "word"),
    [
        (exported, "ExportedProgram"),
        (lambda: exported().module(), "torch.export"),
        (lambda: nn.Sequential(nn.LazyLinear(16), nn.Linear(16, 3)), "lazy"),
    ],
)
def test_a_model_that_nobody_can_narrow_is_refused(model: Any, word: str) -> None:
    with pytest.raises(sc.InputError, match=word):
        sc.trace(model(), X)


def test_a_list_is_told_from_a_tuple() -> None:
    with pytest.raises(sc.TraceError, match="several arguments are a tuple"):
        sc.trace(net(), [X])


def test_labels_that_are_no_classes_are_told() -> None:
    with pytest.raises(sc.InputError, match="labels run from 9 to 11"):
        sc.prune(net(), "progressive", {"params": "50%"}, X, {"data_loader": [(X, LABELS + 9)]})


def test_what_can_never_be_met_names_why_all_is_whole() -> None:
    with pytest.raises(sc.Infeasible, match=r"No width of it can be narrowed \(1 × the model's output"):
        sc.prune(nn.Sequential(nn.Linear(8, 3)), "magnitude", {"params": "50%"}, X)


def test_a_number_that_may_have_been_a_share_is_asked_about() -> None:
    with pytest.raises(sc.Infeasible, match='written "10%"'):
        sc.prune(net(), "magnitude", {"macs": 10}, X)


@pytest.mark.parametrize(
    ("option", "said"),
    [({"ridge": -1}, "'auto' or a number above 0 is needed, not -1"), ({"steps": "a"}, "a whole number is needed")],
)
def test_options_are_complained_of_in_words(option: dict[str, Any], said: str) -> None:
    with pytest.raises(sc.ConfigError, match=said):
        sc.prune(net(), "progressive", {"params": "50%"}, X, {"data_loader": [(X, LABELS)], **option})


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    model, _ = sc.prune(net(), "magnitude", {"params": "50%"}, X)
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(sc.ArtifactError, match="is a file"):
        sc.save(model, tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_weight_that_does_not_train_is_not_fitted() -> None:
    model = net()
    model[2].requires_grad_(False)
    whole = model[2].weight.clone()
    loader = [(torch.randn(64, 8), torch.randint(3, (64,))) for _ in range(2)]
    model, result = sc.prune(model, "progressive", {"params": "50%"}, X, {"data_loader": loader})
    rows, columns = result.plan.indices("2.weight")
    expected = whole if rows is None else whole[torch.as_tensor(rows)]
    expected = expected if columns is None else expected[:, torch.as_tensor(columns)]
    assert torch.equal(model[2].weight, expected)
    assert "requires_grad" in result.left_as_they_are["2.weight"]


def test_masks_of_torchs_own_pruning_follow_and_so_does_what_they_leave() -> None:
    model = net()
    prune.l1_unstructured(model[0], "weight", 0.5)
    model, _ = sc.prune(model, "magnitude", {"params": "50%"}, X)
    first = model[0]
    assert first.weight.shape == first.weight_orig.shape == (first.out_features, 8)
    assert torch.equal(first.weight, first.weight_orig * first.weight_mask)


@pytest.mark.parametrize("norm", [spectral_norm, parametrizations.spectral_norm])
@pytest.mark.parametrize("training", [True, False])
def test_spectral_norms_are_narrowed(norm: Any, training: bool) -> None:
    model = nn.Sequential(nn.Linear(8, 16), norm(nn.Linear(16, 64)), nn.ReLU(), nn.Linear(64, 3)).train(training)
    model(X)
    graph = sc.trace(model, X)
    assert {"0.out_features", "1.out_features"} <= {width.name for width in graph.free}
    assert sc.verify(model, graph.plan({"0.out_features": range(9), "1.out_features": range(0, 64, 3)}), graph)


def test_an_old_spectral_norm_that_never_ran_is_narrowed_as_one_that_did() -> None:
    def made() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(spectral_norm(nn.Linear(8, 16)), nn.ReLU(), nn.Linear(16, 3)).eval()

    model = made()
    assert model[0].weight.data_ptr() == model[0].weight_orig.data_ptr()  # until the hook has run
    kept = [0, 3, 4, 9]
    held = {name: tensor.clone() for name, tensor in model[0].state_dict().items()}
    small = sc.apply(model, sc.trace(model, X).plan({"0.out_features": kept}))
    rows, u = held["weight_orig"][kept], held["weight_u"][kept]
    hidden = F.relu(X @ (rows / (u @ rows @ held["weight_v"])).T + held["bias"][kept])
    assert torch.allclose(small(X), hidden @ model[2].weight[:, kept].T + model[2].bias, atol=1e-5)
    ran = made()
    ran(X)
    other = sc.apply(ran, sc.trace(ran, X).plan({"0.out_features": kept}))
    for network in (small, other):
        step = torch.optim.SGD(network.train().parameters(), lr=0.1)
        network(X).square().sum().backward()
        step.step()
    assert torch.equal(small.eval()(X), other.eval()(X))


def test_what_holds_a_view_of_a_normed_weight_by_another_name_still_does() -> None:
    model = nn.Sequential(spectral_norm(nn.Linear(8, 16)), nn.ReLU(), nn.Linear(16, 3))
    model[0].held = model[0].weight_orig.data
    (frozen,) = (width.frozen for width in sc.trace(model, X).widths if width.name == "0.out_features")
    assert frozen == "0.weight_orig shares memory with the attribute 0.held"


def test_channels_go_through_grid_sample() -> None:
    class Warp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.field, self.out = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 2, 1), nn.Conv2d(16, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            grid = self.field(x).permute(0, 2, 3, 1).tanh()
            return self.out(F.grid_sample(self.a(x), grid, align_corners=False))

    model, x = Warp().eval(), torch.randn(2, 3, 8, 8)
    graph = sc.trace(model, x)
    assert [width.name for width in graph.free] == ["a.out_channels"]
    assert sc.verify(model, graph.plan({"a.out_channels": [1, 4, 5, 11]}), graph)


def test_a_statistic_over_positions_in_training_is_told() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.norm, self.out = nn.Linear(8, 30), nn.BatchNorm1d(6), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.norm(self.fc(x).unflatten(1, (6, -1))))

    assert sc.trace(Normed().eval(), X)["fc.out_features[1]"].inexact_reason is not None


def test_an_example_without_numbers_is_refused_before_the_work_unless_nothing_is_proved() -> None:
    without = X.to("meta")
    with pytest.raises(sc.InputError, match="on the meta device and has no numbers"):
        sc.prune(net(), "magnitude", {"params": "50%"}, without)
    _, result = sc.prune(net(), "magnitude", {"params": "50%"}, without, {"verify": False})
    assert result.params < result.before["params"] / 2


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(sc.InputError, match=r"holds nothing: it is a tensor of shape \(0, 8\)"):
        sc.trace(net(), X[:0])


@pytest.mark.parametrize(("value", "word"), [(float("inf"), "an infinity"), (float("nan"), "NaN")])
def test_the_weight_that_is_no_number_is_named(value: float, word: str) -> None:
    model = net()
    model[2].weight.data[0, 0] = value
    with pytest.raises(sc.InputError, match=rf"the weight 2\.weight holds {word}"):
        sc.prune(model, "magnitude", {"params": "50%"}, X)


def test_a_proof_for_another_model_is_refused() -> None:
    graph = sc.trace(net(), X)
    with pytest.raises(sc.PlanError, match="made for another architecture"):
        sc.verify(nn.Linear(2, 2), graph.plan({"0.out_features": [1]}), graph)


def _weight_normed() -> nn.Module:
    model = nn.Sequential(*(nn.utils.weight_norm(layer) for layer in (nn.Linear(8, 16), nn.Linear(16, 3))))
    with torch.no_grad():
        model(X)
    return model


@pytest.mark.parametrize(
    "made", [lambda: nn.Sequential(spectral_norm(nn.Linear(8, 16)), spectral_norm(nn.Linear(16, 3))), _weight_normed]
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_can_be_copied_before_can_be_copied_after(made: Any) -> None:
    model = made().eval()
    copy.deepcopy(model)
    small, _ = sc.prune(model, "magnitude", {"params": "60%"}, X)
    assert torch.equal(copy.deepcopy(small)(X), small(X))


def test_the_width_that_a_transformer_of_torch_checks_itself_is_free() -> None:
    class Translator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.out = nn.Embedding(20, 16), nn.Linear(16, 20)
            self.middle = nn.Transformer(16, 4, 1, 1, 24, dropout=0.0, batch_first=True)

        def forward(self, source: Tensor, target: Tensor) -> Tensor:
            return self.out(self.middle(self.words(source), self.words(target)))

    ids = torch.arange(10).view(2, 5)
    small, result = sc.prune(Translator().eval(), "magnitude", {"params": "50%"}, (ids, ids))
    width = small.words.embedding_dim
    assert small.middle.d_model == width < 16
    assert result.verification.comparisons


def test_loading_the_library_draws_none_of_the_users_numbers() -> None:
    code = (
        "import random, sys; random.seed(0); before = random.getstate(); import secateur; secateur.prune; "
        "sys.exit(before != random.getstate())"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.filterwarnings("ignore:.*went with no data:UserWarning")
def test_a_score_that_is_no_number_is_told() -> None:
    with pytest.raises(sc.InputError, match="score_func gives no finite number for the model as it is"):
        sc.prune(net(), "magnitude", {"params": "60%"}, X, {"score_func": lambda model: float("nan")})
