"""A scenario, run from its first stage to its last, and gone on with after whatever interrupted it.

    stage ──► key: a digest of what it says, of the network it works on, of the data, the seed and the versions
          ──► done already?  read it         otherwise ──► do it in a folder of its own, move that into place

Invariant: a stage that is done is never done again, and one that was killed leaves nothing behind; so a run that was
interrupted anywhere ends with the network that it would have ended with.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from secateur.core.json import Json
from secateur.core.measurement import Measurement
from secateur.core.record import Origin, Pruning
from secateur.errors import SecateurError, placed
from secateur.report import write_report
from secateur.scenario.checking import check_scenario
from secateur.scenario.data import DATA
from secateur.scenario.naming import slug
from secateur.scenario.schema import Export, Finetune, Measure, Prune, Report, Scenario, Train
from secateur.scenario.stages import (
    MEASUREMENT,
    ONNX,
    Context,
    export_stage,
    measure_stage,
    prune_stage,
    train_stage,
)
from secateur.scenario.work import Outcome, Work, publish
from secateur.version import __version__

REPORT, _MEASUREMENTS = "report", "measurements"
_CHANGES = (Train, Prune, Finetune)
AnyStage = Train | Prune | Finetune | Measure | Export | Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One stage of a run: where its outcome is, and what it works on.

    ``before`` is the folder with the network that it reads, None for the one it all begins with; ``teacher`` that of the
    network before the first pruning; ``name`` what a measurement is called.
    """

    number: int
    stage: AnyStage
    folder: str
    before: str | None
    teacher: str | None
    name: str

    @property
    def title(self) -> str:
        """How the stage is called where people read it."""
        detail = {Prune: getattr(self.stage, "mode", ""), Measure: self.name, Export: getattr(self.stage, "name", "")}
        return f"{self.number}. {self.stage.do} {detail.get(type(self.stage), '')}".rstrip()


def context_of(scenario: Scenario, base: Path) -> Context:
    """The scenario, checked, with its data. Raises ConfigError as `check_scenario`, InputError where data are not there."""
    check_scenario(scenario)
    source = DATA[scenario.data.source].read(scenario.data.options)
    return Context(scenario=scenario, base=base, splits=source.load(base))


def steps_of(context: Context, code: str = "") -> list[Step]:
    """Every stage with its key; ``code`` is the digest of the user's own code."""
    scenario = context.scenario
    network = _digest(
        version=__version__, torch=str(torch.__version__), seed=scenario.seed, loss=scenario.loss, code=code,
        model=scenario.model.model_dump(), read=_read_files(context), data=[context.splits.digest, scenario.data.model_dump()],
    )  # fmt: skip
    steps: list[Step] = []
    before: str | None = None
    teacher: str | None = None
    pruned = ""
    for number, stage in enumerate(scenario.stages, start=1):
        if isinstance(stage, Prune):
            teacher = before if not pruned else teacher
            pruned = f"{pruned}, {_words(stage)}" if pruned else _words(stage)
        name = _name(stage, pruned)
        seen = [step.folder for step in steps] if isinstance(stage, Report) else teacher
        key = _digest(stage=stage.model_dump(), network=network, seen=seen, name=name)
        step = Step(number=number, stage=stage, folder=f"{stage.do}-{key}", before=before, teacher=teacher, name=name)
        steps.append(step)
        if isinstance(stage, _CHANGES):
            network, before = key, step.folder
        if isinstance(stage, Finetune):
            pruned = f"{pruned}, fine-tuned"
    return steps


def run(
    scenario: Scenario,
    base: Path,
    out: Path,
    *,
    code: str = "",
    upto: int | None = None,
    heard: Callable[[Step, str], None] = lambda step, word: None,
) -> list[Measurement]:
    """Run all stages, or those before number ``upto``; what was measured, in order.

    ``heard`` is told what each stage gave. Raises what a stage raises; what was done before it stays done.
    """
    context = context_of(scenario, base)
    every = steps_of(context, code)
    steps = [step for step in every if upto is None or step.number < upto]
    with Work(out / "work") as work:
        _forget_measurements(out, every)
        runner = _Runner(context, work, out, steps)
        for step in steps:
            heard(step, runner.do(step))
        return runner.measured(steps)


def done(out: Path, steps: Sequence[Step]) -> list[bool]:
    """Which of the stages are done already."""
    return [(out / "work" / step.folder).is_dir() for step in steps]


