"""Modes: recipes of a criterion, a search and defaults. Each registers itself by name.

@MODES.add("magnitude")
class Magnitude(Mode): config fields with defaults; `search(task) -> Found(plan, evidence)`
"""

from secateur.modes.activation import Activation
from secateur.modes.fastnas import FastNAS
from secateur.modes.gradnas import GradNAS
from secateur.modes.magnitude import Magnitude
from secateur.modes.minitron import Minitron
from secateur.modes.progressive import Progressive
from secateur.modes.task import MODES, Mode, Task
from secateur.search.evidence import Evidence, Found

__all__ = [
    "MODES",
    "Activation",
    "Evidence",
    "FastNAS",
    "Found",
    "GradNAS",
    "Magnitude",
    "Minitron",
    "Mode",
    "Progressive",
    "Task",
]
