"""All weights fitted together, so that the narrowed network answers what the original answers.

    8 ×  8 ×  ( the next samples: distance of the answers, its gradient in all weights, its curvature
                ways down  −B⁻¹ G A⁻¹ (two dampings), and the last step once more
                how far along each: what they change in the answers, least squares    ──►  kept if samples left out agree )

Layer by layer (`compensator`), every layer copies what the original's layer gave, whether the answer depends on it or not; this
gives up what no answer needs. Gauss and Newton's method: no label, no rate, each step in closed form from one pass over its part.

Invariant: a step is kept only where it brings answers to samples that it was not made from nearer to the original's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice

import torch
from torch import nn

from secateur.progress import Tell
from secateur.torch.compensation.chain import LOOKUPS
from secateur.torch.compensation.evidence import AnswersFit
from secateur.torch.compensation.factors import Change, Curvature, Curved
from secateur.torch.compensation.lesson import Lesson, Weighed, mean_of
from secateur.torch.compensation.passes import Arguments, Function
from secateur.torch.compensation.rows import num_outputs
from secateur.torch.compensation.supply import Portion, in_turn
from secateur.torch.measuring.answers import Answer
from secateur.torch.measuring.judging import judging
from secateur.torch.running.contractions import Site, taps
from secateur.torch.running.distributed import reduce_sum, world_size
from secateur.torch.running.example import Example
from secateur.torch.running.padding import Padding
from secateur.torch.running.walking import buffers_of, named_parameters, parameters_of

_DOING = "fitting answers"
_TIMES = 8  # as many samples as layers are fitted to, at most; others each time where a loader has them
_PARTS = 8  # each step looks at one in turn: several short steps go further than a long one
_ENOUGH = 128  # samples of a part
_DAMPINGS = (0.1, 0.01)
_SCALES = (1.0, 0.5, 0.25)  # of a step, until samples left out agree
_LITTLE = 0.02  # of the distance: going over the samples once for less is the last time
_NUDGE = 2e-3  # of a weight's norm: how far a direction is tried to see what it changes
_HELD_OUT = 48  # samples that a step is judged on
_KEPT = 2**26  # numbers of the original's answers that are held
_ROOM = 2**29  # numbers beside the network at a time; where weights need more they go part by part


def fit_to_answers(narrowed: nn.Module, original: nn.Module, lesson: Lesson, tell: Tell) -> AnswersFit | None:
    """Fit in place. None where no samples can be left out, or there is nothing to fit."""
    with judging(original) as teacher, _as_floats(narrowed) as student:
        if not lesson.can_be_judged(teacher) or not lesson.leads_back(student):
            return None
        fitter = _Fitter(student, teacher, lesson)
        parts = fitter.parts(_frozen(narrowed))
        for number, part in enumerate(parts):
            fitter.fit(part, lambda share, number=number: tell((number + share) / len(parts), _DOING))
    return fitter.done


@contextmanager
def _as_floats(model: nn.Module) -> Iterator[nn.Module]:
    """A twin on the model's memory; weights of fewer digits than a step has are written back at the end."""
    # parameters are on the model's memory, so that what is fitted is the model
    with judging(model) as student:
        own = dict(named_parameters(model, once=True))
        short = {
            n: p for n, p in named_parameters(student, once=True) if p.is_floating_point() and p.element_size() < 4
        }
        for parameter in short.values():
            parameter.data = parameter.data.float()
        for buffer in buffers_of(student) if short else ():
            buffer.data = buffer.data.float() if buffer.is_floating_point() else buffer.data
        yield student
        with torch.no_grad():
            for name, parameter in short.items():
                own[name].copy_(parameter)


def _frozen(model: nn.Module) -> set[str]:
    """The parameters that do not train while others do."""
    trains = any(p.requires_grad for p in parameters_of(model))
    return {name for name, p in named_parameters(model, once=True) if not p.requires_grad} if trains else set()


