"""Models that return and take things of every kind: what carries the numbers must be found, or the proof must not speak."""

from __future__ import annotations

import collections
import dataclasses
import enum
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import Call, floats, ids, wild

ROWS = lambda: (floats(4, 6),)


class _Classifier(nn.Module):
    """Two layers; ``pack`` makes of logits and hidden units what is returned."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 10)

    def pack(self, logits: Tensor) -> Any:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Any:
        return self.pack(self.fc2(torch.relu(self.fc1(x))))


@dataclasses.dataclass
class Plain:
    """A dataclass."""

    logits: Tensor
    extra: dict[str, Any]


@dataclasses.dataclass(slots=True)
class Slots:
    """A dataclass with slots: no `__dict__`."""

    logits: Tensor
    best: Tensor | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenSlots:
    """Nothing can be set."""

    logits: Tensor


class ByHand:
    """Slots without a dataclass."""

    __slots__ = ("_logits", "name")

    def __init__(self, logits: Tensor) -> None:
        self._logits, self.name = logits, "by hand"


class Inherits(ByHand):
    """Slots of a base class and one of its own."""

    __slots__ = ("more",)

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits)
        self.more = logits.mean()


class Named(NamedTuple):
    """A named tuple."""

    logits: Tensor
    loss: Tensor


class Holder:
    """Keeps its tensor behind a property."""

    def __init__(self, logits: Tensor) -> None:
        self.__hidden = logits

    @property
    def logits(self) -> Tensor:
        """What it holds."""
        return self.__hidden


class Lazy:
    """Holds a function."""

    def __init__(self, logits: Tensor) -> None:
        self.get: Callable[[], Tensor] = lambda: logits


class Kind(enum.Enum):
    """A key."""

    LOGITS = 1


def _returning(name: str, pack: Callable[[Tensor], Any]) -> None:
    def make() -> nn.Module:
        return type(name, (_Classifier,), {"pack": lambda self, logits: pack(logits)})()

    make.__module__ = __name__
    wild(ROWS, name=f"Returns{name}")(make)


def _generator(logits: Tensor) -> Iterator[Tensor]:
    yield from logits


_returning("Dict", lambda y: {"logits": y, Kind.LOGITS: [y.mean()]})
_returning("OrderedDict", lambda y: collections.OrderedDict(out=y, aux=None))
_returning("MappingProxy", lambda y: types.MappingProxyType({"logits": y}))
_returning("UserDict", lambda y: collections.UserDict(logits=y))
_returning("Dataclass", lambda y: Plain(y, {"deep": (y.max(1).values, "word")}))
_returning("SlotsDataclass", lambda y: Slots(y))
_returning("FrozenSlots", lambda y: FrozenSlots(y))
_returning("SlotsByHand", lambda y: ByHand(y))
_returning("InheritedSlots", lambda y: Inherits(y))
_returning("NamedTuple", lambda y: Named(y, y.logsumexp(1).mean()))
_returning("Namespace", lambda y: types.SimpleNamespace(logits=y, more=types.SimpleNamespace(deep=y * 2)))
_returning("Generator", lambda y: _generator(y))
_returning("Iterator", lambda y: iter([y, y + 1]))
_returning("Map", lambda y: map(torch.sigmoid, [y]))
_returning("Zip", lambda y: zip([y], ["word"]))
_returning("Deque", lambda y: collections.deque([y]))
_returning("DictValues", lambda y: {"a": y}.values())
_returning("Array", lambda y: y.detach().numpy())
_returning("ArrayInDict", lambda y: {"probabilities": y.softmax(1).detach().cpu().numpy()})
_returning("ListOfFloats", lambda y: y.detach().tolist())
_returning("Floats", lambda y: [float(v) for v in y.detach().sum(1)])
_returning("NumpyScalars", lambda y: [np.float32(v) for v in y.detach().flatten()])
_returning("ObjectArray", lambda y: np.array([y.detach(), None], dtype=object))
_returning("Holder", lambda y: Holder(y))
_returning("Lazy", lambda y: Lazy(y))
_returning("Distribution", lambda y: torch.distributions.Categorical(logits=y))
_returning("Normal", lambda y: torch.distributions.Normal(y, F.softplus(y)))
_returning("Sparse", lambda y: (y * (y > 0)).to_sparse())
_returning("Strings", lambda y: [f"class {int(i)}" for i in y.argmax(1)])
_returning("Bytes", lambda y: y.detach().numpy().tobytes())
_returning("Nothing", lambda y: None)
_returning("Booleans", lambda y: (y > 0, y.argmax(1)))
_returning("Scalar", lambda y: y.sum())
_returning("LossFloat", lambda y: y.logsumexp(1).mean().item())
_returning("TransposedView", lambda y: (y.t(), y[:, ::2], y.expand(2, -1, -1)))
_returning("Empty", lambda y: (y[:0], y))
_returning("Nested", lambda y: torch.nested.nested_tensor([y[0], y[1]]))
_returning("Itself", lambda y: [y, [y, {"again": y}]])


@wild(ROWS)
class ReturnsACycle(_Classifier):
    """A list that contains itself."""

    def pack(self, logits: Tensor) -> list[Any]:
        out: list[Any] = [logits]
        out.append(out)
        return out


class Words(dict[str, Any]):
    """A dict with attributes, like a model output of Transformers."""

    def __getattr__(self, key: str) -> Any:
        return self[key]


@wild(lambda: (Words(ids=ids(9, 2, 5), mask=torch.ones(2, 5)),))
class TakesABatchEncoding(nn.Module):
    """A subclass of dict in, one out, with lists of hidden states that are not the interface."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc, self.head = nn.Embedding(9, 8), nn.Linear(8, 12), nn.Linear(12, 4)

    def forward(self, batch: Words) -> Words:
        h = torch.relu(self.fc(self.embed(batch.ids))) * batch["mask"][..., None]
        return Words(logits=self.head(h.sum(1) / batch.mask.sum(1, keepdim=True)))


