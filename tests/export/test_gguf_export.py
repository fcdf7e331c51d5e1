"""GGUF export: every family computes in llama.cpp what it computes in torch, tokenizers and metadata survive."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from distill2edge.errors import UserError
from distill2edge.export.faithful import Check
from distill2edge.export.gguf import export_gguf
from distill2edge.gguf import llama_process
from distill2edge.gguf.corpus import TEXTS
from distill2edge.gguf.reader import read_gguf
from distill2edge.intake.random_models import train_tokenizer, write_weights
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.recipe.scratch import Scratch
from distill2edge.runtimes.llama_cpp import LlamaCppRuntime
from distill2edge.util.progress import SilentProgress
from tests.tiny import CHAT_TEMPLATE, corpus, tiny_family, tiny_llama, tiny_tokenizer

META = {
    "name": "tiny",
    "licence": "apache-2.0",
    "teacher": "big",
    "recipe": "quickstart",
    "recipe_key": "abc123",
    "description": "a test",
}
IDS = [1, *np.random.default_rng(0).integers(3, 400, 60).tolist()]
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES = {
    "llama": ("llama", {}),
    "llama-untied-bias": ("llama", {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}),
    "llama3-rope": ("llama", {"rope_parameters": LLAMA3_ROPE}),
    "llama-linear-rope": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen2-untied": ("qwen2", {"tie_word_embeddings": False}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "gemma3": ("gemma3_text", {"num_hidden_layers": 7}),
    "gemma3-dropped-layers": (
        "gemma3_text",
        {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "num_hidden_layers": 3},
    ),
}

HELD = ["Modelfile", "USE.md", "export.json", "input.json", "model.gguf", "predict.py"]


def kl(model: torch.nn.Module, rows: np.ndarray) -> float:
    """Mean KL(torch || rows) over the positions of IDS, nats."""
    with torch.no_grad():
        wanted = torch.log_softmax(model(torch.tensor([IDS])).logits[0].double(), -1)
    got = torch.log_softmax(torch.from_numpy(rows).double(), -1)
    return float((wanted.exp() * (wanted - got)).sum(-1).mean())


def export(directory: Path, scheme: str, work: Path, **more: object) -> dict:
    return export_gguf(directory, parse_scheme(scheme), META, work, SilentProgress(), **more)


def logits(path: Path, **options: object) -> np.ndarray:
    runtime = LlamaCppRuntime(path, threads=1, context=128, **options)
    try:
        return runtime.logits(IDS, range(len(IDS)))
    finally:
        runtime.close()


@pytest.mark.parametrize("name", FAMILIES)
def test_family_computes_what_torch_computes(name: str, tmp_path: Path) -> None:
    model_type, changes = FAMILIES[name]
    model = tiny_family(tmp_path / "hf", model_type, **changes)
    facts = export(tmp_path / "hf", "gguf:F32", tmp_path / "out")
    assert kl(model, logits(tmp_path / "out", cache="f32")) < 1e-6
    tied = changes.get("tie_word_embeddings", True)
    assert ("output.weight" in read_gguf(tmp_path / "out/model.gguf").tensors) is not tied
    assert facts["parameters"] >= model.num_parameters()
    assert facts["fallbacks"] == []


@pytest.mark.parametrize(("scheme", "limit"), [("F16", 1e-4), ("BF16", 1e-3), ("Q8_0", 3e-3), ("Q4_0", 0.3)])
def test_schemes_load_and_are_close(scheme: str, limit: float, tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "hf")
    facts = export(tmp_path / "hf", f"gguf:{scheme}", tmp_path / "out")
    assert kl(model, logits(tmp_path / "out")) < limit
    assert facts == json.loads((tmp_path / "out/export.json").read_text())
    assert facts["size_bytes"] == (tmp_path / "out/model.gguf").stat().st_size
    assert sum(entry["tensors"] for entry in facts["types"].values()) == len(
        read_gguf(tmp_path / "out/model.gguf").tensors
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == HELD


def test_one_comparison_serves_every_scheme_of_a_model_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    check = Check.of
    monkeypatch.setattr(Check, "of", lambda self, path, work: compared.append(path) or check(self, path, work))
    tiny_llama(tmp_path / "hf")
    found = [export(tmp_path / "hf", f"gguf:{name}", tmp_path / name) for name in ("Q4_0", "Q8_0", "F16", "Q5_1")]
    assert len(compared) == 2  # in 32 bits, and in the 16 of F16
    assert found[0]["faithful"] == found[1]["faithful"] == found[3]["faithful"] != found[2]["faithful"]
    assert found[0]["tokenizer"] == found[3]["tokenizer"]
    tiny_llama(tmp_path / "hf", seed=1)
    export(tmp_path / "hf", "gguf:Q4_0", tmp_path / "other weights")
    assert len(compared) == 3
    settings = tmp_path / "hf/tokenizer_config.json"
    settings.write_text(settings.read_text() + " ")
    export(tmp_path / "hf", "gguf:Q4_0", tmp_path / "another tokenizer")
    assert len(compared) == 4


def test_q2_and_q3_report_their_fallbacks(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "hf")
    facts = export(tmp_path / "hf", "gguf:Q3_K_M", tmp_path / "out")
    assert {("Q2_K or Q3_K", "Q4_0")} <= {(item["wanted"], item["used"]) for item in facts["fallbacks"]}


def test_k_quants_report_their_fallbacks(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "hf")  # rows of 64 and 128: no multiple of 256 anywhere
    facts = export(tmp_path / "hf", "gguf:Q4_K_M", tmp_path / "out")
    matrices = sum(1 for info in read_gguf(tmp_path / "out/model.gguf").tensors.values() if len(info.shape) == 2)
    assert len(facts["fallbacks"]) == matrices
    assert {item["used"] for item in facts["fallbacks"]} <= {"Q5_0", "Q8_0"}
    assert "Q4_K" not in facts["types"]
    assert facts["effective_bits"] > 5.4

    tiny_llama(tmp_path / "wide", hidden=256)
    facts = export(tmp_path / "wide", "gguf:Q4_K_M", tmp_path / "wide-out")
    assert facts["fallbacks"] == []
    assert "Q4_K" in facts["types"]


def test_metadata_tokens_and_template_are_in_the_file(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "hf")
    export(tmp_path / "hf", "gguf:Q8_0", tmp_path / "out")
    file = read_gguf(tmp_path / "out/model.gguf")
    assert file.get("general.name") == "tiny"
    assert file.get("general.license") == "apache-2.0"
    assert file.get("general.base_model.0.name") == "big"
    assert file.get("distill2edge.teacher") == "big"
    assert file.get("distill2edge.recipe_key") == "abc123"
    assert file.get("tokenizer.chat_template") == CHAT_TEMPLATE
    assert (file.get("tokenizer.ggml.bos_token_id"), file.get("tokenizer.ggml.eos_token_id")) == (1, 2)
    assert file.get("tokenizer.ggml.padding_token_id") == 2
    assert file.get("tokenizer.ggml.add_bos_token") is False
    assert file.get("tokenizer.ggml.pre") == "smollm"


def test_embedding_larger_than_the_vocabulary(tmp_path: Path) -> None:
    model = tiny_family(tmp_path / "hf", "llama", vocab_size=416)
    export(tmp_path / "hf", "gguf:F32", tmp_path / "out")
    rows = logits(tmp_path / "out", cache="f32")
    assert rows.shape[1] == 416
    assert kl(model, rows) < 1e-6


def test_a_vocabulary_without_merges_is_tokenized_alike(tmp_path: Path) -> None:
    train_tokenizer(["12", "34"], 258, tmp_path / "hf", ends_source=False)  # the bytes and nothing else
    write_weights(Scratch(architecture="llama", layers=1, hidden=32, heads=2), tmp_path / "hf", 0, 64)
    export(tmp_path / "hf", "gguf:Q8_0", tmp_path / "out")
    texts = ["12 plus 45: naïve ÿÿ 你好 \n\n  x", "ÿ"]
    ours = AutoTokenizer.from_pretrained(tmp_path / "hf")(texts).input_ids
    assert llama_process.tokenize(tmp_path / "out/model.gguf", texts) == ours


def test_unknown_architecture_names_the_supported_ones(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt_neox"}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"gpt_neox.*Llama.*Qwen2.*Qwen3.*Gemma 3") as caught:
        _export_or_raise(tmp_path)
    assert "--converter" in caught.value.fix
    assert not (tmp_path / "out/model.gguf").exists()


def _export_or_raise(directory: Path) -> None:
    export(directory, "gguf:F16", directory / "out")


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    tiny_llama(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="damaged safetensors"):
        _export_or_raise(tmp_path)


def test_unmerged_adapter_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tiny_llama(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.lora_A.weight"] = torch.zeros(4, 64)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"lora_A"):
        _export_or_raise(tmp_path)


def test_sliding_window_is_refused_where_llama_cpp_ignores_it(tmp_path: Path) -> None:
    tiny_family(tmp_path, "mistral", sliding_window=16)
    with pytest.raises(UserError, match="sliding-window"):
        _export_or_raise(tmp_path)


def test_quantizer_failure_carries_its_last_words(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "hf")
    export(tmp_path / "hf", "gguf:F32", tmp_path / "out")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes((tmp_path / "out/model.gguf").read_bytes()[:-5000])
    with pytest.raises(UserError, match="last words"):
        llama_process.quantize(broken, tmp_path / "q.gguf", 2, threads=1)


def test_leftovers_of_a_killed_try_do_not_ship(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "hf")
    work = tmp_path / "out"
    for name in ("scratch-gguf/base.gguf", "scratch-gguf/compare/answers.npz"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(b"half")
    export(tmp_path / "hf", "gguf:Q8_0", work)
    assert kl(model, logits(work)) < 3e-3
    assert sorted(path.name for path in work.iterdir()) == HELD


def test_converter_of_a_checkout(tmp_path: Path) -> None:
    """A stand-in for convert_hf_to_gguf.py: same arguments, copies a finished file."""
    model = tiny_llama(tmp_path / "hf")
    export(tmp_path / "hf", "gguf:F32", tmp_path / "made")
    script = tmp_path / "convert.py"
    script.write_text(
        "import shutil, sys\n"
        f"shutil.copy({str(tmp_path / 'made/model.gguf')!r}, sys.argv[sys.argv.index('--outfile') + 1])\n"
    )
    facts = export_gguf(
        tmp_path / "hf",
        parse_scheme("gguf:Q8_0"),
        META | {"recipe_key": "other"},
        tmp_path / "out",
        SilentProgress(),
        converter=script,
    )
    assert facts["converter"] == script.name
    assert read_gguf(tmp_path / "out/model.gguf").get("distill2edge.recipe_key") == "other"
    assert kl(model, logits(tmp_path / "out")) < 3e-3
    with pytest.raises(UserError, match="no such converter"):
        export(tmp_path / "hf", "gguf:Q8_0", tmp_path / "out2", converter=tmp_path / "missing.py")
    script.write_text("raise SystemExit('I cannot do that')")
    with pytest.raises(UserError, match="I cannot do that"):
        export(tmp_path / "hf", "gguf:Q8_0", tmp_path / "out3", converter=script)


def test_compares_ids_on_text_that_matters() -> None:
    joined = "".join(TEXTS)
    assert all(part in joined for part in ("🙂", "你好", "def add", "   ", "\n\n", "\r\n", "12345"))


@pytest.mark.parametrize("faithful", [True, False])
def test_unigram_goes_out_when_llama_cpp_agrees_and_is_refused_when_not(faithful: bool, tmp_path: Path) -> None:
    """Metaspace in its own way skips the prefix before a leading space, which llama.cpp does not."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # A fixed vocabulary: the trainer's differs from run to run, and a learnt run such as "\n\n" lets "\n\n\n" be cut
    # in two ways of equal score, which the two libraries order differently. Letters and whole words have no such ties.
    letters = sorted({"\u2581", *"".join((*TEXTS, *corpus())).replace(" ", "\u2581")})
    words = sorted({f"\u2581{word}" for line in corpus() for word in line.split() if word.isalpha() and len(word) > 1})
    pieces = [(letter, -10 - 0.0137 * n) for n, letter in enumerate(letters)]
    pieces += [(word, -5 - 0.00731 * n) for n, word in enumerate(words)]
    core = Tokenizer(models.Unigram([("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *pieces], unk_id=0))
    core.add_special_tokens(["<unk>", "<s>", "</s>"])
    if faithful:
        core.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never" if faithful else "always")
    core.decoder = decoders.Metaspace()
    tiny_family(tmp_path / "hf", "llama", vocab_size=core.get_vocab_size(), tokenizer=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(tmp_path / "hf")
    if faithful:
        export(tmp_path / "hf", "gguf:F32", tmp_path / "out")
        assert read_gguf(tmp_path / "out/model.gguf").get("tokenizer.ggml.model") == "t5"
    else:
        with pytest.raises(UserError, match="own tokenizer as"):
            export(tmp_path / "hf", "gguf:F32", tmp_path / "out")
