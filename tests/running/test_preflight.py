"""What `recipe check`, `plan` and a run's start say before hours are spent: data, models, prices and formats."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tiny import tiny_bert, tiny_llama, tiny_t5

from distill2edge.cli.main import main
from distill2edge.errors import RecipeErrors
from distill2edge.export import gguf_convert
from distill2edge.preflight import checked_recipe, unseen
from distill2edge.recipe.load import load_recipe
from distill2edge.recipe.paths import locate
from distill2edge.util.progress import SilentProgress

BASE = """\
name: x
teacher: {model: teacher}
data: {source: rows.jsonl, template: plain, splits: {validation: 4, calibration: 4, test: 8}, max_length: 32}
student: {init: {from: teacher, layers: 1}}
export: [gguf:Q8_0]
"""
CLASSIFY = """\
name: x
task: classification
teacher: {model: teacher, fit: {}}
data:
  source: rows.jsonl
  template: plain
  choices: [a, b]
  max_length: 32
  splits: {validation: 4, calibration: 4, test: 8}
signal: {kind: labels}
student: {init: {from: teacher, layers: 1}}
bench: {workloads: [task]}
export: [onnx:int8]
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    tiny_llama(root / "llama", layers=2)
    tiny_bert(root / "bert", layers=2)
    tiny_t5(root / "t5")
    return root


@pytest.fixture
def place(tmp_path: Path, models: Path) -> Path:
    """A folder with rows and a decoder as the teacher."""
    rows = [{"prompt": f"Review: film {n}", "response": "ab"[n % 2]} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "teacher").symlink_to(models / "llama")
    return tmp_path


def problems_of(place: Path, text: str, *overrides: str) -> dict[str, tuple[str, str]]:
    """Key -> what is wrong and the fix; empty where the recipe is fine."""
    path = place / "r.yaml"
    path.write_text(text)
    try:
        checked_recipe(path, overrides, SilentProgress())
    except RecipeErrors as errors:
        return {error.where.partition(": ")[2]: (error.what, error.fix) for error in errors.errors}
    return {}


def test_a_recipe_that_fits_is_fine(place: Path) -> None:
    assert problems_of(place, BASE) == {}


@pytest.mark.parametrize(
    ("override", "key", "said"),
    [
        ("data.source=none.jsonl", "data.source", "does not exist"),
        ("data.source=bundled:move-sentiment", "data.source", "did you mean bundled:movie-sentiment?"),
        ("data.source=teacher/none.jsonl", "data.source", "does not exist"),
        ("data.prompt={{ promt }}", "data.prompt", "did you mean prompt?"),
        ("data.filter=scor > 1", "data.filter", "has a field 'scor'"),
        ("data.prompt={{ prompt", "data.prompt", "not valid Jinja"),
        ("data.choices=[c, d]", "data.response", "not one of data.choices"),
        ("data.splits.test=60", "data.splits", "60 rows in rows.jsonl"),
        ("teacher.model=techer/none/x", "teacher.model", "no model"),
        ("teacher.model=bundled:smollm2-instruct", "teacher.model", "did you mean bundled:smollm2-135m-instruct?"),
        ("student.init={model: ./none}", "student.init.model", "no model"),
        ("student.init.layers=3", "student.init.layers", "the teacher has 2"),
        ("student.init.layers=[0, 5]", "student.init.layers", "out of range"),
        ("student.init.width={feed_forward: 100}", "student.init.width.feed_forward", "write 96 or 128"),
        ("student.init.width={kv_groups: 3}", "student.init.width.kv_groups", "the teacher has 2"),
        ("student.init.width={}", "student.init.width", "no width is given"),
        ("student.init.width={hidden: 1.5}", "student.init.width.hidden", "is no share"),
        ("verify.kv_cache=[q8_0]", "verify.kv_cache", "a head of this model has 16"),
        ("task=seq2seq", "teacher.model", "is a decoder alone"),
        ("export=[gguf:Q8_0, onnx:int8-dynamic]", "export[1]", "use onnx:int8"),
        ("cost.student={device: raspbery-pi-5}", "cost.student.device", "did you mean raspberry-pi-5?"),
        ("cost.teacher={api: gtp}", "cost.teacher.api", "no api entry"),
        ("cost.prices=none.yaml", "cost.prices", "No such file"),
        ("bench.machine=nothing", "bench.machine", "no devices entry"),
        ("bench.workloads=[chat-64]", "bench.workloads", "unknown workload"),
        ("bench.workloads=[chat-99999999999999999999-1]", "bench.workloads", "no model reads"),
        ("verify.judge={model: bundled:nothing}", "verify.judge.model", "no bundled entry"),
    ],
)
def test_what_can_be_known_is_said(place: Path, override: str, key: str, said: str) -> None:
    found = problems_of(place, BASE, override)
    assert key in found
    assert said in " ".join(found[key])
    assert found[key][1], "there is no fix"


