"""A small Llama on Python's own documentation: uniform sizes, an ordinary checkpoint, and what it costs in nats.

python examples/tour/language_model.py      trains it byte by byte, prunes it twice, writes language_model.html
"""

from __future__ import annotations

import copy
from pathlib import Path
from pydoc_data.topics import topics

import plotly.graph_objects as go
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import secateur as sc

LENGTH, BATCH = 96, 16
SHARES = ("70%", "45%")


def main(folder: Path = Path(), steps: int = 250) -> dict[str, list[float]]:
    """Loss on text that was held out, by share of the parameters: straight after pruning, and after a short training."""
    torch.manual_seed(0)
    text = torch.tensor(list("".join(topics.values()).encode()))
    train, held_out = text[: -40 * LENGTH], text[-40 * LENGTH :].view(-1, LENGTH)

    def batches(number: int) -> list[dict[str, torch.Tensor]]:
        starts = torch.randint(0, len(train) - LENGTH, (number, BATCH))
        return [{"input_ids": ids, "labels": ids} for ids in train[starts[..., None] + torch.arange(LENGTH)]]

    def loss(model: nn.Module) -> float:
        with torch.no_grad():
            return float(model.eval()(input_ids=held_out, labels=held_out).loss)

    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 192}
    net = LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=256, use_cache=False))
    sc.training.finetune(net, batches(steps), epochs=1, config={"lr": 4e-3})
    found = {"100%": [loss(net)] * 2}
    example = ({"input_ids": held_out[:2]},)
    for share in SHARES:
        config = {"data_loader": batches(4), "compensate": "least_squares", "max_width_pruning": 0.9}
        small, _ = sc.prune(copy.deepcopy(net), "minitron", {"params": share}, example, config)
        pruned = loss(small)
        sc.training.finetune(small, batches(steps // 5), epochs=1, teacher=net, config={"lr": 1e-3})
        found[share] = [pruned, loss(small)]
    sc.hf.save_pretrained(small, folder / "small-llama")  # LlamaForCausalLM.from_pretrained reads it
    draw(found, folder / "language_model.html")
    return found


def draw(found: dict[str, list[float]], path: Path) -> None:
    """Loss against the share of parameters that is left."""
    shares = list(found)
    figure = go.Figure(
        [
            go.Scatter(x=shares, y=[values[i] for values in found.values()], name=name)
            for i, name in enumerate(("straight after pruning", "after a short training"))
        ]
    )
    figure.update_layout(xaxis_title="parameters left", yaxis_title="nats a byte, held-out text")
    figure.write_html(path)


if __name__ == "__main__":
    for share, (pruned, trained) in main().items():
        print(f"{share}: {pruned:.3f}, {trained:.3f} nats a byte")
    print("language_model.html, small-llama/")
