"""Nothing that comes with a model runs, and its length is what it reads: remote code, pickles, positions."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_bert, tiny_llama, tiny_tokenizer

from distill2edge.errors import UserError
from distill2edge.intake.facts import model_facts
from distill2edge.intake.obtain import fetch_model
from distill2edge.models.checkpoint import load_config, load_tokenizer
from distill2edge.models.config import usable_positions
from distill2edge.models.loading import load_model
from distill2edge.runtimes import open_runtime
from distill2edge.util.progress import SilentProgress

CODE = """from pathlib import Path
Path({mark!r}).write_text("ran")
class Config: pass
class Model: pass
class Tok: pass
"""


def fetch(path: Path, work: Path) -> Path:
    fetch_model(str(path), None, work, SilentProgress(), where="student.init.model")
    return work / "model"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("llama") / "model"
    tiny_llama(directory)
    return directory


class Bomb:
    """Its pickle writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.write_text, (self.mark, "ran")


def booby_trapped(source: Path, target: Path, mark: Path, *, own_type: bool) -> Path:
    """A directory that asks for code of its own in every place that the library knows."""
    shutil.copytree(source, target)
    (target / "evil.py").write_text(CODE.format(mark=str(mark)))
    for name, changes in {
        "config.json": {
            "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoModel": "evil.Model"},
            "trust_remote_code": True,
            **({} if own_type else {"model_type": "evil"}),
        },
        "tokenizer_config.json": {
            "auto_map": {"AutoTokenizer": ["evil.Tok", "evil.Tok"]},
            "trust_remote_code": True,
            "tokenizer_class": "Tok",
        },
        "generation_config.json": {"custom_generate": "evil.py", "trust_remote_code": True},
    }.items():
        path = target / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    (target / "custom_generate").mkdir()
    (target / "custom_generate" / "generate.py").write_text(CODE.format(mark=str(mark)))
    (target / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    (target / "training_args.bin").write_bytes(pickle.dumps(Bomb(mark)))
    return target


@pytest.mark.parametrize("own_type", [True, False])
def test_code_that_comes_with_a_model_never_runs(own_type: bool, llama: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = booby_trapped(llama, tmp_path / "model", mark, own_type=own_type)
    for load in (
        lambda: load_model(fetch(path, tmp_path / "work")),
        lambda: load_model(path),
        lambda: load_tokenizer(path),
        lambda: load_config(path),
        lambda: open_runtime("torch", path, threads=1),
    ):
        try:
            load()
        except UserError as error:
            assert error.fix  # noqa: PT017 (either way is right, but never a run)
    assert not mark.exists()
    assert not list((tmp_path / "work").rglob("*.py"))
    if not own_type:
        with pytest.raises(UserError, match=r"config\.json.*not a model that transformers knows"):
            fetch(path, tmp_path / "work")


def test_a_tokenizer_that_is_code_alone_is_refused_with_what_to_do(llama: Path, tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "model"
    shutil.copytree(llama, path)
    for name in ("tokenizer.json", "special_tokens_map.json"):
        (path / name).unlink(missing_ok=True)
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (path / "tokenizer_config.json").write_text(json.dumps(own))
    (path / "own.py").write_text(f"open({str(mark)!r}, 'w')\nclass Own: pass\n")
    with pytest.raises(UserError, match="Python code of its own") as caught:
        load_tokenizer(path)
    assert "tokenizer.json" in caught.value.fix
    assert "trust_remote_code" not in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_pickle_is_refused_under_any_name(name: str, llama: Path, tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "model"
    shutil.copytree(llama, path)
    (path / "model.safetensors").unlink()
    (path / name).write_bytes(pickle.dumps(Bomb(mark)))
    for load in (lambda: fetch(path, tmp_path / "work"), lambda: open_runtime("torch", path, threads=1)):
        with pytest.raises(UserError):
            load()
    assert not mark.exists()


# --- positions ------------------------------------------------------------------


def tiny_roberta(directory: Path, positions: int = 20) -> Path:
    from transformers import RobertaConfig, RobertaForSequenceClassification

    tiny_tokenizer(directory)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = RobertaConfig(
        vocab_size=400, max_position_embeddings=positions, pad_token_id=2, type_vocab_size=1, num_labels=2, **shape
    )
    RobertaForSequenceClassification(config).save_pretrained(directory)
    return directory


def test_positions_that_begin_after_the_padding_id(tmp_path: Path) -> None:
    """What the model says it reads, it reads; one token more does not fit."""
    roberta = tiny_roberta(tmp_path / "roberta")
    assert usable_positions(load_config(roberta)) == usable_positions(json.loads((roberta / "config.json").read_text()))
    assert model_facts(roberta).positions == 17
    model = load_model(roberta)
    for length in (17, 18):
        ids = torch.full((1, length), 5)
        if length == 17:
            assert torch.isfinite(model(ids).logits).all()
        else:
            with pytest.raises((IndexError, RuntimeError)):
                model(ids)
    tiny_bert(tmp_path / "bert")
    assert model_facts(tmp_path / "bert").positions == 128
    assert usable_positions({"model_type": "t5", "n_positions": 512}) is None
    assert usable_positions({"model_type": "mpnet", "max_position_embeddings": 514}) == 512


def test_every_runtime_cuts_at_what_it_reads(tmp_path: Path) -> None:
    from distill2edge.export.onnx import export_onnx
    from distill2edge.quantize.schemes import parse_scheme

    roberta = tiny_roberta(tmp_path / "roberta")
    export_onnx(roberta, parse_scheme("onnx:fp32"), {"name": "x"}, tmp_path / "onnx", SilentProgress())
    found = []
    for kind, path in (("torch", roberta), ("onnxruntime", tmp_path / "onnx")):
        runtime: Any = open_runtime(kind, path, threads=1, context=2048)
        assert runtime.context == 17
        found.append(runtime.classify([5] * runtime.context))
    np.testing.assert_allclose(*found, atol=1e-4)


def test_a_length_that_does_not_fit_is_refused_before_it_is_used(tmp_path: Path) -> None:
    from distill2edge.data.examples import Row
    from distill2edge.data.model_inputs import encode_for
    from distill2edge.models.kinds import ENCODER
    from distill2edge.recipe.load import load_recipe

    roberta = tiny_roberta(tmp_path / "roberta")
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"t": f"film {n}", "l": "ab"[n % 2]}) + "\n" for n in range(40))
    )
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"name: r\ntask: classification\nteacher: {{model: {roberta}}}\n"
        f"data: {{source: {tmp_path / 'rows.jsonl'}, template: plain, prompt: '{{{{ t }}}}', response: '{{{{ l }}}}',"
        " choices: [a, b], max_length: 18}\nsignal: {kind: labels}\nstudent: {init: {from: teacher, layers: 1}}\n"
        "export: [onnx:fp32]\nbench: {workloads: [task]}\n"
    )
    with pytest.raises(UserError, match="reads at most 17"):
        encode_for(load_recipe(recipe).data, [Row("1", "film", "a")], roberta, kind=ENCODER)


def test_nothing_in_the_package_could_run_it() -> None:
    """Every `from_pretrained` refuses remote code by name, and nothing reads a pickle, but our own
    processes (of one training, and workers) what their parent hands them: through one module."""
    import ast

    import distill2edge

    root, calls = Path(distill2edge.__file__).parent, 0
    for path in root.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                read = {"pickle", "dill", "joblib", "cloudpickle"} & {name.split(".")[0] for name in names}
                assert not read or path == root / "processes" / "own_pickles.py", path
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert "allow_pickle" not in given, path
            assert ast.unparse(node.func) != "torch.load" or given.get("weights_only") == "True", path
            if node.func.attr == "from_pretrained" and "PeftModel" not in ast.unparse(node.func):
                calls += 1
                assert given.get("trust_remote_code") == "False" or "_SAFE" in given.get(None, ""), path
    assert calls > 5
