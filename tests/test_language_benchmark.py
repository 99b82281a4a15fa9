"""`benchmarks/language`: what is counted, and that everybody is judged alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks.language import data, network
from benchmarks.language.modelopt import to_llama, to_megatron
from benchmarks.language.peers import _multi_head
from benchmarks.language.table import _table


def test_words_lose_their_tags_and_every_tenth_document_is_held_out(tmp_path: Path) -> None:
    for number in range(500):
        name = f"c{'abcdefghij'[number // 50]}{number % 50:02d}"
        (tmp_path / name).write_text(
            f"\n\tThe/at County/nn-tl and/or/cc number/nn {number}/cd ./.\n\n", encoding="utf-8"
        )
    train, held_out = data.read(tmp_path)
    lines = bytes(held_out.tolist()).decode().splitlines()
    assert lines[1] == "The County and/or number 10 ."
    assert (len(lines), len(bytes(train.tolist()).decode().splitlines())) == (50, 450)


def test_a_folder_that_is_not_the_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="0 documents"):
        data.read(tmp_path)


def test_a_trigram_model_knows_what_two_bytes_tell_and_no_more() -> None:
    text = torch.tensor([1, 2, 3, 4] * 500, dtype=torch.uint8)
    assert data.trigram_perplexity(text, text[:200]) < 1.02
    noise = torch.randint(0, 256, (20000,), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert data.trigram_perplexity(noise, noise.flip(0)) > 200


def test_perplexity_is_that_of_the_next_byte() -> None:
    class Even(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor) -> object:
            return type("Out", (), {"logits": torch.zeros(*input_ids.shape, 256)})()

    text = torch.randint(0, 256, (5000,)).to(torch.uint8)
    assert network.perplexity(Even(), text, count=8) == pytest.approx(256, rel=1e-4)


def test_without_groups_the_network_is_the_same_function() -> None:
    torch.manual_seed(0)
    model, ids = network.build().eval(), torch.randint(0, 256, (2, 16))
    with torch.no_grad():
        torch.testing.assert_close(_multi_head(dict(model.state_dict()))(ids).logits, model(ids).logits)


def test_the_way_to_megatron_and_back_loses_nothing() -> None:
    state = network.build().state_dict()
    sizes = {"num_layers": 6, "num_attention_heads": 8, "num_query_groups": 4, "kv_channels": 16}
    there = to_megatron(state, sizes)
    first, k = (state[f"model.layers.0.self_attn.{x}_proj.weight"] for x in "qk")
    torch.testing.assert_close(there["decoder.layers.0.self_attention.linear_qkv.weight"][32:48], k[:16])
    torch.testing.assert_close(there["decoder.layers.0.self_attention.linear_qkv.weight"][64:96], first[32:64])
    back = to_llama(there, sizes)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_the_table_marks_the_best_and_says_where_there_is_none() -> None:
    cell = {"seed": 0, "budget": 0.5, "layers": 6, "seconds": 1.0}
    rows = [
        {**cell, "method": "one", "ratio": 1.1},
        {**cell, "method": "two", "ratio": 1.05},
        {"seed": 0, "budget": 0.5, "method": "three", "error": "no"},
    ]
    lines = _table(rows).splitlines()
    assert "1.100" in lines[2]
    assert "**1.050**" in lines[3]
    assert "none" in lines[4]


def test_the_table_says_how_much_text_each_was_given_where_that_differs() -> None:
    cell = {"seed": 0, "budget": 0.5, "layers": 6, "seconds": 1.0, "ratio": 1.1}
    rows = [{**cell, "method": "one", "windows": 640}, {**cell, "method": "two", "windows": 2560}]
    assert "windows" not in _table(rows[:1]).splitlines()[2]
    head, _, one, two = _table(rows).splitlines()[2:]
    assert head.endswith("| layers | windows | s | seeds |")
    assert "| 6 | 640 |" in one
    assert "| 6 | 2560 |" in two
