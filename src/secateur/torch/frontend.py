"""PyTorch, as a mode asks for it: `secateur.modes.frontend` says what each method is for.

    TorchFrontend    the user's model, only read         TorchWorking    a copy that gets narrower, round after round

Invariant: a `TorchFrontend` leaves the model bit for bit as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.modes import Mode
from secateur.modes.frontend import CompensationMethod, RefitReport, Working
from secateur.progress import Tell
from secateur.search.measured import Evaluation, Measure, Running
from secateur.search.ranked import Given, Judge
from secateur.torch.apply import apply_undescribed
from secateur.torch.compensation import Compensator
from secateur.torch.criteria.judge import judge_of
from secateur.torch.criteria.protocol import make, recognised
from secateur.torch.evaluating.evaluator import Evaluator, keep_freed_memory
from secateur.torch.evaluating.worth import SAMPLES, Agreement, Worth, constant_score
from secateur.torch.measuring.targets import with_a_loss
from secateur.torch.narrowing.host_config import admits, said_by_config
from secateur.torch.narrowing.slices import narrowed, renewed
from secateur.torch.running.batch_norm import batch_norms, reestimate_batch_norm
from secateur.torch.running.data import Data
from secateur.torch.running.digests import digest_of_data, digest_of_weights
from secateur.torch.running.distributed import ProcessRanks
from secateur.torch.running.example import Example
from secateur.torch.running.restoring import named_tensors
from secateur.torch.running.switches import process_kept
from secateur.torch.running.twin import twin
from secateur.torch.running.written import is_written, note_written
from secateur.torch.trace import trace

_OUTPUTS_SECOND = ("_ConvTransposeNd", "Embedding")  # layers whose weight has its units along axis 1


def _as_traced(graph: Graph) -> Graph:
    return graph


@dataclass
class TorchFrontend:
    """A model with the data that it may be shown."""

    model: nn.Module
    graph: Graph
    data: Data | None
    with_costs: Callable[[Graph], Graph] = field(default=_as_traced, repr=False)  # puts further costs into each graph

    @classmethod
    def of(cls, model: nn.Module, graph: Graph, options: Mode) -> TorchFrontend:
        """With the data that the options name. Raises InputError for data that cannot be used."""
        return cls(model, graph, _data(model, options))

    @property
    def has_data(self) -> bool:
        return self.data is not None

    @property
    def ranks(self) -> ProcessRanks:
        return ProcessRanks(None if self.data is None else self.data.group)

    @staticmethod
    def check_criterion(criterion: Any) -> None:
        if not isinstance(criterion, Mapping):
            recognised(criterion)

    def limited(self, samples: int) -> TorchFrontend:
        return self if self.data is None else replace(self, data=self.data.limited(self.model, samples))

    def with_a_loss(self, *, agreement: bool = True) -> TorchFrontend:
        if self.data is None:
            return self
        return replace(self, data=with_a_loss(self.data, self.model, agreement=agreement))

    def judge(self, criterion: Any, *, seed: int | None = None) -> Judge:
        if isinstance(criterion, Mapping):
            return Given(criterion)
        return judge_of(make(criterion, self.data), self.model, seed=seed)

    def evaluator(self, score_func: Any, *, seed: int, samples: int | None = None, reuse: bool = True) -> Measure:
        evaluator = Evaluator(
            model=self.model, score_func=score_func, data=self.data, seed=seed, samples=samples, reuse=reuse
        )

        def measure(plans: Mapping[str, Plan], rivals: Sequence[Running]) -> Iterator[tuple[str, Evaluation]]:
            return ((key, evaluator(plan, rivals)) for key, plan in plans.items())

        return measure

    def constant_score(self, score_func: Any, *, seed: int) -> float | None:
        return constant_score(self.model, score_func, seed=seed)

    def agreement(self) -> Agreement | None:
        return None if self.data is None else Agreement(self.data.limited(self.model, SAMPLES))

    def output_axis(self, tensor: str) -> int:
        types = self.graph.module_types.get(tensor.rpartition(".")[0], ())
        return 1 if any(kind in types for kind in _OUTPUTS_SECOND) else 0

    def said(self, plan: Plan) -> tuple[Mapping[str, object], str | None]:
        said = said_by_config(self.model, plan)
        return ({}, None) if said is None else (said.fields, said.reason)

    def admits(self, changes: Mapping[str, Fraction]) -> bool:
        return admits(self.model, changes)

    def digests(self, seed: int) -> Mapping[str, Any]:
        loader = None if self.data is None else self.data.loader
        return {
            "weights": digest_of_weights(self.model),
            "data": digest_of_data(self.data, seed),
            "batches": len(loader) if isinstance(loader, Sized) else None,
        }

    def copied(self) -> TorchWorking:
        keep_freed_memory()
        model = _copied(self.model)
        return TorchWorking(model, _with_model(self.graph, model), self.data, self.with_costs, original=self.model)


@dataclass
class TorchWorking(TorchFrontend):
    """A copy of a model that gets narrower. State, because its graph is another one after each narrowing."""

    original: nn.Module = field(kw_only=True, repr=False)

    def narrow(self, plan: Plan) -> None:
        apply_undescribed(self.model, plan)
        example = _example(self.graph)
        self.graph = self.with_costs(_traced_again(self.model, example))

    def compensator(
        self, method: CompensationMethod, *, ridge: float | Literal["auto"], samples: int, tell: Tell
    ) -> _BoundCompensator:
        assert self.data is not None
        assert method != "none"
        with process_kept():
            fitter = Compensator(
                self.model, self.data, method=method, ridge=ridge, samples=samples, original=self.original, tell=tell
            )
        return _BoundCompensator(self.model, self.original, fitter)

    def appraiser(self, score_func: Any, *, seed: int) -> Worth | None:
        if score_func is None and self.data is None:
            return None
        return Worth(self.model, score_func, self.data, seed=seed)

    def remeasure(self) -> None:
        if self.data is not None and batch_norms(self.model):
            with process_kept():
                reestimate_batch_norm(self.model, self.data)

    def weights(self) -> Mapping[str, torch.Tensor]:
        return {name: tensor.detach() for name, tensor in named_tensors(self.model).items()}


@dataclass(frozen=True, slots=True)
class _BoundCompensator:
    """A fit starts from the original's weights: those of the round before were fitted to fewer samples and for other units, and
    what they were held to would add up.
    """

    model: nn.Module
    original: nn.Module
    fitter: Compensator

    @property
    def tells_apart(self) -> bool:
        with process_kept():
            return self.fitter.tells_apart

    def stands_for_all(self) -> bool:
        return self.fitter.stands_for_all()

    def of(self, working: Working) -> _BoundCompensator:
        assert isinstance(working, TorchWorking)
        return replace(self, model=working.model)

    def apart(self) -> float:
        with process_kept():
            return self.fitter.apart(self.model)

    def fit(self, plan: Plan, *, last: bool, tell: Tell) -> RefitReport:
        self._begin_again(plan)
        with process_kept():  # the model's code may draw random numbers
            return self.fitter.fit(self.model, plan, last=last, tell=tell)

    def _begin_again(self, plan: Plan) -> None:
        original = narrowed(named_tensors(self.original), plan)
        with torch.no_grad():
            for name, tensor in named_tensors(self.model).items():
                if name in original:  # code may have made others since
                    tensor.copy_(original[name])


def _data(model: nn.Module, options: Mode) -> Data | None:
    """The batches that the options name, or None where there are none."""
    if options.forward_loop is not None:
        seen = Data.of_forward_loop(model, options.forward_loop, num_batches=options.num_batches)
        return replace(seen, loss=options.loss_func)
    if options.data_loader is None:
        return None
    whole = isinstance(options.data_loader, Data) and "num_batches" not in options.model_fields_set
    return Data.of(
        options.data_loader,
        collect=options.collect_func,
        num_batches=None if whole else options.num_batches,
        loss=options.loss_func,
    )


def _example(graph: Graph) -> Example:
    assert graph.example is not None
    return graph.example


def _traced_again(model: nn.Module, example: Example) -> Graph:
    return trace(model, example.as_dummy_input(), interface=example.interface, depth=example.depth)


def _with_model(graph: Graph, model: nn.Module) -> Graph:
    return replace(graph, example=replace(_example(graph), model=model))


def _copied(model: nn.Module) -> nn.Module:
    """A twin with weights of its own, of which the same is known."""

    def stand_in(name: str, tensor: torch.Tensor) -> torch.Tensor:
        made = renewed(tensor, tensor.detach().clone())
        if is_written(tensor):
            note_written(made)
        return made

    return twin(model, stand_in)
