"""The page of the Python API, run as a notebook is: its cells in order, on a small model; then what they left."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_recipe

import distill2edge as d2e
from distill2edge.recipe import loss_terms, verifiers

PAGE = Path(__file__).parents[2] / "docs" / "python-api.md"
SMALL = {
    "name": "tickets", "export": ["gguf:Q8_0"], "bench.torch": False, "bench.workloads": ["task"],
    "distill.epochs": 4,
}  # fmt: skip


def cells() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The names that the cells made; `printed` has what each printed."""
    from distill2edge.recipe.load import dump_recipe

    root = tmp_path_factory.mktemp("page")
    patch = pytest.MonkeyPatch()
    patch.setenv("DISTILL2EDGE_STORE", str(root / "store"))
    (root / "tickets.yaml").write_text(dump_recipe(d2e.load(tiny_recipe(root), SMALL)))
    names: dict[str, Any] = {"__name__": "page"}
    printed = []
    with chdir(root):
        for cell in cells():
            with redirect_stdout(io.StringIO()) as out:
                exec(compile(cell, str(PAGE), "exec"), names)
            printed.append(out.getvalue())
        yield names | {"printed": printed}
    loss_terms._registered.clear()
    verifiers._registered.clear()
    patch.undo()


def test_the_cells_run_in_order(ran: dict[str, Any]) -> None:
    assert len(ran["printed"]) == len(cells()) > 10
    said = "\n".join(ran["printed"])
    assert "changes: distill.epoch: unknown key" in said
    assert "changes: student.lora.rank: input should be greater" in said
    assert "export student/gguf:Q8_0" in str(ran["plan"])


def test_a_run_up_to_a_stage_has_its_artifacts_and_no_report(ran: dict[str, Any]) -> None:
    part = ran["part"]
    assert list(part.artifacts) == ["data", "teacher", "signal", "student", "distill"]
    assert part.artifacts["distill"].document("train.json")["steps"] == 6
    assert str(part).startswith("distill: ")
    with pytest.raises(d2e.UserError, match="ended at distill"):
        _ = part.report
    with pytest.raises(d2e.UserError, match=r"no document trains\.json"):
        part.artifacts["distill"].document("trains.json")


def test_the_run_goes_on_from_there_and_is_an_object(ran: dict[str, Any]) -> None:
    run, part = ran["run"], ran["part"]
    assert run.artifacts["distill"].path == part.artifacts["distill"].path
    report = run.report
    assert (report.verdict, report.passed, run.passed) == ("pass", True, True)
    assert report.headline == report.headline.strip()
    assert {model.id for model in report.models} == {"teacher", "student", "student/gguf:Q8_0"}
    file = report.model("student/gguf:Q8_0")
    assert file.kl_student.low <= file.kl_student.value <= file.kl_student.high < 0.05
    assert all(gate.passed for gate in report.gates if gate.model == file.id)
    assert len(report.rows) == 12
    assert {"tokens", "teacher", "student/gguf:Q8_0"} <= report.rows[0].keys()
    assert "# " in report._repr_markdown_()
    with pytest.raises(d2e.UserError, match="did you mean teacher"):
        report.model("teachers")


def test_its_files_are_those_that_it_ships(ran: dict[str, Any]) -> None:
    (file,) = ran["run"].exports
    assert (file.model, file.verified) == ("student/gguf:Q8_0", True)
    assert (file.path / "model.gguf").stat().st_size > 10_000
    assert ran["run"].export("gguf:Q8_0") == file.path == ran["run"].export()
    with pytest.raises(d2e.UserError, match="no onnx:int8 in this run"):
        ran["run"].export("onnx:int8")


def test_a_run_that_is_opened_again_is_the_same(ran: dict[str, Any]) -> None:
    again = ran["again"]
    assert {name: made.key for name, made in again.artifacts.items()} == {
        name: made.key for name, made in ran["run"].artifacts.items()
    }
    assert again.report.document == ran["run"].report.document
    assert again.recipe.distill == ran["recipe"].distill
    assert again.of("export").keys() == {"export student/gguf:Q8_0"}


def test_what_another_device_costs_makes_measurements_and_report_anew(ran: dict[str, Any]) -> None:
    run, on_pi = ran["run"], ran["on_pi"]
    other = [name for name, made in on_pi.artifacts.items() if made.key != run.artifacts[name].key]
    assert other == ["bench", "report"]
    assert on_pi.path.name == "on-a-pi"
    assert "price date differs" in ran["printed"][-2]
    with pytest.raises(d2e.UserError, match="price date"):
        d2e.compare([run, on_pi])


def test_a_loss_of_a_named_file_trains_another_student(ran: dict[str, Any]) -> None:
    assert ran["own"].artifacts["distill"].key != ran["part"].artifacts["distill"].key
    with pytest.raises(d2e.RecipeErrors, match="unknown key 'focall'"):
        d2e.edit(ran["recipe"], {"distill.loss": {"focall": 1.0}})
