"""A signal at any moment leaves what it interrupted as it was, or done.

The thousand over ten networks and all calls: ``python -m tests.interruptions 1000``.
"""

from __future__ import annotations

import signal
import threading

import pytest
from tests.interruptions.harness import interruptions

CALLS = ("trace", "plan", "apply unverified", "apply in place unverified", "apply large unverified", "prune unverified")


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals go to the main thread")
def test_a_hundred_interrupts_at_random_moments_change_nothing() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite started in the background ignores it
    told: list[str] = []
    try:
        report = interruptions(100, networks=("residual", "keeper", "tied"), calls=CALLS, tell=told.append)
    finally:
        signal.signal(signal.SIGINT, before)
    assert report.signals >= 100
    assert not report.findings, "\n".join(report.findings)
