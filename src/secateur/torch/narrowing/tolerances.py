"""Every tolerance of the project, each with its reason. Differences are relative to the largest output.

Loosening one needs a page in ``docs/decisions/``.
"""

import torch

# Sums run in another order once units are gone; double precision leaves seven digits of slack below this.
FLOAT64 = 1e-9


# The same in single precision, over networks of a hundred layers.
FLOAT32 = 1e-4


# Eight bits of mantissa; only where memory forbids a wider run.
BFLOAT16 = 5e-2


FLOAT16 = 1e-2


BY_DTYPE = {
    torch.float64: FLOAT64,
    torch.float32: FLOAT32,
    torch.bfloat16: BFLOAT16,
    torch.float16: FLOAT16,
}


# Verification's own: what rounding does to a well-behaved network of a hundred layers, by the last place of the numbers it
# ran on. Double precision leaves four digits for the order of sums; in single, convolutions go ways that round more.
ROUNDING = ((2.3e-16, 1e-12), (1.2e-7, 1e-5), (1e-3, 4e-3), (1.0, 3e-2))

# A gradient goes through the network twice.
GRADIENTS = 10.0

# A network may differ by so many times what one in the last place of its weights does to it: sums in another order err by
# the root of their length, and two perturbed runs say little about the worst.
SAFETY = 32.0

# Above this a bound proves nothing: a wrong slice changes what is computed by as much as it is.
COARSE = 0.1
