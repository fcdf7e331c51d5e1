"""From a budget to a recipe: sizes that files really have, points that none beats, and what a user gets wrong."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_llama

from distill2edge.cli.main import main
from distill2edge.export.gguf import export_gguf
from distill2edge.fit import device_script, measure
from distill2edge.fit.decoder import Decoder, decoder_of
from distill2edge.fit.halving import rounds
from distill2edge.fit.header import vocabularies
from distill2edge.fit.loss import Estimate, error
from distill2edge.fit.mixes import mixed
from distill2edge.fit.pareto import pareto
from distill2edge.fit.profiles import known, predicted
from distill2edge.fit.search import Budget, choose, points
from distill2edge.fit.sizes import kinds_of, stored, written
from distill2edge.fit.trial import aligned, of_row
from distill2edge.intake.glance import glance
from distill2edge.models.id_map import IdMap
from distill2edge.models.widths import settings
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.quantize.sensitivity import KINDS
from distill2edge.recipe.load import load_recipe
from distill2edge.student.influence import read_influence, write_influence
from distill2edge.util.progress import SilentProgress

LAYERS = 9


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fit")
    tiny_llama(root / "teacher", layers=LAYERS, hidden=128)
    (root / "teacher" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    rows = [{"question": f"What is {n}?", "answer": f"the {n * 37} dog sleeps"} for n in range(80)]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def fit(root: Path, *options: str) -> tuple[int, str]:
    given = ["--teacher", str(root / "teacher"), "--context", "64", "--store", str(root / "store"), "--quiet"]
    done = CliRunner().invoke(main, ["fit", *given, *options])
    return done.exit_code, done.stdout if "--json" in options else done.output


@pytest.fixture(scope="module")
def estimate(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Estimate:
    """What is expected of the teacher's students, by rows of random tokens."""
    work = tmp_path_factory.mktemp("influence")
    rows = [[(7 * at + 13 * row) % 300 + 3 for at in range(24)] for row in range(16)]
    write_influence(teacher / "teacher", rows, work, SilentProgress(), kinds=KINDS)
    return Estimate(whole_of(teacher), read_influence(work))


def whole_of(root: Path) -> Decoder:
    looked = glance(str(root / "teacher"))
    assert looked is not None
    return decoder_of(looked)


