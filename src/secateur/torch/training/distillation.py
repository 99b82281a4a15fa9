"""Learning from the network as it was before pruning.

    batch ──┬── student ── logits, features (kept units) ──┐
            └── teacher ── logits, features (kept units) ──┴── (1 - weight) · task + weight · KL + feature_weight · MSE

The student has fewer features than the teacher. Which of the teacher's they are is known: the student's plans say what was
kept of the axis of the weight that makes them.

Invariant: the teacher is run without gradients, in evaluation mode, and is what it was before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from secateur.core.layout import kept_indices
from secateur.core.plan import Plan
from secateur.errors import ConfigError, InputError, SecateurError, nearest
from secateur.torch.apply import plans_of
from secateur.torch.running.data import Data, call
from secateur.torch.running.describing import described
from secateur.torch.running.explaining import FAULTS, brief
from secateur.torch.running.padding import NOTHING_PADDED, Padding
from secateur.torch.running.restoring import flags_kept
from secateur.torch.running.walking import named_modules, parameters_of

Features = dict[str, torch.Tensor]
# The dimension of an output that has the units, and which of the teacher's survive in it; None: all of them.
Survivors = tuple[int, torch.Tensor] | None
Lesson = Callable[[object, object, Callable[[], torch.Tensor]], torch.Tensor]  # output, batch, task


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """What to learn from which teacher.

    ``weight`` (0 to 1) is the share of the loss that compares logits, softened by ``temperature`` (Hinton et al. 2015,
    arXiv:1503.02531); 1 needs no labels. ``features`` names modules whose outputs are compared too, as mean square error
    relative to the teacher's mean square, times ``feature_weight``; given as a mapping, each with a module that the student's
    output goes through first, such as ``nn.Linear(96, 128)``, or None for none. `finetune` trains these, too.
    """

    teacher: nn.Module
    temperature: float = 2.0
    weight: float = 0.5
    features: Sequence[str] | Mapping[str, nn.Module | None] = ()
    feature_weight: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.teacher, nn.Module):
            raise ConfigError(f"the teacher is a torch.nn.Module, not {type(self.teacher).__name__}")
        if not 0 <= self.weight <= 1:
            raise ConfigError(f"weight is between 0 and 1, not {self.weight}")
        if self.temperature <= 0 or self.feature_weight < 0:
            raise ConfigError("temperature is above 0, and feature_weight at least 0")
        if self.feature_weight != 1 and not self.features:
            raise ConfigError("feature_weight has no effect without features: name the modules to compare")
        if isinstance(self.features, str):
            raise ConfigError(f'features are several names: write ["{self.features}"]')

    @property
    def projections(self) -> nn.ModuleDict:
        """The modules that the student's features go through, by number; the caller's own."""
        given = self.features.values() if isinstance(self.features, Mapping) else ()
        return nn.ModuleDict({str(number): each for number, each in enumerate(given) if each is not None})


def logits_of(output: object) -> torch.Tensor:
    """The logits in a model's output, classes last. Raises InputError where there are none."""
    named = getattr(output, "logits", None)
    logits = output if named is None else named
    if not isinstance(logits, torch.Tensor) or logits.dim() < 2 or not logits.is_floating_point():
        raise InputError(
            "distillation compares logits: the output is neither a tensor [batch, classes, …] nor has it such .logits; "
            "with weight=0 only features are compared"
        )
    return logits.movedim(1, -1) if named is None else logits


def logit_loss(student: object, teacher: object, temperature: float, padding: Padding = NOTHING_PADDED) -> torch.Tensor:
    """KL divergence of softened predictions, times temperature squared: its gradients then have the size of the task's.

    Where positions are padding, nothing is learned.
    """
    ours, theirs = logits_of(student).float(), logits_of(teacher).float()
    if ours.shape != theirs.shape or ours.shape[-1] < 2:
        raise InputError(
            f"student and teacher must predict the same two or more classes: {tuple(ours.shape)}, {tuple(theirs.shape)}"
        )
    log_ours, log_theirs = (functional.log_softmax(padding.only(z) / temperature, -1) for z in (ours, theirs))
    return functional.kl_div(log_ours, log_theirs, reduction="batchmean", log_target=True) * temperature**2


