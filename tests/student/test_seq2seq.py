"""Encoder-decoders: pairs, their loss on the decoder's positions, the teacher's signal, layers, merge and runtimes."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from objectives import objective
from tiny import tiny_t5

from distill2edge.data.examples import Encoded, Row
from distill2edge.data.ledger import Origin
from distill2edge.data.pairs import encode_pairs, encode_sources
from distill2edge.distill.batches import IGNORED
from distill2edge.distill.logit_cache import SignalReader
from distill2edge.distill.seq2seq_model import Seq2SeqDistillModel, collate_pairs
from distill2edge.distill.train import train
from distill2edge.errors import UserError
from distill2edge.generation.generate import LocalGenerator
from distill2edge.models.kinds import pair_inputs
from distill2edge.models.loading import load_model
from distill2edge.recipe import schema
from distill2edge.runtimes import open_runtime
from distill2edge.runtimes.protocol import logits_at
from distill2edge.student.init import init_student
from distill2edge.student.merge import merge
from distill2edge.teacher.logits import cache_logits
from distill2edge.teacher.text import write_responses
from distill2edge.util.progress import SilentProgress

ROWS = [Row(str(n), f"the fox {n} jumps{' and sleeps' * (n % 3)}", f"{n * 37} dogs{'!' * (n % 2)}") for n in range(24)]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("t5")
    tiny_t5(directory, layers=3)
    return directory


@pytest.fixture(scope="module")
def pairs(teacher: Path) -> list[Encoded]:
    return encode_pairs(ROWS, tokenizer(teacher), 64)


def tokenizer(directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory, local_files_only=True)


def dense_logits(directory: Path, row: Encoded) -> torch.Tensor:
    """[supervised, V] of the model itself."""
    model = load_model(directory).eval()
    with torch.no_grad():
        return model(**pair_inputs(model.config, row.ids, row.prompt_length), use_cache=False).logits[0, :-1]


def test_a_pair_supervises_its_target_and_end_and_nothing_else(teacher: Path, pairs: list[Encoded]) -> None:
    words = tokenizer(teacher)
    for row, pair in zip(ROWS, pairs, strict=True):
        source, target = pair.ids[: pair.prompt_length], pair.ids[pair.prompt_length :]
        assert words.decode(source, skip_special_tokens=True) == row.prompt
        assert words.decode(target, skip_special_tokens=True) == row.response
        assert source[-1] == target[-1] == words.eos_token_id
        assert source == encode_sources([row.prompt], words)[0]
        assert sum(pair.mask) == len(target)


def test_rows_that_are_all_too_long_name_the_setting(teacher: Path) -> None:
    with pytest.raises(UserError, match="source and target together") as caught:
        encode_pairs(ROWS, tokenizer(teacher), 4)
    assert caught.value.where == "data.max_length"


def test_a_batch_shifts_the_target_by_the_start_token(pairs: list[Encoded]) -> None:
    items = [{"ids": pair.ids, "mask": pair.mask} for pair in pairs[:3]]
    batch = collate_pairs(items, pad=0, start=0)
    for row, pair in enumerate(pairs[:3]):
        target = pair.ids[pair.prompt_length :]
        assert batch["labels"][row, 0] == IGNORED
        assert batch["labels"][row, 1 : 1 + len(target)].tolist() == target
        assert batch["decoder_input_ids"][row, : 1 + len(target)].tolist() == [0, *target]
        assert batch["attention_mask"][row].sum() == pair.prompt_length


def test_the_loss_is_that_of_the_model_itself(teacher: Path, pairs: list[Encoded]) -> None:
    model = Seq2SeqDistillModel(load_model(teacher), objective(ce=1.0), 1.0, 5, torch.float32).eval()
    batch = collate_pairs([{"ids": pair.ids, "mask": pair.mask} for pair in pairs[:4]], pad=0, start=0)
    model.check_head(torch.tensor([pairs[0].ids]))
    with torch.no_grad():
        found = model(**batch)
        own = model.student(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            labels=batch["labels"][:, 1:].contiguous(),
            decoder_input_ids=batch["decoder_input_ids"][:, :-1],
        ).loss
    torch.testing.assert_close(found["loss"], own, rtol=1e-5, atol=1e-5)


def test_the_cached_signal_is_the_teachers_distribution(teacher: Path, pairs: list[Encoded], tmp_path: Path) -> None:
    signal = schema.LogitsSignal(top_k=1000, temperature=2.0)
    facts = cache_logits(teacher, pairs, signal, tmp_path, SilentProgress(), dtype="float32")
    assert facts["positions"] == sum(pair.supervised for pair in pairs)
    reader = SignalReader(tmp_path)
    for pair in pairs[::7]:
        cached = reader.get(pair.id)
        wanted = torch.log_softmax(dense_logits(teacher, pair) / 2.0, dim=-1)
        # float16 keeps 11 bits of a log-probability of up to some tens
        torch.testing.assert_close(cached.log_p, wanted.gather(1, cached.tokens.long()), atol=0.02, rtol=2e-3)


@pytest.mark.parametrize("lora", [None, schema.Lora(rank=4, alpha=8)])
def test_distillation_learns_and_merges(
    teacher: Path, pairs: list[Encoded], tmp_path: Path, lora: schema.Lora | None
) -> None:
    signal = tmp_path / "signal"
    cache_logits(teacher, pairs, schema.LogitsSignal(top_k=64, temperature=2.0), signal, SilentProgress())
    student = schema.Student(init=schema.FromTeacher(layers=1), lora=lora)
    facts = init_student(student, teacher, (), tmp_path / "student", SilentProgress())
    assert (facts["layers"], facts["decoder_layers"]) == ([0], [0])
    base = tmp_path / "student" / "model"
    training = schema.Training(epochs=12, learning_rate=2e-2 if lora else 5e-3, batch_size=8, dtype="float32")
    loss = schema.Loss(ce=0.5, forward_kl=0.5)
    trained = tmp_path / "trained"
    train(base, pairs, pairs[:6], signal, training, loss, lora, 16, 0, trained, SilentProgress())
    log = json.loads((trained / "train.json").read_text())["log"]
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]
    merged = merge(base, trained, pairs[:4], (), tmp_path / "merged")
    assert merged["max_logit_difference"] < 1e-3
    assert not torch.allclose(dense_logits(tmp_path / "merged" / "model", pairs[0]), dense_logits(base, pairs[0]))


def test_a_student_without_the_first_layer_keeps_the_position_bias(teacher: Path, tmp_path: Path) -> None:
    init = schema.FromTeacher(layers=(1, 2), decoder_layers=(2,))
    facts = init_student(schema.Student(init=init), teacher, (), tmp_path, SilentProgress())
    assert (facts["layers"], facts["decoder_layers"]) == ([1, 2], [2])
    old, new = load_model(teacher), load_model(tmp_path / "model")
    assert len(new.get_encoder().block) == 2
    assert len(new.get_decoder().block) == 1
    for half in ("get_encoder", "get_decoder"):
        a, b = (getattr(model, half)().block[0].layer[0].SelfAttention for model in (old, new))
        torch.testing.assert_close(a.relative_attention_bias.weight, b.relative_attention_bias.weight)
    assert new.num_parameters() == facts["parameters"] < old.num_parameters()


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"layers": 9}, "9 layers"), ({"layers": 1, "decoder_layers": 4}, "4 layers"),
     ({"layers": 1, "select": "similarity"}, "even or first")],
)  # fmt: skip
def test_layers_that_are_not_there_are_refused(
    teacher: Path, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(UserError) as caught:
        init_student(schema.Student(init=schema.FromTeacher(**changes)), teacher, (), tmp_path, SilentProgress())  # type: ignore[arg-type]
    assert said in f"{caught.value}{caught.value.fix}"


def test_decoder_layers_of_a_decoder_are_refused(tmp_path: Path) -> None:
    from tiny import tiny_llama

    tiny_llama(tmp_path / "llama")
    init = schema.FromTeacher(layers=1, decoder_layers=1)
    with pytest.raises(UserError, match="an encoder and a decoder"):
        init_student(schema.Student(init=init), tmp_path / "llama", (), tmp_path, SilentProgress())


def test_the_teacher_writes_what_greedy_decoding_says(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill2edge.generation.writers.compute_dtype", lambda *_: torch.float32)
    signal = schema.TextSignal(max_new_tokens=5)
    with suppress(UserError):  # a random model may never end: every row is truncated
        write_responses(
            LocalGenerator(teacher, template="plain"), ROWS[:5], signal, tmp_path, SilentProgress(), template="plain",
            system=None, seed=0, origin=Origin("teacher"),
        )  # fmt: skip
    words, runtime = tokenizer(teacher), open_runtime("torch", teacher, threads=1, context=64)
    lines = [json.loads(line) for line in (tmp_path / "shard-00000.jsonl").read_text().splitlines()]
    assert len(lines) == 5
    for line in lines:
        answer = [int(np.argmax(runtime.prefill(encode_sources([line["prompt"]], words)[0])))]
        while answer[-1] != words.eos_token_id and len(answer) < 5:
            answer.append(int(np.argmax(runtime.decode(answer[-1]))))
        assert words.decode([token for token in answer if token != words.eos_token_id]) == line["response"]


def test_torch_runtime_gives_the_same_logits_with_and_without_cache(teacher: Path, pairs: list[Encoded]) -> None:
    runtime = open_runtime("torch", teacher, threads=1, context=64)
    for row in (pairs[0], pairs[5]):
        prompt = row.prompt_length
        dense = dense_logits(teacher, row).numpy()
        positions = list(range(prompt - 1, len(row.ids) - 1))
        np.testing.assert_allclose(logits_at(runtime, row.ids, positions, prompt), dense, atol=1e-3)
        steps = [runtime.prefill(row.ids[:prompt]), *(runtime.decode(token) for token in row.ids[prompt:-1])]
        np.testing.assert_allclose(np.stack(steps), dense, atol=1e-3)
    with pytest.raises(ValueError, match="inside a source"):
        logits_at(runtime, pairs[0].ids, [0], pairs[0].prompt_length)


def test_a_pair_of_other_tokens_has_another_id(pairs: list[Encoded]) -> None:
    assert len({pair.id for pair in pairs}) == len(pairs)
    assert replace(pairs[0], row="").id == pairs[0].id
