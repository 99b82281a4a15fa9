"""Operations that move, pick, copy or mix channels by position: where a tool that "treats it as elementwise" is wrong.

    flip  c b a      shuffle  a c e b d f      stride  a c e      repeat  a b a b      interleave  a a b b

Every block here takes the channel axis as a constructor argument (1 for maps and vectors, -1 for tokens).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .making import Maker, Shape, block, sizes_divide

ANY = ("map", "tokens", "vector", "signal")


class OnAxis(nn.Module):
    """A fixed function of x and its channel axis, as people write it inline in forward."""

    def __init__(self, name: str, function: Callable[[Tensor, int], Tensor], axis: int) -> None:
        super().__init__()
        self.name = name
        self.function = function
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.axis)

    def extra_repr(self) -> str:
        return f"{self.name}, axis={self.axis}"


def register_inline(
    name: str, function: Callable[[Tensor, int], Tensor], when: Callable[[Shape], bool], weight: int = 1
) -> None:
    """One block kind per one-line operation on the channel axis."""

    def build(make: Maker, at: Shape) -> nn.Module:
        return OnAxis(name, function, at.axis)

    build.__name__ = name
    block(*ANY, when=when, weight=weight)(build)


def narrow(at: Shape) -> bool:
    return at.channels <= 16


def even(at: Shape) -> bool:
    return at.channels % 2 == 0


def wide(at: Shape) -> bool:
    return at.channels >= 4


def anything(at: Shape) -> bool:
    return True


def _every_second(x: Tensor, axis: int) -> Tensor:
    return x[:, ::2] if axis == 1 else x[..., ::2]


def _odd_and_even(x: Tensor, axis: int) -> Tensor:
    even_part, odd_part = (x[:, ::2], x[:, 1::2]) if axis == 1 else (x[..., ::2], x[..., 1::2])
    return even_part * torch.sigmoid(odd_part)


def _tail(x: Tensor, axis: int) -> Tensor:
    return x[:, 1:] if axis == 1 else x[..., :-1]


def _neighbours(x: Tensor, axis: int) -> Tensor:
    n = x.size(axis)
    return x.narrow(axis, 1, n - 1) - x.narrow(axis, 0, n - 1)


def _sort(x: Tensor, axis: int) -> Tensor:
    return torch.sort(x, dim=axis).values


def _mean_by_hand(x: Tensor, axis: int) -> Tensor:
    return x - x.sum(axis, keepdim=True) / x.shape[axis]


def _var_gate(x: Tensor, axis: int) -> Tensor:
    return x / (1 + x.var(dim=axis, keepdim=True, unbiased=True))


def _repeat(x: Tensor, axis: int) -> Tensor:
    times = [1] * x.dim()
    times[axis] = 2
    return x.repeat(*times)


def _tile(x: Tensor, axis: int) -> Tensor:
    return torch.tile(x, (2, *[1] * (x.dim() - 2)) if axis == 1 else (2,))


def _topk_mask(x: Tensor, axis: int) -> Tensor:
    kth = x.topk(2, dim=axis).values.min(dim=axis, keepdim=True).values
    return x * (x >= kth)


for _name, _function, _when in (
    ("channel_flip", lambda x, axis: x.flip(axis), anything),
    ("channel_roll", lambda x, axis: torch.roll(x, 1, dims=axis), anything),
    ("strided_slice", _every_second, wide),
    ("even_odd_slices", _odd_and_even, lambda at: even(at) and wide(at)),
    ("slice_tail", _tail, wide),
    ("neighbour_difference", _neighbours, wide),
    ("sort_channels", _sort, anything),
    ("topk_values", lambda x, axis: x.topk(3, dim=axis).values, wide),
    ("topk_mask", _topk_mask, wide),
    ("channel_softmax", lambda x, axis: torch.softmax(x, dim=axis) * x.size(axis), anything),
    ("log_softmax", lambda x, axis: F.log_softmax(x, dim=axis), anything),
    ("channel_cumsum", lambda x, axis: torch.cumsum(x, dim=axis), anything),
    ("l2_normalise", lambda x, axis: F.normalize(x, dim=axis), anything),
    ("logsumexp_gate", lambda x, axis: x - torch.logsumexp(x, dim=axis, keepdim=True), anything),
    ("max_gate", lambda x, axis: x * torch.sigmoid(x.amax(axis, keepdim=True)), anything),
    ("mean_by_hand", _mean_by_hand, anything),
    ("var_gate", _var_gate, anything),
    ("repeat_channels", _repeat, narrow),
    ("tile_channels", _tile, narrow),
    ("repeat_interleave", lambda x, axis: x.repeat_interleave(2, dim=axis), narrow),
):
    register_inline(_name, _function, _when)
register_inline("glu", lambda x, axis: F.glu(x, dim=axis), lambda at: even(at) and wide(at), weight=3)


class ChannelShuffle(nn.Module):
    """ShuffleNet's view, transpose, reshape, with sizes from x.shape and the groups from an attribute."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = x.view(b, self.groups, c // self.groups, h, w)
        return torch.transpose(x, 1, 2).contiguous().view(b, -1, h, w)