class _Fitter:
    """Steps over one network; state, because its weights change under way."""

    def __init__(self, student: nn.Module, teacher: nn.Module, lesson: Lesson) -> None:
        self.student, self.teacher, self.lesson = student, teacher, lesson
        self.parameters = dict(named_parameters(student, once=True))
        self.generator = torch.Generator().manual_seed(0)
        self.wanted: dict[int, Answer] = {}
        self.known = [
            Portion(batch, held, number)
            for number, (batch, held) in enumerate(zip(lesson.batches, lesson.held_out, strict=True))
        ]
        self.supply = in_turn(self.known, lesson.beyond, lambda batch: Example.of(student, lesson.data.collect(batch)))
        self.steps_a_time, self.batches_a_step = self._steps()
        self.judged = self._judged()
        self.start = self.now = self._distance()
        self.steps = 0

    @property
    def done(self) -> AnswersFit:
        """What came of it."""
        return AnswersFit(steps=self.steps, before=self.start, after=self.now)

    def parts(self, frozen: Collection[str]) -> list[dict[str, Curved]]:
        """The contractions whose weights can be fitted, as many together as there is room for."""
        look = _UsedOnce(self.student)
        with torch.no_grad(), taps(self.student, look):
            self.lesson.run(self.student, self.lesson.batches[0])
        found: list[dict[str, Curved]] = [{}]
        room = _ROOM
        for name, curved in look.fit_for_it(frozen).items():
            needs = 6 * self.parameters[name].numel() + _size_of_factors(curved)
            if found[-1] and needs > room:
                found.append({})
                room = _ROOM
            found[-1][name] = curved
            room -= needs
        return found

    def fit(self, part: dict[str, Curved], told: Callable[[float], None]) -> None:
        """Steps until going over the samples gives little."""
        last: Change = {}
        for time in range(_TIMES if part else 0):
            before = self.now
            for number in range(self.steps_a_time):
                some = list(islice(self.supply, self.batches_a_step))
                gradient = self._looked(part, some, curvature=time == number == 0)
                ways = [self._way(part, gradient, damping) for damping in _DAMPINGS]
                last = self._taken(self._along([*ways, last] if last else ways, some[0]))
            told((time + 1) / _TIMES)
            if self.now > (1 - _LITTLE) * before:
                return

    def _way(self, part: Mapping[str, Curved], gradient: Change, damping: float) -> Change:
        way: Change = {}
        for curved in part.values():
            if curved.outputs.sum is not None:  # something returned depends on it
                way |= curved.way_down(gradient, damping)
        return way

    def _looked(self, part: Mapping[str, Curved], some: Sequence[Portion], *, curvature: bool) -> Change:
        """One pass: the gradient of the distance by each parameter, and the factors of each weight."""
        names = [name for curved in part.values() for name in (curved.site.name, curved.bias) if name is not None]
        asked = [self.parameters[name] for name in names]
        total = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in asked]
        for parameter in asked:
            parameter.requires_grad_()
        for number, one in enumerate(some):
            tap = Curvature(dict(part) if curvature else {}, number, self._padding(one.batch))
            with taps(self.student, tap):
                given = self._answer(self.student, one.batch)
            counts_R = self._counts(given, one.batch, ~one.held_S)
            distance = (given.distance(self._wanted(one)) * counts_R).sum()
            found = torch.autograd.grad(distance, asked, retain_graph=curvature, allow_unused=True)
            for sum_, new in zip(total, found, strict=True):
                sum_ += 0 if new is None else new
            if curvature:
                draw = (given.of_a_draw(self.generator) * self._counts(given, one.batch)).sum()
                tap.hear(torch.autograd.grad(draw, tap.edges, allow_unused=True))
        for parameter in asked:
            parameter.requires_grad_(False)
        for curved in part.values() if curvature else ():
            curved.inputs.summed(self.lesson.group)
            curved.outputs.summed(self.lesson.group)
        reduce_sum(total, self.lesson.group)
        return dict(zip(names, total, strict=True))

    def _along(self, ways: Sequence[Change], one: Portion) -> Change:
        """As far along each way as least squares on the answers of one batch has it."""
        with torch.no_grad():
            here = self._answer(self.student, one.batch)
            counts_R = self._counts(here, one.batch, ~one.held_S)
            pull_RK = here.pull(self._wanted(one)) * counts_R[:, None]
            changes = [self._changed(way, one.batch, here) for way in ways]
            bent = [(here.stretched(change) * counts_R.sqrt()[:, None]).flatten() for change in changes]
            curvature = torch.stack([torch.stack([(a * b).sum() for b in bent]) for a in bent]).double()
            slope = torch.stack([(change * pull_RK).sum() for change in changes]).double()
        reduce_sum([curvature, slope], self.lesson.group)
        # ways may be nearly one
        held_up = curvature + torch.diag(1e-3 * curvature.diagonal().clamp_min(torch.finfo(torch.float32).tiny))
        far = -torch.linalg.solve(held_up, slope)
        return {name: sum(float(c) * way[name] for c, way in zip(far, ways, strict=True)) for name in ways[0]}  # type: ignore[misc]

    def _changed(self, way: Change, batch: object, here: Answer) -> torch.Tensor:
        """What a unit of this way changes in the answer."""
        long = torch.stack([change.norm() for change in way.values()]).norm()
        norm = torch.stack([self.parameters[name].norm() for name in way]).norm()
        nudge = float(_NUDGE * norm / long.clamp_min(torch.finfo(torch.float32).tiny))
        with self._moved(way, nudge):
            return (self._answer(self.student, batch).z_RK - here.z_RK) / nudge

    def _taken(self, step: Change) -> Change:
        """Go as much of the step as brings the answers to samples left out nearer; nothing if none does."""
        for scale in _SCALES:
            with self._moved(step, scale) as moved:
                distance = self._distance()
                if distance < self.now:
                    self.now, self.steps = distance, self.steps + 1
                    moved.clear()  # stay
                    return {name: scale * change for name, change in step.items()}
        return {}

    @contextmanager
    def _moved(self, way: Change, by: float) -> Iterator[dict[str, torch.Tensor]]:
        """With weights changed; those whose old values the block takes out stay so."""
        before = {name: self.parameters[name].detach().clone() for name in way}
        try:
            with torch.no_grad():
                for name, change in way.items():
                    self.parameters[name].add_(change, alpha=by)
            yield before
        finally:
            with torch.no_grad():
                for name, values in before.items():
                    self.parameters[name].copy_(values)

    def _distance(self) -> float:
        """How far answers to samples left out are from the original's, on average."""

        def measured(one: Portion) -> Weighed:
            given = self._answer(self.student, one.batch)
            return given.distance(self._wanted(one)), self._counts(given, one.batch, one.held_S)

        with torch.no_grad():
            return mean_of(map(measured, self.judged), self.lesson.group)

    def _steps(self) -> tuple[int, int]:
        """How many steps count as going over the samples once, and how many batches each looks at."""
        group, batches = self.lesson.group, len(self.known)
        all_of = torch.tensor([sum(len(one.held_S) for one in self.known), batches])
        reduce_sum([all_of], group)
        steps = max(min(int(all_of[0]) // _ENOUGH, int(all_of[1]) // world_size(group), _PARTS), 1)
        return steps, -(-batches // steps)

    def _judged(self) -> list[Portion]:
        """The batches that distances are measured on: as few as have enough of the samples left out, or half of them."""
        counts = [int(one.held_S.sum()) for one in self.known]
        enough, found = min(_HELD_OUT, -(-sum(counts) // 2)), list[int]()
        for number in sorted(range(len(counts)), key=lambda number: -counts[number]):
            if sum(counts[one] for one in found) < enough:
                found.append(number)
        return [self.known[number] for number in sorted(found)]

    def _answer(self, model: nn.Module, batch: object) -> Answer:
        return self.lesson.answer_of(self.lesson.run(model, batch), batch)

    def _wanted(self, one: Portion) -> Answer:
        """The original's answer to a batch: kept of those that come again, while there is room."""
        if one.number is not None and one.number in self.wanted:
            return self.wanted[one.number]
        with torch.no_grad():
            answer = self._answer(self.teacher, one.batch)
        room = sum(kept.z_RK.numel() for kept in self.wanted.values()) + answer.z_RK.numel() <= _KEPT
        if one.number is not None and room:
            self.wanted[one.number] = answer
        return answer

    def _padding(self, batch: object) -> Padding:
        return Padding.of(self.student, self.lesson.data.collect(batch))

    def _counts(self, answer: Answer, batch: object, of_S: torch.Tensor | None = None) -> torch.Tensor:
        """What each row counts; nothing where its sample is not asked for."""
        counts_R = answer.weights(self._padding(batch))
        if of_S is None or answer.samples != len(of_S):
            return counts_R
        return counts_R * of_S.to(counts_R).repeat_interleave(len(counts_R) // answer.samples)


class _UsedOnce:
    """A tap that finds contractions whose weight has one place in the network. State: what was seen."""

    def __init__(self, model: nn.Module) -> None:
        self.names = {id(p): name for name, p in named_parameters(model, once=True)}
        self.sites: dict[str, Site] = {}
        self.uses: Counter[str] = Counter()

    def before(self, site: Site) -> torch.Tensor:
        return site.x

    def after(self, site: Site, y: torch.Tensor) -> torch.Tensor:
        """Count a use of the weight, and one of its bias."""
        self.sites.setdefault(site.name, replace(site, x=site.x.new_empty(0), again=None))
        self.uses.update(name for name in (site.name, self._bias(site)) if name is not None)
        return y

    def other(self, func: Function, args: Arguments, kwargs: dict[str, object]) -> object:
        """A look-up is a use as well."""
        if func in LOOKUPS:
            self._use(args)
        return func(*args, **kwargs)

    def inside(self, func: Function, args: Arguments, site: Site | None) -> None:
        """What a transform does with a weight is another use of it."""
        self._use(args)

    def _use(self, args: Arguments) -> None:
        self.uses.update(self.names[id(a)] for a in args if id(a) in self.names)

    def fit_for_it(self, frozen: Collection[str]) -> dict[str, Curved]:
        """The contractions, by the name of their weight."""
        found = {}
        for name, site in self.sites.items():
            bias = self._bias(site)
            fits = site.weight.is_floating_point() and not (site.kind == "transposed" and site.groups > 1)
            if fits and self.uses[name] == 1 and name not in frozen:
                own = bias is not None and self.uses[bias] == 1 and bias not in frozen and self.bias_fits(site)
                found[name] = Curved(site, bias if own else None)
        return found

    @staticmethod
    def bias_fits(site: Site) -> bool:
        """Whether a bias has a number for each output."""
        return site.bias is not None and site.bias.numel() == num_outputs(site)

    def _bias(self, site: Site) -> str | None:
        return None if site.bias is None else self.names.get(id(site.bias))


def _size_of_factors(curved: Curved) -> int:
    inputs, outputs = curved.site.weight.shape[curved.site.inputs], num_outputs(curved.site)
    return inputs**2 + outputs**2
