"""The graph of every recipe of the repository and of variants, as it is held in `stages.json`.

`python tests/golden/stages.py` writes the file again: when a stage's version was raised on purpose (CHANGELOG.md says
why), or a recipe was changed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from distill2edge.pipeline.run_stages import keys_of
from distill2edge.recipe.load import load_recipe, parse_recipe
from distill2edge.recipe.schema import Recipe
from distill2edge.stages import Stage
from distill2edge.stages.graph import Graph
from distill2edge.stages.sources import Sources
from distill2edge.util.progress import SilentProgress

ROOT = Path(__file__).resolve().parents[2]
FILE = Path(__file__).with_name("stages.json")
_DIGITS = 16  # of a key
_PLAIN = """\
name: keys
teacher: {model: owner/teacher, fit: {max_rows: 10}}
data: {source: rows.jsonl, choices: [" a", " b"]}
student: {init: {from: teacher, layers: 2}}
distill: {control: true}
export: [onnx:int8]
"""
_CE = "distill.loss={ce: 1}"
_ENCODER = ("task=classification", "bench.workloads=[task]", "data.template=plain", "signal={kind: labels}")
# Each on top of the plain one: what no recipe of the repository has, so that every kind of stage and of key is held.
_VARIANTS: dict[str, tuple[str, ...]] = {
    "text signal of an endpoint": (
        "teacher={model: 'endpoint:http://localhost:8000/v1', endpoint: {model: large, max_tokens: 1000}}",
        "signal={kind: text}",
        _CE,
        "student={init: {model: owner/student}}",
        "data.choices=null",
    ),
    "text signal of llama.cpp": (
        "teacher={model: teacher.gguf, backend: llama.cpp}",
        "signal={kind: text, samples: 2, temperature: 1}",
        _CE,
        "student={init: {model: owner/student}}",
    ),
    "logits across tokenizers": (
        "signal={kind: logits, align: vocabulary}",
        "student={init: {model: owner/student}}",
    ),
    "a random sample of the teacher's distribution": (
        "signal={kind: logits, sample: 50, temperature: 1}",
        "export=[gguf:Q4_0]",
        "distill.quantization_aware={schemes: [gguf:Q4_0], signal_from: student}",
    ),
    "the tokens that hold most of the mass": ("signal={kind: logits, mass: 0.98}",),
    "a teacher in four bits": (
        "teacher={model: owner/teacher, load: {quantization: nf4}}",
        "distill.on_policy={rounds: 1, rows: 64}",
        "data.choices=null",
        "distill.control=false",
    ),
    "prompts alone": (
        "teacher={model: owner/teacher}",
        "data={source: rows.jsonl, response: null}",
        "signal={kind: text}",
        _CE,
        "distill.control=false",
    ),
    "trimmed to what the teacher writes": (
        "signal={kind: text}",
        _CE,
        "student.vocabulary={trim: corpus, keep: [' and']}",
        "data.choices=null",
    ),
    "keys and values in fewer bits": ("export=[gguf:Q8_0, onnx:int8]", "verify.kv_cache=[f16, q8_0, q4_0]"),
    "narrower layers": ("student.init={from: teacher, layers: 2, width: {feed_forward: 0.5}}",),
    "narrower layers with the tokens of what the teacher writes": (
        "signal={kind: text}",
        _CE,
        "student={init: {model: owner/student, width: {feed_forward: 512}}, vocabulary: trim}",
        "data.choices=null",
    ),
    "verified text": (
        "signal={kind: text, verify: [{kind: exact}, {kind: python, code: 'def check(p, r, f): return True'}]}",
        _CE,
    ),
    "a student from nothing": (
        "student={init: {model: {architecture: llama, layers: 1, hidden: 64, heads: 4}}, lora: null}",
    ),
    "a student by way of an assistant": (
        "student={init: {from: teacher, layers: 2}, assistant: {layers: 4}, vocabulary: trim}",
    ),
    "layers of the teacher": (
        *_ENCODER,
        "distill.loss={ce: 0.5, hidden: 0.5}",
    ),
    "types that calibrate, and without": (
        "export=[gguf:Q4_0, gguf:Q4_K_M]",
        "quantize={calibration: imatrix, compare: true}",
    ),
    "compensated rounding": (
        "export=[gguf:Q4_0, onnx:int4-b32]",
        "quantize.calibration=gptq",
    ),
    "mixes": ("export=[gguf:mix-90MB, {format: onnx, max_kl: 0.05}]",),
    "training on a grid": (
        "export=[gguf:Q4_0, onnx:int8]",
        "distill.quantization_aware={schemes: [gguf:Q4_0, onnx:int8]}",
    ),
    "training on the grid of a mix": (
        "export=[gguf:mix-90MB]",
        "distill.quantization_aware={schemes: [gguf:mix-90MB]}",
    ),
    "training on a compensated grid": (
        "export=[gguf:Q4_0]",
        "quantize.calibration=gptq",
        "distill.quantization_aware={schemes: [gguf:Q4_0]}",
    ),
    "training on a grid with the student's own signal": (
        "export=[gguf:Q4_0]",
        "distill.quantization_aware={schemes: [gguf:Q4_0], signal_from: student}",
    ),
    "a quantized teacher": ("verify.teacher_schemes=[gguf:Q8_0, gguf:Q4_K_M]",),
    "a calibrated teacher": ("quantize.calibration=imatrix", "verify.teacher_schemes=[gguf:Q4_0]"),
    "on-policy with fresh rows": (
        "distill.on_policy={rounds: 2, rows: 64, warm_rows: 32}",
        "signal={kind: logits}",
        "data.choices=null",
        "distill.control=false",
    ),
    "a judge": (
        "verify.judge={model: owner/judge}",
        "data.choices=null",
    ),
    "a judge in llama.cpp": (
        "verify.judge={model: judge.gguf}",
        "data.choices=null",
    ),
    "a trimmed classifier": (
        *_ENCODER,
        "student.vocabulary=trim",
        "student.pretrain={epochs: 1}",
    ),
    "an embedder of several lengths": (
        "task=embedding",
        "bench.workloads=[task]",
        "data.template=plain",
        "data.choices=null",
        "teacher={model: owner/teacher, pooling: cls}",
        "signal={kind: embeddings}",
        "student={init: {from: teacher, layers: 2}, dimensions: [64, 16]}",
        "distill={loss: {embedding: 1, similarity: 1}}",
    ),
    "an encoder-decoder": (
        "task=seq2seq",
        "data.template=plain",
        "data.choices=null",
    ),
    "one round without an unverified arm": (
        "rounds={count: 1, unverified: false}",
        "signal={kind: text, verify: [{kind: exact}]}",
        "distill={loss: {ce: 1.0}}",
        "data.choices=null",
    ),
    "the data's own responses": (
        "signal={kind: gold}",
        "distill={loss: {ce: 1.0}}",
    ),
}


def graphs() -> dict[str, dict[str, str]]:
    """Recipe or variant -> stage -> the first digits of its key."""
    with _looked_up():
        keys = {name: keys_of(graph) for name, graph in built().items()}
    return {name: {stage: key[:_DIGITS] for stage, key in graph.items()} for name, graph in keys.items()}


def built() -> dict[str, list[Stage]]:
    """Recipe or variant -> its stages. No model and no data set is read."""
    recipes = {path.relative_to(ROOT).as_posix(): load_recipe(path) for path in sorted(ROOT.glob("recipes/**/*.yaml"))}
    recipes["plain"] = parse_recipe(_PLAIN, "plain.yaml")
    for name, overrides in _VARIANTS.items():
        recipes[name] = parse_recipe(_PLAIN, f"{name}.yaml", overrides)
    return {name: graph_of(recipe) for name, recipe in recipes.items()}


def graph_of(recipe: Recipe) -> list[Stage]:
    """The stages of a recipe, without a look at what it names outside itself."""
    sources = Sources(recipe, SilentProgress())
    return Graph(sources, sources).build()


@contextmanager
def _looked_up() -> Iterator[None]:
    """What a recipe names outside itself, replaced: contents are the names, and the machine is a CPU with a sandbox."""
    replaced = {
        "distill2edge.data.row_sources.fingerprint": lambda source, *rest: {"source": Path(str(source)).name},
        "distill2edge.intake.obtain.fingerprint": lambda model, *rest: {"model": str(model)},
        "distill2edge.teacher.open_teacher.gguf_of": lambda model, progress: (
            Path(model) if model.endswith(".gguf") else None
        ),
        "distill2edge.models.precision.default_device": lambda: "cpu",
    }
    patches = [patch(name, value) for name, value in replaced.items()]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in reversed(patches):
            each.stop()


def main() -> None:
    """Write the file, and say how many graphs and stages it holds."""
    found = graphs()
    FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{len(found)} graphs, {sum(map(len, found.values()))} stages: {FILE}\n")


if __name__ == "__main__":
    main()