@contextmanager
def lessons(model: nn.Module, distillation: Distillation, data: Data) -> Iterator[Lesson]:
    """Yield ``lesson(output, batch, task)``: the loss with what the teacher says of the batch; ``task()`` is the loss without.

    Raises InputError where the teacher is the model itself, is elsewhere, or features cannot be compared.
    """
    teacher = distillation.teacher
    with comparing(model, distillation) as compare:
        check_teacher(model, teacher)

        def lesson(output: object, batch: object, task: Callable[[], torch.Tensor]) -> torch.Tensor:
            given = data.collect(batch)
            taught = taught_by(teacher, given, lambda: call(teacher, given))
            padding = Padding.of(teacher, given)
            return compare(output, taught, padding, task)

        yield lesson


Compare = Callable[[object, object, Padding, Callable[[], torch.Tensor]], torch.Tensor]


@contextmanager
def comparing(model: nn.Module, distillation: Distillation) -> Iterator[Compare]:
    """Yield ``compare(student's output, teacher's output, padding, task)``, after both ran: the loss.

    The teacher is in evaluation mode meanwhile. Raises InputError where features cannot be compared.
    """
    teacher, share = distillation.teacher, distillation.weight
    if teacher is model:
        raise InputError(_ITSELF)
    pairs = [_Pair.of(model, distillation, name) for name in distillation.features]
    names = [pair.name for pair in pairs], [pair.of_teacher for pair in pairs]
    with flags_kept(teacher), outputs_of(model, names[0]) as ours, outputs_of(teacher, names[1]) as theirs:
        teacher.eval()

        def compare(output: object, taught: object, padding: Padding, task: Callable[[], torch.Tensor]) -> torch.Tensor:
            losses = [] if share == 1 else [(1 - share) * task()]
            if share:
                losses.append(share * logit_loss(output, taught, distillation.temperature, padding))
            if pairs:
                apart = torch.stack([pair.loss(ours, theirs, padding) for pair in pairs]).mean()
                losses.append(distillation.feature_weight * apart)
            return torch.stack(losses).sum()

        yield compare


_ITSELF = "the teacher is the model itself: keep the unpruned one with copy.deepcopy before pruning in place"


def check_teacher(model: nn.Module, teacher: nn.Module) -> None:
    """Raise InputError unless the two are in one place."""
    ours, theirs = (next((p.device for p in parameters_of(m)), None) for m in (model, teacher))
    if ours != theirs:
        raise InputError(f"the teacher is on {theirs}, the model on {ours}: move the teacher")


def taught_by(teacher: nn.Module, given: object, answer: Callable[[], object]) -> object:
    """What the teacher answers. Raises InputError where it does not take what the student takes."""
    try:
        with torch.no_grad():
            return answer()
    except (SecateurError, torch.OutOfMemoryError):
        raise
    except FAULTS as fault:
        raise InputError(
            f"the teacher ({type(teacher).__name__}) cannot be run on what the model is given, {described(given)}: "
            f"{brief(fault)}. A teacher takes what the model takes, as the unpruned one does"
        ) from fault


