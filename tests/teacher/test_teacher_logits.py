"""The logit cache: equal to a dense forward pass by value, at the right positions, and resumable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tiny import tiny_llama

from distill2edge.data.encode import encode_rows
from distill2edge.data.examples import Encoded, Row, row_id
from distill2edge.distill.logit_cache import SignalReader
from distill2edge.errors import UserError
from distill2edge.generation.backends import TransformersBackend
from distill2edge.recipe.schema import LogitsSignal
from distill2edge.teacher import logits as module
from distill2edge.teacher.logits import cache_logits
from distill2edge.teacher.token_views import compress
from distill2edge.util.progress import SilentProgress

PROMPTS = [f"the quick brown fox {'and then it sleeps ' * (n % 5)}{n}" for n in range(23)]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("teacher")
    tiny_llama(directory)
    return directory


@pytest.fixture(scope="module")
def examples(teacher: Path) -> list[Encoded]:
    from transformers import AutoTokenizer

    rows = [Row(row_id(text, "x"), text, f" good film, {n}", n % 2) for n, text in enumerate(PROMPTS)]
    return encode_rows(rows, AutoTokenizer.from_pretrained(teacher), "chat", None, 200)


@pytest.fixture(scope="module")
def dense(teacher: Path, examples: list[Encoded]) -> dict[str, torch.Tensor]:
    """Logits [supervised, V] of each example, one by one, without padding."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
    found = {}
    for example in examples:
        with torch.no_grad():
            every = model(torch.tensor([example.ids])).logits[0]
        found[example.id] = every[[t - 1 for t, on in enumerate(example.mask) if on]]
    return found


def signal(k: int = 16, temperature: float = 2.0) -> LogitsSignal:
    return LogitsSignal(top_k=k, temperature=temperature)


def cache(teacher: Path, examples: list[Encoded], work: Path, **options: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"dtype": "float32", "signal": signal()} | options
    return cache_logits(teacher, examples, settings.pop("signal"), work, SilentProgress(), **settings)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("k", [1, 16, 400, 4096])
def test_the_cache_is_the_dense_distribution(
    teacher: Path, examples: list[Encoded], dense: dict[str, torch.Tensor], tmp_path: Path, k: int, temperature: float
) -> None:
    facts = cache(teacher, examples, tmp_path, signal=signal(k, temperature), shard_rows=10)
    reader = SignalReader(tmp_path)
    assert (facts["shards"], facts["examples"], len(reader)) == (3, len(examples), len(examples))
    assert facts["positions"] == sum(example.supervised for example in examples)
    for example in examples:
        expected = torch.log_softmax(dense[example.id] / temperature, dim=-1)
        found = reader.get(example.id)
        assert found.tokens.shape == (example.supervised, min(k, 400))
        picked = expected.gather(1, found.tokens)
        torch.testing.assert_close(found.log_p, picked, atol=5e-3, rtol=0)
        assert (picked[:, 0] == expected.max(-1).values).all()
        total = found.log_p.exp().sum(-1) + found.log_tail.exp()
        torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)


def test_rows_are_the_supervised_positions_and_no_others(
    teacher: Path, examples: list[Encoded], dense: dict[str, torch.Tensor]
) -> None:
    backend = TransformersBackend(teacher, "float32")
    seen = set()
    for number, found in backend.supervised_logits(examples):
        torch.testing.assert_close(found.cpu(), dense[examples[number].id], atol=1e-4, rtol=1e-4)
        seen.add(number)
    assert seen == set(range(len(examples)))


def test_bfloat16_keeps_the_head_in_float32(
    teacher: Path, examples: list[Encoded], dense: dict[str, torch.Tensor]
) -> None:
    from transformers import AutoModelForCausalLM

    backend = TransformersBackend(teacher, "bfloat16")
    plain = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.bfloat16).eval()
    ours, theirs = [], []
    for number, found in backend.supervised_logits(examples):
        example = examples[number]
        expected = dense[example.id]
        ours.append((found.cpu() - expected).abs().mean())
        with torch.no_grad():
            every = plain(torch.tensor([example.ids])).logits[0].float()
        theirs.append((every[[t - 1 for t, on in enumerate(example.mask) if on]] - expected).abs().mean())
    assert torch.stack(ours).mean() < torch.stack(theirs).mean()
    assert torch.stack(ours).mean() < 0.05


def test_a_model_that_scales_its_logits_keeps_doing_so(teacher: Path, examples: list[Encoded], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, final_logit_softcapping=1.0, initializer_range=0.5,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(teacher).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    for number, found in TransformersBackend(tmp_path, "float32").supervised_logits(examples[:4]):
        assert found.abs().max() <= 1.0
        example = examples[number]
        with torch.no_grad():
            every = model(torch.tensor([example.ids])).logits[0]
        expected = every[[t - 1 for t, on in enumerate(example.mask) if on]]
        torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-3)


