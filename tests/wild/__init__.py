"""Networks as people write them, judged by an oracle that shares no code with the library. See `oracle.py`."""
