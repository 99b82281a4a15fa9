"""`secateur.errors`: the tree."""

from __future__ import annotations

import inspect
import pickle

import pytest

from secateur import errors
from secateur.torch.running.data import NotFinite

_FIELDS: dict[str, dict[str, object]] = {
    "Infeasible": {"metric": "macs", "bound": 1.0, "reachable": 2.0},
    "DeadNetwork": {"score": 0.1, "whole": 0.9, "constant": 0.1},
    "VerificationError": {"widths": ("a.out_features",)},
}
_MADE: list[errors.SecateurError] = [
    errors.Coincidence("a.out_features", 3, 6, "a"),
    *(
        kind("what, where, why", **_FIELDS.get(name, {}))
        for name, kind in {**vars(errors), "NotFinite": NotFinite}.items()
        if inspect.isclass(kind) and issubclass(kind, errors.SecateurError) and kind is not errors.Coincidence
    ),
]


@pytest.mark.parametrize("error", _MADE, ids=lambda error: type(error).__name__)
def test_every_error_comes_back_from_another_process(error: errors.SecateurError) -> None:
    error.add_note("in a worker")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert (str(back), vars(back)) == (str(error), vars(error))
