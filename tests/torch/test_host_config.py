"""A configuration that is a dataclass, and what a constructor asks for beside it, which the model holds."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import secateur as sc


@dataclass
class _Config:
    inner: int = 24


class _Tower(nn.Module):
    def __init__(self, config: _Config, words: int, classes: int = 5) -> None:
        super().__init__()
        self.config, self.words, self.classes = config, words, classes
        self.embedding = nn.Embedding(words, 16)
        self.up, self.down = nn.Linear(16, config.inner), nn.Linear(config.inner, classes)

    def forward(self, ids: Tensor) -> Tensor:
        return self.down(self.up(self.embedding(ids)).relu())


class _OldName(_Tower):
    """What a class is called after it was renamed: all arguments are handed on."""

    def __init__(self, *args: Any, vocabulary: int | None = None, **kwargs: Any) -> None:
        if vocabulary is not None:
            kwargs["words"] = vocabulary
        super().__init__(*args, **kwargs)


class _Named(_Tower):
    """One argument of its own, the others handed on."""

    def __init__(self, config: _Config, title: str, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.title = title


def _narrowed(model: nn.Module) -> Any:
    ids = torch.arange(12).reshape(2, 6)
    graph = sc.trace(model, ids)
    small: Any = sc.apply(model, graph.plan({"up.out_features": range(10)}))
    stock = type(small)(small.config, **{key: getattr(small, key) for key in ("words", "title") if hasattr(small, key)})
    stock.load_state_dict(small.state_dict())
    assert torch.equal(small(ids), stock(ids))
    return small


def test_what_a_constructor_asks_for_is_taken_from_the_model() -> None:
    assert _narrowed(_Tower(_Config(), 30)).config.inner == 10


def test_so_is_what_a_constructor_hands_on_to_the_one_it_inherits() -> None:
    assert _narrowed(_OldName(_Config(), vocabulary=30)).config.inner == 10
    assert _narrowed(_Named(_Config(), "a title", words=30)).config.inner == 10


@dataclass
class _Depths:
    layers: int = 3
    plain_first: int = 1


class _Layer(nn.Module):
    def __init__(self, *, plain: bool) -> None:
        super().__init__()
        self.body = nn.Linear(8, 8)
        self.norm = nn.Identity() if plain else nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(self.norm(x))


class _Front(nn.Module):
    """Its first layers are of another kind."""

    def __init__(self, config: _Depths) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Linear(4, 8)
        self.layers = nn.ModuleList(_Layer(plain=i < config.plain_first) for i in range(config.layers))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return x


def test_a_field_may_say_how_many_layers_at_the_front_are_of_another_kind() -> None:
    model, x = _Front(_Depths()).eval(), torch.randn(2, 4)
    small: Any = sc.apply(model, sc.trace(model, x, depth=True).plan({"layers.0": ()}))
    assert (small.config.layers, small.config.plain_first) == (2, 0)
    stock = _Front(small.config)
    stock.load_state_dict(small.state_dict())
    assert torch.equal(small(x), stock(x))
