"""Another count, where two sizes would become equal that the model's code tells apart by comparing them.

    if x.shape[1] != self.num_classes: …      16 channels and 10 classes may not both become 10

Invariant: no count is tried twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from secateur.core.plan import Plan
from secateur.errors import Coincidence

Avoided = Mapping[str, set[int]]  # for each width the counts that it may not have


def unless_coincident(make: Callable[[Avoided], Plan]) -> Plan:
    """The first plan that ``make`` gives without a `Coincidence`, told each time which counts to avoid.

    Raises Coincidence where it proposes a count that it was told to avoid: then there is no other.
    """
    avoided: dict[str, set[int]] = {}
    while True:
        try:
            return make(avoided)
        except Coincidence as coincidence:
            counts = avoided.setdefault(coincidence.width, set())
            if coincidence.count in counts:
                raise
            counts.add(coincidence.count)
