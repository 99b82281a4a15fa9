"""Why data and model did not go together, found out once something went wrong.

    with data_explained(model, data): …     a raw TypeError from deep inside  ->  InputError: the model does not take a batch …

Invariant: nothing is run twice unless it failed; a fault that has nothing to do with the data comes through as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice

import torch
from torch import nn

from secateur.core.text import visible
from secateur.errors import ConfigError, InputError, SecateurError
from secateur.torch.running.data import Batch, Data, Hand, NotFinite, call, in_hand
from secateur.torch.running.describing import described
from secateur.torch.running.twin import in_use, twin
from secateur.torch.running.walking import named_parameters

FAULTS = (TypeError, ValueError, RuntimeError, KeyError, IndexError, AttributeError)
_MOST_TRIED = 50  # batches, where it is not known which of them was in hand


@contextmanager
def data_explained(model: nn.Module, data: Data | None) -> Iterator[None]:
    """Within this block a fault that a batch causes is an InputError that names it, the argument and the way out.

    So is one that comes of a weight that is no number. A fault of ``loss_func`` is explained where the first batch has it.
    """
    with in_hand() as hand:
        try:
            yield
        except ConfigError:
            raise
        except InputError as fault:
            weight = _strange_weight(model)
            if weight is not None:
                raise NotFinite(f"{weight} ({fault})") from fault
            if data is not None and isinstance(fault, NotFinite):
                strange = data.strange(model)
                if strange is not None:
                    raise NotFinite(f"{strange}: leave it out, or mend it ({fault})") from fault
            elif data is not None and hand.held is not None and hand.held[0] > 0:
                said = _misfit(model, data, hand)
                if said is not None:
                    raise InputError(said) from fault
            raise
        except (SecateurError, torch.OutOfMemoryError):
            raise
        except FAULTS as fault:
            said = _strange_weight(model) or (None if data is None else _misfit(model, data, hand))
            if said is None:
                raise
            raise InputError(said) from fault


def _strange_weight(model: nn.Module) -> str | None:
    """The first weight that holds NaN or an infinity, which whatever is computed with it is, too."""
    for name, parameter in named_parameters(model, once=True):
        if not parameter.is_meta and not bool(parameter.detach().isfinite().all()):
            held = "NaN" if bool(parameter.detach().isnan().any()) else "an infinity"
            return f"the weight {visible(name)} holds {held}, so nothing can be scored; mend it first"
    return None


def _misfit(model: nn.Module, data: Data, hand: Hand) -> str | None:
    """What does not fit: of the batch that was in hand, of the first ones where none was; None where all go through."""
    with torch.no_grad():
        beside = twin(model, in_use).eval()
        try:
            if hand.held is not None:
                number, batch, collect = hand.held
                return _misfit_of(beside, replace(data, collect=collect), number, batch)
            read = enumerate(islice(data.batches(model), _MOST_TRIED))
            return next((said for number, batch in read if (said := _misfit_of(beside, data, number, batch))), None)
        except Exception:  # the loader's own fault, which says best itself what it is
            return None


def _misfit_of(model: nn.Module, data: Data, number: int, batch: Batch) -> str | None:
    shown, which = described(batch), f"batch {number} (from 0)" if number else "a batch"
    try:
        given = data.collect(batch)
    except FAULTS as fault:
        return f"collect_func fails on {which}, which is {shown}: {brief(fault)}"
    try:
        output = call(model, given)
    except FAULTS as fault:
        return (
            f"the model cannot be run on {which} of the data_loader, which is {shown}; it was given {described(given)}: "
            f"{brief(fault)}. Say with collect_func=lambda batch: … what of a batch the model takes"
        )
    if data.loss is None or number:  # a loss_func that took the first batch says best itself what is wrong
        return None
    try:
        data.loss_of(output, batch)
    except SecateurError as fault:
        return str(fault)
    except FAULTS as fault:
        return f"loss_func fails on {described(output)} and a batch, which is {shown}: {brief(fault)}. {_CALLED}"
    return None


_CALLED = "It is called as loss_func(output, batch); a loss of torch.nn gets the logits and the labels"


def brief(fault: BaseException) -> str:
    """A fault in one line, with what torch leaves out where an embedding is asked for a row that it does not have."""
    text = visible(" ".join(str(fault).split()))
    hint = ": an id at or above the number of embeddings, or below 0" if text == "index out of range in self" else ""
    return f"{type(fault).__name__}: {text[:300]}{hint}"
