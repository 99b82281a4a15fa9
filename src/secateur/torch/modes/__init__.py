"""Modes: recipes of a criterion, a search and defaults. Each registers itself by name.

@MODES.add("magnitude")
class Magnitude(Mode): config fields with defaults; `search(task) -> Plan`
"""

from secateur.torch.modes.activation import Activation
from secateur.torch.modes.fastnas import FastNAS
from secateur.torch.modes.gradnas import GradNAS
from secateur.torch.modes.magnitude import Magnitude
from secateur.torch.modes.mode import MODES, Mode, Task
from secateur.torch.modes.progressive import Progressive

__all__ = ["MODES", "Activation", "FastNAS", "GradNAS", "Magnitude", "Mode", "Progressive", "Task"]
