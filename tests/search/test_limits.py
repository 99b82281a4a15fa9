"""The search space: what narrows it, what is left alone and why."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.core.graph import Graph
from secateur.core.layout import Along, Whole
from secateur.core.profile import centroid, maximum, minimum, search_space_size
from secateur.errors import ConfigError, InputError
from secateur.search.limit_rules import make_divisible
from secateur.search.limits import Limits, restrict
from tests.handmade import chain, graph_of, heads, residual

STEADY = settings(deadline=None)  # shared machines pause

GRAPH = residual([[16, 24], [16, 32]], 64)


def choices(graph: Graph, name: str) -> tuple[int, ...]:
    return graph[name].choices


def frozen(graph: Graph) -> dict[str, str]:
    return {w.name: w.frozen for w in graph.widths if w.frozen is not None}


def test_no_limits_change_nothing():
    assert restrict(GRAPH, Limits()) is GRAPH


def test_multiples_and_the_whole_width_remain():
    graph = restrict(GRAPH, Limits(multiple_of=10))
    assert choices(graph, "stem.out") == (10, 20, 30, 40, 50, 60, 64)
    assert choices(graph, "layer0.conv1.out") == (10, 20, 24)


def test_a_multiple_larger_than_the_width_freezes_it_and_says_so():
    graph = restrict(GRAPH, Limits(multiple_of=32))
    assert frozen(graph)["layer0.conv1.out"] == "no other choice than all 24 (multiple_of=32)"
    assert choices(graph, "layer0.conv1.out") == (24,)
    assert choices(graph, "stem.out") == (32, 64)


def test_a_multiple_counts_positions_not_units():
    graph = restrict(heads(num_heads=8, head_dim=6), Limits(multiple_of=4))
    assert choices(graph, "heads") == (2, 4, 6, 8), "two heads of 6 are 12 positions, one head is 6"
    assert choices(graph, "head_dim") == (4, 6)


@STEADY
@given(st.integers(1, 300), st.integers(1, 64), st.integers(1, 48))
def test_choices_are_ascending_multiples_and_end_with_the_size(size, divisor, multiplier):
    graph = graph_of({"a.weight": (Along("a", size), Whole(3))}, changes={"a": {"multiplier": multiplier}})
    found = choices(restrict(graph, Limits(multiple_of=divisor)), "a")
    assert found == tuple(sorted(set(found)))
    assert found[-1] == size
    assert all(count * multiplier % divisor == 0 for count in found[:-1])
    missing = set(range(1, size)) - set(found)
    assert all(count * multiplier % divisor for count in missing)


def test_ratios_give_the_choices_of_the_published_search_space():
    ratios = tuple(0.05 * i for i in range(1, 21))
    sizes = {64: 2, 128: 4, 256: 8, 512: 16, 1024: 20}
    graph = restrict(chain(*sizes), Limits(multiple_of=32, ratios=ratios))
    assert [len(w.choices) for w in graph.widths] == list(sizes.values())


def test_ratios_are_rounded_to_the_divisor_and_never_below_nine_tenths():
    assert [make_divisible(v, 32) for v in (3, 47, 48, 51.2, 102.4, 45)] == [32, 64, 64, 64, 96, 64]
    assert choices(restrict(chain(100), Limits(ratios=(0.25, 0.5))), "conv0.out") == (25, 50, 100)


def test_floors_and_ceilings_are_shares_or_counts():
    assert choices(restrict(chain(10), Limits(floor=0.3)), "conv0.out") == (3, 4, 5, 6, 7, 8, 9, 10)
    assert choices(restrict(chain(10), Limits(floor=8)), "conv0.out") == (8, 9, 10)
    assert choices(restrict(chain(10), Limits(ceiling=0.3)), "conv0.out") == (1, 2, 3)
    assert choices(restrict(chain(10), Limits(ceiling=2)), "conv0.out") == (1, 2)
    assert choices(restrict(chain(10), Limits(floor=0.5, ceiling=0.5)), "conv0.out") == (5,)


def test_a_floor_of_everything_freezes_and_says_so():
    assert frozen(restrict(chain(10), Limits(floor=1.0))) == {"conv0.out": "no other choice than all 10 (floor=1.0)"}


def test_floors_by_pattern_the_last_match_counts():
    graph = restrict(GRAPH, Limits(floor={"*": 0.5, "layer1.*": 30, "layer1.conv1.out": 20}))
    assert choices(graph, "layer0.conv0.out")[0] == 8
    assert choices(graph, "layer1.conv1.out")[0] == 20
    assert "layer1.conv0.out" in frozen(graph), "30 is above its 16 units"


def test_a_ceiling_that_no_choice_meets_is_refused_with_the_smallest():
    with pytest.raises(InputError, match=r"conv0.out: no choice of at most 10 .* the smallest is 16 of 20"):
        restrict(chain(20), Limits(multiple_of=16, ceiling=0.5))


def test_a_floor_above_the_ceiling_is_told_as_that():
    with pytest.raises(
        InputError, match=r"conv0.out: the floor is above the ceiling: at least 18 and at most 10 of 20 \(fl"
    ):
        restrict(chain(20), Limits(floor=0.9, ceiling=0.5))


@pytest.mark.parametrize("pattern", ["layer1.conv0", "layer1.conv0.weight", "layer1.conv0.out", "layer1.conv0*"])
def test_keep_takes_a_module_a_tensor_a_width_or_a_glob(pattern):
    graph = restrict(GRAPH, Limits(exclude=[pattern]))
    assert frozen(graph)["layer1.conv0.out"] == f"excluded ({pattern})"
    assert "layer0.conv0.out" not in frozen(graph)


def test_keep_reaches_what_is_inside_a_module():
    assert set(frozen(restrict(GRAPH, Limits(exclude=["layer1"])))) == {
        "layer1.conv0.out",
        "layer1.conv1.out",
        "stem.out",
    }


@pytest.mark.parametrize("kind", ["nn.Linear", "Linear"])
def test_keep_by_type_keeps_what_its_modules_use(kind):
    assert set(frozen(restrict(GRAPH, Limits(exclude=[kind])))) == {"stem.out"}


def test_only_leaves_everything_else_alone():
    graph = restrict(GRAPH, Limits(only=["layer0.conv0.out", "layer1.conv?.out"]))
    assert {w.name for w in graph.free} == {"layer0.conv0.out", "layer1.conv0.out", "layer1.conv1.out"}
    assert frozen(graph)["stem.out"] == "not in only=['layer0.conv0.out', 'layer1.conv?.out']"


def test_keep_wins_over_only():
    graph = restrict(GRAPH, Limits(only=["layer0.conv?.out"], exclude=["layer0.conv0.out"]))
    assert {w.name for w in graph.free} == {"layer0.conv1.out"}


@pytest.mark.parametrize("option", ["exclude", "only"])
def test_a_pattern_that_matches_nothing_names_the_nearest(option):
    with pytest.raises(InputError, match=rf"{option}: 'layer1.conv9' matches no .* Did you mean 'layer1.conv"):
        restrict(GRAPH, Limits(**{option: ["layer1.conv9"]}))


def test_a_string_in_place_of_a_list_is_refused():
    with pytest.raises(InputError, match=r"exclude'?: write a list, \['fc'\]"):
        restrict(GRAPH, Limits(exclude="fc"))


def test_keeping_what_cannot_be_narrowed_anyway_is_no_error():
    graph = graph_of({"a.weight": (Along("a", 4), Whole(3)), "b.weight": (Whole(5), Whole(3))})
    assert restrict(graph, Limits(exclude=["b"])) is graph
    with pytest.raises(InputError, match="only: nothing of 'b' has a width"):
        restrict(graph, Limits(only=["b"]))


def test_a_frozen_width_keeps_its_reason():
    graph = graph_of({"a.weight": (Along("a", 4), Whole(3))}, changes={"a": {"frozen": "the model's output"}})
    assert frozen(restrict(graph, Limits(exclude=["a"], multiple_of=2))) == {"a": "the model's output"}


class TestRules:
    def test_the_last_match_counts_and_none_leaves_alone(self):
        rules = {"nn.Conv2d": {"*": {"multiple_of": 8}, "layer1.*": None, "layer1.conv1": {"multiple_of": 4}}}
        graph = restrict(GRAPH, Limits(rules=rules))
        assert choices(graph, "layer0.conv1.out") == (8, 16, 24)
        assert frozen(graph)["layer1.conv0.out"] == "left alone by rules['nn.Conv2d']['layer1.*'] at layer1.conv0"

    def test_a_width_obeys_the_rules_of_all_its_modules(self):
        graph = graph_of({"a.weight": (Along("x", 24), Whole(3)), "b.weight": (Whole(3), Along("x", 24), Whole(9))})
        rules = {"Linear": {"*": {"multiple_of": 4}}, "nn.Conv2d": {"*": {"multiple_of": 6}}}
        assert choices(restrict(graph, Limits(rules=rules)), "x") == (12, 24)

    def test_multiples_and_ratios_hold_together(self):
        rules = {"nn.Conv2d": {"*": {"multiple_of": 32, "ratios": [0.5, 1.0]}}}
        assert choices(restrict(GRAPH, Limits(rules=rules)), "stem.out") == (32, 64)

    def test_floors_and_ceilings_and_limits_together(self):
        rules = {"nn.Conv2d": {"*": {"floor": 0.25, "ceiling": 0.75}}}
        graph = restrict(GRAPH, Limits(rules=rules, multiple_of=16))
        assert choices(graph, "stem.out") == (16, 32, 48)
        assert "multiple_of=16" in frozen(graph)["layer0.conv0.out"], "16 is the only multiple of 16 up to 16"

    def test_a_type_the_model_does_not_have_is_said_and_is_no_error(self):
        with pytest.warns(UserWarning, match=r"the model has no nn\.Conv3d"):
            restrict(GRAPH, Limits(rules={"nn.Conv3d": None}))
        assert (
            restrict(GRAPH, Limits(rules={"nn.Conv3d": {"*": {"multiple_of": 8}, "x.*": None}})).widths == GRAPH.widths
        )

    def test_none_for_a_type_leaves_all_of_it_alone(self):
        assert len(frozen(restrict(GRAPH, Limits(rules={"nn.Conv2d": None})))) == 5

    @pytest.mark.parametrize(
        ("rules", "said"),
        [
            ({"nn.Conv2d": {"*": {"multiple": 8}}}, "no option is called 'multiple'. Did you mean 'multiple_of'"),
            ({"nn.Conv2d": {"*": {"multiple_of": 0}}}, "whole number"),
            ({"nn.Conv2d": {"*": {"ratios": [0.0]}}}, "above 0"),
            ({"nn.Conv2d": {"*": {"floor": 1.5}}}, "a share"),
            ({"nn.Conv2d": {"*": 8}}, "a mapping of options"),
            ({"nn.Conv2d": 8}, "write"),
            ({"nn.conv2d": {"*": None}}, "no module type is called 'nn.conv2d'. Did you mean 'nn.Conv2d'"),
            ({"nn.Conv2d": {"layer9.*": None}}, "no nn.Conv2d is called 'layer9.*'"),
        ],
    )
    def test_what_cannot_be_meant_is_refused_by_name(self, rules, said):
        with pytest.raises(InputError, match=said.replace("*", r"\*").replace(".", r"\.")):
            restrict(GRAPH, Limits(rules=rules))


@pytest.mark.parametrize(
    "limits",
    [{"multiple_of": 0}, {"multiple_of": 2.0}, {"multiple_of": True}, {"ratios": (0,)}, {"ratios": 0.5}, {"floor": 0},
     {"floor": 1.5}, {"ceiling": "half"}, {"floor": {"*": -1}}],
)  # fmt: skip
def test_limits_that_mean_nothing_are_refused(limits):
    with pytest.raises(ConfigError, match=next(iter(limits))):
        restrict(GRAPH, Limits(**limits))


def test_the_size_of_the_search_space_is_a_product_of_any_length():
    assert search_space_size(restrict(GRAPH, Limits(multiple_of=8))) == 8 * 2 * 3 * 2 * 4
    assert search_space_size(chain(*[100] * 50)) == 100**50
    assert search_space_size(restrict(GRAPH, Limits(exclude=["*"]))) == 1


def test_minimum_centroid_and_maximum():
    graph = restrict(chain(64, 128, 512), Limits(multiple_of=32, exclude=["conv0.out"]))
    assert list(minimum(graph).values()) == [64, 32, 32]
    assert list(maximum(graph).values()) == [64, 128, 512]
    assert list(centroid(graph).values()) == [64, 64, 256], "the smaller of two in the middle"
    assert centroid(restrict(chain(10), Limits(ceiling=5))) == {"conv0.out": 3}


@STEADY
@given(st.lists(st.integers(1, 100), min_size=1, max_size=5), st.integers(1, 40))
def test_subnets_are_in_the_search_space(sizes, divisor):
    graph = restrict(chain(*sizes), Limits(multiple_of=divisor))
    for subnet in (minimum(graph), centroid(graph), maximum(graph)):
        assert all(subnet[w.name] in w.choices for w in graph.widths)
    assert graph.cost("macs", minimum(graph)) <= graph.cost("macs", centroid(graph)) <= graph.macs
    half = graph.plan({width.name: range(width.choices[0]) for width in graph.free})
    assert (
        graph.cost("macs", half) == graph.cost("macs", half.sizes) == sum(graph.cost_by_module("macs", half).values())
    )
    assert search_space_size(graph) == math.prod(len(w.choices) for w in graph.widths)
