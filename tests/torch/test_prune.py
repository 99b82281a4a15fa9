"""The one call: budgets met or refused, options checked, the model changed in place or not at all."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import ConfigError, Infeasible, InputError
from secateur.modes import MODES, Mode, Task
from secateur.search.evidence import Evidence, Found

INPUT = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 32, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    ).eval()


def unchanged(model: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    after = model.state_dict()
    return before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("allocation", ["global", "local", "uniform", "per_cost"])
@pytest.mark.parametrize(
    "constraints", [{"macs": "60%"}, {"flops": "45%"}, {"params": 3000}, {"weight_bytes": "50%", "macs": "70%"}]
)
def test_a_budget_is_met_and_nearly_used_up(constraints: dict, allocation: str) -> None:
    model = network()
    pruned, result = sc.prune(model, "magnitude", constraints, INPUT, {"allocation": allocation})
    assert pruned is model
    used = []
    for metric, bound in constraints.items():
        times, name = (2, "macs") if metric == "flops" else (1, metric)
        limit = result.before[name] * times * float(bound[:-1]) / 100 if isinstance(bound, str) else bound
        assert result.after[name] * times <= limit
        used.append(result.after[name] * times / limit)
    assert max(used) >= 0.99
    assert result.verification.passed
    assert result.params == sum(p.numel() for p in model.parameters())
    assert model(INPUT).shape == (2, 10)
    again = sc.trace(model, INPUT)
    assert (again.macs, again.params) == (result.macs, result.params)


def test_the_interface_is_never_touched() -> None:
    model = network()
    _, result = sc.prune(model, "magnitude", {"params": "30%"}, INPUT)
    assert model[0].in_channels == 3
    assert model[7].out_features == 10
    assert result.frozen["7.out_features"] == "the model's output"


def test_a_budget_out_of_reach_is_refused_with_the_nearest_value() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(sc.Infeasible) as refusal:
        sc.prune(model, "magnitude", {"macs": 10}, INPUT)
    assert refusal.value.metric == "macs"
    assert refusal.value.reachable > 10
    assert unchanged(model, before)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"criterian": "l1"}, "criterion"),
        ({"criterion": "l3"}, "l1"),
        ({"allocation": "globl"}, "global"),
        ({"multiple_of": "8"}, "multiple_of"),
        ({"multiple_of": 0}, "multiple_of"),
        ({"verify": 1}, "verify"),
        ({"exclude": ["no.such.layer"]}, "no.such.layer"),
        ({"rules": {"nn.Conv2d": {"*": {"multipel_of": 4}}}}, "multiple_of"),
    ],
)
def test_an_option_that_cannot_be_used_is_an_error_that_names_it(config: dict, says: str) -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=says):
        sc.prune(model, "magnitude", {"macs": "50%"}, INPUT, config)
    assert unchanged(model, before)


@pytest.mark.parametrize(
    ("mode", "constraints", "says"),
    [
        ("magnitud", {"macs": "50%"}, "magnitude"),
        (7, {"macs": "50%"}, "mode"),
        ("magnitude", {"mac": "50%"}, "macs"),
        ("magnitude", {"macs": 0.5}, "50%"),
        ("magnitude", {}, "constraints"),
        ([7], {"macs": "50%"}, "a mode is a name"),
    ],
)
def test_a_mode_or_constraint_that_is_not_known_is_an_error(mode: object, constraints: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        sc.prune(network(), mode, constraints, INPUT)  # type: ignore[arg-type]


def test_config_beside_a_mode_object_would_have_no_effect_and_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no effect"):
        sc.prune(network(), MODES["magnitude"](), {"macs": "50%"}, INPUT, {"criterion": "l2"})


def test_keep_and_only_and_rules_say_what_may_be_narrowed() -> None:
    # a module that is kept keeps all its sizes, also the one that feeds it
    kept = sc.prune(network(), "magnitude", {"macs": "60%"}, INPUT, {"exclude": ["7"]})[1].plan
    assert set(kept.kept) == {"0.out_channels"}
    only = sc.prune(network(), "magnitude", {"macs": "80%"}, INPUT, {"only": ["3.out_channels"]})[1].plan
    assert set(only.kept) == {"3.out_channels"}
    rules = {"nn.Conv2d": {"*": {"multiple_of": 8}}, "nn.Linear": {"*": None}}
    ruled = sc.prune(network(), "magnitude", {"macs": "80%"}, INPUT, {"rules": rules})[1].plan
    assert set(ruled.kept) == {"0.out_channels"}
    assert ruled.sizes["0.out_channels"] in (8, 16)


def test_verbose_prints_the_profile_and_the_constraints(capsys: pytest.CaptureFixture[str]) -> None:
    sc.prune(network(), "magnitude", {"macs": "50%"}, INPUT, {"verbose": True})
    printed = capsys.readouterr().out
    assert "centroid" in printed
    assert "Satisfiable" in printed
    sc.prune(network(), "magnitude", {"macs": "50%"}, INPUT)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_verbose_judges_constraints_within_the_limits(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Infeasible):
        sc.prune(network(), "magnitude", {"macs": "30%"}, INPUT, {"verbose": True, "floor": 0.9})
    assert "False" in capsys.readouterr().out


def test_a_mode_of_ones_own_joins_by_name() -> None:
    class Halve(Mode):
        """Every free width to half, first come first served."""

        def search(self, task: Task) -> Found:
            plan = task.graph.plan({w.name: range(w.size // 2) for w in task.graph.free})
            return Found(plan=plan, evidence=Evidence(method="halve"))

    MODES.add("halve_for_this_test")(Halve)
    result = sc.prune(network(), "halve_for_this_test", {"macs": "60%"}, INPUT)[1]
    assert result.plan.sizes["0.out_channels"] == 12


def test_pruning_again_composes_and_is_remembered() -> None:
    model, _ = sc.prune(network(), "magnitude", {"macs": "60%"}, INPUT)
    model, second = sc.prune(model, "magnitude", {"macs": "60%"}, INPUT)
    assert len(sc.plans_of(model)) == 2
    assert second.verification.passed
    assert copy.deepcopy(model)(INPUT).equal(model(INPUT))


class SaysLess(nn.Module):
    """Its class says of fewer parameters and modules than there are: the others are not to be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 24), nn.Linear(24, 3)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in super().named_parameters(*args, **kwargs) if not name.startswith("b."))

    def modules(self, remove_duplicate: bool = True) -> Iterator[nn.Module]:
        return (module for module in super().modules() if module is not self.b)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)))


@pytest.mark.parametrize("mode", ["magnitude", "progressive"])
def test_what_a_class_says_of_its_parameters_is_not_all_that_is_narrowed(mode: str, tmp_path: Path) -> None:
    x = torch.randn(16, 8)
    data = [(x, x.argmax(1) % 3)]
    small, result = sc.prune(SaysLess(), mode, {"params": "60%"}, x, {"data_loader": data})
    assert small.get_submodule("b").weight.shape == (3, result.plan.sizes["a.out_features"])
    assert len(result.verification.comparisons) > 1
    sc.save(small, tmp_path / "small")
    torch.testing.assert_close(sc.restore(SaysLess(), tmp_path / "small")(x), small(x))
