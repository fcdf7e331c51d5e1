"""Packed rows: each gives what it gives alone, for every kind of attention, and what leaks is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from objectives import objective
from test_train import LORA, ROWS, make_rows

from distill2edge.distill.batches import WIDTH, Examples, collate, collate_packed
from distill2edge.distill.decoder_model import DistillModel
from distill2edge.distill.logit_cache import SignalReader
from distill2edge.distill.train import train
from distill2edge.errors import RecipeErrors, UserError
from distill2edge.recipe import schema
from distill2edge.recipe.load import parse_recipe
from distill2edge.recipe.schema import LogitsSignal
from distill2edge.teacher.logits import cache_logits
from distill2edge.util.progress import SilentProgress
from tests.tiny import tiny_family, tiny_llama

LONG = make_rows(60, seed=5)  # more than one sequence


def items(rows: list[Any], reader: SignalReader | None = None) -> list[dict[str, Any]]:
    examples = Examples(rows, reader)
    return [examples[number] for number in range(len(rows))]


def opened(model: Any, temperature: float = 1.0, **weights: float) -> DistillModel:
    return DistillModel(model, objective(**(weights or {"ce": 1.0})), temperature, 64, torch.float32)


@pytest.mark.parametrize(
    ("family", "attention"), [("llama", "sdpa"), ("qwen3", "eager"), ("gemma3_text", "sdpa"), ("phi3", "sdpa")]
)
def test_packed_logits_are_those_of_the_rows_alone(family: str, attention: str, tmp_path: Path) -> None:
    model = tiny_family(tmp_path, family, tokenizer=False)
    model.set_attn_implementation(attention)
    batch = collate_packed(items(LONG), 2)
    assert batch["input_ids"].shape[0] == 2
    assert batch["input_ids"].shape[1] <= WIDTH
    with torch.no_grad():
        packed = model(
            input_ids=batch["input_ids"], position_ids=batch["position_ids"], attention_mask=None, use_cache=False
        ).logits
        starts = [tuple(at) for at in (batch["position_ids"] == 0).nonzero().tolist()]
        found = {}
        for sequence, begin in starts:
            length = next(
                (b for s, b in starts if s == sequence and b > begin), batch["input_ids"].shape[1]
            ) - begin  # fmt: skip
            ids = batch["input_ids"][sequence, begin : begin + length]
            found[tuple(ids.tolist())] = packed[sequence, begin : begin + length]
        worst = max(
            float((model(input_ids=torch.tensor([row.ids])).logits[0] - found[tuple(row.ids)]).abs().max())
            for row in LONG
        )
    assert worst < 1e-4, worst
    opened(model).check_packing(LONG[0].ids + LONG[1].ids)


def test_loss_and_gradient_are_those_of_padded_rows_with_cached_logits(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "teacher", seed=1)
    cache_logits(tmp_path / "teacher", LONG, LogitsSignal(top_k=8), tmp_path / "cache", SilentProgress())
    reader = SignalReader(tmp_path / "cache")
    model = opened(tiny_llama(tmp_path / "student", seed=2), temperature=reader.temperature, ce=0.5, forward_kl=0.5)
    made = {}
    for name, collator in (("padded", collate), ("packed", collate_packed)):
        model.zero_grad()
        out = model(**collator(items(LONG, reader), 2))
        out["loss"].backward()
        grads = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        made[name] = (int(out["count"]), out["loss"].item(), out["ce"].item(), grads)
    assert made["padded"][0] == made["packed"][0] == sum(row.supervised for row in LONG)
    assert made["packed"][1] == pytest.approx(made["padded"][1], rel=1e-5)
    assert made["packed"][2] == pytest.approx(made["padded"][2], rel=1e-5)
    assert (made["packed"][3] - made["padded"][3]).abs().max() < 1e-5


def test_a_run_with_packing_takes_every_token_once_and_again_the_same(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "student", seed=2)
    training = schema.Distill.model_validate({"packing": True, "epochs": 2, "batch_size": 8, "dtype": "float32"})
    facts = [
        train(tmp_path / "student", ROWS, ROWS[:4], None, training, schema.Loss(ce=1.0), LORA, 64, 0,
              tmp_path / f"work{n}", SilentProgress())
        for n in range(2)
    ]  # fmt: skip
    assert facts[0]["tokens"] == 2 * sum(len(row.ids) for row in ROWS)
    assert facts[0]["loss"] == facts[1]["loss"]


def test_a_state_that_goes_from_row_to_row_is_refused(tmp_path: Path) -> None:
    changes = {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"], "conv_L_cache": 3}
    model = tiny_family(tmp_path, "lfm2", tokenizer=False, **changes)
    with pytest.raises(UserError, match="Lfm2ForCausalLM lets packed rows see each other") as caught:
        opened(model).check_packing(LONG[0].ids + LONG[1].ids)
    assert caught.value.where == "distill.packing"


def test_packing_is_for_decoders() -> None:
    text = (
        "name: a\ntask: seq2seq\nteacher: {model: b}\ndata: {source: c, template: plain}\n"
        "student: {init: {from: teacher, layers: 1}}\ndistill: {packing: true}\n"
    )
    with pytest.raises(RecipeErrors, match="packing is for task causal-lm, not for seq2seq"):
        parse_recipe(text, "a.yaml")
