"""Which units matter: criteria give every unit of every free width a score, higher is better.

    make("l1")(graph, model)  ->  {"layer1.0.conv1.out_channels": array of 64, …}

Invariant: a criterion reads the model and changes nothing, not even the state of a random generator.
"""

from secateur.torch.criteria.activation_norm import ActivationNorm
from secateur.torch.criteria.activations import APoZ, MeanRank, SecondMoment
from secateur.torch.criteria.blocks import BlockInfluence
from secateur.torch.criteria.fisher import Fisher
from secateur.torch.criteria.fpgm import FPGM
from secateur.torch.criteria.gates import GateGradient
from secateur.torch.criteria.lamp import LAMP
from secateur.torch.criteria.magnitude import L1, L2, BatchNormScale
from secateur.torch.criteria.protocol import CRITERIA, Criterion, make
from secateur.torch.criteria.random import Random
from secateur.torch.criteria.sources import DataDriven
from secateur.torch.criteria.surgeon import BrainSurgeon
from secateur.torch.criteria.taylor import Taylor

__all__ = [
    "CRITERIA",
    "FPGM",
    "L1",
    "L2",
    "LAMP",
    "APoZ",
    "ActivationNorm",
    "BatchNormScale",
    "BlockInfluence",
    "BrainSurgeon",
    "Criterion",
    "DataDriven",
    "Fisher",
    "GateGradient",
    "MeanRank",
    "Random",
    "SecondMoment",
    "Taylor",
    "make",
]
