"""What passes through when calls of torch functions and operators are looked at.

    def __torch_function__(self, func: Function, types: object, args: Args = (), kwargs: Kwargs | None = None) -> Result

These are the calls of all functions there are: of what they take and give nothing can be said before it is looked at. So the
types say `Any`, here and once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Function = Any  # a Python function, a builtin, a method descriptor, a bound getter
Operator = Any  # a torch.ops overload; PyTorch gives it no public type
Args = Sequence[Any]
Kwargs = dict[str, Any]
Result = Any
