"""The counts that an ``export_config`` asks for, of the widths that all blocks share.

    {"num_attention_heads": 16, "ffn_hidden_size": 5632}   ──►   {"model.layers.*.self_attn.queries_per_group": 4, …}

Heads are counted over all query groups, experts over all groups of a router, a head's channels one by one, also where rotary
positions take them in pairs: what is asked for is turned into units of a tie.

Invariant: every name gets what it asks for, or InputError says what would be possible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from secateur.core.equations import Attribute
from secateur.core.graph import Graph, Width
from secateur.core.layout import size_of
from secateur.errors import InputError, nearest
from secateur.search.roles import ROLE_OF, role_of, side_of
from secateur.search.ties import Tie, pattern_of, ties_of

OfField = Callable[[str], Sequence[Tie]]

_TOTALS = {  # heads are counted over all groups
    "num_attention_heads": ("num_query_groups", "num_attention_heads"),
    "mamba_num_heads": ("mamba_num_groups", "mamba_num_heads"),
}
_HEADS_OF = dict(_TOTALS.values())


def sizes_asked(export: Mapping[str, object], graph: Graph, of_field: OfField = lambda _: ()) -> dict[str, int]:
    """Counts of ties, by name, from the names of a configuration. ``graph`` is one with `uniform` choices.

    ``of_field`` knows what a field of the model's own configuration says, where no role has its name. What is as it is asked
    for already stays. Raises InputError for a name that nothing here has, or a count that is not possible, saying which are.
    """
    request = _Request.of(graph, of_field)
    chosen: dict[str, int] = {}
    by: dict[str, str] = {}
    for name, asked in sorted(export.items(), key=lambda entry: ROLE_OF.get(entry[0]) in _TOTALS):
        if not isinstance(asked, int) or isinstance(asked, bool) or asked < 1:
            raise InputError(f"export_config: {name} is a whole number of at least 1, not {asked!r}")
        for tie, own in request.counts(name, asked, chosen):
            if chosen.get(tie.name, own) != own:
                raise InputError(_twice(name, own, tie, by[tie.name], export))
            chosen[tie.name], by[tie.name] = _checked(name, own, tie, asked), name
    return chosen


@dataclass(frozen=True, slots=True)
class _Request:
    """What names can be about: the ties of a graph, the roles of these, and fields of the model's own configuration."""

    graph: Graph
    ties: Sequence[Tie]
    roles: Mapping[str, str | None]
    of_field: OfField

    @classmethod
    def of(cls, graph: Graph, of_field: OfField) -> _Request:
        ties = ties_of(graph)
        return cls(graph, ties, {tie.name: role_of(graph[tie.widths[0]], graph) for tie in ties}, of_field)

    def counts(self, name: str, asked: int, chosen: Mapping[str, int]) -> Iterator[tuple[Tie, int]]:
        """The ties that a name is about, each with what it has then, where others have what was ``chosen`` for them."""
        role, count = ROLE_OF.get(name), asked
        mine = self._called(name, role)
        if mine and all(
            tie.kind == "heads" for tie in mine
        ):  # those of an indexer, perhaps: the model's own field decides
            said = self.of_field(name)
            mine = mine if any(tie.name == own.name for tie in mine for own in said) else list(said) or mine
        in_all = role in _TOTALS and bool(mine)
        if role in _TOTALS and not mine:  # so many in each group, as it is: the groups are asked for
            mine = self._playing(_TOTALS[role][0])
            count = _groups_for(name, asked, mine, self.graph)
        if role in _HEADS_OF and not mine:  # each head is a group of its own
            mine = [tie for tie in self._playing(_HEADS_OF[role]) if tie.kind == "heads"]
        mine = self._on_its_side(name, mine or self.of_field(name))
        if not mine and (role is None or _present(role, self.graph) != {asked}):
            raise InputError(_nothing(name, role, self.graph, self.ties))
        for tie in mine:
            if in_all:
                yield tie, self._in_each_group(name, asked, tie, chosen)
            else:
                yield tie, _in_parts(name, _in_its_groups(name, count, tie, self.graph), tie, self.graph)

    def _called(self, name: str, role: str | None) -> list[Tie]:
        if role is not None:
            return self._playing(role)
        return [tie for tie in self.ties if name in (tie.name, pattern_of(tie.widths[0]))]

    def _playing(self, role: str) -> list[Tie]:
        return [tie for tie in self.ties if self.roles[tie.name] == role]

    def _on_its_side(self, name: str, ties: Sequence[Tie]) -> list[Tie]:
        """Those of the encoder or the decoder, where the name says so."""
        side = side_of(name)
        return [tie for tie in ties if side is None or side in tie.name.split(".")]

    def _in_each_group(self, name: str, count: int, tie: Tie, chosen: Mapping[str, int]) -> int:
        """How many heads each query group has, where so many are asked for in all."""
        if tie.kind not in ("queries_per_group", "query_groups"):
            return count
        owner = tie.name.rpartition(".")[0]
        groups = self._playing(_TOTALS[ROLE_OF[name]][0])
        number = next((chosen.get(t.name, t.size) for t in groups if t.name.rpartition(".")[0] == owner), 1)
        if count % number:
            possible = ", ".join(str(choice * number) for choice in tie.choices)
            raise InputError(
                f"export_config: {name}={count} cannot be shared out among {number} query groups evenly. With {number} "
                f"groups there can be {possible}"
            )
        return count // number


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
        few = ", which is what the router chooses from at the least" if ROLE_OF.get(name) == "num_moe_experts" else ""
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
        close = nearest(name, [known for known, of in ROLE_OF.items() if of in here | {"num_layers"}])
        return f"export_config: {name} is unknown.{close} This model has {has}"
    return f"export_config: this model has no {name} that can be changed; it has {has}"
