"""A decoder's vocabulary, trimmed to the rows of one narrow task: bytes of the files, and the task's score.

SmolLM2 on the quickstart's rows: a student of its lowest 8 layers, one pass (a smaller shape than the quickstart's, so
that three seeds of both arms fit), with and without student.vocabulary. And Gemma 3 270M's shape, with random weights
and a SentencePiece tokenizer of 262,144 tokens that is made here: bytes alone.

python benchmarks/vocabulary.py --store EMPTY
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from common import ROOT, bar, paired, write_result

import distill2edge as d2e
from distill2edge.data.split_files import read_rows
from distill2edge.export.gguf import export_gguf
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.student.vocabulary import trim_vocabulary
from distill2edge.util.progress import SilentProgress

RECIPE = ROOT / "recipes" / "vocabulary" / "movies.yaml"
SEEDS = (0, 1, 2)
SCHEMES = ("gguf:Q8_0", "gguf:Q4_K_M")
ARMS = {"trimmed": {}, "whole": {"student.vocabulary": "keep"}}
GEMMA = {
    "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18, "num_attention_heads": 4,
    "num_key_value_heads": 1, "head_dim": 256, "max_position_embeddings": 512, "sliding_window": 512,
    "query_pre_attn_scalar": 256,
}  # fmt: skip
TOKENS = 262_144
SPACE = "\u2581"


def main() -> None:
    """Run what is not in the store, write the result: bytes first, then the scores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--bytes", action="store_true", help="no training: the scores are not measured")
    options = parser.parse_args()
    store = options.store
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        made = {kind: d2e.run(RECIPE, upto=kind, store=store, out=work / "runs" / kind).artifacts[kind]
                for kind in ("data", "teacher")}  # fmt: skip
        texts = [row.prompt + row.response for row in read_rows(made["data"].path, "train")]
        teacher = shorter(made["teacher"].path / "model", work / "teacher")
        sizes = {
            "SmolLM2-135M, all 30 layers": files(teacher, texts, work / "smollm2"),
            "Gemma 3 270M's shape": files(gemma(work / "gemma", teacher), texts, work / "gemma-files"),
        }
        write({}, sizes)
        if not options.bytes:
            write({arm: run(arm, work / arm, store) for arm in ARMS}, sizes)


def shorter(model_dir: Path, target: Path) -> Path:
    """The model with a window of 512 tokens, so that comparing its files with PyTorch takes seconds."""
    shutil.copytree(model_dir, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 512}))
    return target


def run(arm: str, out: Path, store: Path | None) -> list[dict[str, Any]]:
    """One report for each seed of the training; rows, teacher and signal are the same for all."""
    d2e.run(RECIPE, ARMS[arm], seeds=SEEDS, store=store, out=out)
    return [json.loads((out / f"seed-{seed}" / "report.json").read_text()) for seed in SEEDS]


def files(model_dir: Path, texts: list[str], work: Path) -> dict[str, Any]:
    """Bytes of a model's files with its whole vocabulary and with that of the texts; nothing is trained."""
    tokenizer = trim_tokens(model_dir, texts)
    facts = trim_vocabulary(model_dir, (), work / "trimmed", SilentProgress(), used=tokenizer)
    found: dict[str, Any] = {"tokens": facts["old_size"], "kept": facts["new_size"]}
    for scheme in SCHEMES:
        sizes = [
            export_gguf(place, parse_scheme(scheme), {"name": "m"}, work / f"{name}-{scheme[5:]}", SilentProgress())
            for name, place in (("whole", model_dir), ("trimmed", work / "trimmed"))
        ]
        whole, trimmed = (each["size_bytes"] for each in sizes)
        found[scheme] = {"whole": whole, "trimmed": trimmed, "saved": 1 - trimmed / whole}
    return found


def trim_tokens(model_dir: Path, texts: list[str]) -> list[list[int]]:
    """The texts in the model's tokens."""
    from distill2edge.data.tokens import tokenize
    from distill2edge.models.checkpoint import load_tokenizer

    return tokenize(load_tokenizer(model_dir), texts, special=True)


