"""A commented recipe to start from."""

from __future__ import annotations

_TEMPLATE = """\
# {name}: what it does in one line.
# Check:  distill2edge recipe check {name}.yaml      Everything that can be set: distill2edge recipe show {name}.yaml
# Run:    distill2edge run {name}.yaml

name: {name}
seed: 0

teacher:
  model: HuggingFaceTB/SmolLM2-1.7B-Instruct   # hub id | local directory | file.gguf | bundled:NAME
  # licence: apache-2.0                        # where the model itself does not say it
  # fit: {{epochs: 1, learning_rate: 5e-4}}      # a short fit to the task first

data:
  source: rows.jsonl                           # hub id | json, jsonl, csv, parquet, text | package:MODULE/PATH
  template: chat                               # chat | plain | text
  prompt: "{{{{ question }}}}"                     # Jinja over a row's fields
  response: "{{{{ answer }}}}"
  # choices: ["yes", "no"]                     # a closed set: scored by likelihood
  splits: {{validation: 200, calibration: 128, test: 500}}

signal: {{kind: logits, top_k: 64, temperature: 2.0}}   # or {{kind: text}}: the teacher writes the responses

student:
  init: {{from: teacher, layers: 12}}            # the teacher's own layers; or {{model: HuggingFaceTB/SmolLM2-360M}}
  lora: {{rank: 64, alpha: 128}}                 # null trains every weight

distill:
  loss: {{ce: 0.5, forward_kl: 0.5}}             # also reverse_kl, jsd
  epochs: 2
  learning_rate: 1e-3
  control: true                                # the same student without the teacher, to show what it brings

export: [onnx:int8, onnx:int4-b32, gguf:Q8_0, gguf:Q4_K_M]

verify:
  min_retained: 0.95                           # a failed gate is exit code 3
  max_kl: 0.1
  # judge: {{model: Qwen/Qwen3-8B}}              # a third model compares answers of the files with the teacher's

bench: {{workloads: [task, chat-128-64], devices: [cpu]}}

cost:
  teacher: {{rented: cpu-2-vcpu}}
  student: {{rented: cpu-2-vcpu}}
"""


def new_recipe(name: str) -> str:
    """The text of a complete recipe called `name`; it passes `recipe check`.

    Raises:
        RecipeErrors: the name cannot be a recipe's name.
    """
    from distill2edge.recipe.load import parse_recipe

    text = _TEMPLATE.format(name=name)
    parse_recipe(text, "new recipe")
    return text