@block("map", when=lambda at: sizes_divide(at.channels), weight=7)
def channel_shuffle(make: Maker, at: Shape) -> nn.Module:
    groups = make.divisor(at.channels, 2)
    return nn.ChannelShuffle(groups) if make.choose.chance(25) else ChannelShuffle(groups)


class TokenShuffle(nn.Module):
    """The same permutation on the last axis, by unflatten, mT and flatten, with both sizes fixed."""

    def __init__(self, groups: int, dim: int) -> None:
        super().__init__()
        self.sizes = (groups, dim // groups)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return x_BTC.unflatten(-1, self.sizes).transpose(-1, -2).flatten(-2)


@block("tokens", "vector", when=lambda at: sizes_divide(at.channels), weight=4)
def feature_shuffle(make: Maker, at: Shape) -> nn.Module:
    return TokenShuffle(make.divisor(at.channels, 2), at.channels)


@block("map", when=lambda at: at.channels % 4 == 0 and at.channels >= 8 and max(at.space) <= 6, weight=26)
def pixel_shuffle(make: Maker, at: Shape) -> nn.Module:
    return nn.PixelShuffle(2)


@block("map", when=lambda at: narrow(at) and all(n % 2 == 0 for n in at.space), weight=10)
def pixel_unshuffle(make: Maker, at: Shape) -> nn.Module:
    return nn.PixelUnshuffle(2)


class SpaceToDepth(nn.Module):
    """YOLOv5's Focus: four strided views side by side."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)


@block("map", when=lambda at: narrow(at) and all(n % 2 == 0 for n in at.space), weight=10)
def space_to_depth(make: Maker, at: Shape) -> nn.Module:
    return SpaceToDepth()


class Select(nn.Module):
    """Channels picked (some twice, some never) by a constant index buffer, in the three usual spellings."""

    index: Tensor

    def __init__(self, index: Tensor, axis: int, style: str) -> None:
        super().__init__()
        self.axis = axis
        self.style = style
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "index_select":
            return x.index_select(self.axis, self.index)
        if self.style == "fancy":
            return x[:, self.index] if self.axis == 1 else x[..., self.index]
        shape = [1] * x.dim()
        shape[self.axis] = -1
        sizes = list(x.shape)
        sizes[self.axis] = self.index.numel()
        return torch.gather(x, self.axis, self.index.view(shape).expand(sizes))


def _select(make: Maker, at: Shape, style: str) -> nn.Module:
    index = torch.randint(0, at.channels, (make.width(at, high=24) + 1,))
    if make.choose.chance(50):
        index = torch.randperm(at.channels)
    return Select(index, at.axis, style)


@block(*ANY)
def index_select(make: Maker, at: Shape) -> nn.Module:
    return _select(make, at, "index_select")


@block(*ANY)
def fancy_index(make: Maker, at: Shape) -> nn.Module:
    return _select(make, at, "fancy")


@block(*ANY)
def gather_channels(make: Maker, at: Shape) -> nn.Module:
    return _select(make, at, "gather")


class SortedGather(nn.Module):
    """Channels reordered by the data: argsort of their means, then gather."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        order = x.argsort(dim=self.axis, descending=True)
        return x + 0.5 * torch.gather(x, self.axis, order)


@block(*ANY)
def argsort_gather(make: Maker, at: Shape) -> nn.Module:
    return SortedGather(at.axis)


class PadChannels(nn.Module):
    """Zero channels before and behind, as parameter-free ResNet shortcuts have them."""

    def __init__(self, before: int, behind: int, behind_axes: int) -> None:
        super().__init__()
        self.pad = [0, 0] * behind_axes + [before, behind]

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.pad)


