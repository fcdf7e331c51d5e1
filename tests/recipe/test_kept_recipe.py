"""The recipe that a run keeps runs from where it lies, as itself; what people are shown names no folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from distill2edge import stages
from distill2edge.errors import UserError
from distill2edge.pipeline.run_stages import keys_of
from distill2edge.recipe.kept import kept_text, told, told_text
from distill2edge.recipe.load import dump_recipe, load_recipe
from distill2edge.recipe.paths import locate
from distill2edge.running.directory import check
from distill2edge.running.leftovers import remove_files, remove_seeds
from distill2edge.running.reading import exported
from distill2edge.util.progress import SilentProgress

RECIPE = """\
# what it is for
name: films   # a name
teacher: {model: bundled:smollm2-135m-instruct}
data: {source: data/rows.jsonl, prompt: "{{ text }}", response: "{{ label }}"}
student: {init: {from: teacher, layers: 2}}
export: [gguf:Q8_0]
cost: {prices: ./prices.yaml}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "data").mkdir(parents=True)
    (root / "data" / "rows.jsonl").write_text('{"text": "a", "label": "b"}\n')
    (root / "prices.yaml").write_text("{}\n")
    (root / "films.yaml").write_text(RECIPE)
    return root


def keep(recipe: Path, out: Path, text: str | None = None) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    kept = out / "recipe.yaml"
    kept.write_text(kept_text(text or recipe.read_text(), load_recipe(recipe), out))
    return kept


