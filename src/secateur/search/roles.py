"""What people call the sizes of a transformer, and which widths of a graph these are.

    {"num_attention_heads": 16, "ffn_hidden_size": 5632}   ──►   {"model.layers.*.self_attn.queries_per_group": 4, …}

Megatron's names and those of Hugging Face configurations are synonyms. Which width plays which role is read from the graph:
the hidden width is the one with most uses, a mixer's heads are those beside a state, a feed-forward width is a whole axis
of a block that is none of these.

Invariant: every name gets what it asks for, or InputError says what would be possible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from secateur.core.equations import Attribute
from secateur.core.graph import Graph, Use, Width
from secateur.core.layout import Axis, Product, alongs_of, size_of
from secateur.errors import InputError, nearest
from secateur.search.ties import Tie, pattern_of, ties_of

LAYERS = "layers"

_SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "hidden_size": ("d_model", "n_embd", "embed_dim", "dim", "model_dim"),
    "ffn_hidden_size": (
        *("intermediate_size", "ffn_dim", "n_inner", "d_ff", "hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim"),
        "ffn_size",
    ),
    "num_attention_heads": (
        *("n_head", "n_heads", "num_heads", "heads", "encoder_attention_heads", "decoder_attention_heads"),
        "attention_heads",
    ),
    "num_query_groups": ("num_key_value_heads", "num_kv_heads", "n_kv_heads"),
    "kv_channels": ("head_dim", "d_kv", "attention_head_size"),
    "mamba_num_heads": ("mamba_n_heads", "n_mamba_heads"),
    "mamba_head_dim": ("mamba_d_head", "mamba_headdim"),
    "mamba_state_dim": ("state_size", "ssm_state_size", "mamba_d_state", "d_state"),
    "mamba_num_groups": ("n_groups", "mamba_n_groups", "mamba_ngroups"),
    "num_moe_experts": (
        "num_experts",
        "num_local_experts",
        "n_routed_experts",
        "moe_num_experts",
        "num_routed_experts",
    ),
    "moe_ffn_hidden_size": ("moe_intermediate_size",),
    "moe_shared_expert_intermediate_size": ("shared_expert_intermediate_size", "shared_intermediate_size"),
    "num_layers": (
        "num_hidden_layers",
        "n_layer",
        "n_layers",
        "encoder_layers",
        "decoder_layers",
        "num_decoder_layers",
        "num_encoder_layers",
    ),
}
_ROLE_OF = {name: role for role, names in _SYNONYMS.items() for name in (role, *names)}
_TOTALS = {  # heads are counted over all groups
    "num_attention_heads": ("num_query_groups", "num_attention_heads"),
    "mamba_num_heads": ("mamba_num_groups", "mamba_num_heads"),
}
_HEADS_OF = dict(_TOTALS.values())


def role_of(width: Width, graph: Graph) -> str | None:
    """The role of a width in Megatron's words, or None."""
    if width.kind == LAYERS:
        return "num_layers"
    if width.name == hidden_width(graph):
        return "hidden_size"
    mixer = _beside_a_state(width, graph)
    match width.kind:
        case "query_groups":
            return "mamba_num_groups" if mixer else "num_query_groups"
        case "queries_per_group" | "heads":
            return "mamba_num_heads" if mixer else "num_attention_heads"
        case "head_dim":
            return "mamba_head_dim" if mixer else "kv_channels"
        case "state":
            return "mamba_state_dim"
        case "experts":
            return "num_moe_experts"
        case "features" if "*" in pattern_of(width.name) and not mixer:
            return _feed_forward(width, graph)
        case _:
            return None


def hidden_width(graph: Graph) -> str | None:
    """The width of the residual stream: the one that most axes of tensors have."""
    most = max(graph.widths, key=lambda width: len(width.uses), default=None)
    return None if most is None else most.name


def layers_asked(export: Mapping[str, object]) -> tuple[str, ...]:
    """The names under which a configuration asks for numbers of layers."""
    return tuple(name for name in export if _ROLE_OF.get(name) == "num_layers")


def side_of(name: str) -> str | None:
    """Which half of a network a name is about, where it says so."""
    return next((side for side in ("encoder", "decoder") if name.removeprefix("num_").startswith(side)), None)


