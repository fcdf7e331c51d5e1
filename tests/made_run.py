"""A finished run of given models, as `distill2edge run` leaves it, without the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import report_fixtures as made

from distill2edge.data.model_inputs import InputForm
from distill2edge.export.gguf import export_gguf
from distill2edge.export.onnx import export_onnx
from distill2edge.pipeline.artifact import sha256_of
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.report.html import render_html
from distill2edge.util.files import write_json
from distill2edge.util.progress import SilentProgress


def made_run(root: Path, forms: Mapping[str, InputForm]) -> Path:
    """Export `root/KIND` for each scheme and form, beside a report in which all gates pass; returns the run."""
    run, files = root / "run", []
    for name, form in forms.items():
        scheme = parse_scheme(name)
        directory = run / "exports" / f"quickstart-{scheme.slug}"
        directory.mkdir(parents=True)
        export = export_gguf if scheme.format == "gguf" else export_onnx
        export(root / form.kind, scheme, {"name": "tiny", "input": form.dumps()}, directory, SilentProgress())
        hashes = {path.name: sha256_of(path) for path in directory.iterdir()}
        files.append({"model": f"student/{name}", "path": directory.relative_to(run).as_posix(), "key": "k",
                      "sha256": hashes, "verified": True})  # fmt: skip
    write_json(run / "exports.json", {"schema_version": 1, "files": files})
    report = made.report()
    write_json(run / "report.json", report)
    (run / "report.html").write_text(render_html(report))
    return run


def write_readable(model: Any, directory: Path) -> None:
    """Let a random model write whole characters alone: the likeliest token is never one whose logit is 0."""
    import torch
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    with torch.no_grad():
        for token in range(len(tokenizer)):
            said = tokenizer.decode([token])
            if not (said.isascii() and said.isprintable()) or token < 3:
                model.lm_head.weight[token] = 0
    model.save_pretrained(directory)