def keys(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr("distill2edge.intake.obtain.fingerprint", lambda *args: {"sha256": "model"})
    return keys_of(stages.build_stages(load_recipe(recipe), SilentProgress()))


@pytest.mark.parametrize("place", ["project/runs/films", "elsewhere/films/seed-1", "project"])
def test_it_runs_from_the_run_directory_with_the_same_keys(
    place: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = keep(project / "films.yaml", tmp_path / place)
    again = keep(kept, tmp_path / "again" / "films")  # the kept one is run, and kept in its turn
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    wanted = keys(project / "films.yaml", monkeypatch)
    for path in (kept, again):
        loaded = load_recipe(path)
        assert locate(loaded.data.source).resolve() == project / "data" / "rows.jsonl"
        assert locate(loaded.cost.prices or "").resolve() == project / "prices.yaml"
        assert keys(path, monkeypatch) == wanted
        text = path.read_text()
        assert str(tmp_path) not in text
        assert "# what it is for" in text
        assert text.count("folder:") == (0 if path.parent == project else 1)


def test_overrides_braces_and_several_documents_of_style_are_kept_too(project: Path, tmp_path: Path) -> None:
    recipe = project / "films.yaml"
    for text in (dump_recipe(load_recipe(recipe)), json.dumps(json.loads(json.dumps(_values(recipe))))):
        kept = keep(recipe, tmp_path / "out", text)
        assert locate(load_recipe(kept).data.source).resolve() == project / "data" / "rows.jsonl"


def _values(recipe: Path) -> object:
    from distill2edge.recipe import yaml12

    return yaml12.parse_document(recipe.read_text(), "x").value


def test_a_recipe_without_local_paths_is_kept_as_it_is(tmp_path: Path) -> None:
    text = RECIPE.replace("data/rows.jsonl", "bundled:movie-sentiment").replace("cost: {prices: ./prices.yaml}\n", "")
    (tmp_path / "films.yaml").write_text(text)
    assert kept_text(text, load_recipe(tmp_path / "films.yaml"), tmp_path / "out") == text


@pytest.mark.parametrize("style", ["{}", '"{}"', "'{}'"])
def test_what_others_are_shown_has_the_last_part_of_every_local_path(style: str, project: Path, tmp_path: Path) -> None:
    recipe = project / "films.yaml"
    source = style.format(project / "data" / "rows.jsonl")
    recipe.write_text(RECIPE.replace("data/rows.jsonl", source))
    kept = keep(recipe, tmp_path / "out" / "films")
    text = told_text(kept)
    assert str(tmp_path) not in text
    assert "folder" not in text
    assert "# what it is for" in text
    (tmp_path / "told.yaml").write_text(text)
    assert load_recipe(tmp_path / "told.yaml").data.source == "rows.jsonl"
    loaded = load_recipe(recipe)
    shown = told({"recipe": loaded.model_dump(mode="json"), "source": str(loaded.data.source), "n": [1]}, loaded)
    assert str(tmp_path) not in json.dumps(shown)
    assert (shown["source"], shown["n"]) == ("rows.jsonl", [1])


def test_a_run_directory_without_a_recipe_in_its_recipe_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("- /home/me\n")
    with pytest.raises(UserError):
        told_text(tmp_path / "recipe.yaml")


def test_a_folder_that_is_none_is_a_mistake_with_its_line(project: Path) -> None:
    for value in ("3", "[a]", "{a: b}"):
        (project / "films.yaml").write_text(RECIPE + f"folder: {value}\n")
        with pytest.raises(UserError, match="folder"):
            load_recipe(project / "films.yaml")


# --- what an earlier run left -------------------------------------------------


def made(out: Path, *names: str) -> None:
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("x")


FILES = ("exports/a/model.gguf", "exports.json", "ledger-signal.parquet", "judge.json")
DOCUMENTS = ("report.json", "report.html", "report.md", "model_card.md", "recipe.yaml", "run.json")


def names(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def test_several_seeds_leave_no_file_of_one_run_beside_them(tmp_path: Path) -> None:
    made(tmp_path, *FILES, *DOCUMENTS, "run.log", "notes.txt")
    for seed in (0, 1, 2):
        made(tmp_path / f"seed-{seed}", *FILES, *DOCUMENTS)
    remove_files(tmp_path)
    remove_seeds(tmp_path, [tmp_path / "seed-0", tmp_path / "seed-1"])
    assert names(tmp_path) == {
        *DOCUMENTS, "run.log", "notes.txt", *(f"seed-{n}/{name}" for n in (0, 1) for name in (*FILES, *DOCUMENTS))
    }  # fmt: skip
    assert not (tmp_path / "seed-2").exists()


def test_one_run_leaves_no_seeds_but_what_people_put_there(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    made(tmp_path / "other", *FILES)
    made(tmp_path, *FILES, *DOCUMENTS, "seed-3/notes.txt", "seed-x/report.json")
    made(tmp_path / "seed-3", *FILES, *DOCUMENTS)
    made(tmp_path / "seed-4", *FILES, *DOCUMENTS)
    (tmp_path / "seed-5").symlink_to(tmp_path / "other")
    remove_seeds(tmp_path)
    assert {name for name in names(tmp_path) if name.startswith("seed-")} == {"seed-3/notes.txt", "seed-x/report.json"}
    assert not (tmp_path / "seed-4").exists()
    assert len(names(tmp_path / "other")) == len(FILES)


# --- a run directory from elsewhere -------------------------------------------


@pytest.mark.parametrize("name", ["exports", "run.log", "train.jsonl", "tensorboard"])
def test_nothing_is_written_through_a_link_or_into_a_pipe(name: str, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    made(other, "file")
    out.mkdir()
    (out / name).symlink_to(other / "file" if "." in name else other)
    with pytest.raises(UserError, match="a link"):
        check(out)
    (out / name).unlink()
    os.mkfifo(out / name)
    with pytest.raises(UserError, match="something else"):
        check(out)
    (out / name).unlink()
    check(out)


def test_what_is_hidden_in_exports_is_none_and_a_link_there_is_refused(tmp_path: Path) -> None:
    made(tmp_path, "exports/a/model.gguf", "exports/.a.gguf", "exports/a/.model.gguf.x1.gguf", "exports/.b/model.gguf")
    assert [path.name for path in exported(tmp_path)] == ["a", "model.gguf"]
    (tmp_path / "exports" / "b").symlink_to("/etc")
    with pytest.raises(UserError, match="a link"):
        exported(tmp_path)