def sizes_asked(
    export: Mapping[str, object], graph: Graph, of_field: Callable[[str], Sequence[Tie]] = lambda _: ()
) -> dict[str, int]:
    """Counts of ties, by name, from the names of a configuration. ``graph`` is one with `uniform` choices.

    ``of_field`` knows what a field of the model's own configuration says, where no role has its name. What is as it is asked
    for already stays. Raises InputError for a name that nothing here has, or a count that is not possible, saying which are.
    """
    ties = ties_of(graph)
    roles = {tie.name: role_of(graph[tie.widths[0]], graph) for tie in ties}
    chosen: dict[str, int] = {}
    by: dict[str, str] = {}
    for name, asked in sorted(export.items(), key=lambda entry: _ROLE_OF.get(entry[0]) in _TOTALS):
        role = _ROLE_OF.get(name)
        if not isinstance(asked, int) or isinstance(asked, bool) or asked < 1:
            raise InputError(f"export_config: {name} is a whole number of at least 1, not {asked!r}")
        count, mine = asked, [t for t in ties if (roles[t.name] == role if role else t.name == name)]
        shared = role in _TOTALS and bool(mine)
        if role in _TOTALS and not mine:  # so many in each group, as it is: the groups are asked for
            mine = [tie for tie in ties if roles[tie.name] == _TOTALS[role][0]]
            count = _groups_for(name, asked, mine, graph)
        if role in _HEADS_OF and not mine:  # each head is a group of its own
            mine = [tie for tie in ties if roles[tie.name] == _HEADS_OF[role] and tie.kind == "heads"]
        mine = mine or list(of_field(name))
        mine = [tie for tie in mine if (side := side_of(name)) is None or side in tie.name.split(".")]
        if not mine and role is not None and _present(role, graph) == {asked}:
            continue
        if not mine:
            raise InputError(_nothing(name, role, graph, ties))
        for tie in mine:
            own = (
                _in_each_group(name, asked, tie, ties, roles, chosen)
                if shared
                else _in_parts(name, _in_its_groups(name, count, tie, graph), tie, graph)
            )
            if chosen.get(tie.name, own) != own:
                raise InputError(_twice(name, own, tie, by[tie.name], export))
            chosen[tie.name], by[tie.name] = _checked(name, own, tie, asked), name
    return chosen


def _twice(name: str, own: int, tie: Tie, other: str, export: Mapping[str, object]) -> str:
    """Two names ask for two counts of one tie: the same under both, or heads and groups of as many heads as there are."""
    asked, before = export[name], export[other]
    assert isinstance(asked, int)
    assert isinstance(before, int)
    both, each = f"export_config: {name}={asked} and {other}={before}", asked // own
    if each == 1:
        return f"{both} are one size of this model ({tie.name}): give one of them"
    return (
        f"{both} do not go together: each group keeps its {each} heads, so {before * each} heads go with "
        f"{other}={before}, and {own} groups with {name}={asked}"
    )


def _present(role: str, graph: Graph) -> set[int]:
    """How many there are of what a role counts, in every block."""
    groups = _HEADS_OF.get(role)
    if groups is not None and all(role_of(width, graph) != role for width in graph.widths):
        heads = [width for width in graph.widths if role_of(width, graph) == groups]
        return {width.size if width.kind == "heads" else 1 for width in heads}
    return {width.size * _counted(width, graph) for width in graph.widths if role_of(width, graph) == role}


def _counted(width: Width, graph: Graph) -> int:
    """How many of what its role counts there are for each unit of a width."""
    owner = width.name.rpartition(".")[0]
    match width.kind:
        case "queries_per_group":
            beside = (w for w in graph.widths if w.kind == "query_groups" and w.name.rpartition(".")[0] == owner)
            return next((w.size for w in beside), 1)
        case "head_dim":
            return _channels_together(width, graph)
        case _:
            return _router_groups(width, graph) if role_of(width, graph) == "num_moe_experts" else 1


def _in_parts(name: str, count: int, tie: Tie, graph: Graph) -> int:
    """How many units there are in a head of so many channels: rotary positions take two together."""
    together = _channels_together(graph[tie.widths[0]], graph)
    if count % together:
        possible = ", ".join(str(choice * together) for choice in tie.choices[-4:])
        raise InputError(
            f"export_config: {name}={count} is not possible: {together} channels of {tie.name} go together, so {possible} are"
        )
    return count // together


def _channels_together(width: Width, graph: Graph) -> int:
    owner, _, label = width.name.rpartition(".")
    whole = label.removesuffix("_pairs").removesuffix("_parts")
    channels = graph.attributes.get(Attribute(owner, whole), width.size) if whole != label else width.size
    return channels // width.size


def _groups_for(name: str, count: int, groups: Sequence[Tie], graph: Graph) -> int:
    """How many groups have so many heads in all, where the heads of a group are as many as they are."""
    owners = {tie.name.rpartition(".")[0] for tie in groups}
    inside = [
        w for w in graph.widths if w.kind == "queries_per_group" and pattern_of(w.name).rpartition(".")[0] in owners
    ]
    each = inside[0].size if inside else 1
    if count % each:
        possible = ", ".join(str(choice * each) for choice in groups[0].choices[-4:])
        raise InputError(
            f"export_config: {name}={count} is not possible: each group has {each} heads, so {possible} are"
        )
    return count // each


