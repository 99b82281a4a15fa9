"""What a scenario may say: a network, data, and stages in order.

    name: digits
    model: zoo:digits                                        or {source: timm:resnet18, options: {num_classes: 37}}
    data: {source: digits, batch_size: 64}
    stages:
      - {do: train, epochs: 8}
      - {do: measure}
      - {do: prune, mode: progressive, constraints: {macs: 40%}}
      - {do: finetune, epochs: 3, distil: 0.5}
      - {do: measure}
      - {do: export, onnx: true}
      - {do: report}

Invariant: a scenario is data. Names in it are looked up in registries; none is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from pydantic_core import ErrorDetails

from secateur.core.json import Json
from secateur.core.text import plainly, visible
from secateur.errors import ConfigError, nearest
from secateur.scenario.naming import Name, check_exports

Values = dict[str, JsonValue]


class Part(BaseModel):
    """Frozen, no key that is not known, and no value of one type read as another."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Model(Part):
    """A network: ``timm:…``, ``torchvision:…``, ``hf:…`` (a model type, or a local folder), ``zoo:…``, or a user's own.

    ``options`` are its constructor's. ``weights`` is a file of a state dict; ``artefact`` a folder that Secateur saved,
    restored onto this architecture.
    """

    source: str
    options: Values = Field(default_factory=dict)
    weights: str | None = None
    artefact: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _a_name_alone(cls, given: object) -> object:
        return {"source": given} if isinstance(given, str) else given


class DataSpec(Part):
    """Data by name, with the options of their source; ``batch_size`` is for all that reads them."""

    source: str
    batch_size: int = Field(default=64, ge=1)
    options: Values = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _a_name_alone(cls, given: object) -> object:
        return {"source": given} if isinstance(given, str) else given


class _Training(Part):
    epochs: int = Field(default=3, ge=1)
    optimizer: str = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    batch_size: int | None = Field(default=None, ge=1)
    loss: str | None = None
    scheduler: Literal["cosine", "constant"] = "cosine"
    keep: Literal["best", "last"] = "best"
    patience: int | None = Field(default=None, ge=1)


class Train(_Training):
    """Train the network as it is. ``keep: best`` scores on the validation part after each epoch."""

    do: Literal["train"]


class Finetune(_Training):
    """Train after pruning; ``distil`` is the share of the loss that the network from before pruning teaches."""

    do: Literal["finetune"]
    distil: float = Field(default=0.0, ge=0, le=1)
    temperature: float = Field(default=2.0, gt=0)


class Measure(Part):
    """Measure costs, quality on the test part, and times; ``name`` is what the result is called in the report."""

    do: Literal["measure"]
    name: str | None = None
    metrics: list[str] = Field(default=["accuracy"], min_length=1)
    part: Literal["test", "valid"] = "test"
    batch_sizes: list[Annotated[int, Field(ge=1)]] = Field(default=[1], min_length=1)
    num_runs: int = Field(default=50, ge=1)
    num_warmup: int = Field(default=5, ge=0)


class Prune(Part):
    """Prune by a mode under constraints; ``options`` are the mode's, data and score come from the scenario.

    ``score`` is the metric, on the validation part, of modes that ask for one. ``device`` is another than the scenario's.
    ``compat`` are, in place of options, the parameters of NNI's activation pruners, as NNI and Kenning write them.
    """

    do: Literal["prune"]
    mode: str = "progressive"
    constraints: Values = Field(default_factory=dict)
    options: Values = Field(default_factory=dict)
    score: str = "accuracy"
    device: str | None = None
    compat: Values | None = None


class Export(Part):
    """Write the network to a folder of its own (an artefact, or its weights), and as ONNX, checked."""

    do: Literal["export"]
    name: Name = "model"
    onnx: bool = False


class Report(Part):
    """One HTML file and the same as Markdown, of everything measured so far."""

    do: Literal["report"]
    title: str | None = None


Stage = Annotated[Train | Measure | Prune | Finetune | Export | Report, Field(discriminator="do")]


class Scenario(Part):
    """One experiment; see the module."""

    format_version: Literal[1] = 1
    name: Name = "scenario"
    seed: int = Field(default=0, ge=0, lt=1 << 62)
    device: str = "auto"
    model: Model
    data: DataSpec
    loss: str = "cross_entropy"
    stages: list[Stage] = Field(min_length=1)

    @model_validator(mode="after")
    def _exports_have_places_of_their_own(self) -> Self:
        check_exports((n, stage.name) for n, stage in enumerate(self.stages, start=1) if isinstance(stage, Export))
        return self


def read_scenario(data: object, what: str) -> Scenario:
    """A scenario from plain data. Raises ConfigError with the place and the nearest known key."""
    try:
        return Scenario.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{what}: {' '.join(_sentences(error))}") from None


def json_schema() -> Mapping[str, Json]:
    """The JSON schema of a scenario, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Scenario.model_json_schema()}


def _sentences(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False)[:5]:
        place = _place(problem["loc"])
        if problem["type"] == "extra_forbidden":
            key, known = str(problem["loc"][-1]), _known(problem["loc"][:-1])
            yield f"{place}: unknown key.{nearest(key, known)} Known are {', '.join(known)}."
        elif problem["type"] == "union_tag_not_found":
            yield f"{place}: a stage says what to do: write do: {_ALL_STAGES}."
        elif problem["type"] == "union_tag_invalid":
            yield f"{place}: there is no stage {visible(problem.get('ctx', {}).get('tag'))!r}: write do: {_ALL_STAGES}."
        elif problem["type"] == "value_error":  # one of ours, which says all there is to say
            yield f"{visible(problem.get('ctx', {}).get('error'))}."
        else:
            yield f"{place}: {wanted(problem)}." if place else f"{wanted(problem)}."


def _place(loc: tuple[int | str, ...]) -> str:
    """Where it is: stages are counted from 1, as a run counts them."""
    match loc:
        case "stages", int() as number, str() as do, *rest if do in _STAGES:
            places = [f"stage {number + 1} ({do})", *rest]
        case "stages", int() as number, *rest:
            places = [f"stage {number + 1}", *rest]
        case _:
            places = list(loc)
    return ": ".join(filter(None, [visible(places[0]) if places else "", " → ".join(map(visible, places[1:]))]))


def wanted(problem: ErrorDetails) -> str:
    """What a validator wants in place of what was given."""
    if problem["type"] == "missing":
        return "it is needed, and is not there"
    if problem["type"] == "string_pattern_mismatch":
        return f"a name of at most 80 characters, without / and \\, is needed, not {visible(repr(problem.get('input')))[:60]}"
    return f"{plainly(problem['msg'])} is needed, not {visible(repr(problem.get('input')))[:60]}"


_STAGES: dict[object, type[Part]] = {
    "train": Train, "measure": Measure, "prune": Prune, "finetune": Finetune, "export": Export, "report": Report,
}  # fmt: skip


_ALL_STAGES = "train, measure, prune, finetune, export or report"


def _known(place: tuple[int | str, ...]) -> list[str]:
    """The keys that may stand at a place."""
    tops: dict[object, type[Part]] = {"model": Model, "data": DataSpec}
    if not place:
        return list(Scenario.model_fields)
    part = tops.get(place[0]) or _STAGES.get(place[-1])
    return list(part.model_fields) if part is not None else []
