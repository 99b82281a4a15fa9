"""The words of torch.ao's structured pruners: their classes, with ``patterns`` beside the defaults.

    class Mine(BaseStructuredSparsifier): …update_mask…       as there
    pruner = Mine({"sparsity_level": 0.5}, patterns=patterns)
    pruner.prepare(model, config, dummy_input=x)              x is all that is new: widths are found by running the model

Invariant: patterns decide nothing; those that torch.ao does not ship itself are said to go without effect.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from secateur.errors import InputError
from secateur.torch.pruners.sparsifier.entries import Config
from secateur.torch.pruners.sparsifier.mask_rules import Distance, FPGMRule, LSTMSaliencyRule, RowScores, SaliencyRule
from secateur.torch.pruners.sparsifier.sparsifier import Sparsifier

Patterns = Mapping[Any, Any]  # tuples of modules and functions, to the function that narrows them


class BaseStructuredSparsifier(Sparsifier):
    """Their base class; a subclass has its own ``update_mask(module, tensor_name, **config)``."""

    _ranks_by: RowScores | None = None

    def __init__(self, defaults: Mapping[str, object] | None = None, patterns: Patterns | None = None) -> None:
        own = type(self).update_mask is not Sparsifier.update_mask
        rule, kept = None if own else self._ranks_by, dict(defaults or {})
        _say_unused(patterns)
        if rule is None:
            super().__init__(kept)
        else:
            super().__init__(rule, kept)

    def prepare(self, model: nn.Module, config: Config | None = None, *, dummy_input: object = None) -> None:
        """As `Sparsifier.prepare`: the model runs once, on ``dummy_input``."""
        if dummy_input is None:
            raise InputError(
                "dummy_input is needed: torch.ao reads the model's code, this runs the model once. Write "
                "prepare(model, config, dummy_input=x), x being what the model takes"
            )
        super().prepare(model, config, dummy_input=dummy_input)


class SaliencyPruner(BaseStructuredSparsifier):
    """Rows of the smallest L1 norm go."""

    _ranks_by = SaliencyRule()


class LSTMSaliencyPruner(BaseStructuredSparsifier):
    """Hidden units whose rows in all four gates have the smallest L1 norm go."""

    _ranks_by = LSTMSaliencyRule()


class FPGMPruner(BaseStructuredSparsifier):
    """Rows that lie nearest to all others go; ``dist`` is 1, 2 or a function of two matrices."""

    def __init__(self, sparsity_level: float = 0.5, dist: Distance | None = None) -> None:
        self._ranks_by = FPGMRule(dist=2 if dist is None else dist)
        super().__init__({"sparsity_level": sparsity_level})


def _say_unused(patterns: Patterns | None) -> None:
    own = [
        key for key, narrows in (patterns or {}).items() if not getattr(narrows, "__module__", "").startswith("torch.")
    ]
    if own:
        warnings.warn(
            f"patterns: {len(own)} of your own have no effect, such as {own[0]!r}. Widths are found by running the model, in any "
            "order of its layers; an operator of your own says what it does to dimensions by secateur.rules.rule",
            stacklevel=4,
        )
