"""A scenario from a file: JSON, YAML, or Kenning's JSON.

    read_file(Path("s.yaml"))  ->  Scenario

Invariant: a file is data: no tags, no aliases, no key twice, a bound on its size; what Kenning's users wrote is told by its
keys, and turned into the same Scenario.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path

import yaml

from secateur.core.json.strict import MAX_BYTES, read_json
from secateur.core.text import visible
from secateur.errors import ConfigError, InputError
from secateur.scenario.kenning import is_kenning, scenario_of
from secateur.scenario.schema import Scenario, read_scenario


def read_file(path: Path) -> Scenario:
    """The scenario in a file. Raises InputError or ConfigError with the place in it."""
    shown = visible(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{shown} is larger than a scenario can be")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"{shown} cannot be read: {visible(problem)}") from None
    data = read_json(text, shown, ConfigError) if path.suffix.lower() == ".json" else _read_yaml(text, shown)
    if is_kenning(data):
        return scenario_of(data, shown, name=path.stem)
    if isinstance(data, dict):
        data = {"name": path.stem, **data}
    return read_scenario(data, shown)


class _Loader(yaml.SafeLoader):
    """YAML's plain values; `1e-3` is a number, as everybody means it."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse aliases: they can blow a short file up beyond all bounds."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read; write the value again")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        """Refuse a key that occurs twice."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for i, key in enumerate(keys) if key in keys[:i]]
        if twice:
            raise yaml.YAMLError(f"the key {visible(twice[0])!r} occurs twice (line {node.start_mark.line + 1})")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _read_yaml(text: str, shown: str) -> object:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  a SafeLoader, made stricter
    except (yaml.YAMLError, RecursionError) as problem:
        raise ConfigError(f"{shown} is not usable YAML: {visible(' '.join(str(problem).split()))[:300]}") from None