@contextmanager
def outputs_of(model: nn.Module, names: Iterable[str]) -> Iterator[Features]:
    """What these modules return in the latest forward pass, by name."""
    seen: Features = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: object, output: object) -> None:
            first = output[0] if isinstance(output, (tuple, list)) else output
            if not isinstance(first, torch.Tensor):
                raise InputError(f"features of {name}: it returns {type(first).__name__}, not a tensor")
            seen[name] = first

        return hook

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def survivors(model: nn.Module, teacher: nn.Module, name: str) -> Survivors:
    """Which of the teacher's units the output of a module still has: (dimension, indices), or None for all of them.

    Raises InputError for an unknown module.
    """
    _check_known("student", model, name)
    plans = plans_of(model)[len(plans_of(teacher)) :]
    names = _names_before(name, plans)
    _check_known("teacher", teacher, names[0])
    module = model.get_submodule(name)
    made_by = _output_axis(module)
    if made_by is None:
        return None
    attribute, axis = made_by
    size = teacher.get_parameter(f"{names[0]}.{attribute}").shape[axis]
    indices = np.arange(size)
    for then, plan in zip(names, plans, strict=False):
        if (tensor := f"{then}.{attribute}") not in plan.layouts:
            continue
        made_of = plan.layouts[tensor][axis]
        if made_of.size != len(indices):
            raise InputError(f"features of {name}: the teacher has {size} units, the plan was made for {made_of.size}")
        indices = indices[kept_indices(made_of, plan.arrays)]
    return (1 if isinstance(module, _CHANNELS_FIRST) else -1), torch.from_numpy(indices)


def _names_before(name: str, plans: Sequence[Plan]) -> list[str]:
    """What a module was called before each of these plans, and what it is called now: where blocks went it was renumbered."""
    names = [name]
    for plan in reversed(plans):
        names.insert(0, plan.renamed.back(names[0]))
    return names


def _check_known(which: str, network: nn.Module, name: str) -> None:
    known = [path for path, _ in named_modules(network)]
    if name not in known:
        raise InputError(f"features: the {which} has no module {name!r}.{nearest(name, known)}")


_CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
_ROWS_ARE_OUTPUTS = (nn.Linear, nn.modules.conv._ConvNd)


def _output_axis(module: nn.Module) -> tuple[str, int] | None:
    """The parameter and axis that the output's units go with: a bias always does."""
    bias, weight = getattr(module, "bias", None), getattr(module, "weight", None)
    if isinstance(bias, nn.Parameter) and bias.dim() == 1:
        return "bias", 0
    # a vector scales what comes in, whatever the norm's class is called
    is_scale = isinstance(weight, nn.Parameter) and weight.dim() == 1 and not isinstance(module, nn.PReLU)
    if is_scale or (isinstance(module, _ROWS_ARE_OUTPUTS) and not getattr(module, "transposed", False)):
        return "weight", 0
    return ("weight", 1) if isinstance(module, nn.Embedding) else None


@dataclass(frozen=True, slots=True)
class _Pair:
    """A module of the student and the teacher's, which may have another number, and how their outputs are compared."""

    name: str
    of_teacher: str
    units: Survivors
    projection: nn.Module | None

    @classmethod
    def of(cls, model: nn.Module, distillation: Distillation, name: str) -> _Pair:
        teacher, features = distillation.teacher, distillation.features
        units = survivors(model, teacher, name)
        before = _names_before(name, plans_of(model)[len(plans_of(teacher)) :])[0]
        projection = features[name] if isinstance(features, Mapping) else None
        return cls(name, before, units if projection is None else None, projection)

    def loss(self, student: Features, teacher: Features, padding: Padding) -> torch.Tensor:
        """Mean square error relative to the teacher's mean square, on kept units and on what is not padding."""
        if self.name not in student or self.of_teacher not in teacher:
            raise InputError(f"features of {self.name}: the module was not run")
        ours, theirs = student[self.name], teacher[self.of_teacher].float()
        ours = (ours if self.projection is None else self.projection(ours)).float()
        if self.units is not None:
            theirs = theirs.index_select(self.units[0], self.units[1].to(theirs.device))
        if theirs.shape != ours.shape:
            raise InputError(
                f"features of {self.name}: {tuple(ours.shape)} cannot be compared with the teacher's {tuple(theirs.shape)}; "
                "name a convolution, linear or normalisation module, whose plan says which units were kept, or give a "
                f"projection: features={{{self.name!r}: nn.Linear({ours.shape[-1]}, {theirs.shape[-1]})}}"
            )
        if padding.live(ours.shape[:-1]) is not None:
            ours, theirs = padding.only(ours), padding.only(theirs)
        return functional.mse_loss(ours, theirs) / theirs.square().mean().clamp_min(1e-12)
