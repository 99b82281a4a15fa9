"""Sizes that become numbers: constants, counts, tables; read from shapes, through Python, math and NumPy.

h / math.sqrt(c)      narrower is another function: inexact, or kept whole
h[:, : c // 2]        the count follows the size

c the size of the hidden axis.
"""

from __future__ import annotations

import math
import operator
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from .idioms import Sandwich, along, first, idiom, rest


@idiom()
def math_sqrt_of_a_size(self: Sandwich, h: Tensor) -> Tensor:
    return h / math.sqrt(h.shape[self.axis])


@idiom()
def numpy_sqrt_of_a_size(self: Sandwich, h: Tensor) -> Tensor:
    return h * float(1 / np.sqrt(h.size(self.axis)))


@idiom()
def numpy_power_of_a_size(self: Sandwich, h: Tensor) -> Tensor:
    return h * float(np.power(h.shape[self.axis], -0.5))


@idiom()
def power_of_a_size(self: Sandwich, h: Tensor) -> Tensor:
    return h * h.shape[self.axis] ** -0.5


@idiom()
def logarithm_of_a_size(self: Sandwich, h: Tensor) -> Tensor:
    return h / (1 + math.log(h.shape[self.axis]))


@idiom()
def binary_logarithm_of_a_size(self: Sandwich, h: Tensor) -> Tensor:
    return h * (1 + math.floor(math.log2(h.shape[self.axis])))


@idiom()
def math_pow_of_a_size(self: Sandwich, h: Tensor) -> Tensor:
    return h / math.pow(h.shape[self.axis], 0.25)


@idiom()
def reciprocal_of_a_size(self: Sandwich, h: Tensor) -> Tensor:
    return h * (2.0 / (h.shape[self.axis] + 1))


@idiom()
def bits_of_a_size(self: Sandwich, h: Tensor) -> Tensor:
    return h * h.shape[self.axis].bit_length()


@idiom()
def numel_as_a_constant(self: Sandwich, h: Tensor) -> Tensor:
    return h / math.sqrt(h[0].numel())


@idiom()
def numpy_product_of_a_shape(self: Sandwich, h: Tensor) -> Tensor:
    return h / float(np.prod(h.shape[1:])) ** 0.5


@idiom()
def reduced_product_of_a_shape(self: Sandwich, h: Tensor) -> Tensor:
    return h / reduce(operator.mul, h.shape[1:], 1) ** 0.5


@idiom()
def numpy_array_of_a_shape(self: Sandwich, h: Tensor) -> Tensor:
    return h / float(np.array(h.shape)[self.axis])


@idiom()
def tensor_of_a_size(self: Sandwich, h: Tensor) -> Tensor:
    return h * torch.rsqrt(torch.tensor(float(h.shape[self.axis]))).to(h)


@idiom()
def tensor_of_a_shape(self: Sandwich, h: Tensor) -> Tensor:
    return h / torch.tensor(h.shape)[self.axis].to(h)


@idiom()
def length_of_a_weight(self: Sandwich, h: Tensor) -> Tensor:
    return h / len(self.up.weight) ** 0.5


@idiom()
def size_through_text(self: Sandwich, h: Tensor) -> Tensor:
    return h / int(f"{h.shape[self.axis]}") ** 0.5


@idiom()
def size_in_a_list(self: Sandwich, h: Tensor) -> Tensor:
    sizes = sorted([h.shape[self.axis], 3])
    return h / (sum(sizes) - 3)


@idiom()
def half_of_the_channels(self: Sandwich, h: Tensor) -> Tensor:
    k = h.shape[self.axis] // 2
    return torch.cat([first(h, k, self.axis).tanh(), rest(h, k, self.axis)], self.axis)


@idiom()
def rounded_share_of_the_channels(self: Sandwich, h: Tensor) -> Tensor:
    k = round(h.shape[self.axis] * 0.4)
    return torch.cat([first(h, k, self.axis).tanh(), rest(h, k, self.axis)], self.axis)


