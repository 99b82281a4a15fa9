"""How long a narrowed network takes, beside the whole one, on this device.

    Stopwatch(model, example, target)(plan)  ->  milliseconds: the whole's median × the median ratio to it, run in turns

What else the machine does meanwhile falls on both alike.

Invariant: the model is not touched; candidates are networks beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

import torch
from torch import nn
from torch.utils.benchmark import Timer

from secateur.core.plan import Plan
from secateur.torch.evaluating.targets import TARGETS
from secateur.torch.narrowing.beside import beside
from secateur.torch.running.example import Example
from secateur.torch.running.twin import in_use, twin

MOST_RUNS, FEWEST_RUNS = 31, 7
_SECONDS = 0.4  # for one network and the whole one beside it, unless the fewest runs take longer


@dataclass
class Stopwatch:
    """Times networks on one example, where the target says. State: the whole network's time, measured once."""

    model: nn.Module
    example: Example
    target: str = "eager"
    whole_ms: float = field(init=False)

    def __post_init__(self) -> None:
        self._whole = self._timer(twin(self.model, in_use).eval())
        first = min(_once(self._whole) for _ in range(3))
        self._num_runs = int(min(max(_SECONDS / first / 2, FEWEST_RUNS), MOST_RUNS))
        self.whole_ms = 1000 * median(_once(self._whole) for _ in range(self._num_runs))

    def __call__(self, plan: Plan) -> float:
        """Milliseconds of a plan's network."""
        small = self._timer(beside(self.model, plan).eval())
        for timer in (small, self._whole):
            _once(timer)
        ratios = [_once(small) / _once(self._whole) for _ in range(self._num_runs)]
        return self.whole_ms * median(ratios)

    def _timer(self, model: nn.Module) -> Timer:
        given = Example(model, self.example.args, self.example.kwargs).beside_model()
        once = TARGETS[self.target](model, given)
        return Timer("once()", globals={"once": once}, num_threads=torch.get_num_threads())


def _once(timer: Timer) -> float:
    return timer.timeit(1).median
