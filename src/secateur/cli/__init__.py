"""The command line: ``secateur inspect``, ``secateur demo``, ``secateur doctor``."""
