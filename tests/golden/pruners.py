"""Pruners that keep a state: iterative, one-step, and the sparsifier with rules of its own.

modes/iterative/…    analyse once, prune in rounds of masks with training between, narrow
modes/one step/…     candidates, their scores, the best and the first of them
modes/sparsifier/…   rows masked by a rule, what follows them, narrowed
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import calls, digests, networks, records
from .cases import Cases
from .digests import Record, Section

Options = Mapping[str, Any]

RATIOS = (0.25, 0.5, 0.75)
SEARCHES: Mapping[str, tuple[Options, Options]] = {
    "usual": ({}, {"num_subnet": 8, "removal_ratio": 0.5}),
    "limits": ({"criterion": "l2", "multiple_of": 2}, {"num_subnet": 5, "removal_ratio": 0.4, "seed": 1}),
}


def cases() -> Cases:
    """All of them."""
    found: Cases = {"modes/iterative/schedules": _schedules}
    for kind in networks.TRAINED:
        found[f"modes/iterative/{kind}/rounds"] = partial(_rounds, kind)
        found[f"modes/iterative/{kind}/slim"] = partial(_slim, kind)
        found[f"modes/iterative/{kind}/excluded"] = partial(_excluded, kind)
        for name, (options, asked) in SEARCHES.items():
            found[f"modes/one step/{kind}/{name}"] = partial(_one_step, kind, options, asked)
        found[f"modes/one step/{kind}/abandoned"] = partial(_abandoned, kind)
        found[f"modes/one step/{kind}/excluded"] = partial(
            _one_step, kind, {"excludes": networks.EXCLUDED[kind]}, {"num_subnet": 3, "removal_ratio": 0.3}
        )
        found[f"modes/one step/{kind}/all alike"] = partial(_one_step, kind, {}, SEARCHES["usual"][1], judge=_all_alike)
        for name, rule in _RULES.items():
            found[f"modes/sparsifier/{kind}/{name}"] = partial(_sparsifier, kind, rule, None, {})
        found[f"modes/sparsifier/{kind}/without bias"] = partial(
            _sparsifier, kind, _RULES["saliency"], None, {"prune_bias": False, "sparsity_level": 0.25}
        )
        found[f"modes/sparsifier/{kind}/function"] = partial(_sparsifier, kind, lambda: _first_rows, *_BY_HAND[kind])
    found["modes/sparsifier/reader/lstm"] = partial(_sparsifier, "reader", _RULES["lstm"], None, {})
    return found


_RULES: Mapping[str, Callable[[], Any]] = {
    "saliency": partial(calls.rule, "saliency", sparsity_level=0.4),
    "fpgm": partial(calls.rule, "fpgm", sparsity_level=0.3, dist=2),
    "fpgm by city blocks": partial(calls.rule, "fpgm", dist=1),
    "lstm": partial(calls.rule, "lstm", sparsity_level=0.5),
}
_BY_HAND: Mapping[str, tuple[Sequence[Options], Options]] = {
    "residual": ([{"tensor_fqn": "a.weight", "rows": 7}, {"tensor_fqn": "hidden.weight", "rows": 9}], {}),
    "tokens": ([{"tensor_fqn": "blocks.0.up.weight", "rows": 11}], {"prune_bias": True}),
}


def _first_rows(module: nn.Module, tensor_name: str, *, rows: int, **_: Any) -> None:
    module.parametrizations[tensor_name][0].mask[:rows] = False  # type: ignore[index, union-attr]


def _schedules() -> Record:
    names = ("linear", "agp", "geometric")
    return {"ratios": digests.section({name: calls.removal_schedule(name, 4, 0.7) for name in names})}


def _rounds(kind: str) -> Record:
    """Masks in two rounds with training between, then narrowed; and the masks of a third."""
    train, valid = networks.digits()
    pruner = calls.iterative(networks.trained(kind), networks.example())
    options = {"ratios": RATIOS, "data_loader": train, "num_batches": 2}
    found: Record = {"analysis": digests.section(calls.analyze(pruner, networks.judged, (valid,), **options))}
    for number, ratio in enumerate(calls.removal_schedule("agp", 2, 0.5)):
        model = networks.train(calls.iterate(pruner, removal_ratio=ratio), 1)
        found |= _named(f"round {number}", records.of_plan(calls.round_plan(pruner)))
        found[f"round {number} weights"] = _masked(model)
    found |= _named("slim", digests.of_model(calls.slim(pruner)))
    found["slim state"] = digests.of_state(calls.slim_state(pruner))
    calls.iterate(pruner, removal_ratio=0.7, multiple_of=2)
    return found | _named("last", records.of_plan(calls.round_plan(pruner)))


def _slim(kind: str) -> Record:
    """Narrowed at once: by a ratio, by a threshold, by the sum of losses; analysed in two runs with one journal."""
    found: Record = {}
    _, valid = networks.digits()
    asked: list[int] = []

    def judge(model: nn.Module, batches: networks.Batches) -> float:
        asked.append(1)
        return networks.judged(model, batches)

    with tempfile.TemporaryDirectory() as folder:
        for ratios in ((0.5,), (0.3, 0.5, 0.8)):
            pruner = calls.iterative(networks.trained(kind), networks.example(), "l2")
            analysis = calls.analyze(pruner, judge, (valid,), ratios=ratios, path=Path(folder))
            found[f"analysis at {ratios}"] = digests.section({**analysis, "(asked)": len(asked)})
    wishes = ({"removal_ratio": 0.4}, {"threshold": 0.3}, {"removal_ratio": 0.6, "objective": "sum"})
    for wish in wishes:
        small = calls.iterate(pruner, mode="slim", **wish)
        found |= _named(str(wish), {**records.of_plan(calls.plans_of(small)[-1]), **digests.of_model(small)})
    return found


def _excluded(kind: str) -> Record:
    """Some widths left whole: from the analysis on, and in one round."""
    _, valid = networks.digits()
    first, second = networks.EXCLUDED[kind]
    pruner = calls.iterative(networks.trained(kind), networks.example())
    analysis = calls.analyze(pruner, networks.judged, (valid,), ratios=(0.5,), excludes=[first])
    small = calls.iterate(pruner, removal_ratio=0.2, mode="slim", excludes=[second])
    return {"analysis": digests.section(analysis), **records.of_plan(calls.plans_of(small)[-1])}


def _all_alike(model: nn.Module, batches: networks.Batches) -> float:
    """Of equal scores the order says which is the best."""
    return 0.5


def _one_step(kind: str, options: Options, asked: Options, judge: Callable[..., float] = networks.judged) -> Record:
    train, valid = networks.digits()
    pruner = calls.one_step(networks.trained(kind), networks.example(), **options)
    results = calls.search(pruner, networks.calibrate, (train[:2],), judge, (valid,), **asked)
    return _candidates(pruner, results)


def _abandoned(kind: str) -> Record:
    """A score that tells how far it is, no calibration function; kept on the disk, and gone on with."""
    train, valid = networks.digits()
    with tempfile.TemporaryDirectory() as folder:
        for num_subnet in (3, 7):
            pruner = calls.one_step(networks.trained(kind), networks.example())
            results = calls.search(
                pruner, None, (train[:2],), networks.judged_running, (valid,),
                num_subnet=num_subnet, removal_ratio=0.3, path=Path(folder),
            )  # fmt: skip
    return _candidates(pruner, results)


def _candidates(pruner: Any, results: Sequence[calls.Found]) -> Record:
    found: Record = {"results": digests.section({f"place {n}": one._asdict() for n, one in enumerate(results)})}
    for index in (None, 0):
        plan, small = calls.candidate(pruner, index)
        found |= _named(f"candidate {index}", {**records.of_plan(plan), **digests.of_model(small)})
    return found


def _sparsifier(kind: str, rule: Callable[[], Any], config: Sequence[Options] | None, defaults: Options) -> Record:
    """Two steps with training between, then narrowed."""
    model = networks.fresh_network(kind) if kind not in networks.TRAINED else networks.trained(kind)
    sparsifier = calls.sparsified(rule(), model, config, networks.example(), **defaults)
    found: Record = {}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(2):
        calls.mask_rows(sparsifier)
        networks.train(model, 1, optimizer)
        found |= _named(f"step {step}", records.of_plan(calls.masked_plan(sparsifier)))
        found[f"step {step} weights"] = _masked(model)
    small = calls.narrow_masked(sparsifier)
    return {**found, **records.of_plan(calls.plans_of(small)[-1]), **digests.of_model(small)}


def _masked(model: nn.Module) -> Section:
    """Weights under masks, and the masks."""
    return {
        "weights": digests.brief(digests.of_state(model.state_dict())),
        **digests.of_state({f"mask of {name}": mask for name, mask in calls.masks_of(model).items()}),
    }


def _named(prefix: str, record: Record) -> Record:
    return {f"{prefix}: {name}": part for name, part in record.items()}