@pytest.mark.parametrize(
    ("init", "more", "key", "said"),
    [
        ("layers: 3", (), "student.init.layers", "3 layers: the checkpoint has 2"),
        ("layers: [0, 5]", (), "student.init.layers", "layer 5 is out of range: the checkpoint has 2"),
        ("layers: 1", ("student.assistant={layers: 3}",), "student.assistant.layers", "the checkpoint has 2"),
        ("layers: 1", ("student.assistant={layers: [0, 7]}",), "student.assistant.layers", "layer 7 is out of range"),
        ("layers: 2", ("student.assistant={}",), "student.init.layers", "all 2 layers of its assistant"),
        ("layers: [0, 9]", ("student.assistant={}",), "student.init.layers", "layer 9 is out of range"),
        ("layers: 1", ("distill.loss={ce: 1, hidden: 1}",), "distill.loss.layer_map", "no layers of the teacher"),
        ("layers: 1", ("distill.loss={ce: 1, hidden: 1, layer_map: [0, 1]}",), "distill.loss.layer_map", "has 1"),
        ("layers: 1", ("distill.loss={ce: 1, hidden: 1, layer_map: [4]}",), "distill.loss.layer_map", "out of range"),
    ],
)
def test_layers_of_a_checkpoint_are_looked_at_too(
    place: Path, models: Path, init: str, more: tuple[str, ...], key: str, said: str
) -> None:
    changes = (f"teacher.model={models / 'bert'}", f"student.init={{model: {models / 'bert'}, {init}}}", *more)
    found = problems_of(place, CLASSIFY, *changes)
    assert list(found) == [key]
    assert said in found[key][0]


@pytest.mark.parametrize(
    ("changes", "key", "said"),
    [
        (("student.init.decoder_layers=[0, 2]",), "student.init.decoder_layers", "the assistant has 2"),
        (("student.init.decoder_layers=3",), "student.init.decoder_layers", "3 layers: the assistant has 2"),
        (("student.assistant=null", "student.init.layers=3"), "student.init.layers", "the teacher's decoder has 2"),
        (("student.assistant.layers=3",), "student.assistant.layers", "the teacher's decoder has 2"),
    ],
)
def test_a_decoder_has_layers_of_its_own(
    place: Path, models: Path, tmp_path: Path, changes: tuple[str, ...], key: str, said: str
) -> None:
    """The teacher's, and the assistant's, which has as many in both parts."""
    shutil.copytree(models / "t5", tmp_path / "uneven")
    config = json.loads((models / "t5" / "config.json").read_text())
    parts = (2, 4) if "decoder_layers" in key else (4, 2)
    (tmp_path / "uneven" / "config.json").write_text(
        json.dumps(config | {"num_decoder_layers": parts[1], "num_layers": parts[0]})
    )
    base = (
        "task=seq2seq",
        f"teacher.model={tmp_path / 'uneven'}",
        "export=[onnx:int8]",
        "student.assistant={layers: 2}",
    )
    assert problems_of(place, BASE, *base) == {}
    found = problems_of(place, BASE, *base, *changes)
    assert list(found) == [key]
    assert said in found[key][0]


