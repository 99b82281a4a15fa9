"""What an architecture in the zoo is, and how its random weights are made worth comparing.

A fresh network is full of constants: norms that scale by one, biases, residual gammas and layer scales at zero. Remove
the wrong unit of such a vector and no output changes. `randomise_norms` gives every constant vector distinct values.
A deep one also explodes in eval mode, because its batch norms were never trained: beside outputs of 1e8 a wrong bias
is rounding error. `settle_batch_norms` moves their statistics to the scale of what really arrives.

Invariant: building an entry twice gives bit-equal weights and leaves the caller's random state alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_SPREAD = 0.1
_SMALL = 1e-2
_MATRIX_STD = 0.02
# Buffers that act like parameters: frozen batch norm keeps its affine pair there, DeepSeek-V3 its routing bias.
_PARAMETER_LIKE_BUFFERS = frozenset({"weight", "bias", "e_score_correction_bias"})

Inputs = tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An architecture with random weights, and one deterministic example of what its forward takes.

    `inputs()` is a tuple of positional arguments; a dict in last place holds keyword arguments.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]


def entry(name: str, make: Callable[[], nn.Module], inputs: Callable[[], Inputs]) -> Entry:
    """An `Entry` whose build is seeded, in eval mode, in float32, and fit for numerical comparison."""

    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = make().float().eval()
        randomise_norms(model)
        settle_batch_norms(model, inputs())
        return model

    return Entry(name=name, build=build, inputs=inputs)


def forward(model: nn.Module, inputs: Inputs) -> object:
    """Call the model as the `inputs` convention says."""
    if inputs and isinstance(inputs[-1], dict):
        return model(*inputs[:-1], **inputs[-1])
    return model(*inputs)


def noise(*shape: int) -> Tensor:
    """Standard normal noise of the given shape, the same at every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def randomise_norms(model: nn.Module, seed: int = 0) -> None:
    """Replace, in place, what is the same for every unit: running statistics, norm weights, zero or constant vectors.

    Means become N(0, 0.1²), variances U(0.5, 1.5). A constant c becomes c · N(1, 0.1²) or, near zero, N(0, 0.1²) for
    a vector and N(0, 0.02²) for anything with two axes or more.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name == "running_mean":
                buffer.normal_(0.0, _SPREAD, generator=generator)
            elif name == "running_var":
                buffer.uniform_(0.5, 1.5, generator=generator)
    for tensor in _parameter_like(model):
        if tensor.numel() > 0 and tensor.min() == tensor.max():
            _spread_around(tensor, float(tensor.flatten()[0]), generator)


@torch.no_grad()
def settle_batch_norms(model: nn.Module, inputs: Inputs) -> None:
    """Scale the running statistics of each batch norm, in place, by the size of its input in one forward pass.

    The scale is rounded to a power of two, so that the weights do not depend on how a machine sums.
    """
    settled: set[nn.Module] = set()

    def settle(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if module in settled:
            return
        settled.add(module)
        rms = args[0].square().mean().sqrt().clamp_min(_SMALL)
        scale = rms.log2().round().exp2()
        for name, factor in (("running_mean", scale), ("running_var", scale**2)):
            module.get_buffer(name).mul_(factor)

    batch_norms = [m for m in model.modules() if isinstance(getattr(m, "running_var", None), Tensor)]
    handles = [module.register_forward_pre_hook(settle) for module in batch_norms]
    try:
        if handles:
            forward(model, inputs)
    finally:
        for handle in handles:
            handle.remove()


def _parameter_like(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    for name, buffer in model.named_buffers():
        if name.rpartition(".")[2] in _PARAMETER_LIKE_BUFFERS and buffer.is_floating_point():
            yield buffer


def _spread_around(tensor: Tensor, constant: float, generator: torch.Generator) -> None:
    if abs(constant) > _SMALL:
        tensor.normal_(1.0, _SPREAD, generator=generator).mul_(constant)
    else:
        is_vector = max(tensor.shape, default=1) == tensor.numel()
        tensor.normal_(0.0, _SPREAD if is_vector else _MATRIX_STD, generator=generator)