class _Runner:
    """The stages of one run. State, because it holds the work folder."""

    def __init__(self, context: Context, work: Work, out: Path, steps: Sequence[Step]) -> None:
        self.context, self.work, self.out, self.steps = context, work, out, steps

    def do(self, step: Step) -> str:
        """Do a stage unless it is done, and put what it gave where people look for it; what there is to say of it."""
        outcome, word = self.work.outcome(step.folder), "already done"
        if outcome is None:
            outcome = self._make(step)
            word = str(outcome.get("said", ""))
        self._publish(step)
        return word

    def _make(self, step: Step) -> Outcome:
        earlier = [event.what for event in self.work.events() if event.stage == step.folder]
        again = earlier[-1:] == ["begun"]
        self.work.tell(step.folder, "begun", detail="again, after an interruption" if again else "")
        started = time.perf_counter()
        try:
            outcome = self.work.make(step.folder, lambda folder: self._outcome(step, folder))
        except SecateurError as error:
            self.work.tell(step.folder, "refused", detail=str(error)[:500])
            with placed(f"stage {step.number} ({step.stage.do})"):
                raise
        self.work.tell(step.folder, "done", seconds=time.perf_counter() - started, detail=str(outcome.get("said", "")))
        return outcome

    def _outcome(self, step: Step, folder: Path) -> Mapping[str, Json]:
        before, teacher = (self.work.folder(n) if n else None for n in (step.before, step.teacher))
        match step.stage:
            case Train() | Finetune() as stage:
                return train_stage(self.context, stage, before, teacher, folder)
            case Prune() as stage:
                search = self.work.folder(f"search-{step.folder.partition('-')[2]}")
                return prune_stage(self.context, stage, before, search, folder)
            case Measure() as stage:
                return measure_stage(self.context, stage, step.name, before, folder)
            case Export() as stage:
                return export_stage(self.context, stage, before, folder)
            case Report() as stage:
                until = self.steps[: step.number - 1]
                write_report(self.measured(until), folder / REPORT, title=stage.title or self.context.scenario.name)
                return {"said": f"{self.out / (REPORT + '.html')}"}

    def measured(self, steps: Sequence[Step]) -> list[Measurement]:
        """What these stages measured, each with the run it comes from."""
        return [self._measurement(step) for step in steps if isinstance(step.stage, Measure)]

    def _measurement(self, step: Step) -> Measurement:
        found = Measurement.from_json((self.work.folder(step.folder) / MEASUREMENT).read_bytes())
        earlier = [self.work.outcome(each.folder) or {} for each in self.steps[: step.number - 1]]
        origin = Origin(
            scenario=self.context.scenario.model_dump_json(exclude_defaults=True, indent=1),
            events=self.work.events(),
            prunings=tuple(Pruning.model_validate_json(json.dumps(o["pruning"])) for o in earlier if "pruning" in o),
            training=tuple({k: o[k] for k in ("losses", "scores", "best_epoch")} for o in earlier if "losses" in o),  # type: ignore[misc]
        )
        return found.model_copy(update={"name": step.name, "origin": origin})

    def _publish(self, step: Step) -> None:
        folder = self.work.folder(step.folder)
        match step.stage:
            case Measure():
                target = self.out / _MEASUREMENTS / _measured_file(step)
                _write(target, self._measurement(step).to_json())
            case Export() as stage:
                for source in _exported(folder):
                    suffix = "" if source.is_dir() else source.suffix
                    publish(source, self.out / f"{slug(stage.name)}{suffix}")
            case Report():
                for suffix in (".html", ".md"):
                    publish(folder / f"{REPORT}{suffix}", self.out / f"{REPORT}{suffix}")
            case _:
                return


def _measured_file(step: Step) -> str:
    return f"{step.number:02d}-{slug(step.name)}.json"


def _forget_measurements(out: Path, steps: Sequence[Step]) -> None:
    """Take away what stages left that are no longer in the scenario; what they gave stays in the work folder."""
    present = {_measured_file(step) for step in steps if isinstance(step.stage, Measure)}
    for file in (out / _MEASUREMENTS).glob("[0-9][0-9]*-*.json"):
        if file.name not in present:
            file.unlink()


def _exported(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.is_dir() or path.name == ONNX or path.suffix == ".safetensors")


def _write(target: Path, text: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(target)


def _read_files(context: Context) -> list[str]:
    """What the network is read from, if from anywhere: a digest of each file."""
    spec = context.scenario.model
    places = [context.base / path for path in (spec.weights, spec.artefact) if path is not None]
    files = [file for place in places for file in ([place] if place.is_file() else sorted(place.glob("*")))]
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()]


def _name(stage: AnyStage, pruned: str) -> str:
    return (stage.name if isinstance(stage, Measure) else None) or pruned or "original"


def _words(stage: Prune) -> str:
    bounds = [f"{metric} {bound}" for metric, bound in stage.constraints.items()]
    return " ".join([stage.mode, *bounds])


def _digest(**parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
