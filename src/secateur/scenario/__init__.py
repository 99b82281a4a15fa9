"""Scenarios: one file says the network, the data and the stages; `secateur run` does them, and goes on where it was killed.

MODELS, DATA, METRICS, OPTIMIZERS, LOSSES      what a scenario's names select from; add your own with ``secateur run --code``
"""

import secateur.scenario.files  # noqa: F401  registers what is read from files
from secateur.scenario.data import DATA, Source, Splits
from secateur.scenario.models import MODELS
from secateur.scenario.reading import read_file
from secateur.scenario.run import run
from secateur.scenario.schema import Scenario, json_schema
from secateur.scenario.training import LOSSES, OPTIMIZERS
from secateur.torch.evaluating.metrics import METRICS

__all__ = [
    "DATA",
    "LOSSES",
    "METRICS",
    "MODELS",
    "OPTIMIZERS",
    "Scenario",
    "Source",
    "Splits",
    "json_schema",
    "read_file",
    "run",
]
