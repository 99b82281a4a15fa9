"""Options as users of NVIDIA ModelOpt write them.

{"nn.Conv2d": {"*": {"channel_divisor": 8}}, "max_iter_data_loader": 50}   ->   {"rules": {…}, "num_batches": 50}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secateur.errors import ConfigError


def modelopt_spelling(config: Any) -> Any:
    """Options as ModelOpt's users write them: module types beside the options, and ``max_iter_data_loader``."""
    if not isinstance(config, Mapping):
        return config
    ours = {key: value for key, value in config.items() if "." not in str(key)}
    types = {key: value for key, value in config.items() if "." in str(key)}
    if types:
        if not isinstance(ours.get("rules", {}), Mapping):
            return config
        ours["rules"] = {**ours.get("rules", {}), **types}
    if "max_iter_data_loader" in ours:
        if "num_batches" in ours:
            raise ConfigError("config: num_batches and max_iter_data_loader say the same thing; keep one of them")
        ours["num_batches"] = ours.pop("max_iter_data_loader")
    return ours
