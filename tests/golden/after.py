"""What comes after pruning: training, optimizers, saving; and networks that are narrow for a while.

modes/after/finetune …   losses and weights            modes/after/saved      restored from a folder
modes/after/optimizer    its state, remapped           modes/after/subnet     narrowed inside a block
modes/after/masks        the same plan as masks        modes/after/twice      a plan on top of a plan
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import calls, digests, networks, records
from .cases import Cases
from .digests import Record

Options = Mapping[str, Any]


def cases() -> Cases:
    """All of them."""
    found: Cases = {}
    for kind in networks.TRAINED:
        for name, options in _TRAININGS.items():
            found[f"modes/after/{kind}/finetune {name}"] = partial(_finetuned, kind, options)
        for name, case in _OTHERS.items():
            found[f"modes/after/{kind}/{name}"] = partial(case, kind)
    return found


def _half(kind: str) -> tuple[nn.Module, nn.Module, Any]:
    """The whole network, one narrowed to half of its MACs, and the plan between them."""
    model = networks.trained(kind)
    plan = calls.plan(calls.trace(model, networks.example()), "l1", {"macs": "50%"})
    return model, calls.apply(model, plan), plan


def _teacher(whole: nn.Module, narrowed: nn.Module) -> Options:
    return {"teacher": whole}


def _features(whole: nn.Module, narrowed: nn.Module) -> Options:
    names = ["a", "hidden"] if isinstance(whole, networks.Residual) else ["blocks.0.up"]
    return {"teacher": calls.distillation(whole, temperature=3.0, weight=0.7, features=names, feature_weight=2.0)}


def _scored(whole: nn.Module, narrowed: nn.Module) -> Options:
    return {"score_func": networks.negative_loss, "epochs": 2, "lr": 1e-2, "config": {"patience": 1, "warmup": 0.2}}


def _momentum(whole: nn.Module, narrowed: nn.Module) -> Options:
    optimizer = torch.optim.SGD(narrowed.parameters(), lr=0.02, momentum=0.9)
    return {"optimizer": optimizer, "config": {"scheduler": "constant", "clip_norm": None, "seed": 5}}


_TRAININGS: Mapping[str, Callable[[nn.Module, nn.Module], Options]] = {
    "for an epoch": lambda whole, narrowed: {},
    "for the best of two": _scored,
    "by a given optimizer": _momentum,
    "by a teacher": _teacher,
    "by a teacher's features": _features,
}


def _finetuned(kind: str, options: Callable[[nn.Module, nn.Module], Options]) -> Record:
    whole, small, _ = _half(kind)
    told = calls.finetune(small, networks.digits()[0], **{"epochs": 1, **options(whole, small)})
    return {"told": digests.section({"losses, scores, best": told}), **digests.of_model(small)}


def _optimizer(kind: str) -> Record:
    """An optimizer with momentum follows its network, and trains on."""
    model = networks.trained(kind)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    networks.train(model, 1, optimizer)
    small, _ = calls.prune(model, "magnitude", {"macs": "60%"}, networks.example(), {"verify": False})
    optimizer = calls.remap_optimizer(optimizer, small)
    names = {id(parameter): name for name, parameter in small.named_parameters()}
    state = {names[id(p)]: dict(held) for p, held in optimizer.state.items() if id(p) in names}
    held = [[names.get(id(p), "of nobody") for p in group["params"]] for group in optimizer.param_groups]
    found = {"optimizer": digests.section({"parameters": held, "(number of states)": len(optimizer.state), **state})}
    return {**found, **digests.of_model(networks.train(small, 1, optimizer))}


def _saved(kind: str) -> Record:
    """Compensated, so that the weights are no slices; restored onto a fresh network."""
    data = {"data_loader": networks.digits()[0], "compensate": "least_squares"}
    small, _ = calls.prune(networks.trained(kind), "magnitude", {"macs": "40%"}, networks.example(), data)
    with tempfile.TemporaryDirectory() as folder:
        calls.save(small, Path(folder, "small"))
        restored = calls.restore(networks.fresh_network(kind), Path(folder, "small"))
    same = digests.of_model(small)["state"] == digests.of_model(restored)["state"]
    return {
        **digests.of_model(restored),
        **records.of_plan(calls.plans_of(restored)[-1]),
        "restored": digests.section({"tensors equal": same, "plans": len(calls.plans_of(restored))}),
    }


def _subnet(kind: str) -> Record:
    """Inside the block and after it, with batch norm measured again."""
    model, _, plan = _half(kind)
    with calls.subnet(model, plan, data_loader=networks.digits()[0], num_batches=3) as small:
        inside = digests.of_model(small)
        score = networks.negative_loss(small)
    after = digests.of_whole(digests.of_model(model))
    return {**inside, "told": digests.section({"score": score, "afterwards": after})}


def _masks(kind: str) -> Record:
    """The plan as masks, trained under them, and taken off with zeros left."""
    model, _, plan = _half(kind)
    calls.mask_plan(model, plan)
    masks = digests.of_state(calls.masks_of(model))
    networks.train(model, 1)
    calls.remove_masks(model, leave_zeros=True)
    return {"masks": masks, **digests.of_model(model)}


def _twice(kind: str) -> Record:
    """Narrowed, traced again, narrowed further in place, batch norm measured."""
    _, small, _ = _half(kind)
    plan = calls.plan(calls.trace(small, networks.example()), "l2", {"params": "60%"}, allocation="uniform")
    calls.apply(small, plan, in_place=True)
    calls.measure_batch_norm(small, networks.digits()[0], 2)
    told = {"plans": len(calls.plans_of(small)), "score": networks.negative_loss(small)}
    return {**records.of_plan(plan), **digests.of_model(small), "told": digests.section(told)}


_OTHERS: Mapping[str, Callable[[str], Record]] = {
    "optimizer": _optimizer,
    "saved": _saved,
    "subnet": _subnet,
    "masks": _masks,
    "twice": _twice,
}
