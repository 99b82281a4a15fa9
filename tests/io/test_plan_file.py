"""Plans and graphs as text: what was written is read back equal, and nothing else is read at all."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.core.cost import Peak, Polynomial
from secateur.core.equations import Attribute, Difference, Equation, Operation
from secateur.core.graph import Graph, Use, Width
from secateur.core.json.graph import GraphDocument, WidthDocument, graph_from_json, graph_to_json
from secateur.core.layout import Along, Product, Sum, Whole
from secateur.core.plan import Edit, Plan
from secateur.errors import ArtifactError, InputError, PlanError, SecateurError
from secateur.io.plan_file import Manifest, manifest_from_json, manifest_to_json, plan_from_json, plan_to_json

HEADS, DIMS, FFN = Along("attn.num_heads", 4), Along("attn.head_dim", 8), Along("ffn.out_features", 6)


def make_graph() -> Graph:
    """Fused attention with one set of dimensions a head, a concatenation, attributes, both kinds of cost."""
    layouts = {
        "qkv.weight": (Product((Whole(3), HEADS, DIMS)), Whole(32)),
        "out.weight": (Whole(32), Product((HEADS, DIMS))),
        "ffn.weight": (FFN, Whole(32)),
        "join.weight": (Sum((FFN, Whole(2))), Whole(5)),
    }
    heads = Attribute("attn", "num_heads")
    return Graph(
        widths=(
            Width(name="attn.num_heads", kind="heads", size=4, choices=(1, 2, 4), exact=True, multiplier=8),
            Width(name="attn.head_dim", kind="head_dim", size=8, choices=tuple(range(1, 9)), exact=False,
                  inexact_reason="softmax", outer="attn.num_heads", uses=(Use(tensor="qkv.weight", axis=0),)),
            Width(name="ffn.out_features", kind="features", size=6, choices=(2, 4, 6), exact=True, frozen=None),
        ),
        layouts=layouts,
        equations=(
            Equation(heads, HEADS, "view"),
            Equation(Operation("//", Attribute("attn", "dim"), heads), DIMS, "view"),
        ),
        differences=(Difference(heads, 5, "attn"),),
        attributes={heads: 4, Attribute("attn", "dim"): 32},
        costs={
            "params": Polynomial.of([(1, layout, name.rpartition(".")[0]) for name, layout in layouts.items()]),
            "peak_activation_bytes": Peak.of([(4, (FFN,), "ffn"), (-4, (FFN,), "ffn"), (8, (HEADS, DIMS))]),
        },
        fingerprint="0123abcd",
        module_types={"attn": ("Attention", "Module")},
        parameters=frozenset(layouts),
        outputs=((Whole(1), Sum((FFN, Whole(2)))),),
        outputs_also=(((Whole(2), FFN),), ()),
        numbers=frozenset({heads, Attribute("attn", "dim")}),
        notes=("a note",),
    )  # fmt: skip


def make_plan() -> Plan:
    """One ragged width, one plain one, and the attributes that follow."""
    kept = {"attn.head_dim": [[0, 1], [2, 3], [0, 7], [5, 6]], "ffn.out_features": [1, 5]}
    return make_graph().plan(
        kept, {"mode": "magnitude", "seed": 7, "constraints": {"macs": "60%"}, "rates": [0.5, None]}
    )


def test_a_plan_comes_back_equal() -> None:
    plan = make_plan()
    back = plan_from_json(plan_to_json(plan))
    assert back == plan
    assert back.kept["attn.head_dim"] == ((0, 1), (2, 3), (0, 7), (5, 6))
    assert back.edits == (Edit(module="attn", path="dim", old=32, new=8),)
    assert Plan.from_json(plan.to_json()) == plan
    assert back.shape("qkv.weight") == (24, 32)


def test_a_graph_comes_back_equal_with_its_costs() -> None:
    graph = make_graph()
    back = Graph.from_json(graph.to_json())
    assert back == graph
    counts = {"attn.num_heads": 2, "ffn.out_features": 4}
    assert [back.cost(m, counts) for m in back.costs] == [graph.cost(m, counts) for m in graph.costs]
    assert [back.cost_by_module(m, counts) for m in back.costs] == [
        graph.cost_by_module(m, counts) for m in graph.costs
    ]
    assert set(back.cost_by_module("params")) == {"qkv", "out", "ffn", "join"}
    assert back.plan(make_plan().kept) == dataclasses.replace(make_plan(), provenance={})


def test_thousands_of_choices_are_stored_by_their_ends() -> None:
    wide = dataclasses.replace(make_graph().widths[0], size=30_000, choices=tuple(range(8, 30_001, 8)))
    text = make_graph().with_widths([wide]).to_json()
    assert json.loads(text)["widths"][0]["choices"] == {"from": 8, "to": 30000, "step": 8}
    assert Graph.from_json(text).widths == (wide,)


def test_every_field_of_graph_and_width_is_stored() -> None:
    """But the examples, which are tensors, and what goes with them."""
    stored = GraphDocument.model_fields.keys() - {"format_version"}
    assert {f.name for f in dataclasses.fields(Graph)} == stored | {"example", "outputs_also"}
    assert {f.name for f in dataclasses.fields(Width)} == set(WidthDocument.model_fields)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    graph = make_graph()
    kept: dict[str, Any] = {}
    for width in graph.widths:
        if draw(st.booleans()):
            kept[width.name] = sorted(draw(st.sets(st.integers(0, width.size - 1), min_size=1)))
    provenance = st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    )
    return graph.plan(kept, draw(st.dictionaries(st.text(), provenance, max_size=3)))


def _has_surrogates(value: Any) -> bool:
    return any(0xD800 <= ord(c) < 0xE000 for c in json.dumps(value, ensure_ascii=False))


@given(plans())
def test_any_plan_comes_back_equal(plan: Plan) -> None:
    if not _has_surrogates(plan.provenance):
        assert plan_from_json(plan_to_json(plan)) == plan


def test_the_text_is_the_same_every_time_and_has_a_line_for_each_name() -> None:
    text = plan_to_json(make_plan())
    assert text == plan_to_json(make_plan())
    assert '    "ffn.out_features": [1, 5]\n' in text
    assert text.isascii()


def test_tuples_in_provenance_are_stored_as_lists_and_objects_refused() -> None:
    plan = dataclasses.replace(make_plan(), provenance={"keep": ("head", "stem")})
    assert plan_from_json(plan_to_json(plan)).provenance == {"keep": ["head", "stem"]}
    with pytest.raises(PlanError, match="provenance → score_func: a function cannot be written"):
        plan_to_json(dataclasses.replace(plan, provenance={"score_func": lambda: 0}))
    with pytest.raises(PlanError, match="not JSON compliant"):
        plan_to_json(dataclasses.replace(plan, provenance={"loss": float("nan")}))


Damage = Callable[[dict[str, Any]], None]


def put(*path: Any) -> Damage:
    """Replace the value at a path by its last element."""

    def change(data: dict[str, Any]) -> None:
        target: Any = data
        for step in path[:-2]:
            target = target[step]
        target[path[-2]] = path[-1]

    return change


def drop(*path: Any) -> Damage:
    def change(data: dict[str, Any]) -> None:
        target: Any = data
        for step in path[:-1]:
            target = target[step]
        del target[path[-1]]

    return change


FFN_KEPT = ("kept", "ffn.out_features")
EDIT = ("edits", 0)
DAMAGED: dict[str, tuple[Damage, str]] = {
    "a version from the future": (put("format_version", 2), "format version 2"),
    "a version that is a string": (put("format_version", "1"), "format version '1'"),
    "a version that is true": (put("format_version", True), "format version True"),
    "no version": (drop("format_version"), "format version None"),
    "no fingerprint": (drop("fingerprint"), "fingerprint"),
    "an empty fingerprint": (put("fingerprint", ""), "fingerprint"),
    "an unknown key": (put("hook", "os.system"), "hook"),
    "no kept sets": (drop("kept"), "kept"),
    "kept sets in a list": (put("kept", []), "kept"),
    "an index out of range": (put(*FFN_KEPT, [1, 6]), "out of range"),
    "a huge index": (put(*FFN_KEPT, [1, 2**70]), "cannot be|beyond|out of range"),
    "a negative index": (put(*FFN_KEPT, [-1, 5]), "out of range"),
    "a repeated index": (put(*FFN_KEPT, [5, 5]), "sorted and unique"),
    "unsorted indices": (put(*FFN_KEPT, [5, 1]), "sorted and unique"),
    "nothing kept": (put(*FFN_KEPT, []), "is empty"),
    "an index that is a float": (put(*FFN_KEPT, [1, 5.0]), "integers"),
    "an index that is a string": (put(*FFN_KEPT, [1, "5"]), "integers"),
    "an index that is true": (put(*FFN_KEPT, [True, 5]), "integers"),
    "an index that is null": (put(*FFN_KEPT, [None]), "integers"),
    "a kept set that is a number": (put(*FFN_KEPT, 3), "integers"),
    "rows of several lengths": (put("kept", "attn.head_dim", [[0, 1], [2], [3, 4], [5, 6]]), "same number"),
    "a row that is unsorted": (put("kept", "attn.head_dim", 2, [7, 0]), "sorted and unique"),
    "too few rows": (put("kept", "attn.head_dim", [[0, 1], [2, 3]]), "2 kept sets for 4"),
    "rows in rows": (put("kept", "attn.head_dim", [[[0]], [[1]]]), "integers"),
    "an empty row": (put("kept", "attn.head_dim", [[], [], [], []]), "integers"),
    "a size that does not count": (put("sizes", "ffn.out_features", 3), "its size says 3"),
    "a kept width without a size": (drop("sizes", "ffn.out_features"), "its size says None"),
    "a size below the whole with nothing kept": (put("sizes", "attn.num_heads", 2), "nothing is removed"),
    "a negative size": (put("sizes", "attn.num_heads", -4), "sizes"),
    "a size that is a float": (put("sizes", "attn.num_heads", 4.0), "sizes"),
    "a layout that is no list": (put("layouts", "ffn.weight", 6), "layouts"),
    "an axis of no kind": (put("layouts", "ffn.weight", 0, {"unit": "ffn"}), "not an axis"),
    "an axis of negative size": (put("layouts", "ffn.weight", 1, -32), "not an axis"),
    "an axis with one factor": (put("layouts", "ffn.weight", 0, ["*", 6]), "not an axis"),
    "a unit of size true": (put("layouts", "ffn.weight", 0, ["ffn.out_features", True]), "not an axis"),
    "two sizes for one width": (put("layouts", "ffn.weight", 0, ["ffn.out_features", 7]), "units, elsewhere"),
    "an edit without its old value": (drop(*EDIT, "old"), "old"),
    "an edit with a further key": (put(*EDIT, "type", "int"), "type"),
    "an edit that is a list": (put(*EDIT, ["attn", "dim", 32, 8]), "edits"),
    "an edit of a dunder": (put(*EDIT, "path", "__class__.x"), "plain attribute names"),
    "an edit of a call": (put(*EDIT, "path", "dim()"), "plain attribute names"),
    "an edit of nothing": (put(*EDIT, "path", ""), "plain attribute names"),
    "an edit with a dunder inside": (put(*EDIT, "path", "config.__dict__"), "plain attribute names"),
    "an edit to a float": (put(*EDIT, "new", 8.5), "new"),
    "an edit to a huge number": (put(*EDIT, "new", 2**64), "new"),
    "one attribute edited twice": (lambda data: data["edits"].append(data["edits"][0]), "edited twice"),
    "provenance that is a list": (put("provenance", []), "provenance"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_plan_is_refused_and_the_place_named(name: str) -> None:
    change, expected = DAMAGED[name]
    data = json.loads(plan_to_json(make_plan()))
    change(data)
    with pytest.raises(PlanError, match=expected):
        plan_from_json(json.dumps(data))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "not usable JSON"),
        ("[]", "must be a JSON object"),
        ("null", "must be a JSON object"),
        ('{"format_version": 1', "not usable JSON"),
        ('{"format_version": 1, "format_version": 1}', "occurs twice"),
        ('{"format_version": NaN}', "NaN is not a number"),
        ('{"format_version": 1, "provenance": {"x": Infinity}}', "Infinity is not a number"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("[" * 150 + "]" * 150, "nested too deeply"),
        ('{"format_version": ' + "9" * 5000 + "}", "not usable JSON"),
        (b"\xff\xfe{}", "not usable JSON"),
        (b"\x80\x04\x95\x00", "not usable JSON"),
        ('{"format_version": 1, "fingerprint": "\\ud800"}', "the plan: "),
    ],
)
def test_text_that_is_no_plan_is_refused(text: str | bytes, expected: str) -> None:
    with pytest.raises(PlanError, match=expected):
        plan_from_json(text)


def test_a_plan_of_more_than_64_megabytes_is_refused_unread() -> None:
    with pytest.raises(PlanError, match="is refused"):
        plan_from_json(b" " * (64 * 2**20 + 1))


def test_errors_show_no_control_characters() -> None:
    text = json.dumps({"format_version": 1, "\x1b]8;;evil\x07": 1})
    with pytest.raises(PlanError) as caught:
        plan_from_json(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (put("format_version", 9), "format version 9"),
        (put("widths", 0, "size", 0), "widths → 0 → size"),
        (put("widths", 0, "choices", []), "choices"),
        (put("widths", 0, "choices", {"from": 1, "to": 2**40, "step": 1}), "choices"),
        (put("costs", "params", "form", "python"), "form"),
        (put("costs", "params", "terms", [["1", [], ""]]), "cost term"),
        (put("costs", "params", "terms", [[1, []]]), "cost term"),
        (put("equations", 0, "expression", {"**": [1, 2]}), "not an expression"),
        (put("outputs", [[["*"]]]), "not an axis"),
        (drop("notes"), "notes"),
    ],
)
def test_a_damaged_graph_is_refused_and_the_place_named(change: Damage, expected: str) -> None:
    data = json.loads(graph_to_json(make_graph()))
    change(data)
    with pytest.raises(InputError, match=expected):
        graph_from_json(json.dumps(data))


def test_a_cost_that_no_file_can_hold_is_refused_by_name() -> None:
    class Measured:
        monotone = True

        def value(self, counts: object) -> int:
            return 1

        def by_module(self, counts: object) -> dict[str, int]:
            return {"": 1}

    with pytest.raises(InputError, match="'latency_ms' is a Measured, which no file can hold"):
        make_graph().with_cost("latency_ms", Measured()).to_json()


def make_manifest() -> Manifest:
    return Manifest(
        plans=(make_plan(),), sha256="ab" * 32, tensors={"ffn.weight": ("F32", (2, 32)), "scale": ("BF16", ())},
        aliases={"head.weight": "ffn.weight"}, versions={"secateur": "0.1", "torch": "2.13"},
    )  # fmt: skip


def test_a_manifest_comes_back_equal() -> None:
    assert manifest_from_json(manifest_to_json(make_manifest())) == make_manifest()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (put("format", "pickle"), "format"),
        (put("format_version", 0), "format version 0"),
        (put("plans", []), "lists no plan"),
        (put("plans", {}), "plans"),
        (put("weights", "sha256", "zz"), "sha256"),
        (put("weights", "file", "../../etc/passwd"), "file"),
        (put("weights", "tensors", "scale", ["F32", [-1]]), "weights → tensors → scale"),
        (put("weights", "tensors", "scale", ["F32"]), "weights → tensors → scale"),
        (put("weights", "aliases", {"a": "nowhere"}), "cannot be an alias"),
        (put("weights", "aliases", {"scale": "ffn.weight"}), "cannot be an alias"),
        (put("versions", {"torch": 2.13}), "versions"),
        (drop("weights"), "weights"),
    ],
)
def test_a_damaged_manifest_is_refused_and_the_place_named(change: Damage, expected: str) -> None:
    data = json.loads(manifest_to_json(make_manifest()))
    change(data)
    with pytest.raises(ArtifactError, match=expected):
        manifest_from_json(json.dumps(data))


JUNK: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    2**70,
    1.5,
    "",
    "x",
    "__import__('os')",
    [],
    [[]],
    [0],
    {},
    {"x": []},
    ["*", 2, 3],
]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_mutated_file_is_read_or_refused_by_a_typed_error(data: st.DataObject) -> None:
    document = json.loads(manifest_to_json(make_manifest()))
    for _ in range(data.draw(st.integers(1, 3))):
        _mutate(document, data)
    with contextlib.suppress(SecateurError):
        found = manifest_from_json(json.dumps(document))
        assert manifest_from_json(manifest_to_json(found)) == found


def _mutate(document: Any, data: st.DataObject) -> None:
    """Walk down some way, then replace, remove or repeat what is there."""
    holder = document
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        child = holder[key]
        if not isinstance(child, dict | list) or not child or data.draw(st.integers(0, 3)) == 0:
            break
        holder = child
    action = data.draw(st.sampled_from(["replace", "remove", "repeat"]))
    if action == "replace":
        holder[key] = copy.deepcopy(data.draw(st.sampled_from(JUNK)))
    elif action == "remove":
        del holder[key]
    elif isinstance(holder, list):
        holder.append(copy.deepcopy(holder[key]))


def test_reading_imports_opens_and_runs_nothing() -> None:
    """The interpreter itself is the witness: an audit hook sees every import, open, compile and process."""
    seen: list[str] = []
    watching = [True]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if watching[0] and event in (
            "import",
            "open",
            "exec",
            "compile",
            "subprocess.Popen",
            "socket.connect",
            "os.system",
        ):
            seen.append(f"{event} {args[0]}")

    text = manifest_to_json(make_manifest())
    hostile = text.replace('"mode": "magnitude"', '"__reduce__": "os.system", "_target_": "subprocess.Popen"')
    manifest_from_json(hostile)  # what is imported lazily is imported now
    sys.addaudithook(hook)
    try:
        manifest_from_json(hostile)
    finally:
        watching[0] = False
    assert seen == []
