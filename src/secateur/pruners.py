"""Pruners: objects that hold a model through several steps of pruning, and the masks that they work with.

    IterativePruner    analyse once, then any ratio, as masks or narrowed
    OneStepPruner      many candidates that meet the budget, the best of them
    Sparsifier         your own rule masks rows, you train under the masks, then it narrows

For one call that does it all see `secateur.prune`.
"""

from secateur.search.schedules import SCHEDULES, schedule
from secateur.torch.narrowing.masks import Mask, add_mask, mask_plan, masks_of, remove_masks
from secateur.torch.pruners.iterative import IterativePruner
from secateur.torch.pruners.one_step import OneStepPruner
from secateur.torch.pruners.sparsifier import FPGMRule, LSTMSaliencyRule, RowScores, SaliencyRule, Sparsifier
from secateur.torch.running.data import Data

__all__ = [
    "SCHEDULES",
    "Data",
    "FPGMRule",
    "IterativePruner",
    "LSTMSaliencyRule",
    "Mask",
    "OneStepPruner",
    "RowScores",
    "SaliencyRule",
    "Sparsifier",
    "add_mask",
    "mask_plan",
    "masks_of",
    "remove_masks",
    "schedule",
]
