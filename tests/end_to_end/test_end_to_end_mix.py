"""A recipe with a mix of types: under a budget of bytes, under a KL, and what is said where nothing meets them."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_llama, tiny_recipe

from distill2edge.cli.main import main
from distill2edge.errors import UserError
from distill2edge.export.gguf import export_gguf
from distill2edge.export.gguf_mix import MixExport
from distill2edge.gguf.hf_layout import layout_of
from distill2edge.gguf.reader import read_gguf
from distill2edge.gguf.repack import overhead
from distill2edge.quantize import budget
from distill2edge.quantize.calibrate import read_calibration, write_calibration
from distill2edge.quantize.measure_sensitivity import Sensitivity, read_sensitivity, write_sensitivity
from distill2edge.quantize.schemes import Mix, Scheme, parse_bytes, parse_scheme
from distill2edge.recipe.load import parse_recipe
from distill2edge.running.reading import choose_export
from distill2edge.util.progress import SilentProgress

ROWS = {f"row{n}": [(7 * n + 3 * i) % 397 + 3 for i in range(40)] for n in range(8)}
BUDGET, ONNX_BUDGET = "70kB", "110kB"
MORE = (
    "--set", f"export=[{{format: gguf, budget: {BUDGET}}}, 'gguf:mix-kl0.2', gguf:Q8_0, gguf:Q4_0, "
    f"{{format: onnx, budget: {ONNX_BUDGET}}}, {{format: onnx, max_kl: 0.2}}, 'onnx:int4-b32']",
    "--set", "verify.positions=all", "--set", "quantize.calibration=imatrix",
)  # fmt: skip


def call(root: Path, command: str, *more: str) -> Result:
    out = ["--out", str(root / "out")] if command == "run" else []
    return CliRunner().invoke(main, [command, str(root / "tiny.yaml"), "--store", str(root / "store"), *out, *more])


def measured(model: Path, work: Path) -> Sensitivity:
    """What the stages of calibration and of sensitivity write of a model, both in `work`."""
    write_calibration(model, ROWS, (), work, SilentProgress(), max_tokens=256, dataset="rows", grams=True)
    write_sensitivity(model, list(ROWS.values()), read_calibration(work), work, SilentProgress(), max_tokens=256)
    return read_sensitivity(work, work)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("run")
    tiny_recipe(found)
    result = call(found, "run", *MORE)
    assert result.exit_code == 0, result.output
    return found


def exports(out: Path) -> dict[str, dict]:
    return {item["model"]: item for item in json.loads((out / "report.json").read_text())["files"]}


def test_the_file_fits_its_budget_and_beats_the_stock_type(root: Path) -> None:
    out = root / "out"
    path = out / "exports/tiny-gguf-mix-70kB/model.gguf"
    assert path.stat().st_size <= parse_bytes(BUDGET)
    mix = exports(out)["student/gguf:mix-70kB"]
    assert mix["size_bytes"] == path.stat().st_size
    types = {name: gguf.GGMLQuantizationType(info.type).name for name, info in read_gguf(path).tensors.items()}
    assert {name: types[name] for name in mix["mix"]["types"]} == mix["mix"]["types"]
    assert read_gguf(path).get("distill2edge.scheme") == "gguf:mix-70kB"
    assert mix["mix"]["nearest_stock"]["scheme"].startswith("gguf:")
    models = {model["id"]: model for model in json.loads((out / "report.json").read_text())["models"]}
    ours, stock = models["student/gguf:mix-70kB"], models["student/gguf:Q4_0"]
    assert ours["kl_student"]["value"] < stock["kl_student"]["value"]


def test_activations_are_gathered_once_for_stock_schemes_and_mixes(root: Path) -> None:
    manifests = [json.loads(path.read_text()) for path in (root / "store").glob("*/*/manifest.json")]
    keys = {each["key"] for each in manifests if each["stage"] == "calibration"}
    assert len(keys) == 1
    readers = [each for each in manifests if keys & set(each["parents"].values())]
    # the four mixes and Q4_0
    assert sorted(each["stage"] for each in readers) == [*["export"] * 5, "report", "sensitivity"]
    assert len(list((root / "store").rglob("grams-*.safetensors"))) == 1


def test_the_measured_kl_is_under_the_limit_and_its_rows_are_named(root: Path) -> None:
    mix = exports(root / "out")["student/gguf:mix-kl0.2"]["mix"]
    assert mix["measured"]["kl"] <= 0.2
    assert mix["measured"]["rows"] == "validation"
    assert mix["measured"]["which_positions"] == "all"
    passed = [each for each in mix["measured"]["tried"] if each["kl"] <= 0.2]
    assert min(each["size_bytes"] for each in passed) == exports(root / "out")["student/gguf:mix-kl0.2"]["size_bytes"]


def test_an_onnx_file_fits_its_budget_and_beats_plain_int4(root: Path) -> None:
    mix = exports(root / "out")["student/onnx:mix-110kB"]
    directory = root / "out/exports/tiny-onnx-mix-110kB"
    assert sum((directory / name).stat().st_size for name in ("model.onnx", "model.onnx.data")) == mix["size_bytes"]
    assert mix["size_bytes"] <= parse_bytes(ONNX_BUDGET)
    assert not mix["trained"]
    assert set(mix["mix"]["types"].values()) <= set(mix["types"])
    models = {model["id"]: model for model in json.loads((root / "out/report.json").read_text())["models"]}
    ours, plain = models["student/onnx:mix-110kB"], models["student/onnx:int4-b32"]
    assert ours["kl_student"]["value"] < plain["kl_student"]["value"]


def test_an_onnx_file_is_the_smallest_found_under_its_kl(root: Path) -> None:
    mix = exports(root / "out")["student/onnx:mix-kl0.2"]
    assert mix["mix"]["measured"]["kl"] <= 0.2
    passed = [each for each in mix["mix"]["measured"]["tried"] if each["kl"] <= 0.2]
    assert min(each["size_bytes"] for each in passed) == pytest.approx(mix["size_bytes"], rel=0.1)


def test_the_report_draws_kl_against_size(root: Path) -> None:
    report = json.loads((root / "out/report.json").read_text())
    assert {point["id"] for point in report["pareto"]["kl"]} >= {"student/gguf:mix-70kB", "student/gguf:Q8_0"}
    assert "KL against size" in (root / "out/report.html").read_text()
    _, _, table = (root / "out/report.md").read_text().partition("Size, fidelity and speed")
    line = next(line for line in table.splitlines() if "student/gguf:mix-70kB" in line)
    speed = line.split("|")[4].split()[0]
    assert float(speed.replace(",", "")) > 0


def test_chat_finds_the_file_however_its_limit_is_written(root: Path) -> None:
    assert choose_export(root / "out", "gguf:mix-70000").name == "tiny-gguf-mix-70kB"


def test_what_nothing_meets_is_refused_with_the_nearest(root: Path) -> None:
    result = call(root, "export", "--set", "export=[gguf:mix-20kB]")
    assert result.exit_code == 2
    assert "no file of this model fits in 20,000 bytes: the smallest types need" in result.output
    result = call(root, "export", "--set", "export=[onnx:mix-20kB]")
    assert result.exit_code == 2
    assert "no file of this model fits in 20,000 bytes: the smallest types need" in result.output
    result = call(root, "export", "--set", "export=[gguf:mix-kl1e-6]", "--set", "verify.positions=all")
    assert result.exit_code == 2
    assert "no mix of types has a KL of at most 1e-06 nats per token: the nearest has" in result.output


def test_a_budget_that_is_too_large_takes_q8_0_and_says_so(root: Path) -> None:
    result = call(root, "export", "--set", "export=[gguf:mix-1MB]")
    assert result.exit_code == 0, result.output
    found = [json.loads(path.read_text()) for path in (root / "store/export").rglob("export.json")]
    (mix,) = [each["mix"] for each in found if each["scheme"] == "gguf:mix-1MB"]
    assert set(mix["types"].values()) == {"Q8_0"}
    assert "all are Q8_0" in mix["note"]


@pytest.fixture(scope="module")
def sensitivity(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("sensitivity")
    # 48 columns are no multiple of 32; 256 take every type
    tiny_llama(root / "model", hidden=48, tied=False)
    measured(root / "model", root)
    return root / "model", root


@pytest.fixture(scope="module")
def base(sensitivity: tuple[Path, Path]) -> tuple[Path, int]:
    model, root = sensitivity
    facts = export_gguf(model, Scheme("gguf", "F32"), {"name": "x"}, root / "base", SilentProgress())
    return root / "base/model.gguf", facts["size_bytes"]


@settings(max_examples=25)
@given(st.floats(0, 1))
def test_no_budget_is_exceeded_and_the_written_size_is_the_predicted_one(
    sensitivity: tuple[Path, Path], base: tuple[Path, int], share: float
) -> None:
    model, directory = sensitivity
    work = base[0].parent
    known = read_sensitivity(directory, directory)
    layout = layout_of(model)
    options = known.options
    rest = overhead(base[0], frozenset(options))
    tensors = read_gguf(base[0]).tensors
    assert rest + sum(tensors[name].size for name in options) == base[1]
    low = rest + budget.smallest_bytes(options)
    high = rest + budget.bytes_of(options, budget.best_types(options))
    limit = Mix(budget=low + round(share * (high - low)))
    mix = MixExport(limit, known, lambda: [], "validation", "all")
    found = mix.write(model, layout, base[0], work / "mix.gguf", work, SilentProgress())  # asserts the predicted size
    assert limit.budget is not None
    assert (work / "mix.gguf").stat().st_size <= limit.budget
    assert {each["used"] for each in found["fallbacks"]} == {"F16"}
    assert not (work / "rounded").exists()


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_is_compensated_and_a_tied_embedding_by_its_inputs(tmp_path: Path, tied: bool) -> None:
    tiny_llama(tmp_path / "model", tied=tied)
    sensitivity = measured(tmp_path / "model", tmp_path)
    head = "token_embd.weight" if tied else "output.weight"
    assert ("token_embd.weight" in sensitivity.grams) == tied
    gram = sensitivity.gram(head)
    assert gram is not None
    share = gram.diagonal() / gram.diagonal().sum()
    np.testing.assert_allclose(share, sensitivity.importance[head] / sensitivity.importance[head].sum(), rtol=1e-3)


table = st.dictionaries(
    st.sampled_from("xyzw"),
    st.dictionaries(st.sampled_from("abcd"), st.tuples(st.integers(1, 50), st.floats(0.001, 1)), min_size=1),
    min_size=1,
)


@settings(max_examples=60)
@given(table, st.floats(0.01, 4), st.floats(0.3, 3))
def test_the_mix_under_a_kl_passes_and_the_best_types_are_not_overlooked(
    options: dict[str, dict[str, tuple[int, float]]], limit: float, ratio: float
) -> None:
    def measure(types: dict[str, str]) -> float:
        return ratio * budget.expected_kl(options, types)

    if ratio * budget.expected_kl(options, budget.best_types(options)) > limit:
        with pytest.raises(UserError, match="the nearest has"):
            budget.smallest_under(options, limit, measure)
        return
    best, tried = budget.smallest_under(options, limit, measure)
    assert best.kl <= limit
    assert best.bytes == min(each.bytes for each in tried if each.kl <= limit)
    assert len(tried) <= budget.TRIES + 1


def test_statistics_in_parts_are_those_of_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_llama(tmp_path / "model")
    found = []
    for room in (1 << 30, 60_000):
        monkeypatch.setattr("distill2edge.quantize.activations.ROOM", room)
        work = tmp_path / str(room)
        work.mkdir()
        found.append(measured(tmp_path / "model", work))
    assert len(list((tmp_path / "60000").glob("grams-*"))) > 1
    for name, kinds in found[0].options.items():
        assert found[1].options[name] == {
            kind: (size, pytest.approx(loss, rel=1e-4)) for kind, (size, loss) in kinds.items()
        }
        gram, other = found[0].gram(name), found[1].gram(name)
        assert (gram is None) == (other is None)
        assert gram is None or float((gram - other).abs().max()) <= 1e-3 * float(gram.abs().max())


RECIPE = """\
name: m
teacher: {{model: owner/teacher}}
data: {{source: rows.jsonl}}
student: {{init: {{from: teacher, layers: 2}}}}
export: [{entry}]
{more}
"""


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ("{format: gguf, budget: 90MB}", "gguf:mix-90MB"),
        ("{format: gguf, budget: 92000000}", "gguf:mix-92MB"),
        ("{format: gguf, budget: 85.5 MiB}", "gguf:mix-89653248B"),
        ("{format: gguf, budget: 1GiB}", "gguf:mix-1024MiB"),
        ("{format: gguf, budget: 1.5 GB}", "gguf:mix-1500MB"),
        ("{format: gguf, max_kl: 0.05}", "gguf:mix-kl0.05"),
        ("gguf:mix-90mb", "gguf:mix-90MB"),
        ("gguf:mix-KL0.050", "gguf:mix-kl0.05"),
    ],
)
def test_a_limit_has_one_name(entry: str, name: str) -> None:
    recipe = parse_recipe(RECIPE.format(entry=entry, more=""), "m.yaml")
    assert [str(scheme) for scheme in recipe.schemes] == [name]
    assert str(parse_scheme(name)) == name
    assert not recipe.schemes[0].calibrates


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("{format: gguf}", "one limit, its budget or its max_kl"),
        ("{format: gguf, budget: 90MB, max_kl: 0.1}", "one limit, its budget or its max_kl"),
        ("{format: torch, budget: 90MB}", "written as gguf or onnx, not as 'torch'"),
        ("{format: gguf, buget: 90MB}", "unknown key 'buget'"),
        ("{format: gguf, budget: 90 parsecs}", "'90 parsecs' is not a file size"),
        ("{format: gguf, max_kl: -1}", "-1 is not a KL between 1e-06 and 10 nats"),
        ("gguf:mix-kl0", "is not a KL between 1e-06 and 10 nats"),
        ("onnx:mix-kl0", "write onnx:mix-kl0.05"),
        ("gguf:mix-big", "'big' is not a file size"),
        ("gguf:mix-90MB, gguf:mix-90000kB", "names a scheme twice"),
    ],
)
def test_a_limit_that_is_none_is_refused_when_the_recipe_is_read(entry: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        parse_recipe(RECIPE.format(entry=entry, more=""), "m.yaml")
    assert str(caught.value).count("m.yaml:") == 1  # and nothing that only follows from it


def test_a_mix_needs_calibration_rows_and_a_task_that_has_them() -> None:
    text = RECIPE.format(entry="gguf:mix-90MB", more="")
    with pytest.raises(UserError, match="needs calibration rows"):
        parse_recipe(text.replace("rows.jsonl", "rows.jsonl, splits: {calibration: 0}"), "m.yaml")
    with pytest.raises(UserError, match=r"is for task .*, not for token-classification"):
        parse_recipe(RECIPE.format(entry="onnx:mix-90MB", more="task: token-classification"), "m.yaml")
