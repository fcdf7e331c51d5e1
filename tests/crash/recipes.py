"""Tiny recipes that between them run every kind of stage."""

from __future__ import annotations

import json
from pathlib import Path

from tiny import RECIPE, tiny_bert, tiny_llama

# With the plain one in common: what one has made, the other finds.
PLAIN = (
    RECIPE.replace(
        "teacher: {{model: {model}}}\n",
        "teacher: {{model: {model}, fit: {{max_steps: 2, learning_rate: 1e-3, checkpoints: 1, lora: {{rank: 4}}}}}}\n",
    )
    .replace("bench: {{workloads: [task, chat-8-3], rounds: 1, requests: 1}}", "bench: {bench}")
    .replace("verify: {{rows: 12}}", "verify: {{rows: 4}}")
)
_BENCH = "{workloads: [chat-8-3], rounds: 1, requests: 1, torch: false}"
GRID = """\
quantize: {calibration: gptq}
"""
_ON_GRID = ", quantization_aware: {schemes: ['gguf:Q4_0'], epochs: 1, learning_rate: 1e-3, checkpoints: 1}}"
_ON_POLICY = ", on_policy: {rounds: 2, rows: 16, max_new_tokens: 6, epochs: 1, learning_rate: 1e-2}}"
ROUNDS = """\
name: rounds
teacher:
  model: {{architecture: llama, layers: 1, hidden: 32, heads: 2, vocabulary: 300}}
  fit: {{max_steps: 60, epochs: 60, learning_rate: 1e-2, lora: null, dtype: float32, checkpoints: 1}}
data:
  source: {rows}
  template: plain
  max_length: 16
  splits: {{train: 40, validation: 4, calibration: 4, test: 8}}
  leakage: {{near_duplicate: 1.0}}
signal: {{kind: text, temperature: 1.0, samples: 3, max_new_tokens: 4, verify: [{{kind: exact}}]}}
student: {{init: {{from: teacher, layers: 1}}, lora: null}}
distill: {{loss: {{ce: 1}}, max_steps: 3, dtype: float32, checkpoints: 1}}
rounds: {{count: 1}}
export: [gguf:Q8_0]
verify: {{rows: 4}}
bench: {bench}
"""
ENDPOINT = """\
name: endpoint
teacher:
  model: endpoint:http://127.0.0.1:{port}/v1
  endpoint: {{model: m, max_tokens: 10000000, concurrency: 1, retries: 1, timeout_s: 20}}
  licence: mit
data:
  source: {rows}
  template: plain
  prompt: "{{{{ instruction }}}}"
  response: "{{{{ response }}}}"
  max_length: 128
  splits: {{train: 12, validation: 2, calibration: 2, test: 2}}
  leakage: {{near_duplicate: 1.0}}
synthesis:
  methods:
    - {{kind: self-instruct, instructions: 8, max_requests: 24, batch: 4, shown: 2, of_own: 0}}
  responses: {{max_new_tokens: 32}}
  min_words: 1
  held_out: {{validation: 1, test: 2}}
signal: {{kind: text, max_new_tokens: 32}}
student: {{init: {{model: {student}}}, lora: {{rank: 4, alpha: 8}}}}
distill: {{loss: {{ce: 1}}, learning_rate: 1e-2, batch_size: 8}}
export: [gguf:Q8_0]
verify:
  rows: 2
  judge: {{model: {judge}, rows: 2, answer_tokens: 6, max_new_tokens: 3, prompt: "{{{{ first }}}}, {{{{ second }}}}?"}}
bench: {bench}
"""
CLASSES = """\
name: classes
task: classification
teacher: {{model: {model}, fit: {{max_steps: 2, learning_rate: 1e-3, lora: null, checkpoints: 1}}}}
data:
  source: {rows}
  template: plain
  prompt: "{{{{ text }}}}"
  response: "{{{{ label }}}}"
  choices: [bad, good]
  max_length: 32
  splits: {{train: 24, validation: 8, calibration: 4, test: 8}}
  leakage: {{near_duplicate: 1.0}}
signal: {{kind: labels, temperature: 2.0}}
student: {{init: {{from: teacher, layers: 2}}, pretrain: {{max_steps: 2, checkpoints: 1}}, lora: null}}
distill: {{loss: {{ce: 0.5, forward_kl: 0.5}}, max_steps: 3, learning_rate: 1e-3, batch_size: 8}}
export: [onnx:int8, gguf:F16]
verify: {{rows: 4}}
bench: {{workloads: [task], rounds: 1, requests: 1, torch: false}}
"""


def write_models(root: Path) -> None:
    """The models and rows of every recipe, under `root`."""
    tiny_llama(root / "teacher", layers=2)
    tiny_llama(root / "student", layers=1)
    tiny_llama(root / "judge", layers=1, seed=3)
    tiny_bert(root / "bert", layers=3, masked=True)
    for name in ("teacher", "student", "judge", "bert"):
        (root / name / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    films = [{"text": f"film {n} the {n * 37} dog", "label": (" bad", " good")[n % 2]} for n in range(60)]
    words = ("the good film", "a bad dog")
    labels = [{"text": f"{words[n % 2]} and {n} then {n * 37} it", "label": ("good", "bad")[n % 2]} for n in range(60)]
    sums = [{"prompt": f"{a}+{b}:", "response": str(a + b)} for a in range(10) for b in range(10)]
    tasks = [{"instruction": f"review film {n} of {n * 37}", "response": f"it is fine {n * 11}"} for n in range(24)]
    for name, rows in (("films", films), ("labels", labels), ("sums", sums), ("tasks", tasks)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_recipes(root: Path, port: int) -> dict[str, Path]:
    """Name -> recipe; `port` is where the endpoint listens."""
    plain = PLAIN.format(name="plain", model=root / "teacher", rows=root / "films.jsonl", bench=_BENCH)
    distill = next(line for line in plain.splitlines() if line.startswith("distill:"))
    export = "export: [onnx:int8, gguf:Q8_0]"
    texts = {
        "plain": plain,
        "grid": plain.replace(distill, distill[:-1] + _ON_GRID)
        .replace(export, "export: ['gguf:Q4_0', 'onnx:int4-b32', {format: gguf, budget: 70kB}]")
        .replace("name: plain", "name: grid")
        + GRID,
        "on-policy": plain.replace(distill, distill[:-1] + _ON_POLICY)
        .replace(export, "export: [gguf:Q8_0]")
        .replace("name: plain", "name: on-policy"),
        "rounds": ROUNDS.format(rows=root / "sums.jsonl", bench=_BENCH),
        "endpoint": ENDPOINT.format(
            rows=root / "tasks.jsonl", student=root / "student", judge=root / "judge", port=port, bench=_BENCH
        ),
        "classes": CLASSES.format(rows=root / "labels.jsonl", model=root / "bert"),
    }
    for name, text in texts.items():
        (root / f"{name}.yaml").write_text(text)
    return {name: root / f"{name}.yaml" for name in texts}
