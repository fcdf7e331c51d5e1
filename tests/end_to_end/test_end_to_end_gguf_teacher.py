"""A GGUF teacher that stays as it is: llama.cpp scores from the file, and no copy of its weights is ever written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors import safe_open
from tiny import tiny_llama

from distill2edge.cli.main import main
from distill2edge.distill.logit_cache import SignalReader
from distill2edge.export.gguf import export_gguf
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.util.progress import SilentProgress

META = {"name": "tiny", "licence": None, "teacher": None, "recipe": None, "recipe_key": None, "description": ""}
RECIPE = """\
name: as-it-is
teacher: {{model: {root}/teacher.gguf, backend: llama.cpp, dequantize: false, licence: mit}}
data:
  source: {root}/rows.jsonl
  template: chat
  prompt: "{{{{ text }}}}"
  response: "{{{{ label }}}}"
  max_length: 96
  splits: {{train: 16, validation: 2, calibration: 2, test: 4}}
  leakage: {{near_duplicate: 1.0}}
signal: {{kind: logits, top_k: 400}}
student: {{init: {{model: {root}/student}}, lora: {{rank: 4, alpha: 8}}}}
distill: {{loss: {{ce: 0.5, forward_kl: 0.5}}, learning_rate: 1e-2, batch_size: 8}}
export: [gguf:Q8_0]
verify: {{rows: 4}}
bench: {{workloads: [chat-8-3], rounds: 1, requests: 1}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gguf")
    tiny_llama(root / "teacher", layers=3)
    tiny_llama(root / "student", seed=1)
    export_gguf(root / "teacher", parse_scheme("gguf:Q8_0"), META, root / "made", SilentProgress())
    (root / "made" / "model.gguf").rename(root / "teacher.gguf")
    rows = [{"text": f"film {n} the {n * 37} dog", "label": "fine"} for n in range(30)]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "r.yaml").write_text(RECIPE.format(root=root))
    return root


def run(place: Path, store: str, command: str, *more: str) -> Result:
    out = ["--out", str(place / f"out-{store}")] if command == "run" else []
    arguments = [command, str(place / "r.yaml"), "--store", str(place / store), *out]
    for each in more:
        arguments += ["--set", each]
    return CliRunner().invoke(main, arguments)


def test_what_llama_cpp_says_of_the_file_is_what_its_dequantized_weights_say(place: Path) -> None:
    result = run(place, "store", "run")
    assert result.exit_code in (0, 3), result.output
    (teacher,) = place.glob("store/teacher/*")
    assert not list(teacher.rglob("*.safetensors"))
    assert sum(path.stat().st_size for path in teacher.rglob("*") if path.is_file()) < 200_000
    facts = json.loads((teacher / "teacher.json").read_text())
    assert facts["parameters"] > 0
    (signal,) = place.glob("store/signal/*")
    assert json.loads((signal / "signal.json").read_text())["backend"] == "llama.cpp"
    report = json.loads((place / "out-store" / "report.json").read_text())
    assert {model["id"] for model in report["models"]} == {"student", "student/gguf:Q8_0"}  # it is not measured

    dense = run(place, "dense", "signal", "teacher.dequantize=true", "teacher.backend=transformers")
    assert dense.exit_code == 0, dense.output
    assert list(place.glob("dense/teacher/*/model/*.safetensors"))
    (other,) = place.glob("dense/signal/*")
    as_it_is, dequantized = SignalReader(signal), SignalReader(other)
    names = json.loads((other / "signal.json").read_text())["examples"]
    assert len(as_it_is) == len(dequantized) == names == 18
    shards = [safe_open(path, framework="pt").metadata() for path in other.glob("shard-*.safetensors")]
    examples = [example for shard in shards for example in json.loads(shard["ids"])]
    assert len(examples) == names
    for example in examples:
        a, b = as_it_is.get(example), dequantized.get(example)
        shape = (len(a.tokens), 400)
        p, q = (torch.empty(shape).scatter(1, each.tokens, each.log_p) for each in (a, b))
        assert (p.exp() * (p - q)).sum(-1).max() < 1e-3  # nats; llama.cpp rounds what enters a product to 8 bits


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("teacher.backend=auto", "runs in llama.cpp"),
        ("teacher.fit={}", "cannot be fitted"),
        ("student.init={from: teacher, layers: 2}", "gives no layers"),
        ("verify.teacher_schemes=[gguf:Q8_0]", "cannot be exported"),
        ("verify.min_retained=0.9", "runs here in PyTorch"),
        ("distill.on_policy={}", "runs its teacher in PyTorch"),
        ("teacher.model={root}/student", "is for a GGUF"),
    ],
)
def test_what_needs_its_weights_in_pytorch_is_refused_by_check(place: Path, change: str, said: str) -> None:
    arguments = ["recipe", "check", str(place / "r.yaml"), "--set", change.replace("{root}", str(place))]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2, result.output
    assert said in result.output
