"""Whether an object is no more than its ``__dict__``, so that a copy of that is a copy of it.

    class Wrapped:
        def __init__(self, forward): self.forward = forward
        def __getstate__(self): raise PicklingError(...)       nothing for disk; in memory it is its attributes all the same

Invariant: a class that says how its instances are copied is never called plain.
"""

from __future__ import annotations

import copyreg

from torch import nn

_PROTOCOL = ("__deepcopy__", "__reduce_ex__", "__reduce__", "__getstate__", "__setstate__", "__getnewargs__")


def is_plain(kind: type, besides: tuple[str, ...] = ()) -> bool:
    """Whether instances are no more than their ``__dict__``, and their class has no opinion on copying them.

    ``besides`` names methods that may say what they like.
    """
    return (
        kind.__new__ is object.__new__
        and kind.__dictoffset__ != 0
        and kind not in copyreg.dispatch_table
        and not any(base.__dict__.get("__slots__") for base in kind.__mro__)
        and all(_is_usual(kind, name) for name in _PROTOCOL if name not in besides)
    )


def is_plain_but_for_copies(kind: type) -> bool:
    """Whether instances would be plain, had not somebody's code (none of PyTorch's) an opinion on copying them."""
    said = [name for name in _PROTOCOL if not _is_usual(kind, name)]
    theirs = [name for name in said if not getattr(getattr(kind, name), "__module__", "torch.").startswith("torch.")]
    return len(theirs) == len(said) and is_plain(kind, besides=tuple(theirs))


def is_kept_from_disk(value: object) -> bool:
    """Whether an object would be plain, had its class not refused to give its state to pickle, and so to `copy.deepcopy`."""
    kind = type(value)
    if hasattr(kind, "__del__") or not is_plain(kind, besides=("__getstate__",)):
        return False
    try:
        value.__getstate__()
    except Exception:
        return True
    return False


def _is_usual(kind: type, name: str) -> bool:
    """Whether a method of the copy protocol says nothing new: torch.nn's own ones fill in what old pickles lack."""
    method = getattr(kind, name, None)
    if method is getattr(object, name, None) or method is getattr(nn.Module, name, None):
        return True
    return getattr(method, "__module__", "").startswith(("torch.nn.modules", "torch.nn.utils"))