def test_a_second_try_keeps_finished_shards(
    teacher: Path, examples: list[Encoded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    written: list[int] = []
    original = module._write_shard

    def dying(path: Path, *rest: Any) -> None:
        if len(written) == 2:
            raise KilledError
        written.append(1)
        original(path, *rest)

    monkeypatch.setattr(module, "_write_shard", dying)
    with pytest.raises(KilledError):
        cache(teacher, examples, tmp_path, shard_rows=6)
    assert len(list(tmp_path.glob("shard-*"))) == 2
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("shard-*")}
    (tmp_path / "shard-00001.safetensors").write_bytes(b"cut off")  # as a full disk may leave it

    monkeypatch.setattr(module, "_write_shard", original)
    facts = cache(teacher, examples, tmp_path, shard_rows=6)
    assert facts["shards"] == 4
    assert (tmp_path / "shard-00000.safetensors").stat().st_mtime_ns == before["shard-00000.safetensors"]
    resumed = {path.name: load_file(path) for path in sorted(tmp_path.glob("shard-*"))}
    fresh = tmp_path / "fresh"
    cache(teacher, examples, fresh, shard_rows=6)
    for path in sorted(fresh.glob("shard-*")):
        for name, array in load_file(path).items():
            np.testing.assert_array_equal(array, resumed[path.name][name])


def test_nothing_is_computed_when_all_is_there(
    teacher: Path, examples: list[Encoded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache(teacher, examples, tmp_path)
    monkeypatch.setattr(module, "open_backend", lambda *a, **k: pytest.fail("the teacher was loaded"))
    assert cache(teacher, examples, tmp_path)["tokens_per_s"] is None


def test_other_settings_are_not_taken_for_the_same(teacher: Path, examples: list[Encoded], tmp_path: Path) -> None:
    cache(teacher, examples, tmp_path, shard_rows=6)
    cache(teacher, examples[:8], tmp_path, signal=signal(temperature=1.0), shard_rows=6)
    reader = SignalReader(tmp_path)
    assert (reader.temperature, len(reader)) == (1.0, 8)
    assert len(list(tmp_path.glob("shard-*"))) == 2
    cache(teacher, examples[:8], tmp_path, signal=signal(k=8, temperature=1.0), shard_rows=6)
    assert SignalReader(tmp_path).top_k == 8
    cache(teacher, examples[:8], tmp_path, signal=signal(k=16, temperature=1.0), shard_rows=6)
    assert SignalReader(tmp_path).top_k == 16


def test_the_same_example_is_computed_once(teacher: Path, examples: list[Encoded], tmp_path: Path) -> None:
    facts = cache(teacher, [*examples[:3], examples[0]], tmp_path)
    assert facts["examples"] == 3
    assert load_file(tmp_path / "shard-00000.safetensors")["index"].dtype == np.uint16


def test_shards_are_cut_by_tokens_too(teacher: Path, examples: list[Encoded], tmp_path: Path) -> None:
    longest = max(len(example.ids) for example in examples)
    facts = cache(teacher, examples, tmp_path, shard_tokens=longest)
    assert facts["shards"] > 5


def test_bad_input(teacher: Path, examples: list[Encoded], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no rows"):
        cache(teacher, [], tmp_path)
    with pytest.raises(UserError, match="needs a GGUF") as caught:
        cache(teacher, examples, tmp_path, backend="llama.cpp")
    assert "transformers" in caught.value.fix
    with pytest.raises(UserError, match="unknown backend"):
        cache(teacher, examples, tmp_path, backend="vllm")
    with pytest.raises(UserError, match="unknown dtype"):
        cache(teacher, examples, tmp_path, dtype="int8")


def test_infinite_logits_are_refused(
    teacher: Path, examples: list[Encoded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, given: Any) -> Any:
        yield 0, torch.full((given[0].supervised, 400), float("nan"))

    monkeypatch.setattr(TransformersBackend, "supervised_logits", broken)
    with pytest.raises(UserError, match="infinite or undefined"):
        cache(teacher, examples[:1], tmp_path)
    assert not list(tmp_path.glob("shard-*"))


def test_compress_gives_the_shift_of_its_definition() -> None:
    z = torch.randn(5, 50, dtype=torch.float32) * 4
    index, logprob, shift = compress(z, 7, 3.0)
    expected = torch.log_softmax(z.double() / 3.0, -1).gather(1, index)
    torch.testing.assert_close((logprob / 3.0 + shift[:, None]).double(), expected, atol=1e-5, rtol=0)
    assert (logprob[:, :-1] >= logprob[:, 1:]).all()


def test_llama_cpp_gives_the_same_signal(teacher: Path, examples: list[Encoded], tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    from distill2edge.export.gguf import export_gguf
    from distill2edge.quantize.schemes import parse_scheme

    meta = {"name": "t", "licence": "mit", "teacher": "t", "recipe": "t", "recipe_key": "0", "description": "t"}
    export_gguf(teacher, parse_scheme("gguf:F32"), meta, tmp_path / "gguf", SilentProgress())
    cache(teacher, examples, tmp_path / "torch")
    facts = cache(
        teacher, examples, tmp_path / "llama", backend="llama.cpp", gguf_path=tmp_path / "gguf" / "model.gguf"
    )
    assert facts["backend"] == "llama.cpp"
    ours, theirs = SignalReader(tmp_path / "torch"), SignalReader(tmp_path / "llama")
    assert ours.vocabulary == theirs.vocabulary
    for example in examples:
        a, b = ours.get(example.id), theirs.get(example.id)
        torch.testing.assert_close(a.log_p[:, 0], b.log_p[:, 0], atol=0.02, rtol=0)
        assert (a.tokens[:, 0] == b.tokens[:, 0]).float().mean() > 0.9
