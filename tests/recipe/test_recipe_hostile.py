"""Recipes that are damaged, in another encoding, or made to hurt: refused at once, with the file and the line."""

from __future__ import annotations

import os
import time
import tracemalloc
from pathlib import Path

import pytest

from distill2edge.errors import RecipeErrors, UserError
from distill2edge.recipe.load import load_recipe, parse_recipe

MINIMAL = """\
name: x
teacher: {model: a}
data: {source: b}
student: {init: {from: teacher, layers: 3}}
"""
BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (BOMB, 10, "unfold"),
        ("x: &a [*a]\n", 5, "inside what it names"),
        ("x: &a {y: [{z: *a}]}\n", 5, "inside what it names"),
        ("x: " + "[" * 5000 + "\n", 5, "nested more than"),
        ("x:\n" + "- " * 5000 + "\n", 6, "nested more than"),
        ("seed: " + "9" * 5000 + "\n", 5, "a number of 5000 characters"),
        ("seed: " + "9" * 300 + "\n", 5, "no number that a recipe can use"),
        ("distill: {epochs: .nan}\n", 5, "no number that a recipe can use"),
        ("distill: {epochs: 1e999}\n", 5, "no number that a recipe can use"),
        ("distill: {epochs: -.inf}\n", 5, "no number that a recipe can use"),
        ("seed: 1\nseed: 2\n", 6, "written twice"),
        ("distill:\n\tepochs: 1\n", 6, "not valid YAML"),
        ("<<: {seed: 1}\n", 5, "merge keys"),
        ("? [a]\n: 1\n", 5, "a key is a list"),
        ("description: {{ text }}\n", 5, "a template goes into quotes"),
        ("---\nseed: 1\n", 5, "another document"),
        ("description: !!python/object:os.system x\n", 5, "the tag"),
        ("description: !!timestamp 2020-01-01\n", 5, "the tag"),
        ("seed: !!int many\n", 5, "is no int"),
        ('description: "\\UFFFFFFFF"\n', 5, "not valid YAML"),
        ('description: "\\ud800"\n', 5, "a character that text does not have"),
        ('description: "\\x1b[31m"\n', 5, "a character that text does not have"),
        ("description: \x07\n", 5, "a character that text does not have"),
        ("description: a\x00b\n", 5, "a character that text does not have"),
    ],
)
def test_hostile_yaml_is_refused_at_once_with_its_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(MINIMAL + text)
    start = time.process_time()  # of this process: the machine may be busy
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    assert time.process_time() - start < 3
    assert said in str(caught.value)
    assert f"{path}:{line}" in str(caught.value)
    assert "fix:" in str(caught.value)


def test_aliases_cost_no_memory() -> None:
    tracemalloc.start()
    with pytest.raises(UserError, match="unfold"):
        parse_recipe(MINIMAL + BOMB, "r.yaml")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-16-be", "utf-32"])
def test_another_encoding_is_named(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes((MINIMAL + "description: café\n").encode(encoding))
    with pytest.raises(UserError, match=r"UTF-8|not have") as caught:
        load_recipe(path)
    assert f"{path}:" in str(caught.value)


def test_a_byte_order_mark_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(MINIMAL.encode("utf-8-sig"))
    assert load_recipe(path).name == "x"


def test_what_is_no_file_or_too_large_is_refused_without_reading(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "large.yaml").write_text("# " + "x" * 10**6)
    for path, said in (
        (tmp_path, "a directory"),
        (tmp_path / "pipe.yaml", "no regular file"),
        (Path("/dev/zero"), "no regular file"),
        (tmp_path / "large.yaml", "larger than"),
    ):
        with pytest.raises(UserError, match=said):
            load_recipe(path)


@pytest.mark.parametrize(
    "override",
    [
        "seed=1e999",
        "seed=" + "9" * 5000,
        "seed=*a",
        "seed=&a [*a]",
        "seed=" + "[" * 3000,
        "seed=\x00",
        "seed=!!python/name:os.system",
        "export[9]=gguf:Q8_0",
        "export.\u00b2=gguf:Q8_0",
        "a" + ".a" * 500 + "=1",
        "=1",
        "student..init=1",
        "name.x=1",
    ],
)
def test_a_hostile_override_is_refused_and_named(override: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_recipe(MINIMAL + "export: [gguf:Q8_0]\n", "r.yaml", [override])
    assert "--set" in str(caught.value)


def test_an_override_reaches_an_entry_of_a_list_and_its_error_names_it() -> None:
    recipe = parse_recipe(MINIMAL + "export: [gguf:Q8_0, onnx:int8]\n", "r.yaml", ["export[1]=gguf:Q4_0"])
    assert recipe.export == ("gguf:Q8_0", "gguf:Q4_0")
    with pytest.raises(RecipeErrors) as caught:
        parse_recipe(MINIMAL, "r.yaml", ["distill.epochs=-1"])
    assert caught.value.errors[0].where == "--set: distill.epochs"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("distill: {epochs: true}\n", "true"),
        ('distill: {epochs: "inf"}\n', "finite"),
        ("distill: {epochs: 1e300}\n", "less than or equal"),
        ("distill: {learning_rate: 5000}\n", "less than or equal to 1"),
        ("seed: 4294967296\n", "less than"),
        ("verify: {min_retained: 95}\n", "write 0.95"),
        ("verify: {min_top1: 99}\n", "write 0.95 for 95%"),
        ("export: [{format: gguf, budget: 1e300GB}]\n", "not a file size"),
        ("export: [gguf:mix-" + "9" * 400 + "GB]\n", "unknown scheme"),
        ("export: [gguf:Q4_0" + "-untrained" * 300 + "]\n", "unknown scheme"),
        ("export: [gguf:Q8_0, onnx:int8, gguf:q8_0]\n", "twice"),
    ],
)
def test_values_that_cannot_be_are_refused(text: str, said: str) -> None:
    with pytest.raises(RecipeErrors, match=said):
        parse_recipe(MINIMAL + text, "r.yaml")


@pytest.mark.parametrize(
    ("layers", "said"),
    [("0", "make no model"), ("-2", "make no model"), ("[]", "names no layers"), ("[0, -1]", "names no layers"),
     ("[0, 2, 2]", "named twice"), ("[3, 1]", r"write \[1, 3\]")],
)  # fmt: skip
def test_layers_that_no_teacher_has_are_refused(layers: str, said: str) -> None:
    with pytest.raises(RecipeErrors, match=said):
        parse_recipe(MINIMAL.replace("layers: 3", f"layers: {layers}"), "r.yaml")