@block(*ANY)
def pad_channels(make: Maker, at: Shape) -> nn.Module:
    before, behind = make.choose.integer(0, 3), make.choose.integer(1, 4)
    return PadChannels(before, behind, len(at.space) if at.axis == 1 else 0)


class PaddedShortcut(nn.Module):
    """ResNet's option A: the shortcut is padded to the width of the branch."""

    def __init__(self, dim: int, extra: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim + extra, 3, padding=1)
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + F.pad(x, (0, 0, 0, 0, 0, self.extra))


@block("map", weight=4)
def padded_shortcut(make: Maker, at: Shape) -> nn.Module:
    return PaddedShortcut(at.channels, make.choose.integer(1, 5))


class SliceAssign(nn.Module):
    """Writes into a part of the channels, in place, through a view."""

    def __init__(self, part: int, axis: int) -> None:
        super().__init__()
        self.part = part
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1.0
        if self.axis == 1:
            x[:, : self.part] = x[:, : self.part].tanh()
            x[:, self.part :].mul_(0.5)
        else:
            x[..., : self.part].relu_()
        return x


@block(*ANY)
def slice_assign(make: Maker, at: Shape) -> nn.Module:
    return SliceAssign(make.choose.integer(1, at.channels - 1), at.axis)


class UnbindChannels(nn.Module):
    """Takes single channels by number, mixes them, and stacks them again."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = x.unbind(self.axis)
        return torch.stack([first, *[r + first for r in rest]], dim=self.axis)


@block(*ANY, when=lambda at: at.channels <= 8, weight=3)
def unbind_stack(make: Maker, at: Shape) -> nn.Module:
    return UnbindChannels(at.axis)


class ScatterAdd(nn.Module):
    """Channels summed into bins that a buffer names."""

    bin: Tensor

    def __init__(self, dim: int, bins: int, axis: int) -> None:
        super().__init__()
        self.bins = bins
        self.axis = axis
        self.register_buffer("bin", torch.arange(dim) % bins)

    def forward(self, x: Tensor) -> Tensor:
        sizes = list(x.shape)
        sizes[self.axis] = self.bins
        return x.new_zeros(sizes).index_add(self.axis, self.bin, x)


@block(*ANY, when=wide)
def index_add(make: Maker, at: Shape) -> nn.Module:
    return ScatterAdd(at.channels, make.choose.integer(2, at.channels), at.axis)


class HardSizes(nn.Module):
    """A round trip through a view whose sizes are literals of the program, not attributes."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@block(*ANY, when=lambda at: sizes_divide(at.channels))
def hard_coded_view(make: Maker, at: Shape) -> nn.Module:
    outer = make.divisor(at.channels, 2)
    inner, whole = at.channels // outer, at.sizes
    axis = at.axis if at.axis == 1 else len(at.sizes)

    def there_and_back(x: Tensor) -> Tensor:
        parts = x.reshape(-1, *whole[: axis - 1], outer, inner, *whole[axis:])
        return (parts - parts.mean(axis, keepdim=True)).reshape(-1, *whole)

    return HardSizes(there_and_back)
