"""What the artifact of each kind of stage consists of, and from what a killed try of it goes on.

A stage begins in an empty directory but for `resumes`, and its manifest lists `holds` alone: nothing of a killed try is
ever part of an artifact by chance. Patterns are matched against paths relative to the directory: `*` within a
name, `**` across folders. A pattern under both is a part of the artifact that is written piece by piece.
"""

from __future__ import annotations

from distill2edge.store import Files

_DENSE = ("model/**", "merge.json")
_TRAINING = ("trained/**",)  # checkpoints, and the finished result of training
_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "chat_template.jinja",
)  # fmt: skip
_PAID = ("answers.jsonl", "written-*.json*", "verdicts-*.jsonl")

FILES = {
    "data": Files(("*.parquet", "*.json", "*.jsonl")),
    "teacher": Files(("model/**", "teacher.json")),
    "fit": Files(_DENSE, _TRAINING),
    "synthesis": Files(("*.parquet", "*.json", *_PAID), _PAID),
    "signal": Files(
        ("shard-*", "labels-*.safetensors", *_PAID, "signal.json", "ledger.parquet"),
        ("shard-*", "labels-*.safetensors", *_PAID),
    ),
    "pretrain": Files(("model/**", "pretrain.json"), ("teacher/**", "student/**")),
    "student": Files(("model/**", "student.json")),
    "distill": Files(
        ("adapter/**", "model/**", "*.json", "*.jsonl"), ("adapter/**", "model/**", "checkpoints/**", "train.json*")
    ),
    "merge": Files(_DENSE),
    "quantization-aware": Files((*_DENSE, "train.json", "grid.safetensors", "*.jsonl"), _TRAINING),
    "calibration": Files(("imatrix.gguf", "grams-*.safetensors", "*.json")),
    "sensitivity": Files(("imatrix.gguf", "grams-*.safetensors", "*.json")),
    "export": Files(
        (
            "model.gguf", "*.onnx", "*.onnx.data", "config.json", "generation_config.json", "genai_config.json",
            *_TOKENIZER, "export.json", "input.json", "USE.md", "predict.py", "Modelfile",
        )
    ),
    "verify": Files(("verify.json", "models/*"), ("models/*",)),
    "judge": Files(("judge.json", "answers.jsonl", "answers/*"), ("answers.jsonl", "answers/*")),
    "bench": Files(("bench.json", "rounds/*"), ("rounds/*",)),
    "report": Files(("*.json", "*.html", "*.md")),
    "rounds": Files(("rounds.json",)),
}  # fmt: skip
"""By the kind of a stage."""
