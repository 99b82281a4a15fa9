"""What the code does only while it trains.

    forward in evaluation mode     conv2d, batch_norm, relu, …
    forward in training mode       the same calls: nothing to learn
                                   others: heard as a run of its own, whose equations hold too

Most models train as they evaluate, but for dropout and statistics. A quick run, without rules, tells: that of the self-check,
which narrows the network as well.

Invariant: no mode of the model's is switched; a model that does not train adds what was heard until then.
"""

from __future__ import annotations

import contextlib

from secateur.torch.tracing.observe import Observation, listen_again
from secateur.torch.tracing.rehearsal import is_quick_to_train
from secateur.torch.tracing.written import asks_for_training


def listen_in_training(seen: Observation, *, rehearsed: bool) -> None:
    """Hear each example once more in training mode, where that is not evaluation mode again.

    ``rehearsed``: the self-check follows, and finds out what a quick run can.
    """
    if not asks_for_training(seen.example.model):
        return
    for run in seen.runs:
        if run.training:
            continue
        if rehearsed and is_quick_to_train(run):
            seen.untrained.append(run.tracer)
        else:
            with contextlib.suppress(Exception):
                listen_again(seen, run.example, training=True)
