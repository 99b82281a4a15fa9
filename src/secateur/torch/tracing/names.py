"""Names a person recognises for the leaves of a trace.

    layer1.0.conv1.out_channels      the first weight that produces it
    encoder.layer.0.attn.num_heads   the attribute that holds its size, for a factor or part of an axis

Invariant: names are unique, and the same model gives the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from secateur.core.equations import Attribute
from secateur.core.space import Space, leaves
from secateur.torch.tracing.observe import Observation

SPATIAL = "spatial size"
HIDDEN = frozenset({"kernel", SPATIAL, "size one"})
_OF_UNITS = ("out_channels", "in_channels", "out_features", "in_features", "embedding_dim", "num_features")


_KINDS = (
    ("experts", ("num_experts", "num_local_experts", "n_routed_experts", "num_moe_experts", "moe_num_experts")),
    ("queries_per_group", ("num_key_value_groups", "n_rep", "kv_groups", "q_per_kv")),
    ("query_groups", ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_groups", "num_query_groups", "ngroups")),
    (
        "head_dim",
        (
            *("head_dim", "attention_head_size", "dim_head", "head_size", "key_value_proj_dim", "d_kv", "key_dim"),
            *("headdim", "hidden_size_per_attention_head", "kv_channels"),
        ),
    ),
    ("heads", ("num_attention_heads", "num_heads", "n_heads", "n_head", "nhead", "heads", "n_heads_log2", "nheads")),
    ("state", ("ssm_state_size", "state_size", "d_state")),
    ("groups", ("groups", "num_groups")),
)


# number of factors outside a head width -> their names and kinds
_OUTSIDE_HEADS = {
    1: (("num_heads", "heads"),),
    2: (("num_key_value_heads", "query_groups"), ("queries_per_group", "queries_per_group")),
}


_ATTRIBUTE_KIND = {name: kind for kind, names in _KINDS for name in names}
_SHARDED = ("_per_partition", "_local_tp", "_local_tpcp")  # of a tensor that several processes share out


def kind_of(attribute: str) -> str:
    """What a width is that an attribute of this name holds the size of."""
    plain = attribute
    for suffix in _SHARDED:
        plain = plain.removesuffix(suffix)
    return _ATTRIBUTE_KIND.get(plain, attribute)


def role(module: nn.Module | None, tensor: str, axis: int) -> tuple[str, str, bool]:
    """``(role, kind, produces)`` of an axis of a module's tensor: out_channels, channels, True for a conv weight's 0."""
    is_weight = tensor in ("weight", "bias")
    if isinstance(module, nn.modules.conv._ConvNd) and is_weight:
        out = (axis == 0) != (module.transposed and tensor == "weight")
        return ("out_channels" if out else "in_channels"), "channels", out
    if isinstance(module, nn.Linear) and is_weight:
        return ("out_features" if axis == 0 else "in_features"), "features", axis == 0
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return ("embedding_dim" if axis else "num_embeddings"), "embedding", bool(axis)
    if isinstance(module, (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)):
        return "num_features", "features", False
    if isinstance(module, nn.RNNBase):
        return f"{tensor}.{axis}", "features", axis == 0
    return f"{tensor}.{axis}", "features", False


class Names:
    """Width names by leaf, in order of first appearance; also their kinds and where each occurs."""

    def __init__(self, seen: Observation, parameters: set[str]) -> None:
        self.by_leaf: dict[int, str] = {}
        self.kind: dict[str, str] = {}
        self.leaf: dict[str, Space] = {}
        self.uses: dict[int, list[tuple[str, int]]] = {}
        self._taken: dict[str, int] = {}
        modules = seen.modules
        entries: list[tuple[str, int, str, str, bool]] = []
        for tensor, spaces in seen.spaces.items():
            owner, _, local = tensor.rpartition(".")
            for axis, space in enumerate(spaces):
                what, kind, produces = role(modules.get(owner), local, axis)
                entries.append((tensor, axis, f"{owner}.{what}" if owner else what, kind, produces))
                for leaf in leaves(space):
                    self.uses.setdefault(id(leaf), []).append((tensor, axis))
        self._claim_by_attribute(seen, parameters)
        for wanted in (True, False):
            for tensor, axis, label, kind, produces in entries:
                if produces is wanted and tensor in parameters:
                    self._claim(seen.spaces[tensor][axis], label, kind, tensor.rpartition(".")[0])
        self._in_order(seen, parameters)

    def _claim_by_attribute(self, seen: Observation, parameters: set[str]) -> None:
        composed: set[int] = set()
        used: set[int] = set()
        for tensor, spaces in seen.spaces.items():
            for space in spaces:
                found = leaves(space)
                used.update(id(leaf) for leaf in found if tensor in parameters)
                if len(found) > 1:
                    composed.update(id(leaf) for leaf in found)
        for origin, space, _ in seen.tracer.facts.equations:
            if not isinstance(origin, Attribute) or origin in seen.by_name:
                continue
            found = leaves(space)
            top = found[0]
            last = origin.path.rpartition(".")[2]
            told = composed if kind_of(last) != "experts" else used  # an axis of its own says nothing of experts
            if len({id(leaf) for leaf in found}) == 1 and id(top) in told & used and id(top) not in self.by_leaf:
                label = last if len(found) == 1 else f"{last}_pairs" if len(found) == 2 else f"{last}_parts"
                self._assign(top, f"{origin.module}.{label}" if origin.module else label, kind_of(last))
            elif kind_of(last) == "experts" and id(found[-1]) in composed & used and id(found[-1]) not in self.by_leaf:
                label = f"{last}_per_group"
                self._assign(found[-1], f"{origin.module}.{label}" if origin.module else label, "experts")

    def _claim(self, space: Space, label: str, kind: str, projection: str) -> None:
        # a layer's whole outputs or inputs are units, whatever is made of them: ``conv1d`` over channels
        hidden = HIDDEN - {SPATIAL} if label.endswith(_OF_UNITS) and len(leaves(space)) == 1 else HIDDEN
        found = [leaf for leaf in leaves(space) if leaf.size > 1 and leaf.frozen not in hidden]
        for place, leaf in enumerate(found):
            if id(leaf) not in self.by_leaf:
                named = self._around_head_dim(found, place, projection)
                self._assign(leaf, *(named or (label if len(found) == 1 else f"{label}[{place}]", kind)))

    def _around_head_dim(self, found: list[Space], place: int, projection: str) -> tuple[str, str] | None:
        """Name and kind of a factor outside a head width, whose size the code leaves open: ``view(…, -1, head_dim)``."""
        kinds = [self.kind.get(self.by_leaf.get(id(leaf), "")) for leaf in found]
        outside = kinds.index("head_dim") if "head_dim" in kinds else 0
        if place >= outside or outside not in _OUTSIDE_HEADS:
            return None
        name, kind = _OUTSIDE_HEADS[outside][place]
        owner = projection.rpartition(".")[0]  # the module that holds it
        return f"{owner}.{name}" if owner else name, kind

    def _assign(self, leaf: Space, name: str, kind: str) -> None:
        count = self._taken.get(name, 0)
        self._taken[name] = count + 1
        unique = name if not count else f"{name}#{count + 1}"
        self.by_leaf[id(leaf)] = unique
        self.kind[unique], self.leaf[unique] = kind, leaf

    def _in_order(self, seen: Observation, parameters: set[str]) -> None:
        order: dict[str, None] = {}
        for tensor, spaces in seen.spaces.items():
            if tensor in parameters:
                for leaf in (leaf for space in spaces for leaf in leaves(space)):
                    if id(leaf) in self.by_leaf:
                        order.setdefault(self.by_leaf[id(leaf)])
        self.ordered = list(order)


def type_names(module: nn.Module) -> tuple[str, ...]:
    """How a rule may call a module's type: ``nn.Conv2d``, ``Conv2d``, and the same for its base classes."""
    found: dict[str, None] = {}
    for kind in type(module).__mro__:
        if kind is nn.Module:
            break
        if kind.__module__.startswith("torch.nn."):
            found.setdefault(f"nn.{kind.__name__}")
            found.setdefault(f"torch.nn.{kind.__name__}")
        found.setdefault(kind.__name__)
    return tuple(found)


def module_types(modules: Mapping[str, nn.Module]) -> Mapping[str, Any]:
    """Type names of every module by dotted name."""
    return {name: type_names(module) for name, module in modules.items()}
