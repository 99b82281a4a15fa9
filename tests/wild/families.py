"""All families, imported: their models are in `ENTRIES`."""

from __future__ import annotations

import importlib

from .entry import ENTRIES

FAMILIES = (
    "attending",
    "branches",
    "configs",
    "detectors",
    "diffusion",
    "generative",
    "gradients",
    "graphs",
    "inplace",
    "lately",
    "later",
    "ordered",
    "outputs",
    "outside",
    "parametrised",
    "positions",
    "precision",
    "pythonic",
    "readers",
    "recurrent",
    "sequences",
    "sharing",
    "shipped",
    "sizes",
    "spectra",
    "structure",
    "vision",
    "wrapped",
    "written",
)

for _family in FAMILIES:
    importlib.import_module(f".{_family}", __package__)

__all__ = ["ENTRIES", "FAMILIES"]
