"""Which units matter: the criteria, and what a criterion of your own is made of.

    from the weights    carriers(graph, model) ──► unit_sums ──► reduce_group ──► {width: scores}
    from data           unit_means(self, graph, model, torch.abs)     gate_scores(self, graph, model, end=torch.square)
                        or observe contractions yourself: judging, contractions_of, readers_of, taps, Tally

A criterion has a name and is called as ``(graph, model)``; `testing.check_criterion` says whether it keeps its promises.
"""

from secateur.torch.criteria import (
    CRITERIA,
    FPGM,
    L1,
    L2,
    LAMP,
    ActivationNorm,
    APoZ,
    BatchNormScale,
    BlockInfluence,
    BrainSurgeon,
    Criterion,
    DataDriven,
    Fisher,
    GateGradient,
    MeanRank,
    Random,
    SecondMoment,
    Taylor,
    make,
)
from secateur.torch.criteria.activations import unit_means
from secateur.torch.criteria.gates import GateDriven, gate_scores
from secateur.torch.criteria.reduction import NORMALIZERS, REDUCTIONS, normalise, reduce_group
from secateur.torch.measuring.accumulate import Tally
from secateur.torch.measuring.gradients import gradient_of, gradients, live_carriers
from secateur.torch.measuring.judging import batches, judging
from secateur.torch.measuring.norms import in_order, signed_unit_sums, unit_sums, with_values
from secateur.torch.measuring.readers import Read, Readers, readers_of
from secateur.torch.measuring.samples import Contractions, contractions_of, over_space
from secateur.torch.measuring.weights import Carrier, carriers, outer_widths
from secateur.torch.running.contractions import Site, Tap, taps
from secateur.torch.running.data import Data

__all__ = [
    "CRITERIA",
    "FPGM",
    "L1",
    "L2",
    "LAMP",
    "NORMALIZERS",
    "REDUCTIONS",
    "APoZ",
    "ActivationNorm",
    "BatchNormScale",
    "BlockInfluence",
    "BrainSurgeon",
    "Carrier",
    "Contractions",
    "Criterion",
    "Data",
    "DataDriven",
    "Fisher",
    "GateDriven",
    "GateGradient",
    "MeanRank",
    "Random",
    "Read",
    "Readers",
    "SecondMoment",
    "Site",
    "Tally",
    "Tap",
    "Taylor",
    "batches",
    "carriers",
    "contractions_of",
    "gate_scores",
    "gradient_of",
    "gradients",
    "in_order",
    "judging",
    "live_carriers",
    "make",
    "normalise",
    "outer_widths",
    "over_space",
    "readers_of",
    "reduce_group",
    "signed_unit_sums",
    "taps",
    "unit_means",
    "unit_sums",
    "with_values",
]