@idiom()
def ceiling_of_the_channels(self: Sandwich, h: Tensor) -> Tensor:
    k = math.ceil(h.shape[self.axis] / 3)
    return torch.cat([first(h, k, self.axis), -rest(h, k, self.axis)], self.axis)


@idiom()
def numpy_ceiling_of_the_channels(self: Sandwich, h: Tensor) -> Tensor:
    k = int(np.ceil(h.shape[self.axis] / 2))
    return torch.cat([first(h, k, self.axis), -rest(h, k, self.axis)], self.axis)


@idiom()
def shifted_size(self: Sandwich, h: Tensor) -> Tensor:
    k = h.shape[self.axis] >> 1
    return torch.cat([first(h, k, self.axis), -rest(h, k, self.axis)], self.axis)


@idiom()
def divmod_of_a_size(self: Sandwich, h: Tensor) -> Tensor:
    k, left = divmod(h.shape[self.axis], 2)
    return torch.cat([first(h, k + left, self.axis), -rest(h, k + left, self.axis)], self.axis)


@idiom()
def at_most_six_channels(self: Sandwich, h: Tensor) -> Tensor:
    k = min(h.shape[self.axis], 6)
    return torch.cat([2 * first(h, k, self.axis), rest(h, k, self.axis)], self.axis)


@idiom()
def at_least_four(self: Sandwich, h: Tensor) -> Tensor:
    return h / max(h.shape[self.axis], 4)


@idiom()
def all_but_three_channels(self: Sandwich, h: Tensor) -> Tensor:
    k = max(h.shape[self.axis] - 3, 1)
    return torch.cat([first(h, k, self.axis).sigmoid(), rest(h, k, self.axis)], self.axis)


@idiom()
def ramp_by_linspace(self: Sandwich, h: Tensor) -> Tensor:
    return h * along(torch.linspace(0.5, 1.5, h.shape[self.axis]), h, self.axis)


@idiom()
def ramp_by_numpy(self: Sandwich, h: Tensor) -> Tensor:
    return h * along(torch.from_numpy(np.linspace(0.5, 1.5, h.shape[self.axis])), h, self.axis)


@idiom()
def ramp_by_a_comprehension(self: Sandwich, h: Tensor) -> Tensor:
    return h * along(torch.tensor([1 / (1 + i) for i in range(h.shape[self.axis])]), h, self.axis)


@idiom()
def ramp_by_a_repeated_list(self: Sandwich, h: Tensor) -> Tensor:
    return h + along(torch.tensor([0.5] * h.shape[self.axis]), h, self.axis)


@idiom()
def sinusoid_over_channels(self: Sandwich, h: Tensor) -> Tensor:
    return h + along(torch.sin(torch.arange(h.shape[self.axis], dtype=torch.float32)), h, self.axis)


@idiom()
def window_over_channels(self: Sandwich, h: Tensor) -> Tensor:
    return h * (0.2 + along(torch.hann_window(h.shape[self.axis]), h, self.axis))


@idiom()
def identity_matrix_of_the_channels(self: Sandwich, h: Tensor) -> Tensor:
    c = h.shape[self.axis]
    mixing = torch.eye(c, dtype=h.dtype, device=h.device) - 1 / c
    return torch.movedim(torch.movedim(h, self.axis, -1) @ mixing, -1, self.axis)


@idiom()
def ones_of_the_channels(self: Sandwich, h: Tensor) -> Tensor:
    ones = h.new_ones(h.shape[self.axis])
    return h - torch.movedim((torch.movedim(h, self.axis, -1) @ ones)[..., None] / 7, -1, self.axis)


@idiom()
def zeros_beside_the_channels(self: Sandwich, h: Tensor) -> Tensor:
    shape = list(h.shape)
    shape[self.axis] = 3
    return first(torch.cat([h, h.new_zeros(shape)], self.axis), h.shape[self.axis], self.axis)


@idiom("map", "tokens")
def size_times_size(self: Sandwich, h: Tensor) -> Tensor:
    a, b = h.shape[1], h.shape[2]
    return h.reshape(h.shape[0], a * b, *h.shape[3:]).view(h.shape) / math.sqrt(a * b)
