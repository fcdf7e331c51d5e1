"""Training on tiny models: masks, accumulation, resume, determinism."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from pathlib import Path

import pytest
import torch
from objectives import objective
from safetensors.torch import load_file

from distill2edge.data.examples import Encoded, example_id
from distill2edge.distill.batches import IGNORED, Examples, LengthGrouped, collate, supervised
from distill2edge.distill.decoder_model import DistillModel
from distill2edge.distill.logit_cache import SignalReader
from distill2edge.distill.losses import distillation_loss, top_k_of
from distill2edge.distill.train import train
from distill2edge.errors import UserError
from distill2edge.recipe import schema
from distill2edge.teacher.logits import cache_logits
from distill2edge.util.interrupts import Stopped
from distill2edge.util.progress import SilentProgress
from tests.tiny import tiny_family, tiny_llama

EOS = 2  # also the pad token of the tiny models


def make_rows(count: int, seed: int = 0) -> list[Encoded]:
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        prompt, response = draw.randint(2, 8), draw.randint(1, 9)
        ids = [draw.randrange(3, 400) for _ in range(prompt + response)] + [EOS]
        mask = [False] * prompt + [True] * (response + 1)
        rows.append(Encoded(example_id(ids, mask), ids, mask))
    return rows


ROWS = make_rows(26)
KD = schema.Loss(ce=0.5, forward_kl=0.5)
LORA = schema.Lora(rank=4, alpha=8)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("teacher")
    tiny_llama(path, seed=1)
    return path


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("student")
    tiny_llama(path, seed=2)
    return path


@pytest.fixture(scope="module")
def cache(teacher, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("cache")
    cache_logits(teacher, ROWS, schema.LogitsSignal(top_k=20, temperature=2.0), path, SilentProgress(), dtype="float32")
    return path


def settings(**changes) -> schema.Training:
    fields = {"epochs": 2, "batch_size": 4, "learning_rate": 5e-3, "dtype": "float32", "checkpoints": 3}
    return schema.Training(**(fields | changes))


def run(model, work, training, signal_dir=None, loss=None, lora=LORA, rows=ROWS[:20], validation=(), progress=None):
    loss = loss or (KD if signal_dir else schema.Loss(ce=1))
    return train(
        model, rows, validation, signal_dir, training, loss, lora, 16, 0, work, progress or SilentProgress()
    )  # fmt: skip


def weights(work: Path) -> dict[str, torch.Tensor]:
    name = "adapter/adapter_model.safetensors" if (work / "adapter").is_dir() else "model/model.safetensors"
    return load_file(work / name)


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def assert_learned(record: dict) -> None:
    losses = [entry["loss"] for entry in record["log"]]
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])


# --- what is supervised -------------------------------------------------------


def test_a_random_sample_trains_and_its_validation_loss_is_a_divergence(teacher, student, tmp_path):
    signal = schema.LogitsSignal(sample=40, temperature=1.0)
    cache_logits(teacher, ROWS, signal, tmp_path / "cache", SilentProgress(), dtype="float32")
    loss = schema.Loss(ce=0, forward_kl=1)
    run(student, tmp_path / "run", settings(epochs=4), tmp_path / "cache", loss, validation=ROWS[20:])
    record = json.loads((tmp_path / "run" / "train.json").read_text())
    assert_learned(record)
    assert 0 < min(entry["loss"] for entry in record["eval"]) < record["log"][0]["loss"]


def test_the_first_response_token_is_predicted_from_the_last_prompt_token():
    items = [{"ids": [5, 6, 7, EOS], "mask": [False, False, True, True]}, {"ids": [8, 9], "mask": [False, True]}]
    batch = collate(items, pad=EOS)
    positions, targets = supervised(batch["labels"])
    assert positions.tolist() == [1, 2, 4]  # row 0 at 1 and 2; row 1 (from 4 on) at 0
    assert targets.tolist() == [7, EOS, 9]


def test_the_end_token_is_supervised_where_it_is_also_the_pad_token():
    batch = collate([{"ids": [5, 6, EOS], "mask": [False, True, True]}, {"ids": [5, 6], "mask": [False, True]}], EOS)
    assert batch["labels"].tolist() == [[IGNORED, 6, EOS], [IGNORED, 6, IGNORED]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


def test_the_loss_is_that_of_the_models_own_logits(student, cache):
    """A batch with padding against each row alone, through the model's own head."""
    from transformers import AutoModelForCausalLM

    reader = SignalReader(cache)
    model = AutoModelForCausalLM.from_pretrained(student)
    mix = objective(ce=0.5, forward_kl=0.3, reverse_kl=0.2, jsd=0.4, jsd_beta=0.3)
    distill = DistillModel(model, mix, reader.temperature, 7, torch.float32).eval()
    examples = Examples(ROWS[:5], reader)
    result = distill(**collate([examples[i] for i in range(5)], EOS))
    expected = 0.0
    for row in ROWS[:5]:
        logits = model(torch.tensor([row.ids])).logits[0]
        at = [t for t, on in enumerate(row.mask) if on]
        chosen, targets = logits[[t - 1 for t in at]], torch.tensor([row.ids[t] for t in at])
        expected += distillation_loss(chosen, targets, reader.get(row.id), mix, 2.0).sum().item()
    count = sum(row.supervised for row in ROWS[:5])
    assert result["count"].item() == count
    assert result["loss"].item() == pytest.approx(expected / count, rel=1e-4)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "gemma3_text", "granite", "cohere"])