def test_layers_are_compared_between_the_same_tokens(place: Path, models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "bert", tmp_path / "other")
    path = tmp_path / "other" / "tokenizer.json"
    path.write_text(path.read_text().replace('"fox"', '"fax"'))
    loss = "distill.loss={ce: 1, hidden: 1, layer_map: [0]}"
    for name, wanted in (("bert", set()), ("other", {"distill.loss"})):
        init = f"student.init={{model: {models / 'bert'}, layers: 1}}"
        teacher = models / "bert" if name == "bert" else tmp_path / "other"
        found = problems_of(place, CLASSIFY, f"teacher.model={teacher}", init, loss)
        assert found.keys() == wanted, found
        assert all("compared token by token" in what for what, _ in found.values())


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("{kind: python, file: none.py}", "no file none.py"),
        ("{kind: python, code: 'def check(:'}", "not Python"),
        ("{kind: python, code: 'x = 1'}", "defines no function `check`"),
        ("{kind: json-schema, schema: {type: nonsense}}", "not a JSON Schema"),
        ("{kind: judge, model: bundled:nothing}", "no bundled entry"),
    ],
)
def test_a_verifier_that_cannot_check_is_said(place: Path, spec: str, said: str) -> None:
    found = problems_of(place, BASE, f"signal={{kind: text, verify: [{spec}]}}", "distill.loss={ce: 1}")
    assert said in " ".join(map(" ".join, found.values()))


@pytest.mark.parametrize(
    "url", ["http://", "ftp://host/v1", "http://[::1", "https://host:99999/v1", "https://u:p@host"]
)
def test_an_address_that_is_none_is_said(place: Path, url: str) -> None:
    found = problems_of(
        place,
        BASE,
        f"teacher={{model: 'endpoint:{url}', endpoint: {{model: m, max_tokens: 9}}}}",
        "signal={kind: text}",
        "distill.loss={ce: 1}",
        "student.init={model: ./teacher}",
    )
    assert set(found) == {"teacher.model"}


def test_an_encoder_without_its_task_is_said_with_the_fix(place: Path, models: Path) -> None:
    found = problems_of(place, BASE, f"teacher.model={models / 'bert'}")
    assert "set task: classification" in found["teacher.model"][1]
    assert problems_of(place, CLASSIFY, f"teacher.model={models / 'bert'}") == {}


def test_an_encoder_decoder_without_its_task_is_said(place: Path, models: Path) -> None:
    found = problems_of(place, BASE, f"teacher.model={models / 't5'}")
    assert "set task: seq2seq" in found["teacher.model"][1]


def test_texts_longer_than_a_table_of_positions_are_refused(place: Path, models: Path) -> None:
    found = problems_of(place, CLASSIFY, f"teacher.model={models / 'bert'}", "data.max_length=4096")
    assert "positions" in found["data.max_length"][0]


def test_formats_that_have_no_writer_are_said_before_training(place: Path, models: Path) -> None:
    odd = place / "odd"
    odd.mkdir()
    for file in (models / "llama").iterdir():
        (odd / file.name).write_bytes(file.read_bytes())
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    found = problems_of(place, BASE, "teacher.model=odd", "verify.teacher_schemes=[gguf:Q4_0]")
    assert set(found) == {"export[0]", "verify.teacher_schemes[0]"}
    assert "relu" in found["export[0]"][0]


_SMOLLM3 = {"model_type": "smollm3", "architectures": ["SmolLM3ForCausalLM"], "num_hidden_layers": 8,
            "no_rope_layers": [1, 1, 1, 0] * 2}  # fmt: skip
_GEMMA4 = {"model_type": "gemma4_text", "architectures": ["Gemma4ForCausalLM"], "num_hidden_layers": 6,
           "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
           "num_kv_shared_layers": 2}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "init", "key", "said"),
    [
        (_SMOLLM3, "layers: [0, 1, 6, 7]", None, ""),
        (_SMOLLM3, "layers: [0, 3]", "export[0]", "layer 1 (in llama.cpp every fourth layer is without positions"),
        (_SMOLLM3, "layers: 3", "export[0]", "list student.init.layers in fours"),
        (_GEMMA4, "layers: [0, 2, 5]", None, ""),
        (_GEMMA4, "layers: [0, 5]", "student.init.layers", "layer 5 takes its keys and values from layer 2"),
        (_GEMMA4, "layers: [2, 5]", "export[0]", "no layer with a sliding window"),
        (_GEMMA4, "layers: 3, select: similarity", "student.init.select", "they depend on one another"),
    ],
)
def test_layers_that_make_no_model_or_no_file_are_said(
    place: Path, models: Path, monkeypatch: pytest.MonkeyPatch, config: Any, init: str, key: str | None, said: str
) -> None:
    shutil.copytree(models / "llama", place / "other")
    written = json.loads((place / "other" / "config.json").read_text()) | config
    (place / "other" / "config.json").write_text(json.dumps(written))
    known = frozenset(config["architectures"])
    monkeypatch.setattr(gguf_convert, "known_here", lambda config, kind: known)
    found = problems_of(place, BASE, "teacher.model=other", f"student.init={{from: teacher, {init}}}")
    assert list(found) == ([key] if key else [])
    assert not key or said in " ".join(found[key])


