"""Random networks and named traps, to break a pruning engine with. See `networks.py`."""
