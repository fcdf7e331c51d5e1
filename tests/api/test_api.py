"""What `import distill2edge as d2e` offers: light to import, the same checks and messages as the command line."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import report_fixtures
from click.testing import CliRunner
from tiny import tiny_llama

import distill2edge as d2e
from distill2edge.cli.main import main
from distill2edge.recipe import loss_terms

RECIPE = """\
name: x
teacher: {model: teacher}
data: {source: rows.jsonl, template: plain, splits: {validation: 4, calibration: 4, test: 8}, max_length: 64}
student: {init: {from: teacher, layers: 1}}
export: [gguf:Q8_0]
"""
LOSS = """\
import distill2edge as d2e

def focal(logits, targets):
    log_q = logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
    return -((1 - log_q.exp()) ** 2) * log_q

d2e.register_loss("focal", needs="gold", function=focal)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tiny_llama(tmp_path / "teacher", layers=2)
    rows = [{"prompt": f"Review: film {n}", "response": " good"} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.output


# --- the names ------------------------------------------------------------------


def test_every_name_is_there_and_none_hides_a_folder_of_the_package() -> None:
    assert set(d2e._HOMES) | {"EnvironmentFault", "RecipeErrors", "UserError"} == set(d2e.__all__) == set(dir(d2e))
    for name in d2e.__all__:
        assert getattr(d2e, name).__doc__, name
    assert not {module.name for module in pkgutil.iter_modules(d2e.__path__)} & set(d2e.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'runn'"):
        _ = d2e.runn


def test_importing_it_and_loading_a_recipe_is_light(place: Path) -> None:
    code = (
        "import sys, distill2edge as d2e\n"
        "assert not {'click', 'pydantic', 'numpy'} & set(sys.modules)\n"
        f"d2e.edit(d2e.load({str(place / 'r.yaml')!r}), {{'seed': 1}})\n"
        "assert not {'torch', 'transformers', 'onnxruntime', 'llama_cpp', 'datasets'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- recipes --------------------------------------------------------------------


def test_a_recipe_is_changed_by_the_keys_of_set(place: Path) -> None:
    by_option = d2e.load(place / "r.yaml", ["distill.epochs=2", "export=[gguf:Q4_0]", "student.lora=null"])
    by_value = d2e.load(place / "r.yaml", {"distill.epochs": 2, "export": ("gguf:Q4_0",), "student.lora": None})
    edited = d2e.edit(d2e.load(place / "r.yaml"), {"distill.epochs": 2, "export[0]": "gguf:Q4_0", "student.lora": None})
    assert by_option == by_value == edited
    assert edited.distill.epochs == 2
    assert d2e.edit(edited, {}) == edited


def test_an_edited_recipe_still_finds_what_lies_beside_its_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert d2e.check(d2e.edit(d2e.load(place / "r.yaml"), {"seed": 3}), quiet=True) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"distill.epoch": 2}, "changes: distill.epoch: unknown key 'epoch'\n  fix: did you mean epochs?"),
        ({"student.lora.rank": 0}, "changes: student.lora.rank: input should be greater than or equal to 1, got 0"),
        ({"export[3]": "gguf:Q8_0"}, "changes export[3]: export has 1 entries"),
        ({"name.x": 1}, "name is 'x', not a section"),
        ({"a=b": 1}, "changes: 'a=b' is no key"),
        ({"name": object()}, "changes: not a value of a recipe"),
        ({"distill.epochs": float("inf")}, "changes: distill.epochs"),
        ({"description": "a\x07"}, "a character that text does not have"),
        (["distill.epoch=2"], "--set: distill.epoch: unknown key"),
        ("distill.epoch=2", "--set: distill.epoch: unknown key"),
    ],
)
def test_what_is_wrong_with_a_change_is_said(place: Path, changes: Any, said: str) -> None:
    for act in (lambda: d2e.load(place / "r.yaml", changes), lambda: d2e.edit(d2e.load(place / "r.yaml"), changes)):
        with pytest.raises(d2e.UserError) as caught:
            act()
        assert said in str(caught.value)


