"""Modes: recipes of a criterion, a search and defaults. Each registers itself by name.

@MODES.add("magnitude")
class Magnitude(Mode): config fields with defaults; `search(task) -> Plan`
"""

from secateur.torch.modes.magnitude import Magnitude
from secateur.torch.modes.mode import MODES, Mode, Task

__all__ = ["MODES", "Magnitude", "Mode", "Task"]
