"""Masks by a user's own rule, training under them, then narrowing: the sparsifier, its mask rules, its configuration.

Sparsifier(rule) ── prepare ──► masks of ones ── step ──► rows masked ── training ──► prune ──► narrowed
"""

from secateur.torch.pruners.sparsifier.mask_rules import FPGMRule, LSTMSaliencyRule, RowScores, SaliencyRule
from secateur.torch.pruners.sparsifier.sparsifier import Sparsifier

__all__ = ["FPGMRule", "LSTMSaliencyRule", "RowScores", "SaliencyRule", "Sparsifier"]