def test_check_says_all_mistakes_and_what_is_not_here(place: Path) -> None:
    recipe = d2e.load(place / "r.yaml", {"teacher.model": "nobody/nothing-here", "teacher.licence": "mit"})
    assert d2e.check(recipe, quiet=True) == ["nobody/nothing-here"]
    with pytest.raises(d2e.RecipeErrors) as caught:
        d2e.check(place / "r.yaml", {"student.init.layers": 3, "data.response": "{{ answer }}"}, quiet=True)
    assert "3 layers: the teacher has 2" in str(caught.value)
    assert "no row of rows.jsonl has a field 'answer'" in str(caught.value)


def test_new_writes_a_recipe_that_loads(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    text = d2e.new("rows.jsonl", name="mine", task="causal-lm")
    Path("mine.yaml").write_text(text)
    assert d2e.load("mine.yaml").name == "mine"
    assert (0, text) == call("recipe", "new", "--data", "rows.jsonl", "--name", "mine", "--task", "causal-lm")


# --- plans and runs -------------------------------------------------------------


def test_a_plan_is_an_object_and_what_the_command_prints(place: Path) -> None:
    plan = d2e.plan(place / "r.yaml", {"distill.epochs": 2}, store=place / "store", quiet=True)
    assert [stage.name for stage in plan.stages][:3] == ["data", "teacher", "signal"]
    assert plan.to_do == plan.stages
    assert plan.seconds > 0
    assert plan.memory > 1e8
    assert plan.disk > 1e4
    code, said = call("plan", str(place / "r.yaml"), "--set", "distill.epochs=2", "--store", str(place / "store"))
    assert code == 0
    shown, own = ([line[:36] for line in text.splitlines()[: len(plan.stages) + 1]] for text in (said, str(plan)))
    assert shown == own  # names and states: the times are those of the moment


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"upto": "distil"}, "upto: no stage 'distil'\n  fix: did you mean distill?"),
        ({"force": ["merged"]}, "force: no stage 'merged'\n  fix: did you mean merge?"),
        ({"upto": "merge", "seeds": [0, 1]}, "a run over several seeds goes to its report"),
        ({"seeds": [0, 0]}, "seed 0 is named twice"),
        ({"seeds": [-1]}, "not a list of seeds"),
        ({"converter": "nothing.py"}, "no such file"),
    ],
)
def test_what_is_wrong_with_a_run_is_said_before_it_starts(place: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(d2e.UserError) as caught:
        d2e.run(place / "r.yaml", store=place / "store", out=place / "out", quiet=True, **options)
    assert said in str(caught.value)
    assert not (place / "store").exists()


def test_the_stage_commands_are_runs_up_to_a_stage(place: Path) -> None:
    run = d2e.run(place / "r.yaml", upto="data", store=place / "store", out=place / "out", quiet=True)
    code, said = call("data", str(place / "r.yaml"), "--store", str(place / "store"), "--out", str(place / "out"), "-q")
    assert (code, said) == (0, f"{run}\n")
    assert run.artifacts["data"].document("data.json")["splits"]["test"]["rows"] == 8
    assert run.exports == ()
    assert run.recipe == d2e.load(place / "r.yaml")


def test_a_stage_that_the_recipe_does_not_have_is_said(place: Path) -> None:
    code, said = call("pretrain", str(place / "r.yaml"), "--store", str(place / "store"), "--out", str(place / "out"))
    assert code == 0
    assert "this recipe has no stage pretrain" in said


def written(out: Path, *, path: str = "exports/x-gguf-Q8_0", stage: str = "data") -> Path:
    """A run directory as a run leaves it, or as somebody changed it."""
    out.mkdir()
    (out / "report.json").write_text(json.dumps(report_fixtures.report()))
    (out / "run.json").write_text(json.dumps({"stages": [{"stage": stage, "key": "0" * 64}]}))
    (out / "exports.json").write_text(json.dumps({"files": [{"model": "student/gguf:Q8_0", "path": path}]}))
    return out


def test_a_run_whose_artifacts_are_gone_still_has_its_report(tmp_path: Path) -> None:
    run = d2e.open_run(written(tmp_path / "out"), store=tmp_path / "store")
    assert run.artifacts == {}
    assert run.report.verdict in ("pass", "fail")
    assert run.report.models
    assert run.exports[0].verified is None
    assert str(run).startswith(run.report.verdict.upper())


@pytest.mark.parametrize("stage", ["../../elsewhere", "..", "data\x00", "", "no-such-stage"])
def test_a_run_from_elsewhere_leads_nowhere_else(tmp_path: Path, stage: str) -> None:
    other = tmp_path / "elsewhere" / ("0" * 20)
    other.mkdir(parents=True)
    run = d2e.open_run(written(tmp_path / "out", stage=stage), store=tmp_path / "store")
    assert run.artifacts == {}
    assert other.is_dir()


@pytest.mark.parametrize("path", ["/etc", "../out/exports/x", "exports/../../x", "exports/..", "exports/a/b", ""])
def test_an_export_outside_of_its_run_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(d2e.UserError, match="names no file of this run"):
        _ = d2e.open_run(written(tmp_path / "out", path=path)).exports


@pytest.mark.parametrize("files", [7, None, "x", {"a": 1}, [7], [{"model": 1, "path": "exports/x"}]])
def test_a_damaged_list_of_exports_is_said(tmp_path: Path, files: Any) -> None:
    out = written(tmp_path / "out")
    (out / "exports.json").write_text(json.dumps({"files": files}))
    with pytest.raises(d2e.UserError, match="damaged"):
        _ = d2e.open_run(out).exports


def test_a_run_over_several_seeds_has_those_of_each(tmp_path: Path) -> None:
    out = written(tmp_path / "out")
    report = json.loads((out / "report.json").read_text())
    (out / "report.json").write_text(json.dumps(report | {"seeds": {"seeds": [0, 3], "runs": []}}))
    written(out / "seed-3")
    run = d2e.open_run(out, store=tmp_path / "store")
    assert run.seeds == (0, 3)
    for ask in (lambda: run.artifacts, lambda: run.exports, lambda: run.export()):
        with pytest.raises(d2e.UserError, match=r"each has files of its own \(seed-0, seed-3\)"):
            ask()
    assert run.seed(3).exports[0].model == "student/gguf:Q8_0"
    with pytest.raises(d2e.UserError, match="no seed 1"):
        run.seed(1)


def test_one_name_where_several_are_taken_is_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(d2e.UserError, match="nothing there"):
        d2e.compare(str(place / "none"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(d2e.UserError, match="wandb is not installed"):
        d2e.run(place / "r.yaml", track="wandb", upto="data", store=place / "store", out=place / "out", quiet=True)


def test_nothing_was_run_there(tmp_path: Path) -> None:
    with pytest.raises(d2e.UserError, match="nothing there"):
        d2e.open_run(tmp_path / "none")
    with pytest.raises(d2e.UserError, match="nothing there"):
        d2e.open_model(tmp_path / "none")


# --- code of one's own ----------------------------------------------------------


def test_a_plugin_of_the_command_line_registers_what_recipes_may_then_name(place: Path) -> None:
    (place / "mine.py").write_text(LOSS)
    recipe = ("recipe", "check", str(place / "r.yaml"), "--set", "distill.loss={ce: 0.5, focal: 0.5}")
    try:
        code, said = call(*recipe)
        assert code == 2
        assert "--plugin" in said
        assert call("--plugin", str(place / "mine.py"), *recipe)[0] == 0
    finally:
        loss_terms._registered.clear()


def test_a_plugin_that_fails_is_an_error_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import distill2edge\n1 / 0\n")
    code, said = call("--plugin", str(tmp_path / "mine.py"), "doctor")
    assert code == 2
    assert "ZeroDivisionError" in said
    assert "line 2 of mine.py" in said
    code, said = call("--plugin", str(tmp_path / "none.py"), "doctor")
    assert code == 2
    assert "cannot be read" in said


def test_help_says_whose_code_a_plugin_is() -> None:
    said = " ".join(call("--help")[1].split())
    assert "only you can name it, here: a recipe cannot" in said