# --- sizes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "narrow"), [("Q4_K_M", False), ("Q3_K_M", False), ("Q4_0", True), ("Q5_K_M", True), ("F16", True)]
)
def test_a_size_is_that_of_the_file(teacher: Path, tmp_path: Path, scheme: str, narrow: bool) -> None:
    """Of a student of fewer and narrower layers too: a plain model of its family, written by the exporter."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    whole = whole_of(teacher)
    widths = whole.widths._replace(kv_groups=1, feed_forward=160, hidden=64) if narrow else whole.widths
    layers = 3 if narrow else LAYERS
    place = teacher / "teacher"
    if narrow:
        config = AutoConfig.from_pretrained(place)
        for name, value in {**settings(whole.widths, widths), "num_hidden_layers": layers}.items():
            setattr(config, name, value)
        torch.manual_seed(0)
        place = tmp_path / "student"
        AutoModelForCausalLM.from_config(config).save_pretrained(place)
        AutoTokenizer.from_pretrained(teacher / "teacher").save_pretrained(place)
    words = vocabularies(teacher / "teacher", [], whole.vocabulary)[0]
    work = tmp_path / "export"
    work.mkdir()
    export_gguf(place, parse_scheme(f"gguf:{scheme}"), {"name": "student", "teacher": "x"}, work, SilentProgress())
    found = stored(whole.sized(layers, widths, whole.vocabulary), scheme, words.key_values, weighed=False)
    size = (work / "model.gguf").stat().st_size
    assert abs(found.bytes - size) <= max(0.01 * size, 1500), (found.bytes, size)  # texts of the metadata


# --- points ---------------------------------------------------------------------


@given(st.lists(st.tuples(*[st.integers(0, 5)] * 3), max_size=40))
def test_no_point_of_the_set_is_beaten_and_every_other_is(items: list[tuple[int, int, int]]) -> None:
    def beats(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
        return all(x <= y for x, y in zip(a, b, strict=True)) and a != b

    found = pareto(items, lambda item: item)
    assert len(set(found)) == len(found)
    assert not any(beats(other, item) for item in found for other in items)
    assert all(item in found or any(beats(other, item) for other in found) for item in items)


def test_less_of_a_model_is_smaller_faster_and_worse(teacher: Path, estimate: Estimate) -> None:
    whole = whole_of(teacher)
    words = vocabularies(teacher / "teacher", ["the dog"], whole.vocabulary)
    assert [each.name for each in words] == ["keep", "trim"]
    assert words[1].rows < words[0].rows
    found = list(points(whole, words, predicted("raspberry-pi-5"), 64, estimate))
    alike = [
        p for p in found if (p.scheme, p.cache, p.vocabulary, p.shape.widths) == ("Q8_0", "f16", "keep", whole.widths)
    ]
    for more, less in pairwise(alike):
        assert more.shape.layers > less.shape.layers
        assert more.file.bytes > less.file.bytes
        assert more.figures.memory > less.figures.memory
        assert more.figures.decode < less.figures.decode
        assert more.loss < less.loss
    best, nearest = choose(found, Budget(disk=alike[0].file.bytes))
    assert nearest is None
    assert all(point.file.bytes <= alike[0].file.bytes for point in best)
    assert best[0].loss == min(point.loss for point in found if point.file.bytes <= alike[0].file.bytes)


def test_parts_that_do_more_hold_more(teacher: Path, estimate: Estimate) -> None:
    """All of a width holds everything; the types that err more cost more."""
    whole = whole_of(teacher)
    assert estimate.pruned(whole) == 0
    for name in ("kv_groups", "feed_forward", "hidden"):
        narrow = whole.widths._replace(**{name: getattr(whole.widths, name) // 2})
        shares = estimate.shares(whole.sized(LAYERS, narrow, whole.vocabulary))
        assert shares[name] > 0
        assert sum(shares.values()) == shares[name]
        assert shares[name] < math.log(2)  # the half that does most holds more than half
    costs = [estimate.rounded(whole, kinds_of(whole, scheme)) for scheme in ("F16", "Q8_0", "Q5_1", "Q4_0")]
    assert costs == sorted(costs)
    assert costs[0] == 0 < costs[1]


def test_a_mix_fills_the_bytes_of_a_file_and_more_of_them_cost_less(teacher: Path, estimate: Estimate) -> None:
    whole, types = whole_of(teacher), predicted("pixel-8").types
    small, large = (stored(whole, scheme, 10_000).bytes for scheme in ("Q4_0", "Q8_0"))
    budgets = [round(small + share * (large - small)) for share in (0.2, 0.5, 0.8)]
    found = [mixed(whole, budget, 10_000, estimate, types) for budget in budgets]
    sizes = [written(whole, kinds, 10_000).bytes for kinds in found if kinds is not None]
    assert len(sizes) == 3
    assert all(0.95 * budget < size <= budget for size, budget in zip(sizes, budgets, strict=True))
    losses = [estimate.stored(whole, kinds, mix=True) for kinds in found if kinds is not None]
    assert losses == sorted(losses, reverse=True)
    assert mixed(whole, small // 2, 10_000, estimate, types) is None
    assert mixed(whole, 2 * large, 10_000, estimate, types) is None


def test_a_trimmed_vocabulary_is_compared_where_both_have_read_the_same_text() -> None:
    """`there` is gone and read as `th` `ere`: what follows `the`, `there` and `is` is compared."""
    pieces = {1: "the", 2: "there", 3: "is", 4: "th", 5: "ere"}
    ids = IdMap(np.array([1, 3, 4, 5]), 6)
    found = aligned([1, 2, 3], [0, 1, 2], [0, 2, 3, 1], ids, pieces.__getitem__)
    assert list(found.places) == [0, 1, 2]
    assert list(found.own_places) == [0, 2, 3]
    logits = torch.randn(3, 6)
    logits[:, [0, 2]] = -1e9  # the teacher has nothing on what is gone

    def forward(input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        assert input_ids.tolist() == [[0, 2, 3, 1]]
        return SimpleNamespace(logits=logits[[0, 0, 1, 2]][:, [1, 3, 4, 5]][None])

    assert float(of_row(logits, forward, found, ids)) == pytest.approx(0, abs=1e-5)
    logits[1, 2] = torch.logsumexp(logits[1], -1)  # half of its mass, once
    assert float(of_row(logits, forward, found, ids)) == pytest.approx(math.log(2), abs=1e-5)


def test_halves_get_twice_the_share() -> None:
    assert rounds(4) == [(4, Fraction(1, 8)), (2, Fraction(1, 4))]
    assert rounds(5) == [(5, Fraction(1, 8)), (3, Fraction(1, 4)), (2, Fraction(1, 2))]
    assert rounds(16)[-1] == (2, Fraction(1))


def test_a_type_of_fewer_bits_errs_more() -> None:
    order = ["F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K"]
    assert all(error(more) < error(fewer) for more, fewer in pairwise(order))


# --- the command ----------------------------------------------------------------


def test_from_a_budget_to_a_recipe_that_passes_its_check(teacher: Path, tmp_path: Path) -> None:
    target = tmp_path / "fitted.yaml"
    code, said = fit(teacher, "--data", str(teacher / "rows.jsonl"), "--disk", "500kB", "--ram", "100MB",
                     "--ttft", "300ms", "--device", "raspberry-pi-5", "--write", str(target))  # fmt: skip
    assert code == 0, said
    assert "predicted, not measured" in said
    assert "is an estimate and no measurement" in " ".join(said.split())
    recipe = load_recipe(target)
    assert recipe.export[0].startswith("gguf:")
    checked = CliRunner().invoke(main, ["recipe", "check", str(target)])
    assert checked.exit_code == 0, checked.output
    code, said = fit(teacher, "--disk", "500kB", "--device", "pixel-8", "--json")
    first = json.loads(said)["points"][0]
    assert code == 0
    assert first["size_bytes"] <= 500_000
    assert first["training_s"] > 0
    code, said = fit(teacher, "--device", "pixel-8", "--write", str(target))
    assert code == 2
    assert "a file already" in said


def test_a_budget_that_nothing_meets_names_the_nearest(teacher: Path, tmp_path: Path) -> None:
    target = tmp_path / "none.yaml"
    code, said = fit(teacher, "--disk", "10kB", "--ram", "1MB", "--device", "raspberry-pi-5", "--write", str(target))
    assert code == 3
    assert "the nearest lacks: RAM" in said
    assert "too much" in said
    assert not target.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ram", "150 parsecs"], "is not a size: write 90MB"),
        (["--disk", "-4MB"], "is not a size"),
        (["--ttft", "300"], "time with its unit: write 300ms"),
        (["--ttft", "300 m"], "time with its unit"),
        (["--tokens-per-second", "0"], "range"),
        (["--tokens-per-second", "nan"], "not a number"),
        (["--context", "600"], "the teacher reads 512 at most"),
        (["--device", "rasberry-pi-5"], "did you mean raspberry-pi-5?"),
        (["--device", "nothing.json"], "there is no such profile"),
        (["--train", "2"], "the winner's recipe has no place"),
        (["--train", "1", "--write", "x.yaml"], "range"),
        (["--yes"], "nothing is trained"),
        (["--text", "question"], "--text and --label name columns of a file"),
    ],
)
def test_what_cannot_be_meant_is_said(teacher: Path, options: list[str], words: str) -> None:
    code, said = fit(teacher, "--device", "pixel-8", *options)
    assert code == 2, said
    assert words in " ".join(said.split())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 99}, "a profile of schema 99, and this version reads 1"),
        ({"kind": "shopping list"}, "no device profile"),
        ({"threads": 0}, "threads"),
        ({"decode": {"weight_s": {}, "layer_s": 1}}, "weight_s"),
    ],
)
def test_a_profile_of_another_schema_is_refused(teacher: Path, tmp_path: Path, change: dict, words: str) -> None:
    document = predicted("pixel-8").model_dump()
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({**document, **change}))
    code, said = fit(teacher, "--device", str(path))
    assert code == 2
    assert words in " ".join(said.split())


def test_heads_that_do_not_divide_are_refused(teacher: Path, tmp_path: Path) -> None:
    tiny_llama(tmp_path / "teacher", layers=1)
    path = tmp_path / "teacher" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_key_value_heads": 3}))
    code, said = fit(tmp_path, "--device", "pixel-8")
    assert code == 2
    assert "3 key-value heads do not divide 4 heads" in " ".join(said.split())


def test_a_teacher_that_may_not_teach_is_measured_no_further(teacher: Path, tmp_path: Path) -> None:
    """Its licence is looked up before a weight is read; nothing is written."""
    tiny_llama(tmp_path / "teacher", layers=1)
    target = tmp_path / "x.yaml"
    code, said = fit(tmp_path, "--data", str(teacher / "rows.jsonl"), "--device", "pixel-8", "--write", str(target))
    assert code == 2
    assert "licence" in said
    assert not target.exists()
    assert not list((tmp_path / "store").glob("influence/*"))


def test_long_trainings_are_agreed_to_first(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill2edge.fit.halving.ASKED_S", 0.0)
    target = tmp_path / "best.yaml"
    code, said = fit(teacher, "--data", str(teacher / "rows.jsonl"), "--device", "pixel-8", "--disk", "500kB",
                     "--train", "4", "--write", str(target))  # fmt: skip
    assert code == 2
    assert "short trainings: 4 for 1/8 of the steps, 2 for 1/4 of the steps" in " ".join(said.split())
    assert "say --yes" in said
    assert not target.exists()
    assert not list((teacher / "store").glob("distill/*"))


def test_too_few_rows_to_hold_any_out_are_refused(teacher: Path, tmp_path: Path) -> None:
    rows, target = tmp_path / "rows.jsonl", tmp_path / "x.yaml"
    rows.write_text("".join(json.dumps({"question": f"What is {n}?", "answer": str(n)}) + "\n" for n in range(12)))
    code, said = fit(teacher, "--data", str(rows), "--device", "pixel-8", "--write", str(target))
    assert code == 2
    assert "12 usable rows" in said
    assert not target.exists()


@pytest.mark.slow
def test_questions_without_answers_are_enough_to_measure_a_teacher_on(teacher: Path, tmp_path: Path) -> None:
    rows, target = tmp_path / "rows.jsonl", tmp_path / "x.yaml"
    rows.write_text("".join(json.dumps({"question": f"What is {n * 37}?"}) + "\n" for n in range(80)))
    code, said = fit(teacher, "--data", str(rows), "--device", "pixel-8", "--disk", "500kB", "--write", str(target))
    assert code == 0, said
    assert load_recipe(target).data.response is None


@pytest.mark.slow
def test_a_mix_is_as_large_as_it_was_said_to_be(teacher: Path, tmp_path: Path) -> None:
    """Through the stages: never over the limit, and within 2% of the bytes that were expected of this small file."""
    target = tmp_path / "x.yaml"
    given = ("--data", str(teacher / "rows.jsonl"), "--device", "pixel-8", "--disk", "400kB", "--json")
    code, said = fit(teacher, *given, "--write", str(target))
    assert code == 0, said
    point = json.loads(said)["points"][0]
    assert point["scheme"] == "gguf:mix-400kB"
    options = ["--store", str(teacher / "store"), "--out", str(tmp_path / "run"), "--quiet"]
    done = CliRunner().invoke(main, ["export", str(target), *options])
    assert done.exit_code == 0, done.output
    (export,) = (teacher / "store").glob("export/*/export.json")
    size = json.loads(export.read_text())["size_bytes"]
    assert size <= 400_000
    assert size == pytest.approx(point["size_bytes"], rel=0.02)


@pytest.mark.slow
def test_the_better_of_some_students_is_found_by_training_them(teacher: Path, tmp_path: Path) -> None:
    target, given = tmp_path / "best.yaml", ("--data", str(teacher / "rows.jsonl"), "--device", "pixel-8")
    code, said = fit(teacher, *given, "--disk", "500kB", "--train", "4", "--yes", "--write", str(target), "--json")
    assert code == 0, said
    trials = json.loads(said)["trials"]
    assert [trial["round"] for trial in trials] == [1, 1, 1, 1, 2, 2]
    first, last = trials[:4], trials[4:]
    assert sorted(trial["kl"] for trial in first)[:2] == sorted(trial["kl"] for trial in first if trial["kept"])
    assert last[-1]["kept"]
    assert last[-1]["kl"] <= last[0]["kl"]
    text, recipe = target.read_text(), load_recipe(target)
    assert f"{last[-1]['kl']:.3f} nats per token from the teacher" in " ".join(text.replace("#", "").split())
    assert recipe.student.init.layers == last[-1]["layers"]
    assert CliRunner().invoke(main, ["recipe", "check", str(target)]).exit_code == 0
    trained = {path: path.stat().st_mtime_ns for path in (teacher / "store").glob("distill/*/train.json")}
    assert len(trained) == 6
    target.unlink()
    code, again = fit(teacher, *given, "--disk", "500kB", "--train", "4", "--write", str(target), "--json")
    assert code == 0, again  # nothing is left to agree to
    assert json.loads(again)["trials"] == trials
    assert {path: path.stat().st_mtime_ns for path in trained} == trained


# --- profiles -------------------------------------------------------------------


def test_devices_that_come_along_are_marked_as_predicted() -> None:
    for name, row in known().items():
        assert predicted(name).predicted
        assert "estimate" in row.source
        assert predicted(name).url == row.url


def test_the_script_runs_by_itself(tmp_path: Path) -> None:
    """With numpy and the runtime alone: its probes are models that llama.cpp computes."""
    import subprocess
    import sys

    script = tmp_path / "profile_device.py"
    script.write_text(measure.script())
    assert "distill2edge." not in "".join(line for line in script.read_text().splitlines() if "import" in line)
    command = [sys.executable, "-I", str(script), "--probe", "Q4_K", "1", "256", "512", "--threads", "1"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout)
    assert found["early_s"] > 0
    assert found["memory"] > found["before"] > 0


def test_seconds_are_found_again_from_probes() -> None:
    """Least squares on probes that follow the model exactly."""
    layer, cache = 5e-5, 1e-9
    seconds = {"Q8_0": 2e-10, "Q4_0": 1e-10, "F16": 4e-10}
    found = []
    for kind, per in seconds.items():
        for shape in (device_script.LARGE, device_script.DEEP, device_script.SMALL):
            head = device_script.VOCABULARY * shape.hidden
            early = per * (shape.weights + head) + layer * shape.layers
            late = early + cache * (960 - 128) * 4 * shape.layers * shape.groups * 64
            read = 128 * per / 2 * shape.weights + layer * shape.layers
            found.append((shape, kind, {"early_s": early, "late_s": late, "read_s": read, "file": shape.weights,
                                        "memory": 10 * shape.weights, "before": 0}))  # fmt: skip
    fitted = device_script.fitted(found)
    assert fitted["decode"]["weight_s"] == pytest.approx(seconds, rel=1e-6)
    assert fitted["decode"]["layer_s"] == pytest.approx(layer, rel=1e-6)
    assert fitted["decode"]["cache_byte_s"] == pytest.approx(cache, rel=1e-6)
    assert fitted["prefill"]["weight_s"] == pytest.approx({k: v / 2 for k, v in seconds.items()}, rel=1e-6)
