"""`trace`: which slices of which tensors live and die together.

    run once, unify ──► settle sizes ──► name and write down ──► self-check ──► Graph

No layer classes, no patterns: whatever runs once can be understood, and what is not understood is frozen with a reason.

Invariant: the model is untouched; every width reported free has been seen to run narrowed (unless ``check=False``).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from secateur.core.depth import Depth
from secateur.core.graph import Graph
from secateur.core.settle import settle
from secateur.core.space import Space
from secateur.errors import InputError, TraceError
from secateur.torch.running.distributed import unwrapped
from secateur.torch.running.example import Example, Examples
from secateur.torch.running.interface import Interface, check_interface
from secateur.torch.tracing.aliases import freeze_aliases
from secateur.torch.tracing.build import build
from secateur.torch.tracing.cuts import freeze_calculated, freeze_cut_off
from secateur.torch.tracing.depth import with_blocks
from secateur.torch.tracing.folded import freeze_folded
from secateur.torch.tracing.hung import freeze_hung
from secateur.torch.tracing.kept_sizes import freeze_kept_sizes, listen_to_other_forwards
from secateur.torch.tracing.live import freeze_idle
from secateur.torch.tracing.masked import listen_padded
from secateur.torch.tracing.observe import Observation, listen, listen_in_a_row, observe, say_own_sizes
from secateur.torch.tracing.rebuilt import follow_rebuilt
from secateur.torch.tracing.resized import listen_resized
from secateur.torch.tracing.selfcheck import ROUNDS, TrainsOtherwise, check_by_running
from secateur.torch.tracing.training import listen_in_training
from secateur.torch.tracing.unreached import place_unreached


def trace(
    model: nn.Module,
    dummy_input: object,
    *,
    also: Sequence[object] = (),
    interface: Interface = True,
    check: bool = True,
    depth: Depth = False,
) -> Graph:
    """Run a model once on ``dummy_input`` and find out what can be narrowed.

    ``dummy_input`` is a tensor, a tuple of arguments, a dict of keywords, or a tuple ending in one (append ``{}`` to pass a
    dict itself). ``also`` are further examples, each like it, that take other branches, or a `Call` of another method
    of the model: what the first does not reach would stay whole, and so may what shares a width with it. Plans are verified on
    all of them; costs are those of the first. (Verbs without this argument take ``dummy_input=Examples(x, also=[…])``.)
    The dimensions of the model's outputs stay as they are, but for caches and looks inside (hidden states, attentions, the
    encoder's output beside the decoder's); ``interface=["logits", "pooler_*"]`` names those that stay, ``interface=False``
    frees all. ``check=False`` skips the self-check. With ``depth``, blocks that may go whole are looked for, too: each is a
    width of kind ``layers`` that keeps 1 or 0; ``depth="only"`` freezes all other widths. Of a DistributedDataParallel, the
    network inside is meant.

    Raises InputError for an unusable ``dummy_input`` and TraceError where the model does not run on it.
    """
    example = Example.of(unwrapped(model), Examples(dummy_input, also))
    if any(isinstance(given, torch.Tensor) and not given.numel() for given in example.args[:1]):
        raise InputError(
            f"the dummy_input holds nothing: it is a tensor of shape {tuple(example.args[0].shape)}. Give a batch of at least one"
        )
    if not isinstance(check, bool):
        raise InputError(f"trace: check is True or False, not {check!r:.60}")
    if depth != "only" and not isinstance(depth, bool):
        raise InputError(f'trace: depth is True, False or "only", not {depth!r:.60}')
    example = replace(example, interface=check_interface(interface), depth=depth)
    started = time.perf_counter()
    try:
        graph = _traced(example, check=check, rehearses_training=check)
    except TrainsOtherwise:
        graph = _traced(example, check=check, rehearses_training=False)
    seconds = {**graph.seconds, "trace": time.perf_counter() - started - graph.seconds["self_check"]}
    return replace(graph, seconds=seconds)


def _traced(example: Example, *, check: bool, rehearses_training: bool) -> Graph:
    seen = observe(example)
    for place, other in enumerate(example.further):
        listen(seen, other, f"also[{place}]")
    listen_in_training(seen, rehearsed=rehearses_training)
    listen_padded(seen)
    listen_in_a_row(seen)
    listen_resized(seen)
    listen_to_other_forwards(seen)
    say_own_sizes(seen)
    freeze_aliases(seen)
    freeze_hung(seen)
    settle(seen.tracer.facts)
    place_unreached(seen)
    freeze_kept_sizes(seen)
    follow_rebuilt(seen)
    freeze_cut_off(seen)
    freeze_calculated(seen)
    freeze_folded(seen)
    freeze_idle(seen)
    graph, leaf_of = build(seen)
    traced = time.perf_counter()
    if check:
        graph = _checked(seen, graph, leaf_of)
    if example.depth:
        graph = with_blocks(seen, graph)
    return replace(graph, seconds={"self_check": time.perf_counter() - traced})


def _checked(seen: Observation, graph: Graph, leaf_of: Mapping[str, Space]) -> Graph:
    found: str | None = None
    rounds = 0
    while rounds < ROUNDS + seen.followed:
        if (found := check_by_running(seen, graph, leaf_of)) is None:
            return graph
        settle(seen.tracer.facts)
        graph, leaf_of = build(seen)
        rounds += 1
    raise TraceError(
        f"after {rounds} rounds of freezing, the narrowed model still does not run; the last round: {found}. Still free: "
        f"{', '.join(width.name for width in graph.free[:5])}. check=False leaves the self-check out: exclude these widths then"
    )
