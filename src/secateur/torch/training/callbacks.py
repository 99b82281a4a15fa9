"""Pruning while a trainer trains: for `transformers.Trainer` and for Lightning, importing neither.

    Trainer(model, …, callbacks=[PruningCallback({1: {"params": "80%"}, 3: {"params": "60%"}}, dummy_input=x)])

    train ─ epoch 1 ─► prune to 80 %, remap the optimizer ─ epochs 2, 3 ─► prune to 60 %, remap ─► …

Both trainers look up a method by the name of an event; so one object answers both, and has nothing to do at all others.

Invariant: shares mean shares of the network as it was when training began; the optimizer always holds what the model has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, Protocol

import torch
from torch import nn

from secateur.core.budget import Budget
from secateur.errors import ConfigError, InputError, placed
from secateur.modes import Mode
from secateur.torch.prune import PruneResult, prune
from secateur.torch.recipes import check_constraints, recipes_of
from secateur.torch.running.distributed import active
from secateur.torch.running.restoring import flags_kept
from secateur.torch.trace import trace
from secateur.torch.training.optimizer import remap_optimizer

_NOTHING_TO_DO = ("on_", "setup", "teardown")


class Counters(Protocol):
    """What is read of the state that transformers.Trainer passes."""

    epoch: float
    global_step: int


class LightningTrainer(Protocol):
    """What is read of Lightning's trainer."""

    current_epoch: int
    global_step: int
    optimizers: Sequence[object]


class PruningCallback:
    """Prunes when a scheduled epoch (or, with ``unit="step"``, optimizer step) is over. State, because a trainer calls it.

    ``schedule`` maps the number of the epoch or step, counted from 1, to constraints as `prune` takes them; ``mode`` and
    ``config`` are those of `prune`. ``module`` names the part of the model to prune where the model that the trainer knows
    (a LightningModule) is a shell around it; ``dummy_input`` is then what that part takes. ``results`` has what was done.

    Raises ConfigError for a mode, an option or a constraint that there is not; InputError when training starts on several
    processes: a DDP wrapper holds the parameters that pruning replaces.
    """

    state_key = "secateur.PruningCallback"  # Lightning tells callbacks apart by it

    def __init__(
        self,
        schedule: Mapping[int, Mapping[str, float | str]],
        dummy_input: object,
        *,
        unit: Literal["epoch", "step"] = "epoch",
        mode: str | Mode = "magnitude",
        config: Mapping[str, object] | None = None,
        module: str = "",
    ) -> None:
        if unit not in ("epoch", "step"):
            raise ConfigError(f'unit is "epoch" or "step", not {unit!r}')
        if not schedule or not all(type(point) is int and point > 0 for point in schedule):
            raise ConfigError(
                f"a schedule maps numbers of {unit}s from 1 to constraints, for example {{2: {{'macs': '60%'}}}}"
            )
        recipe, *others = recipes_of(mode, config)
        if others:
            raise ConfigError(f"mode names {1 + len(others)} modes: a callback prunes by one")
        for point, wish in schedule.items():
            with placed(f"schedule[{point}]"):
                check_constraints(recipe, wish)
        self.unit, self.mode, self.config, self.module = unit, mode, config, module
        self.dummy_input = dummy_input
        self.results: dict[int, PruneResult] = {}
        self._schedule = dict(sorted(schedule.items()))
        self._bounds: dict[int, dict[str, int]] = {}

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith(_NOTHING_TO_DO):
            return _nothing
        raise AttributeError(f"PruningCallback has no attribute {name!r}")

    # What follows answers transformers.Trainer; it passes more keywords than are of use here.

    def on_train_begin(
        self, args: object, state: object, control: object, *, model: nn.Module, **others: object
    ) -> None:
        """Turn shares into bounds before anything is pruned."""
        self.start(model)

    def on_epoch_end(
        self,
        args: object,
        state: Counters,
        control: object,
        *,
        model: nn.Module,
        optimizer: object = None,
        **others: object,
    ) -> None:
        """Prune if this epoch is due."""
        self.reached("epoch", round(state.epoch), model, [optimizer])

    def on_step_end(
        self,
        args: object,
        state: Counters,
        control: object,
        *,
        model: nn.Module,
        optimizer: object = None,
        **others: object,
    ) -> None:
        """Prune if this step is due."""
        self.reached("step", state.global_step, model, [optimizer])

    # What follows answers Lightning.

    def on_train_start(self, trainer: object, pl_module: nn.Module) -> None:
        """Turn shares into bounds before anything is pruned."""
        self.start(pl_module)

    def on_train_epoch_end(self, trainer: LightningTrainer, pl_module: nn.Module) -> None:
        """Prune if this epoch is due."""
        self.reached("epoch", trainer.current_epoch + 1, pl_module, trainer.optimizers)

    def on_train_batch_end(
        self, trainer: LightningTrainer, pl_module: nn.Module, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Prune if this step is due."""
        self.reached("step", trainer.global_step, pl_module, trainer.optimizers)

    def state_dict(self) -> dict[str, object]:
        """Nothing is kept in a trainer's checkpoint: save the narrowed model with `secateur.save`."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, object]) -> None:
        """Nothing to load."""

    # What follows is for any other loop.

    def start(self, model: nn.Module) -> None:
        """Fix the bounds from the whole network. Raises ConfigError for a metric or bound that cannot be."""
        if active():
            raise InputError(
                "pruning within a run of several processes is not possible: a DDP wrapper holds the old parameters. Train, "
                "prune on every rank, wrap again, train on"
            )
        target = model.get_submodule(self.module)
        with flags_kept(target):
            graph = trace(target.eval(), self.dummy_input)
        self._bounds = {point: Budget.of(wish, graph).bounds for point, wish in self._schedule.items()}

    def reached(self, unit: str, number: int, model: nn.Module, optimizers: Iterable[object]) -> None:
        """Prune what is due at this epoch or step, and let the optimizers follow."""
        due = [point for point in self._bounds if point <= number] if unit == self.unit else []
        for point in due:
            self._prune(point, model, optimizers)

    def _prune(self, point: int, model: nn.Module, optimizers: Iterable[object]) -> None:
        target = model.get_submodule(self.module)
        with flags_kept(target):
            _, self.results[point] = prune(target.eval(), self.mode, self._bounds[point], self.dummy_input, self.config)
        del self._bounds[point]
        for given in optimizers:
            optimizer = getattr(given, "optimizer", given)  # accelerate and Lightning put theirs around it
            if isinstance(optimizer, torch.optim.Optimizer):
                remap_optimizer(optimizer, target)


def _nothing(*_: object, **__: object) -> None:
    """At this event there is nothing to do."""