def gemma(directory: Path, english: Path) -> Path:
    """A random Gemma 3 of the shape of its 270M model, with a tokenizer of as many tokens."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    gemma_tokenizer(directory, merges_of(english))
    config = Gemma3TextConfig(
        vocab_size=TOKENS, bos_token_id=2, eos_token_id=1, pad_token_id=0, tie_word_embeddings=True, **GEMMA
    )
    torch.manual_seed(0)
    Gemma3ForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
    return directory


def gemma_tokenizer(directory: Path, english: list[tuple[str, str]]) -> None:
    """SentencePiece BPE with single bytes, as Gemma's: SmolLM2's own words, then characters and pairs of Chinese.

    Which other tokens there are does not matter to the size: the rows of the task use none of them.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    tokens = dict.fromkeys([*special, *(f"<0x{number:02X}>" for number in range(256)), SPACE])
    tokens |= dict.fromkeys(map(chr, [*range(33, 127), *range(161, 592), *range(0x4E00, 0x9FA6)]))
    made: list[str] = []
    for left, right in english:
        if left in tokens and right in tokens:
            made.append(left + right)
            tokens[left + right] = None
    characters = list(map(chr, range(0x4E00, 0x9FA6)))
    for number in range(len(characters) ** 2):
        if len(tokens) == TOKENS:
            break
        made.append(characters[number % len(characters)] + characters[number // len(characters)])
        tokens[made[-1]] = None
    merges = [
        [token[:at], token[at:]]
        for token in dict.fromkeys(made)
        for at in range(1, len(token))
        if token[:at] in tokens and token[at:] in tokens
    ]
    spec = {
        "version": "1.0", "truncation": None, "padding": None, "post_processor": None,
        "added_tokens": [
            {"id": index, "content": token, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False} for index, token in enumerate(special)
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"},
        ]},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)}, "merges": merges,
        },
    }  # fmt: skip
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(spec)), bos_token="<bos>", eos_token="<eos>",
        pad_token="<pad>", unk_token="<unk>",
    )  # fmt: skip
    fast.save_pretrained(directory)


def merges_of(model_dir: Path) -> list[tuple[str, str]]:
    """SmolLM2's merges of ASCII text, with SentencePiece's mark for a space."""
    from distill2edge.models.checkpoint import load_tokenizer

    spec = json.loads(load_tokenizer(model_dir).backend_tokenizer.to_str())
    pairs = [tuple(each.split(" ", 1) if isinstance(each, str) else each) for each in spec["model"]["merges"]]
    named = [(left.replace("\u0120", SPACE), right.replace("\u0120", SPACE)) for left, right in pairs]
    return [pair for pair in named if all(part.replace(SPACE, "").isascii() for part in pair)]


def write(reports: dict[str, list[dict[str, Any]]], sizes: dict[str, Any]) -> None:
    """The result file; without reports the scores are bars without a value."""
    names = ("student", *(f"student/{scheme}" for scheme in SCHEMES))
    scores = {
        name: {arm: [report["row_scores"]["scores"][name] for report in found] for arm, found in reports.items()}
        for name in names
    }
    gaps = {name: paired(arms["trimmed"], arms["whole"]) if arms else None for name, arms in scores.items()}
    no_loss = "the upper end of the interval of the paired difference, over rows averaged over seeds, reaches 0"
    metrics: dict[str, Any] = {"untrained files": sizes, "trimmed - whole": gaps}
    if reports:
        metrics |= {
            arm: [
                {"vocabulary": report["student"].get("vocabulary"),
                 **{model["id"]: {key: model[key] for key in ("size_bytes", "score", "kl_student", "kl_teacher")}
                    for model in report["models"]}}
                for report in found
            ] for arm, found in reports.items()
        }  # fmt: skip
    write_result(
        "vocabulary",
        "python benchmarks/vocabulary.py --store $(mktemp -d)",
        description="student.vocabulary of decoders, trimmed to the quickstart's 1,000 rows: bytes of files, and the "
        f"score of a smaller student (8 layers, one pass), {len(SEEDS)} seeds of the training on one split",
        bars=[
            *(bar(f"vocabulary: bytes of {scheme} saved, {name}", found[scheme]["saved"], ">=", target)
              for (name, found), target in zip(sizes.items(), (0.15, 0.5), strict=True) for scheme in SCHEMES),
            *(bar(f"vocabulary: accuracy, trimmed - whole, upper end, {name}", gap and gap.high, ">=", 0.0,
                  note=no_loss if gap else "not measured yet: six trainings")
              for name, gap in gaps.items()),
        ],
        samples={
            f"accuracy, {name}, {arm}": [sum(seed) / len(seed) for seed in found]
            for name, arms in scores.items() for arm, found in arms.items()
        } | {
            f"bytes, {name}, {scheme}": [found[scheme]["whole"], found[scheme]["trimmed"]]
            for name, found in sizes.items() for scheme in SCHEMES
        },
        metrics=metrics,
        seeds=SEEDS,
    )  # fmt: skip


if __name__ == "__main__":
    main()
