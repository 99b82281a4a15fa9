"""Giving back what was removed: every contraction re-fitted so that the narrowed network computes what the original did.

compensator = Compensator(model, data)      rows of what the original computes, before anything is removed
compensator.fit(narrowed, plan)             one pass: layer by layer, from the narrowed network's own inputs
"""

from secateur.torch.compensation.compensator import Compensator
from secateur.torch.compensation.evidence import Compensation, LayerFit

__all__ = ["Compensation", "Compensator", "LayerFit"]
