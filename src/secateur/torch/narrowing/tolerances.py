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
