"""Scaled dot-product attention as one operator, whatever kernel the device would choose.

    q [B, H, T, D]   k [B, G, S, D]   v [B, G, S, E]   ->   [B, H, T, E]        H = G × queries per group

The scale is 1/√D unless given: then a narrower D is another function, and D is inexact.
Legend: B batch, H heads, G key-value groups, T S positions, D E head widths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from secateur.core.space import Space, freeze, split
from secateur.torch.rules.protocol import Outputs, Trace, tensors_of
from secateur.torch.rules.registry import FUNCTION_RULES, Sample, rule, sample


@rule(
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
    "_scaled_dot_product_attention_math",
    "_scaled_dot_product_attention_math_for_mps",
)
def fused_attention(
    trace: Trace,
    out: Outputs,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *args: object,
    scale: float | None = None,
    **kwargs: object,
) -> None:
    given = [kwargs.get("attn_mask"), *args]
    mask = next((a for a in given if isinstance(a, Tensor)), None)
    result, *others = tensors_of(out)
    _attend(trace, result, q, k, v, mask, scale)
    if _is_causal(trace, args, kwargs):
        _freeze_order(trace, q, k)
    for other in others:
        if isinstance(other, Tensor):
            trace.keep_whole(other)


def attention(
    trace: Trace,
    out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> None:
    """`torch.nn.functional.scaled_dot_product_attention`, with its own signature."""
    _attend(trace, out, query, key, value, attn_mask, scale)
    if is_causal:
        _freeze_order(trace, query, key)


def _is_causal(trace: Trace, args: Sequence[object], kwargs: Mapping[str, object]) -> bool:
    """A kernel's argument of that name, behind its three tensors."""
    names = [argument.name for argument in trace.operator._schema.arguments[3:]]
    return bool({**dict(zip(names, args, strict=False)), **kwargs}.get("is_causal", False))


def _freeze_order(trace: Trace, q: Tensor, k: Tensor) -> None:
    for tensor in (q, k):
        freeze(trace.spaces(tensor)[-2], f"each attends to those before it in {trace.where}")


def _attend(
    trace: Trace,
    out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scale: float | None,
) -> None:
    qs, ks, vs = trace.spaces(q), trace.spaces(k), trace.spaces(v)
    width = trace.same(qs[-1], ks[-1])
    trace.contract(width, zero=trace.zero(q)[-1] or trace.zero(k)[-1])
    if scale is None:
        trace.statistic(width)
    trace.statistic(trace.same(ks[-2], vs[-2]))
    batch = list(qs[:-2])
    zero = list(trace.zero(q)[:-2])
    for i in range(1, len(batch) + 1):
        batch[-i] = _heads(trace, qs[-2 - i], ks[-2 - i], vs[-2 - i])
        zero[-i] = trace.zero(v)[-2 - i] and vs[-2 - i].root().size == batch[-i].root().size
    if mask is not None:
        _mask(trace, [*batch, qs[-2], ks[-2]], mask)
    trace.multiply(1, *batch, qs[-2], ks[-2], width)
    trace.multiply(1, *batch, qs[-2], ks[-2], vs[-1])
    trace.put(out, [*batch, qs[-2], vs[-1]], [*zero, False, trace.zero(v)[-1]])


def _heads(trace: Trace, q: Space, k: Space, v: Space) -> Space:
    groups = trace.same(k, v) if k.root().size == v.root().size else k
    if q.root().size == groups.root().size:
        return trace.same(q, groups)
    if groups.root().size == 1:
        return q
    if q.root().size == 1:
        return groups
    pieces = split(q, (groups.root().size, q.root().size // groups.root().size))
    if pieces is None:
        raise ValueError("query heads do not factor into key-value groups")
    trace.same(pieces[0], groups)
    return q


def _mask(trace: Trace, full: list[Space], mask: Tensor) -> None:
    for back in range(1, min(mask.dim(), len(full)) + 1):
        if mask.shape[-back] == full[-back].root().size != 1:
            trace.same(full[-back], trace.spaces(mask)[-back])


def attention_shape(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    *args: object,
    enable_gqa: bool = False,
    **kwargs: object,
) -> Tensor:
    """The abstract result of attention; raises where the real one would."""
    if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        raise RuntimeError(f"attention: {tuple(query.shape)} {tuple(key.shape)} {tuple(value.shape)} do not fit")
    for q, k in zip(query.shape[:-2], key.shape[:-2], strict=True):
        if q != k and 1 not in (q, k) and not (enable_gqa and q % k == 0):
            raise RuntimeError(f"attention: {q} query heads for {k} key heads")
    batch = query.shape[:-2]
    if not enable_gqa:
        batch = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    if attn_mask is not None:
        torch.broadcast_shapes(attn_mask.shape, (*batch, query.shape[-2], key.shape[-2]))
    return torch.empty((*batch, query.shape[-2], value.shape[-1]), dtype=query.dtype, device="meta")


FUNCTION_RULES[torch.nn.functional.scaled_dot_product_attention] = attention


@sample("scaled_dot_product_attention")
def _attention() -> Sample:
    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=0.5, enable_gqa=True)

    return Sample(function, (2, 6, 5, 4), (2, 3, 5, 4), (2, 3, 5, 8))
