"""The words of Vitis AI's and UIF's users: removal ratios, arguments beside functions, runners.

    runner = get_pruning_runner(model, inputs, "iterative")
    runner.ana(eval_fn, args=(loader,))                     eval_fn(model, *args), higher is better
    model = runner.prune(removal_ratio=0.3)                 masked, and has model.slim_state_dict() as theirs has

What is underneath are `IterativePruner` and `OneStepPruner`; ``runner.pruner`` is at hand.

Invariant: a removal ratio of 0.3 leaves at most 70 % of the MACs, exactly.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from secateur.errors import InputError
from secateur.search.candidates import Candidate
from secateur.search.limits import Limits
from secateur.search.schedules import SCHEDULES
from secateur.search.sensitivity import Sensitivity
from secateur.torch.pruners.iterative import RATIOS, IterativePruner
from secateur.torch.pruners.one_step import OneStepPruner
from secateur.torch.running.data import Data

_ALL = 10**9  # batches: as many as there are


@dataclass(frozen=True, slots=True)
class _Call:
    """A function with arguments that follow the model; data, so that it can be sent to another process and described."""

    function: Callable[..., Any]
    args: tuple[Any, ...]

    def __call__(self, model: nn.Module) -> Any:
        return self.function(model, *self.args)


def constraints_of(removal_ratio: float) -> dict[str, str]:
    """``{"macs": "70%"}`` for 0.3. Raises InputError unless the ratio lies between 0 and 1.

    >>> constraints_of(0.3)
    {'macs': '70%'}
    """
    if isinstance(removal_ratio, bool) or not isinstance(removal_ratio, int | float) or not 0 < removal_ratio < 1:
        raise InputError(f"removal_ratio is the share of MACs to remove, between 0 and 1, not {removal_ratio!r}")
    return {"macs": f"{(100 * (1 - Decimal(str(removal_ratio)))).normalize():f}%"}


def schedule(name: str, steps: int, final: float) -> list[float]:
    """Cumulative removal ratios, the last of them ``final``: what to ask of each round.

    >>> schedule("linear", 4, 0.8)
    [0.2, 0.4, 0.6, 0.8]
    """
    shares = SCHEDULES[name](1 - final, steps)
    return [*(round(1 - share, 12) for share in shares[:-1]), final]


def get_pruning_runner(
    model: nn.Module, inputs: object, method: Literal["iterative", "one_step"]
) -> IterativeRunner | OneStepRunner:
    """A runner, as ``pytorch_nndct.get_pruning_runner`` gives one. Raises InputError for another method."""
    if method not in ("iterative", "one_step"):
        raise InputError(f"method is 'iterative' or 'one_step', not {method!r}; supernets are not here yet")
    given = tuple(inputs) if isinstance(inputs, list) else inputs  # theirs may be a list of arguments
    return IterativeRunner(model, given) if method == "iterative" else OneStepRunner(model, given)


class IterativeRunner:
    """Their iterative runner around our `IterativePruner`, which holds the state."""

    def __init__(self, model: nn.Module, inputs: object) -> None:
        self.pruner = IterativePruner(model, inputs)

    def ana(
        self,
        eval_fn: Callable[..., Any],
        args: Sequence[object] = (),
        *,
        ratios: Sequence[float] = RATIOS,
        gpus: Sequence[int | str] | None = None,
        excludes: Collection[str | nn.Module] = (),
        path: str | Path | None = None,
    ) -> Sensitivity:
        """Measure ``eval_fn(model, *args)`` with each width alone narrowed; ``path`` stands for their ``.vai`` folder.

        It is measured where the model is: ``gpus`` that are other devices, or several, get a warning.
        """
        _check_gpus(gpus, self.pruner.model)
        self.pruner.limits = Limits(exclude=self._names(excludes))
        return self.pruner.analyze(_bound(eval_fn, args, "args"), ratios=ratios, checkpoint=path)

    def prune(
        self,
        removal_ratio: float | None = None,
        threshold: float | None = None,
        *,
        excludes: Collection[str | nn.Module] = (),
        mode: Literal["sparse", "slim"] = "sparse",
        channel_divisible: int = 1,
    ) -> nn.Module:
        """The model, masked in place ("sparse") or narrowed and new ("slim")."""
        if mode not in ("sparse", "slim"):
            raise InputError(f"mode is 'sparse' (masks) or 'slim' (narrowed), not {mode!r}")
        self.pruner.limits = Limits(exclude=self._names(excludes), multiple_of=channel_divisible)
        constraints = None if removal_ratio is None else constraints_of(removal_ratio)
        if constraints is None and threshold is None:
            raise InputError("prune takes a removal_ratio or a threshold")
        if mode == "slim":
            small, _ = self.pruner.narrow(constraints, threshold=threshold)
            vars(small).pop("slim_state_dict", None)  # the masked model's, copied with all else
            return small
        model, _ = self.pruner.mask(constraints, threshold=threshold)
        model.slim_state_dict = _SlimStateDict(self)  # type: ignore[assignment]
        return model

    def _names(self, excludes: Collection[str | nn.Module]) -> list[str]:
        """What stays whole, by name: theirs may be modules."""
        names = {id(module): name for name, module in self.pruner.model.named_modules()}
        foreign = [one for one in excludes if isinstance(one, nn.Module) and id(one) not in names]
        if foreign:
            raise InputError(f"excludes: a {type(foreign[0]).__name__} is no module of this model")
        return [names[id(one)] if isinstance(one, nn.Module) else one for one in excludes]

    def slim_state_dict(self) -> dict[str, torch.Tensor]:
        """The state dict of the narrowed model, while training goes on under masks."""
        return self.pruner.narrowed_state_dict()


class _SlimStateDict:
    """``model.slim_state_dict()`` of a masked model, which training scripts ask for by ``hasattr``. A copy of the model has none
    of its own: the runner knows nothing of it.
    """

    __slots__ = ("_runner",)

    def __init__(self, runner: IterativeRunner | None = None) -> None:
        self._runner = weakref.ref(runner) if runner is not None else None

    def __call__(self) -> dict[str, torch.Tensor]:
        runner = self._runner() if self._runner is not None else None
        if runner is None:
            raise InputError(
                "the runner that masked this model is gone, or this is a copy of the model: keep the runner, and load the "
                "weights into the model that it masked"
            )
        return runner.slim_state_dict()

    def __deepcopy__(self, memo: object) -> _SlimStateDict:
        return _SlimStateDict()

    def __reduce__(self) -> tuple[type[_SlimStateDict], tuple[()]]:
        return _SlimStateDict, ()


class OneStepRunner:
    """Their one-step runner around our `OneStepPruner`, which holds the state."""

    def __init__(self, model: nn.Module, inputs: object) -> None:
        self.pruner = OneStepPruner(model, inputs)

    def search(
        self,
        calibration_fn: Callable[..., Any] | None,
        calib_args: Sequence[object],
        eval_fn: Callable[..., Any],
        eval_args: Sequence[object],
        num_subnet: int,
        removal_ratio: float,
        *,
        gpus: Sequence[int | str] | None = None,
    ) -> tuple[Candidate, ...]:
        """Measure so many networks. ``calibration_fn(model, *calib_args)`` runs the model: what it passes is kept as data.

        They are measured where the model is: ``gpus`` that are other devices, or several, get a warning.
        """
        _check_gpus(gpus, self.pruner.model)
        data = None
        if calibration_fn is not None:
            run = _bound(calibration_fn, calib_args, "calib_args")
            data = Data.of_forward_loop(self.pruner.model, run, num_batches=_ALL)
        score_func = _bound(eval_fn, eval_args, "eval_args")
        constraints = constraints_of(removal_ratio)
        return self.pruner.search(score_func, constraints, num_candidates=num_subnet, data_loader=data)

    def prune(self, removal_ratio: float | None = None, index: int | None = None) -> nn.Module:
        """The best network, or number ``index``; the ratio was given to the search."""
        return self.pruner.prune(index)[0]


def _check_gpus(gpus: Sequence[int | str] | None, model: nn.Module) -> None:
    where = {str(p.device.index or 0) for p in model.parameters() if p.is_cuda}
    if gpus is not None and {str(gpu).removeprefix("cuda:") for gpu in gpus} != where:
        warnings.warn(
            f"gpus={list(gpus)} has no effect: networks are measured where the model is. Move it there before; OneStepPruner("
            "…, num_processes=…) measures several side by side",
            stacklevel=3,
        )


def _bound(function: Callable[..., Any], args: Sequence[object], what: str) -> Callable[[nn.Module], Any]:
    if not isinstance(args, tuple | list):
        raise InputError(f"{what} is a tuple of what follows the model in the call: write ({type(args).__name__},)")
    return _Call(function, tuple(args))