def test_other_heads_are_followed(family, tmp_path):
    tiny_family(tmp_path, family, tokenizer=False)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    model.config.logits_scaling = 3.0 if family == "granite" else getattr(model.config, "logits_scaling", None)
    DistillModel(model, objective(ce=1), 1.0, 8, torch.float32).check_head(torch.tensor([[5, 6, 7, 8]]))


def test_an_unknown_head_is_refused(student):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(student)
    model.lm_head.register_forward_hook(lambda module, args, output: output * 2)
    with pytest.raises(UserError, match="not supported"):
        DistillModel(model, objective(ce=1), 1.0, 8, torch.float32).check_head(torch.tensor([[5, 6, 7]]))


def test_a_head_with_an_adapter(student, cache):
    """The chunked terms of a LoRA head are the PEFT model's own logits."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(student)
    peft = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False))
    model = DistillModel(peft, objective(ce=1), 1.0, 8, torch.float32)
    model.check_head(torch.tensor([[5, 6, 7, 8]]))
    model(**collate([Examples(ROWS[:1], None)[0]], EOS))["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)


# --- the signal -----------------------------------------------------------------


def test_the_cache_gives_the_teachers_distribution(teacher, cache):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(teacher)
    reader = SignalReader(cache)
    row = ROWS[3]
    at = torch.tensor([t - 1 for t, on in enumerate(row.mask) if on])
    with torch.no_grad():
        log_p = torch.log_softmax(model(torch.tensor([row.ids])).logits[0, at] / 2.0, -1)
    found, expected = reader.get(row.id), top_k_of(log_p, 20)
    assert (reader.temperature, reader.top_k, len(reader)) == (2.0, 20, len(ROWS))
    assert (found.tokens == expected.tokens).float().mean() > 0.98  # float16 may swap neighbours
    torch.testing.assert_close(found.log_p, expected.log_p, atol=4e-3, rtol=0)
    torch.testing.assert_close(found.log_tail.exp(), expected.log_tail.exp(), atol=4e-3, rtol=0)
    torch.testing.assert_close(found.log_p.exp().sum(-1) + found.log_tail.exp(), torch.ones(len(at)))


def test_rows_that_the_cache_does_not_have_are_refused(student, cache, tmp_path):
    with pytest.raises(UserError, match="1 of 2 examples are not in the logit cache"):
        run(student, tmp_path, settings(), cache, rows=[ROWS[0], *make_rows(1, seed=9)])


def test_a_loss_that_compares_needs_a_cache(student, tmp_path):
    with pytest.raises(UserError, match="no logit cache"):
        run(student, tmp_path, settings(), None, loss=KD)


def test_a_broken_shard_is_named(tmp_path):
    (tmp_path / "shard-00000.safetensors").write_bytes(b"not a shard")
    with pytest.raises(UserError, match=r"shard-00000.*not a shard"):
        SignalReader(tmp_path)
    with pytest.raises(UserError, match="no logit cache"):
        SignalReader(tmp_path / "nothing")


# --- order ------------------------------------------------------------------------


def test_the_order_is_a_shuffle_of_similar_lengths():
    draw = random.Random(0)
    lengths = [draw.randint(1, 500) for _ in range(1003)]
    epoch = 0
    sampler = LengthGrouped(lengths, 8, 7, lambda: epoch)
    first = list(sampler)
    assert sorted(first) == list(range(1003))
    assert first == list(sampler)
    epoch = 1
    assert first != list(sampler)
    spread = [
        max(lengths[i] for i in first[at : at + 8]) - min(lengths[i] for i in first[at : at + 8])
        for at in range(0, 1000, 8)
    ]
    assert sum(spread) / len(spread) < 30  # 400 for a plain shuffle


# --- training -------------------------------------------------------------------


def test_it_learns_and_writes_the_contract(student, cache, tmp_path):
    facts = run(student, tmp_path, settings(epochs=6), cache, validation=ROWS[20:])
    record = json.loads((tmp_path / "train.json").read_text())
    assert_learned(record)
    assert set(record["log"][0]) == {"step", "loss", "lr", "tokens"}
    assert record["steps"] == 30
    assert record["supervised_tokens"] == 6 * sum(row.supervised for row in ROWS[:20])
    assert record["log"][-1]["tokens"] == record["supervised_tokens"]
    assert record["tokens"] == 6 * sum(len(row.ids) for row in ROWS[:20])
    assert record["eval_loss"] == "training loss"
    assert len(record["eval"]) == 4  # three checkpoints and the end
    assert facts["validation_loss"] == min(entry["loss"] for entry in record["eval"])
    assert not (tmp_path / "checkpoints").exists()
    assert str(tmp_path) not in (tmp_path / "adapter" / "adapter_config.json").read_text()
    assert facts == run(student, tmp_path, settings(epochs=6), cache, validation=ROWS[20:])  # done: nothing to do


@pytest.mark.parametrize("lora", [LORA, None])
def test_accumulation_is_exact(student, cache, tmp_path, lora):
    """The same rows per step in one batch, or in four of unequal token counts: the same weights."""
    common = {"epochs": 1, "weight_decay": 0.0, "schedule": "constant", "checkpoints": 0, "max_steps": 1, "warmup": 0}
    rows = ROWS[:8]
    run(student, tmp_path / "one", settings(batch_size=8, **common), cache, lora=lora, rows=rows)
    run(
        student,
        tmp_path / "four",
        settings(batch_size=2, gradient_accumulation=4, **common),
        cache,
        lora=lora,
        rows=rows,
    )
    logs = [json.loads((tmp_path / name / "train.json").read_text())["log"][0]["loss"] for name in ("one", "four")]
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)
    one, four = weights(tmp_path / "one"), weights(tmp_path / "four")
    # The first Adam step is the sign of the gradient: compare where it is not at the mercy of rounding.
    for name in one:
        close = (one[name] - four[name]).abs() < 1e-4
        assert close.float().mean() > 0.99, name


def test_gradients_under_accumulation_are_those_of_one_batch(student, cache):
    from transformers import AutoModelForCausalLM

    examples = Examples(ROWS[:8], SignalReader(cache))
    count = sum(row.supervised for row in ROWS[:8])

    def gradients(parts: list[list[int]]) -> list[torch.Tensor]:
        model = DistillModel(
            AutoModelForCausalLM.from_pretrained(student), objective(ce=0.5, forward_kl=0.5), 2.0, 5, torch.float32
        )  # fmt: skip
        for part in parts:
            model(**collate([examples[i] for i in part], EOS), num_items_in_batch=count)["loss"].backward()
        return [p.grad for p in model.parameters()]

    for a, b in zip(gradients([list(range(8))]), gradients([[0], [1, 2, 3], [4, 5], [6, 7]]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("lora", [schema.Lora(rank=4, alpha=8, dropout=0.1), None])
def test_two_runs_give_the_same_weights(student, cache, tmp_path, lora):
    for name in ("a", "b"):
        run(student, tmp_path / name, settings(gradient_accumulation=2), cache, lora=lora)
    assert_equal(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_bfloat16_trains(student, cache, tmp_path):
    facts = run(student, tmp_path, settings(epochs=6, dtype="bfloat16"), cache)
    record = json.loads((tmp_path / "train.json").read_text())
    assert facts["dtype"] == "bfloat16"
    assert_learned(record)
    assert all(tensor.dtype == torch.float32 for tensor in weights(tmp_path).values())


class Killer(SilentProgress):
    """Calls `act` after some steps."""

    def __init__(self, after: int, act) -> None:
        self.after, self.act, self.lines = after, act, []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def task(self, title, total):
        killer = self

        class Task:
            done = 0

            def __enter__(self):
                return self

            def __exit__(self, *exc):
                return None

            def advance(self, steps=1, note=""):
                self.done += steps
                if self.done >= killer.after and killer.act:
                    act, killer.act = killer.act, None
                    act()

        return Task()


class Killed(BaseException):
    pass


def boom() -> None:
    raise Killed


# Ten steps, two epochs of five; checkpoints after 2, 5, 8 (5 is the end of an epoch).
@pytest.mark.parametrize("after", [1, 4, 6, 9])
def test_resume_after_a_kill_gives_the_same_weights(student, cache, tmp_path, after):
    lora = schema.Lora(rank=4, alpha=8, dropout=0.1)
    kwargs = {"signal_dir": cache, "lora": lora, "validation": ROWS[20:]}
    run(student, tmp_path / "whole", settings(), **kwargs)
    with pytest.raises(Killed):
        run(student, tmp_path / "cut", settings(), progress=Killer(after, boom), **kwargs)
    assert not (tmp_path / "cut" / "train.json").exists()
    again = Killer(10**9, None)
    run(student, tmp_path / "cut", settings(), progress=again, **kwargs)
    assert any("resuming from checkpoint" in line for line in again.lines) == (after > 2)
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    whole, cut = (json.loads((tmp_path / name / "train.json").read_text()) for name in ("whole", "cut"))
    assert whole["supervised_tokens"] == cut["supervised_tokens"]
    assert [e["step"] for e in whole["log"]] == [e["step"] for e in cut["log"]]
    assert whole["eval"] == cut["eval"]


def test_a_half_written_checkpoint_is_not_used(student, cache, tmp_path):
    with pytest.raises(Killed):
        run(student, tmp_path, settings(), cache, progress=Killer(6, boom))
    newest = tmp_path / "checkpoints" / "checkpoint-5"
    (newest / "complete").unlink()
    (newest / "optimizer.pt").write_bytes(b"")
    again = Killer(10**9, None)
    run(student, tmp_path, settings(), cache, progress=again)
    assert any("resuming from checkpoint-2 " in line for line in again.lines)


def test_ctrl_c_saves_and_says_how_to_go_on(student, cache, tmp_path):
    run(student, tmp_path / "whole", settings(), cache)
    before = signal.getsignal(signal.SIGINT)  # a shell starts a job in the background with SIGINT ignored
    killer = Killer(3, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run(student, tmp_path / "cut", settings(), cache, progress=killer)
    assert "run the same command again" in killer.lines[-1]
    assert any((tmp_path / "cut" / "checkpoints").glob("checkpoint-[34]/complete"))
    assert signal.getsignal(signal.SIGINT) is before
    run(student, tmp_path / "cut", settings(), cache)
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_request_to_end_in_the_last_step_keeps_the_result_and_ends(student, cache, tmp_path, name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    signal.signal(number, signal.SIG_DFL)
    try:
        last = run(student, tmp_path / "whole", settings(), cache)["steps"]
        with pytest.raises(Stopped, match=name):
            run(
                student, tmp_path / "cut", settings(), cache,
                progress=Killer(last, lambda: os.kill(os.getpid(), number)),
            )  # fmt: skip
        signal.signal(number, signal.SIG_IGN)  # as nohup does
        run(student, tmp_path / "nohup", settings(max_steps=2), cache,
            progress=Killer(1, lambda: os.kill(os.getpid(), number)))  # fmt: skip
    finally:
        signal.signal(number, before)
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert (tmp_path / "cut" / "train.json").is_file()
    assert (tmp_path / "nohup" / "train.json").is_file()


def test_it_runs_in_a_thread(student, tmp_path):
    """Signals can only be caught in the main thread."""
    result: list[dict] = []
    thread = threading.Thread(target=lambda: result.append(run(student, tmp_path, settings(max_steps=1))))
    thread.start()
    thread.join()
    assert result[0]["steps"] == 1


def test_a_diverging_run_is_a_user_error(student, tmp_path):
    beyond = {"learning_rate": 1e30, "max_grad_norm": 1e30}  # more than a recipe may say: the small model stands a lot
    with pytest.raises(UserError, match="diverged"):
        run(student, tmp_path, settings(epochs=4, schedule="constant").model_copy(update=beyond))


def test_unknown_modules_are_a_user_error(student, tmp_path):
    with pytest.raises(UserError, match=r"student\.lora\.targets"):
        run(student, tmp_path, settings(), lora=schema.Lora(rank=2, alpha=2, targets=("nowhere",)))


def test_an_adapter_on_a_tied_head_is_refused_before_training(student, tmp_path):
    with pytest.raises(UserError, match="one matrix") as caught:
        run(student, tmp_path, settings(), lora=schema.Lora(rank=2, alpha=2, targets=("q_proj", "lm_head")))
    assert caught.value.where == "student.lora.targets"


def test_no_rows_is_a_user_error(student, tmp_path):
    with pytest.raises(UserError, match="nothing to train on"):
        run(student, tmp_path, settings(), rows=[])


def test_validation_keeps_the_best_weights(student, tmp_path):
    """A rate that ruins the model late: what is kept is the checkpoint that validation liked."""
    facts = run(
        student,
        tmp_path,
        settings(epochs=12, learning_rate=0.05, schedule="constant", checkpoints=11),
        validation=make_rows(12, seed=5),
    )
    record = json.loads((tmp_path / "train.json").read_text())
    best = min(record["eval"], key=lambda entry: entry["loss"])
    assert record["kept_step"] == best["step"] < record["steps"]
    assert facts["validation_loss"] == best["loss"]
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(student), tmp_path / "adapter").eval()
    distill = DistillModel(model, objective(ce=1), 1.0, 16, torch.float32).eval()
    examples = Examples(make_rows(12, seed=5), None)
    with torch.no_grad():
        loss = distill(**collate([examples[i] for i in range(12)], EOS))["loss"].item()
    assert loss == pytest.approx(best["loss"], rel=1e-3)


# --- gradient checkpointing ----------------------------------------------------


@pytest.mark.parametrize("lora", [LORA, None])
def test_gradient_checkpointing_keeps_less_and_trains_the_same(student, tmp_path, lora):
    from distill2edge.distill.train import load_student

    def kept(checkpointing: bool) -> int:
        model = load_student(student, lora, torch.float32, checkpointing=checkpointing).train()
        total = 0

        def pack(value: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += value.nbytes
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            model.get_decoder()(torch.arange(3, 67)[None])
        return total

    assert kept(True) < 0.5 * kept(False)
    for name, on in (("plain", False), ("checkpointed", True)):
        run(student, tmp_path / name, settings(gradient_checkpointing=on), lora=lora)
    plain, checkpointed = weights(tmp_path / "plain"), weights(tmp_path / "checkpointed")
    assert all(torch.allclose(plain[name], checkpointed[name], atol=1e-6) for name in plain)
