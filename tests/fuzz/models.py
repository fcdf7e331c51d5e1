"""Tiny models of several families that the kinds start from."""

from __future__ import annotations

import shutil
from pathlib import Path

CARD = "---\nlicense: apache-2.0\n---\n"


def directories(work: Path) -> dict[str, Path]:
    """Hugging Face directories: decoders, an encoder-decoder, classifiers, and one in shards."""
    from tiny import tiny_bert, tiny_family, tiny_llama, tiny_t5

    found = {name: work / name for name in ("llama", "qwen2", "gemma", "bert", "roberta", "t5", "shards")}
    tiny_llama(found["llama"])
    tiny_family(found["qwen2"], "qwen2", tie_word_embeddings=False)
    tiny_family(found["gemma"], "gemma3_text")
    tiny_bert(found["bert"])
    _roberta(found["roberta"])
    tiny_t5(found["t5"])
    shutil.copytree(found["llama"], found["shards"])
    (found["shards"] / "model.safetensors").unlink()
    tiny_llama(work / "again").save_pretrained(found["shards"], max_shard_size="60KB")
    for path in found.values():
        (path / "README.md").write_text(CARD)
    return found


def ggufs(work: Path, sources: dict[str, Path]) -> dict[str, Path]:
    """The same models as GGUF files, as far as there is a writer."""
    from distill2edge.export.gguf import export_gguf
    from distill2edge.quantize.schemes import parse_scheme
    from distill2edge.util.progress import SilentProgress

    found = {}
    for name in ("llama", "qwen2", "gemma", "bert", "t5"):
        export_gguf(sources[name], parse_scheme("gguf:F16"), {"name": name}, work / f"{name}-gguf", SilentProgress())
        found[name] = next((work / f"{name}-gguf").glob("*.gguf"))
    return found


def _roberta(directory: Path) -> None:
    import torch
    from tiny import tiny_tokenizer
    from transformers import RobertaConfig, RobertaForSequenceClassification

    tiny_tokenizer(directory)
    torch.manual_seed(0)
    RobertaForSequenceClassification(
        RobertaConfig(
            vocab_size=400,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=66,
            type_vocab_size=1,
            pad_token_id=2,
            num_labels=3,
        )
    ).save_pretrained(directory)