def test_a_chat_without_a_template_is_said(place: Path, models: Path) -> None:
    assert problems_of(place, BASE, "data.template=chat") == {}
    base = place / "base"
    base.mkdir()
    for file in (models / "llama").iterdir():
        if not file.name.startswith("chat_template"):
            (base / file.name).write_bytes(file.read_bytes())
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    found = problems_of(place, BASE, "data.template=chat", "teacher.model=base")
    assert "set data.template: plain" in found["data.template"][1]


def test_a_vocabulary_that_cannot_be_trimmed_is_said(place: Path, models: Path) -> None:
    bert = place / "bert"
    bert.mkdir()
    for file in (models / "bert").iterdir():
        (bert / file.name).write_bytes(file.read_bytes())
    assert problems_of(place, CLASSIFY, "teacher.model=bert", "student.vocabulary=trim") == {}
    tokenizer = json.loads((bert / "tokenizer.json").read_text())
    tokenizer["model"] = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    (bert / "tokenizer.json").write_text(json.dumps(tokenizer))
    found = problems_of(place, CLASSIFY, "teacher.model=bert", "student.vocabulary=trim")
    assert "cannot be trimmed" in found["student.vocabulary"][0]


def test_mistakes_of_the_recipe_and_of_the_world_come_together(place: Path) -> None:
    found = problems_of(
        place,
        "name: x\n"
        "task: classification\n"
        "teacher: {model: bundled:all-minilm-l6-v3}\n"
        "data: {source: rows.jsonl, prompt: '{{ txt }}'}\n"
        "student: {init: {from: teacher, layers: 3}}\n"
        "cost: {student: {device: raspi9}}\n"
        "export: [onnx:int8, onnx:int8]\n",
    )
    assert {"teacher.model", "data", "data.prompt", "cost.student.device", "export[1]", "signal.kind"} <= set(found)