def _in_each_group(
    name: str, count: int, tie: Tie, ties: Sequence[Tie], roles: Mapping[str, str | None], chosen: Mapping[str, int]
) -> int:
    """How many heads each query group has, where so many are asked for in all."""
    if tie.kind == "heads":
        return count
    role = _TOTALS[_ROLE_OF[name]][0]
    owner = tie.name.rpartition(".")[0]
    groups = next((t for t in ties if roles[t.name] == role and t.name.rpartition(".")[0] == owner), None)
    number = 1 if groups is None else chosen.get(groups.name, groups.size)
    if count % number:
        possible = ", ".join(str(choice * number) for choice in tie.choices)
        raise InputError(
            f"export_config: {name}={count} cannot be shared out among {number} query groups evenly. With {number} groups "
            f"there can be {possible}"
        )
    return count // number


def _in_its_groups(name: str, count: int, tie: Tie, graph: Graph) -> int:
    """How many experts each group of a router has, where so many are asked for in all; groups stay."""
    width = graph[tie.widths[0]]
    if role_of(width, graph) != "num_moe_experts":
        return count
    groups = _router_groups(width, graph)
    if count % groups:
        possible = ", ".join(str(choice * groups) for choice in tie.choices)
        raise InputError(
            f"export_config: {name}={count} cannot be shared out among {groups} groups of experts evenly. There can be "
            f"{possible}"
        )
    return count // groups


def _router_groups(width: Width, graph: Graph) -> int:
    return size_of(graph.layouts[width.uses[0].tensor][width.uses[0].axis], {}) // width.size


def _checked(name: str, count: int, tie: Tie, asked: int) -> int:
    if count not in tie.choices:
        shown = [c * (asked // count) if count else c for c in tie.choices]
        near = sorted(shown, key=lambda choice: abs(choice - asked))[:4]
        few = ", which is what the router chooses from at the least" if _ROLE_OF.get(name) == "num_moe_experts" else ""
        raise InputError(
            f"export_config: {name}={asked} is not possible for {tie.name} (now {max(shown)}): the nearest counts are "
            f"{', '.join(map(str, sorted(near)))}; there are at most {max(shown)}, at least {min(shown)}{few}"
        )
    return count


def _nothing(name: str, role: str | None, graph: Graph, ties: Sequence[Tie]) -> str:
    here = {r for tie in ties if (r := role_of(graph[tie.widths[0]], graph)) is not None}
    frozen = next((w for w in graph.widths if w.frozen and role is not None and role_of(w, graph) == role), None)
    if frozen is not None:
        return f"export_config: {name} stays {frozen.size}: {frozen.name} is left whole: {frozen.frozen}"
    has = f"{', '.join(sorted(here - {'num_layers'}))}; how many layers there are is num_layers"
    if role is None:
        close = nearest(name, [known for known, of in _ROLE_OF.items() if of in here | {"num_layers"}])
        return f"export_config: {name} is unknown.{close} This model has {has}"
    return f"export_config: this model has no {name} that can be changed; it has {has}"


def _beside_a_state(width: Width, graph: Graph) -> bool:
    """Whether the module that a width is named after has a state dimension, as mixers of Mamba have."""
    owner = width.name.rpartition(".")[0]
    return any(w.kind == "state" and w.name.rpartition(".")[0] == owner for w in graph.widths)


def _counts_matrices(use: Use, graph: Graph) -> bool:
    """Whether an axis says which matrix, or whose bias, of several in one tensor."""
    return use.axis == 0 and len(graph.layouts[use.tensor]) == (2 if use.tensor.endswith("bias") else 3)


def _is_alone(width: Width, axis: Axis) -> bool:
    """Whether an axis is nothing but a width, several times perhaps: gate and up in one."""
    return not isinstance(axis, Product) and {along.width for along in alongs_of(axis)} == {width.name}


def _feed_forward(width: Width, graph: Graph) -> str | None:
    if any("expert" in use.tensor and _counts_matrices(use, graph) for use in width.uses):
        return "num_moe_experts"
    if "expert" not in width.name and not all(
        _is_alone(width, graph.layouts[use.tensor][use.axis]) for use in width.uses
    ):
        return None  # a factor of an axis whose meaning the code does not say
    if "shared_expert" in width.name or "shared_mlp" in width.name:
        return "moe_shared_expert_intermediate_size"
    return "moe_ffn_hidden_size" if "expert" in width.name else "ffn_hidden_size"
