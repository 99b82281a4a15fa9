"""The conformance kit for criteria: run it on your own in your own tests.

    @pytest.mark.parametrize("check", check_criterion(Mine()), ids=str)
    def test_my_criterion(check): check()

Invariant: a check raises AssertionError with a sentence that says what was expected, and changes nothing outside.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.layout import Values
from secateur.testing.check import Check
from secateur.testing.networks import LabelledImages, permuted, small_batches, small_network
from secateur.torch.criteria.protocol import Criterion
from secateur.torch.criteria.sources import DataDriven
from secateur.torch.running.data import Data
from secateur.torch.trace import trace


def check_criterion(
    criterion: Criterion, *, equivariant: bool = True, non_negative: bool = True, per_sample: bool = True
) -> list[Check]:
    """Named checks of a criterion.

    ``equivariant=False`` is for one that draws lots, ``non_negative=False`` for one whose scores may fall below zero. One
    that looks at data (a `DataDriven`) is given `small_batches`, whatever data it has, and checked further;
    ``per_sample=False`` is for one whose scores depend on how samples are grouped into batches.
    """
    case = _JudgedModel(criterion)
    on_data = isinstance(criterion, DataDriven)
    claims = [
        (True, case.has_a_name),
        (True, case.scores_free_widths_only),
        (True, case.has_one_score_for_each_unit),
        (True, case.is_finite),
        (non_negative, case.is_never_negative),
        (equivariant, case.follows_a_permutation_of_units),
        (True, case.does_not_read_gradients),
        (True, case.does_not_touch_random_state),
        (True, case.leaves_the_model_alone),
        (True, case.works_in_float64),
        (True, case.works_in_bfloat16),
        (on_data, case.says_the_same_twice),
        (on_data, case.does_not_depend_on_the_order_of_batches),
        (on_data and per_sample, case.does_not_depend_on_the_size_of_batches),
        (on_data, case.judges_in_evaluation_mode),
        (on_data, case.leaves_a_model_in_training_alone),
        (on_data, case.leaves_the_model_alone_after_an_error),
    ]
    return [Check(claim.__name__, claim) for asked, claim in claims if asked]


class _JudgedModel:
    """One criterion on one network; a class because every check wants the same graph, model and scores."""

    def __init__(self, criterion: Criterion) -> None:
        self.criterion = criterion
        self.model = small_network()
        self.graph: Graph = trace(self.model, torch.zeros(2, 3, 6, 6))

    def scores(
        self, model: nn.Module | None = None, batches: Sequence[LabelledImages] | None = None
    ) -> dict[str, Values]:
        model, judge = self.model if model is None else model, self.criterion
        if isinstance(judge, DataDriven):
            dtype = next(model.parameters()).dtype
            chosen = [(x.to(dtype), y) for x, y in (small_batches() if batches is None else batches)]
            judge = replace(judge, data=Data(loader=chosen), data_loader=None, forward_loop=None)
        return judge(self.graph, model)

    def has_a_name(self) -> None:
        name = getattr(self.criterion, "name", None)
        assert isinstance(name, str), "a criterion needs a name"
        assert name, "a name must not be empty"

    def scores_free_widths_only(self) -> None:
        free = {width.name for width in self.graph.free}
        scored = set(self.scores())
        assert scored, "nothing was scored"
        assert scored <= free, f"scored, but not free: {sorted(scored - free)}"

    def has_one_score_for_each_unit(self) -> None:
        for name, values in self.scores().items():
            width = self.graph[name]
            ragged = () if width.outer is None else ((self.graph[width.outer].size, width.size),)
            assert isinstance(values, np.ndarray), f"{name}: scores must be numpy arrays, not {type(values).__name__}"
            assert values.shape in ((width.size,), *ragged), (
                f"{name}: {values.shape} are not the scores of {width.size} units"
            )

    def is_finite(self) -> None:
        for name, values in self.scores().items():
            assert np.isfinite(values).all(), f"{name}: {values}"

    def is_never_negative(self) -> None:
        for name, values in self.scores().items():
            assert (values >= 0).all(), f"{name}: {values.min()} is below zero"

    def follows_a_permutation_of_units(self) -> None:
        before = self.scores()
        for name in before:
            order = np.roll(np.arange(self.graph[name].size), 1)
            after = self.scores(permuted(self.graph, self.model, name, order))
            close = np.allclose(after[name], before[name][..., order], rtol=1e-4, atol=1e-6)
            assert close, f"{name}: the scores do not move with the units"

    def does_not_read_gradients(self) -> None:
        model = copy.deepcopy(self.model)
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 7.0)
        _assert_equal(self.scores(), self.scores(model), "scores depend on gradients left in the model")

    def does_not_touch_random_state(self) -> None:
        with torch.random.fork_rng():
            state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[union-attr]
            before = self.scores()
            assert torch.equal(state, torch.get_rng_state()), "torch's random generator was moved"
            assert (numpy_state == np.random.get_state()[1]).all(), "numpy's random generator was moved"  # type: ignore[index]
            torch.manual_seed(123)
            _assert_equal(before, self.scores(), "scores depend on torch's random generator")

    def leaves_the_model_alone(self) -> None:
        before, hooks = _state(self.model), _num_hooks(self.model)
        self.scores()
        _assert_unchanged(before, _state(self.model))
        assert hooks == _num_hooks(self.model), "hooks were left in the model"

    def works_in_float64(self) -> None:
        self._works_in(torch.float64)

    def works_in_bfloat16(self) -> None:
        self._works_in(torch.bfloat16)

    def _works_in(self, dtype: torch.dtype) -> None:
        model = copy.deepcopy(self.model).to(dtype)
        tolerance = 0.05 if dtype is torch.bfloat16 else 1e-4  # bfloat16 keeps 8 bits of a weight
        expected, on_data = self.scores(), isinstance(self.criterion, DataDriven)
        for name, values in self.scores(model).items():
            # through the whole network rounding adds up, and differences of large terms keep little of it
            slack = 4 * tolerance * np.abs(expected[name]).max() if on_data else tolerance
            assert np.allclose(values, expected[name], rtol=tolerance, atol=slack), f"{name}: differs in {dtype}"

    def says_the_same_twice(self) -> None:
        _assert_equal(self.scores(), self.scores(), "the same data gave other scores")

    def does_not_depend_on_the_order_of_batches(self) -> None:
        _assert_close(self.scores(), self.scores(None, small_batches()[::-1]), "scores depend on the order of batches")

    def does_not_depend_on_the_size_of_batches(self) -> None:
        images, labels = (torch.cat(parts) for parts in zip(*small_batches(), strict=True))
        for size in (1, len(images)):
            other = self.scores(None, list(zip(images.split(size), labels.split(size), strict=True)))
            _assert_close(self.scores(), other, "scores depend on how samples are grouped into batches")

    def judges_in_evaluation_mode(self) -> None:
        training = copy.deepcopy(self.model).train()
        _assert_equal(self.scores(), self.scores(training), "a model in training mode gets other scores")

    def leaves_a_model_in_training_alone(self) -> None:
        model = self._in_training()
        before = _state(model)
        self.scores(model)
        _assert_unchanged(before, _state(model))

    def leaves_the_model_alone_after_an_error(self) -> None:
        model = self._in_training()
        before, hooks = _state(model), _num_hooks(model)
        bad = [*small_batches()[:1], (torch.zeros(2, 3, 1, 1), torch.zeros(2, dtype=torch.long))]
        try:
            self.scores(model, bad)
        except Exception:  # whatever a network raises on an image that is too small
            _assert_unchanged(before, _state(model))
            assert hooks == _num_hooks(model), "hooks were left in the model"
        else:
            raise AssertionError("a batch that the model cannot take raised nothing: the data was not looked at")

    def _in_training(self) -> nn.Module:
        model = copy.deepcopy(self.model).train()
        model.stem.weight.requires_grad_(False)
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 7.0)
        return model


def _assert_equal(first: dict[str, Values], second: dict[str, Values], otherwise: str) -> None:
    same = first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)
    assert same, otherwise


def _assert_close(first: dict[str, Values], second: dict[str, Values], otherwise: str) -> None:
    """Equal but for the rounding of float32: to a millionth of a width's largest score."""
    assert first.keys() == second.keys(), otherwise
    for name, values in first.items():
        slack = 1e-6 * float(np.abs(values).max())
        assert np.allclose(values, second[name], rtol=1e-5, atol=slack), f"{name}: {otherwise}"


def _assert_unchanged(before: dict[str, object], after: dict[str, object]) -> None:
    changed = [name for name in before if name in after and not _same(before[name], after[name])]
    assert not changed, f"changed: {changed}"
    assert before.keys() == after.keys(), "parameters, buffers or modules came or went"


def _state(model: nn.Module) -> dict[str, object]:
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    state: dict[str, object] = {name: tensor.detach().clone() for name, tensor in tensors}
    state |= {f"{name} requires_grad": tensor.requires_grad for name, tensor in tensors}
    state |= {f"{name} grad": None if tensor.grad is None else tensor.grad.clone() for name, tensor in tensors}
    return state | {f"{name} training": module.training for name, module in model.named_modules()}


def _same(first: object, second: object) -> bool:
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return torch.equal(first, second)
    return first is second or (not isinstance(first, torch.Tensor) and first == second)


def _num_hooks(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)
