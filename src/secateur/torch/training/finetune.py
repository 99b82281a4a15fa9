"""`finetune`: training after pruning, for people without a loop of their own.

    score ──► [ epoch: forward ─ loss ─ backward ─ clip ─ step ] ──► score ──► keep the best ──► … ──► the best is put back

Under DDP every rank trains on its own batches; gradients, losses, scores and batch-norm statistics are averaged, so that all
ranks decide alike and end with the same network.

Invariant: the model ends with the best weights seen, or, after an error, with those it came with; flags and hooks as before.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import nn

from secateur.core.options import whole_number
from secateur.errors import ConfigError, InputError
from secateur.progress import Tell, progress
from secateur.torch.running.batch_norm import batch_norms
from secateur.torch.running.data import Data, NotFinite
from secateur.torch.running.distributed import Group, active, agree, rank, reduce_sum, unwrapped, world_size
from secateur.torch.running.explaining import data_explained
from secateur.torch.running.randomness import seeded
from secateur.torch.running.restoring import flags_kept
from secateur.torch.training.config import FinetuneConfig
from secateur.torch.training.defaults import optimizer_for, scheduler_for
from secateur.torch.training.distillation import Distillation, Lesson, lessons
from secateur.torch.training.guard import device_of, put_back, rates_kept, restored_on_error, snapshot_of

ScoreFunction = Callable[[nn.Module], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneResult:
    """What `finetune` did: the mean loss and (with a ``score_func``) the score of each epoch.

    ``score_before`` is the score the model came with; ``best_epoch`` counts from 1, 0 is the model as it came.
    """

    losses: tuple[float, ...]
    scores: tuple[float, ...]
    score_before: float | None
    best_epoch: int
    seconds: float = field(compare=False)

    def __str__(self) -> str:
        epochs = "1 epoch" if len(self.losses) == 1 else f"{len(self.losses)} epochs"
        told = f"{epochs}, loss {self.losses[0]:.4g} -> {self.losses[-1]:.4g}"
        if self.score_before is not None:
            best = (self.score_before, *self.scores)[self.best_epoch]
            told += f", score {self.score_before:.4g} -> {best:.4g} (epoch {self.best_epoch})"
        return f"{told}, {self.seconds:.1f} s"


def finetune(
    model: nn.Module,
    data_loader: Iterable[object] | Data,
    *,
    epochs: int = 3,
    score_func: ScoreFunction | None = None,
    teacher: nn.Module | Distillation | None = None,
    config: Mapping[str, object] | FinetuneConfig | None = None,
) -> FinetuneResult:
    """Train a model in place and leave the best of it.

    ``score_func(model)`` (higher is better) is asked before and after each epoch; of equal scores the lower loss is
    better. ``teacher`` is the unpruned model, to
    learn its logits, or a `Distillation`. ``config`` has the options of `FinetuneConfig`: the learning rate or the
    optimizer, what of a batch the model takes and how its loss is had, the schedule, and when to stop. A `Data` says itself
    how to read a batch, how many make an epoch, and which processes train together (else those of a DDP wrapper).

    Raises InputError and ConfigError for what cannot be used, InputError where the loss stops being finite, too. The model
    (and an optimizer that was given) is then as it was.
    """
    options, epochs = FinetuneConfig.read(config), whole_number(epochs)
    _check(epochs, score_func, options)
    network = unwrapped(model)
    with ExitStack() as stack:
        data = _source(model, data_loader, options)
        stack.enter_context(seeded(options.seed + rank(data.group)))
        wish = teacher if isinstance(teacher, Distillation | None) else Distillation(teacher=teacher)
        beside = () if wish is None else tuple(wish.projections.parameters())
        used = optimizer_for(network, options, beside)
        stack.enter_context(data_explained(network, data))
        for guard in (restored_on_error(network, used), flags_kept(network), rates_kept(used)):
            stack.enter_context(guard)
        lesson = None
        if wish is not None:
            lesson = stack.enter_context(lessons(network, wish, data))
        run = _Finetuning(model=model, data=data, optimizer=used, options=options, epochs=epochs, score_func=score_func)
        return run(lesson, stack.enter_context(progress("finetune")))


class _Finetuning:
    """One fine-tuning. State, because optimizer, scheduler and scaler go through all steps together."""

    def __init__(
        self,
        *,
        model: nn.Module,
        data: Data,
        optimizer: torch.optim.Optimizer,
        options: FinetuneConfig,
        epochs: int,
        score_func: ScoreFunction | None,
    ) -> None:
        self.network, self.data, self.optimizer, self.options = unwrapped(model), data, optimizer, options
        self.epochs, self.score_func = epochs, score_func
        self.device = device_of(self.network)
        self.model = _parallel(model, self.device, data.group)
        self.dtype = options.autocast_dtype(self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)
        length = len(data.loader) if hasattr(data.loader, "__len__") else None  # type: ignore[arg-type]
        self.per_epoch = None if length is None else min(length, data.num_batches)
        agree("the number of batches", str(self.per_epoch), data.group)

    def __call__(self, lesson: Lesson | None, tell: Tell) -> FinetuneResult:
        started = time.perf_counter()
        self.scheduler = scheduler_for(self.optimizer, self.options, self.epochs * (self.per_epoch or 1))
        before = self._score()
        losses: list[float] = []
        scores: list[float] = []
        best = (before, 0, snapshot_of(self.network)) if before is not None else None
        risen = 0  # the epoch in which the score last rose
        for epoch in range(self.epochs):
            losses.append(self._epoch(epoch, lesson, tell))
            score = self._score()
            if score is None or best is None:
                continue
            scores.append(score)
            # the first epoch's loss is about that of the model as it came
            if score > best[0] or (score == best[0] and losses[-1] < losses[max(best[1] - 1, 0)]):
                risen = epoch + 1 if score > best[0] else risen
                best = (score, epoch + 1, snapshot_of(self.network))
            if self.options.patience and epoch + 1 - risen >= self.options.patience:
                break
        if best is not None:
            put_back(self.network, best[2])
        return FinetuneResult(
            losses=tuple(losses),
            scores=tuple(scores),
            score_before=before,
            best_epoch=best[1] if best is not None else len(losses),
            seconds=time.perf_counter() - started,
        )

    def _epoch(self, epoch: int, lesson: Lesson | None, tell: Tell) -> float:
        """Train on every batch once; the mean loss over all ranks."""
        self.model.train()
        sampler = getattr(self.data.loader, "sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)  # type: ignore[union-attr]
        sums = torch.zeros(2, dtype=torch.float64)
        total = torch.zeros((), device=self.device)
        broken = torch.full((), -1, device=self.device)  # the first batch whose loss is no number; asked once an epoch
        for number, batch in enumerate(self.data.next_pass(self.network)):
            value = self._step(batch, lesson)
            total += value
            broken = torch.where((broken < 0) & ~value.isfinite(), number, broken)
            sums[1] += 1
            tell((epoch + number / (self.per_epoch or number + 1)) / self.epochs, f"epoch {epoch + 1} of {self.epochs}")
        if self.per_epoch is None:
            self.scheduler.step()
        sums[0] = total.double().cpu()
        reduce_sum([sums], self.data.group)
        loss = float(sums[0] / sums[1])
        if not math.isfinite(loss):
            raise NotFinite(self._not_finite(epoch, int(broken), loss))
        _average_statistics(self.network, self.data.group)
        return loss

    def _not_finite(self, epoch: int, number: int, loss: float) -> str:
        """What to say of a loss that is no number, first in this batch (-1: in another process)."""
        place = f"epoch {epoch + 1}" if number < 0 else f"epoch {epoch + 1} from batch {number} (from 0) on"
        if epoch == number == 0:
            way_out = "no step was taken before it, so the model or loss_func gives no finite number for that batch"
        else:
            group = self.optimizer.param_groups[0]
            rate = group.get("initial_lr", group["lr"])  # schedules have it at zero by now
            way_out = f"lower the learning rate ({rate:.1e} at its highest)"
        return f"the loss of {place} is {loss}: {way_out}. The model is as it was before fine-tuning."

    def _step(self, batch: object, lesson: Lesson | None) -> torch.Tensor:
        """One step of the optimizer; the loss, detached."""
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            output = self.data.output(self.model, batch)
            task = partial(self.data.loss_of, output, batch)  # asked for only where the lesson wants it
            loss = task() if lesson is None else lesson(output, batch, task)
        if not loss.requires_grad:
            raise InputError(
                "the loss has no gradient, so that nothing can be learned from it: loss_func leaves torch (numpy, .item(), "
                ".detach()), or does not look at the model's output"
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.options.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            held = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(held, self.options.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.per_epoch is not None:
            self.scheduler.step()
        return loss.detach().float()

    def _score(self) -> float | None:
        """What ``score_func`` says, averaged over ranks, so that all of them decide alike."""
        if self.score_func is None:
            return None
        self.network.eval()
        with torch.no_grad():
            score = self.score_func(self.network)
        try:
            mean = torch.tensor([float(score)], dtype=torch.float64)
        except (TypeError, ValueError):
            raise InputError(f"score_func gives a number, not {type(score).__name__}") from None
        reduce_sum([mean], self.data.group)
        if not math.isfinite(float(mean)):
            raise InputError(f"score_func gave {float(score)}; a score is a finite number, higher is better")
        return float(mean) / world_size(self.data.group)


def _check(epochs: int, score_func: ScoreFunction | None, options: FinetuneConfig) -> None:
    if type(epochs) is not int or epochs < 1:
        raise ConfigError(f"epochs is a whole number from 1, not {epochs!r}")
    if score_func is not None and not callable(score_func):
        raise ConfigError(
            f"score_func is called as score_func(model) and gives a number, higher is better; not {score_func!r:.60}"
        )
    if options.patience is not None and score_func is None:
        raise ConfigError("patience has no effect without a score_func")


def _source(model: nn.Module, given: Iterable[object] | Data, options: FinetuneConfig) -> Data:
    """All batches of the data that are trained on, read as the options say where they say it."""
    collect = options.collect_func if "collect_func" in options.model_fields_set else None
    num_batches = None if isinstance(given, Data) else sys.maxsize
    data = Data.of(given, collect=collect, num_batches=num_batches, loss=options.loss_func)
    if data.group is None and isinstance(model, nn.parallel.DistributedDataParallel):
        return replace(data, group=model.process_group)
    return data


def _parallel(model: nn.Module, device: torch.device, group: Group) -> nn.Module:
    """The model as each rank trains it: its gradients are averaged."""
    if not active(group) or isinstance(model, nn.parallel.DistributedDataParallel):
        return model
    devices = [device] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=devices, process_group=group)


def _average_statistics(model: nn.Module, group: Group) -> None:
    if not active(group):
        return
    for norm in batch_norms(model):
        for statistic in (norm.running_mean, norm.running_var):
            reduce_sum([statistic], group)
            statistic /= world_size(group)