def test_a_damaged_row_is_named_with_its_line(place: Path) -> None:
    (place / "rows.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"prompt": \n')
    assert "rows.jsonl:2" in problems_of(place, BASE)["data.source"][0]


def test_a_field_that_may_be_missing_is_no_mistake(place: Path) -> None:
    prompt = "data.prompt={{ prompt }}{% if hint is defined %} {{ hint }}{% endif %}"
    assert problems_of(place, BASE, prompt) == {}


def test_check_shows_every_recipe_and_says_what_it_could_not_look_at(place: Path) -> None:
    for name, text in (("a", BASE), ("b", BASE + "seed: -1\n"), ("c", BASE.replace("rows.jsonl", "owner/rows"))):
        (place / f"{name}.yaml").write_text(text)
    done = CliRunner().invoke(main, ["recipe", "check", *(str(place / f"{name}.yaml") for name in "abc")])
    assert done.exit_code == 2
    assert "a.yaml: fine" in done.stdout
    assert "c.yaml: fine (not here yet, so not looked at: owner/rows)" in done.stdout
    assert "b.yaml:6: seed" in done.stderr


def test_a_run_begins_with_the_check(place: Path) -> None:
    (place / "r.yaml").write_text(BASE)
    command = ["run", str(place / "r.yaml"), "--store", str(place / "store"), "--set", "student.init.layers=9"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 2
    assert "the teacher has 2" in done.stderr
    assert not (place / "store").exists()


def test_paths_start_at_the_recipe_and_keys_do_not_know_where(
    place: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distill2edge.pipeline.run_stages import keys_of
    from distill2edge.stages import build_stages

    (place / "r.yaml").write_text(BASE)
    found = []
    for folder in (place, tmp_path_factory.mktemp("elsewhere")):
        monkeypatch.chdir(folder)
        recipe = checked_recipe(place / "r.yaml", (), SilentProgress())
        assert locate(recipe.data.source) == place / "rows.jsonl"
        assert recipe.data.source == "rows.jsonl"
        found.append(keys_of(build_stages(recipe, SilentProgress())))
    assert found[0] == found[1]
    assert str(place) not in json.dumps(load_recipe(place / "r.yaml").model_dump(mode="json"))


def test_a_file_of_the_current_directory_is_taken_with_a_warning(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "recipes").mkdir()
    path = place / "recipes" / "r.yaml"
    path.write_text(BASE)
    monkeypatch.chdir(place)
    checked_recipe(path, (), SilentProgress())
    said = capsys.readouterr().err
    assert "data.source: rows.jsonl is in the current directory, not beside the recipe" in said
    assert "teacher.model: teacher is in the current directory" in said


def test_a_missing_file_names_both_folders(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (place / "deep").mkdir()
    monkeypatch.chdir(place / "deep")
    found = problems_of(place, BASE, "data.source=gone.jsonl")
    assert str(place) in found["data.source"][1]
    assert str(place / "deep") in found["data.source"][1]


def test_what_is_not_here_yet_is_named(place: Path) -> None:
    (place / "r.yaml").write_text(BASE.replace("model: teacher", "model: owner/never-fetched"))
    assert unseen(load_recipe(place / "r.yaml")) == ["owner/never-fetched"]


def test_checking_loads_no_torch(place: Path) -> None:
    (place / "r.yaml").write_text(BASE)
    code = (
        "import sys\nfrom pathlib import Path\nfrom distill2edge.preflight import checked_recipe\n"
        "from distill2edge.util.progress import SilentProgress\n"
        f"checked_recipe(Path({str(place / 'r.yaml')!r}), (), SilentProgress())\n"
        "found = {'torch', 'transformers', 'onnxruntime', 'llama_cpp', 'datasets'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_columns_of_a_csv_are_compared_too(place: Path) -> None:
    with open(place / "rows.csv", "w", newline="") as file:
        csv.writer(file).writerows([["text", "team"], *([f"t{n}", "ab"[n % 2]] for n in range(40))])
    found = problems_of(place, BASE, "data.source=rows.csv", "data.prompt={{ txt }}", "data.response={{ team }}")
    assert found == {
        "data.prompt": ("no row of rows.csv has a field 'txt'; their fields are text, team", "did you mean text?")
    }


def test_unknown_schemes_and_directories_without_a_model_are_mistakes_of_the_recipe(place: Path) -> None:
    (place / "empty").mkdir()
    for given, said in (
        ("export=[onnx:int4-b7]", "unknown scheme 'onnx:int4-b7'"),
        ("verify.teacher_schemes=[gguf:bad]", "unknown scheme 'gguf:bad'"),
        ("teacher.model=empty", "has no config.json, and no .gguf file"),
        ("teacher.model=''", "has no config.json, and no .gguf file"),
        ("student.init.model=x", "'from' does not go with the other keys here"),
    ):
        (place / "r.yaml").write_text(BASE)
        for command in (["recipe", "check"], ["plan"]):
            result = CliRunner().invoke(main, [*command, str(place / "r.yaml"), "--set", given])
            assert result.exit_code == 2, (given, result.output)
            assert said in result.output, (given, result.output)


def test_a_family_that_cannot_be_narrower_is_said_by_its_tensors(place: Path) -> None:
    from tiny import tiny_family

    tiny_family(place / "joined", "phi3", original_max_position_embeddings=512)
    found = problems_of(
        place, BASE, "teacher.model=joined", "student.init.width={feed_forward: 64}", "export=[onnx:int8]"
    )
    assert "no first feed-forward matrix by a name that is known here (phi3)" in found["student.init.width"][0]


def test_a_width_that_a_file_cannot_store_in_its_type_is_told_with_the_next_that_fits(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from distill2edge.util.progress import for_stream

    path = place / "r.yaml"
    path.write_text(BASE)
    tiny_llama(place / "wide", hidden=256)
    changes = ("teacher.model=wide", "student.init.width={feed_forward: 288}", "export=[gguf:Q8_0, gguf:Q4_K_M]")
    checked_recipe(path, changes, for_stream(True))
    said = capsys.readouterr().err
    assert "has no Q4_K for rows of 288 weights, and takes Q5_0; 256 or 512 would fit (gguf:Q4_K_M)" in said
    assert "Q8_0)" not in said
