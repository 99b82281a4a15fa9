"""Ctrl-C at random moments: `python -m tests.interruptions 1000`.

    state whole ──► trace, plan, apply, subnet, prune … ──► SIGINT from another process ──► state whole again, and the same

The signals are real ones. What is compared is everything that hangs on the model, its data and the process (`state`).

Invariant: a run of this package that finds nothing changed has interrupted as many calls as it says.
"""
