"""Architectures of the zoo: what is found in each, what half of it is, and what is left of its weights.

    build ──► trace ──► half of the MACs, else of the parameters, else the least there is ──► apply, as a copy and in place
                   └──► random plans ──► apply the first

The list is fixed, so that a digest means the same everywhere: quick ones first of all, some beyond 64 MiB, which are
narrowed in place tensor by tensor.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from tests.zoo.catalogue import Entry, catalogue

from . import calls, digests, records
from .cases import Cases
from .digests import Record

NAMES: Mapping[str, str] = {
    "torchvision": """
        resnet18 resnet50 resnext50_32x4d densenet121 mobilenet_v2 mobilenet_v3_small efficientnet_b0 shufflenet_v2_x0_5
        squeezenet1_1 googlenet regnet_y_400mf mnasnet0_5 convnext_tiny swin_t vit_l_32 r2plus1d_18 raft_small
        lraspp_mobilenet_v3_large fasterrcnn_mobilenet_v3_large_fpn.backbone ssdlite320_mobilenet_v3_large.backbone
    """,
    "timm": """
        dla46x_c dpn48b cs3darknet_focus_s ghostnet_050 resnest14d skresnet18 legacy_seresnet18 hrnet_w18_small
        starnet_s050 convnext_zepto_rms vit_tiny_patch16_224 levit_128s efficientvit_m0 mobilevit_xxs edgenext_xx_small
        swinv2_cr_tiny_224 gmlp_ti16_224 xcit_nano_12_p8_224 poolformerv2_s12 sequencer2d_s
    """,
    "hf": """
        bert albert deberta_v2 gpt2 gptj llama falcon_grouped gemma3 mixtral gpt_oss deepseek_v3 t5 whisper mamba mamba2
        zamba2 qwen3_next clip segformer wav2vec2
    """,
}


def cases() -> Cases:
    """One case for each architecture."""
    entries = {entry.name: entry for entry in catalogue()}
    names = [f"{family}/{name}" for family, listed in NAMES.items() for name in listed.split()]
    return {f"zoo/{name}": partial(_case, entries[name]) for name in names}


def _case(entry: Entry) -> Record:
    model, inputs = entry.build(), entry.inputs()
    graph = calls.trace(model, inputs)
    plan, budget = half(graph)
    random = [found for found in records.random_plans(graph) if found is not None]
    return {
        **records.of_graph(graph),
        **records.of_plan(plan),
        "layouts": records.of_layouts(graph, [plan, *random]),
        "random plans": _random(model, random),
        **_narrowed(model, plan),
        "summary": digests.section({"budget": budget, "in place": _in_place(model, plan)}),
    }


def half(graph: Any) -> tuple[Any, str]:
    """The plan to half of the MACs, else to half of the parameters, else as far as it goes; and which it was."""
    for budget in ({"macs": "50%"}, {"params": "50%"}):
        try:
            return calls.plan(graph, "l1", budget), str(budget)
        except calls.Infeasible as refusal:
            nearest = calls.nearest_reachable(refusal)
    return calls.plan(graph, "l1", {"params": nearest}), f"params {nearest}"


def _narrowed(model: nn.Module, plan: Any) -> Record:
    small = calls.apply(model, plan)
    return {**digests.of_model(small), "values at edits": records.values_at_edits(small, plan)}


def _in_place(model: nn.Module, plan: Any) -> str:
    small = copy.deepcopy(model)
    again = calls.apply(small, plan, in_place=True)
    return f"the same object: {again is small}, {digests.of_whole(digests.of_model(small))}"


def _random(model: nn.Module, plans: list[Any]) -> dict[str, str]:
    """Edits of all random plans, and the weights that the first one leaves."""
    found = {f"edits {number}": digests.brief(calls.edits(plan)) for number, plan in enumerate(plans)}
    found["accepted"] = f"{len(plans)} of {len(records.PROBES)}"
    if plans:
        try:
            found["narrowed by the first"] = digests.of_whole(_narrowed(model, plans[0]))
        except calls.Refused:
            found["narrowed by the first"] = "refused"
    return found