@wild(lambda: (Plain(floats(4, 6), {"scale": [torch.tensor(2.0)]}),))
class TakesADataclass(nn.Module):
    """A dataclass with a nested dict of lists."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, batch: Plain) -> Plain:
        logits = self.fc2(torch.relu(self.fc1(batch.logits)) * batch.extra["scale"][0])
        return dataclasses.replace(batch, logits=logits)


@wild(lambda: (Slots(floats(4, 6)),))
class TakesSlots(nn.Module):
    """An object without `__dict__`."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, batch: Slots) -> Slots:
        batch.best = self.fc2(torch.relu(self.fc1(batch.logits)))
        return batch


@wild(lambda: ([floats(3, 6), floats(5, 6)],), fresh=[lambda: ([floats(2, 6), floats(2, 6), floats(1, 6)],)])
class TakesAListOfDifferentLengths(nn.Module):
    """Sets of points, padded inside."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, sets: list[Tensor]) -> list[Tensor]:
        padded = nn.utils.rnn.pad_sequence(sets, batch_first=True)
        h = torch.relu(self.fc1(padded))
        return [self.fc2(h[i, : len(s)].mean(0)) for i, s in enumerate(sets)]


@wild(lambda: (np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32),))
class TakesAnArray(nn.Module):
    """NumPy in, NumPy out."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: Any) -> Any:
        rows = torch.as_tensor(x).to(self.fc1.weight)
        return self.fc2(torch.relu(self.fc1(rows))).detach().numpy()


@wild(lambda: ("a small red cat", 3))
class TakesText(nn.Module):
    """A string and a number: a hashing tokeniser inside."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc, self.head = nn.Embedding(17, 8), nn.Linear(8, 12), nn.Linear(12, 4)

    def forward(self, text: str, repeat: int) -> Tensor:
        tokens = torch.tensor([sum(map(ord, word)) % 17 for word in text.split()] * repeat)
        return self.head(torch.relu(self.fc(self.embed(tokens))).mean(0, keepdim=True))


@wild(lambda: (lambda scale: floats(4, 6) * 0 + scale, 0.3))
class TakesAFunction(nn.Module):
    """A callable as input."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, make: Callable[[float], Tensor], scale: float) -> Tensor:
        return self.fc2(torch.relu(self.fc1(make(scale).to(self.fc1.weight))))


@wild(lambda: Call((floats(4, 6),), {"labels": ids(3, 4)}), also=[lambda: Call((floats(4, 6),), {"labels": None})])
class LossWhenLabelled(nn.Module):
    """Returns the loss where there are labels, with label smoothing and class weights in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 3)
        self.register_buffer("weights", torch.tensor([1.0, 2.0, 0.5]))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.fc2(torch.relu(self.fc1(x)))
        out = {"logits": logits}
        if labels is not None:
            out["loss"] = F.cross_entropy(logits, labels, self.weights, label_smoothing=0.1)
        return out


@wild(lambda: (floats(4, 6), ids(3, 4)))
class LossAlone(nn.Module):
    """Only a loss comes out: the logits are inside, and still the classes must stay."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.fc2(torch.relu(self.fc1(x))), labels)


@wild(lambda: (floats(4, 6), ids(3, 4)))
class MarginLoss(nn.Module):
    """ArcFace: the angle of the labelled class is moved by a one-hot mask; the loss comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.centres = nn.Linear(6, 12), nn.Parameter(torch.randn(3, 12))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        cosine = F.linear(F.normalize(torch.relu(self.fc1(x))), F.normalize(self.centres)).clamp(-0.99, 0.99)
        moved = torch.cos(torch.acos(cosine) + 0.3)
        hot = torch.zeros_like(cosine).scatter_(1, labels[:, None], 1.0)
        return F.cross_entropy(8 * torch.where(hot > 0, moved, cosine), labels)


@wild(ROWS)
class HiddenStates(_Classifier):
    """Returns its hidden units beside the logits."""

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        h = torch.relu(self.fc1(x))
        return self.fc2(h), [h, h.mean(1)]


@wild(ROWS, result=lambda out: out[0])
class StoresHidden(_Classifier):
    """Keeps its features in an attribute for others to read."""

    features: Tensor | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        self.features = torch.relu(self.fc1(x))
        return self.fc2(self.features), None


@wild(ROWS)
class MixedOutputs(_Classifier):
    """Tensors of many dtypes: complex, half, integers, booleans, sizes and words."""

    def forward(self, x: Tensor) -> tuple[Any, ...]:
        y = self.fc2(torch.relu(self.fc1(x)))
        return torch.fft.rfft(y), y.to(torch.bfloat16).shape, y.argmax(1), (y > 0).any(), x.shape, "word", 3


@wild(lambda: (floats(2, 3, 12, 12),))
class Detector(nn.Module):
    """Boxes above a threshold, sorted, suppressed one by one; dicts of different lengths for each image."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.scores, self.boxes = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 2, 1), nn.Conv2d(8, 4, 1)

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        h = torch.relu(self.body(images))
        scores, boxes = self.scores(h).flatten(2).softmax(1)[:, 1], self.boxes(h).flatten(2).mT
        found = []
        for s, b in zip(scores, boxes):
            order = s.argsort(descending=True)[:6]
            keep = [int(i) for i in order if s[i] > 0.3]
            found.append({"boxes": b[keep], "scores": s[keep], "labels": torch.ones(len(keep), dtype=torch.long)})
        return found
