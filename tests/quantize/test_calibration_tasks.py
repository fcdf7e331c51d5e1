"""Calibration of models other than decoders: the statistics of each kind, and what they do to its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_bert, tiny_embedder, tiny_t5

from distill2edge.errors import UserError
from distill2edge.export.gguf import export_gguf
from distill2edge.export.gguf_mix import MixExport
from distill2edge.export.gguf_rounding import Rounding
from distill2edge.export.gptq import export_onnx_gptq
from distill2edge.export.onnx import export_onnx
from distill2edge.export.onnx_mix import export_onnx_mix
from distill2edge.models.kinds import EMBEDDER, kind_of_model, logits_of
from distill2edge.models.loading import load_model
from distill2edge.quantize.activation_statistics import collect
from distill2edge.quantize.calibrate import read_calibration, write_calibration
from distill2edge.quantize.calibration_texts import Text
from distill2edge.quantize.fisher import collect_fisher
from distill2edge.quantize.measure_sensitivity import Sensitivity, read_sensitivity, write_sensitivity
from distill2edge.quantize.schemes import Mix, parse_scheme
from distill2edge.recipe.load import parse_recipe
from distill2edge.runtimes import open_runtime
from distill2edge.runtimes.protocol import logits_at, reader_of
from distill2edge.util.progress import SilentProgress

QUIET = SilentProgress()


def rows(seed: int, count: int) -> list[Text]:
    """Random texts of a few words, so that inputs are correlated, with targets of other lengths or of the same."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(6, 24, (count, 2))
    return [Text(generator.integers(5, 60, source + target).tolist(), int(source)) for source, target in lengths]


CALIBRATION, HELD_OUT = rows(0, 48), rows(1, 12)


def with_outliers(directory: Path) -> None:
    """A few channels of what every norm gives are large, as in trained models."""
    model: Any = load_model(directory, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name.lower() and name.endswith("weight"):
                weight[::16] *= 8
    model.save_pretrained(directory)


MADE: dict[str, Callable[[Path], object]] = {"classifier": tiny_bert, "embedder": tiny_embedder, "seq2seq": tiny_t5}


# The graphs of an encoder-decoder take a minute of PyTorch's exporter each time.
@pytest.fixture(
    scope="module",
    params=["classifier", *(pytest.param(name, marks=pytest.mark.slow) for name in ("embedder", "seq2seq"))],
)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one kind with its statistics beside it."""
    root = tmp_path_factory.mktemp(request.param)
    MADE[request.param](root / "model")
    with_outliers(root / "model")
    (root / "known").mkdir()
    texts = {str(number): row for number, row in enumerate(CALIBRATION)}
    write_calibration(root / "model", texts, (), root / "known", QUIET, max_tokens=9999, dataset="rows", grams=True)
    return root


def made(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory


def answers(model: Any, row: Text) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = logits_of(model, row.ids, row.prompt).numpy()
        return found


def test_statistics_are_those_of_each_row_alone(place: Path) -> None:
    model = load_model(place / "model", dtype=torch.float32).eval()
    assert any(2 * row.prompt == len(row) + 1 for row in CALIBRATION)  # source and target alike in width
    found = collect(model, CALIBRATION, QUIET, grams=True)
    seen: dict[str, list[torch.Tensor]] = {}
    for name, part in model.named_modules():
        if isinstance(part, torch.nn.Linear):
            own = seen.setdefault(f"{name}.weight", [])
            part.register_forward_pre_hook(lambda _, args, own=own: own.append(args[0].flatten(0, -2)))
    for row in CALIBRATION:
        answers(model, row)
    assert found.squares.keys() == seen.keys()
    for name, parts in seen.items():
        x = torch.cat(parts)
        assert found.tokens[name] == len(x), name
        torch.testing.assert_close(found.squares[name].float(), x.square().sum(0), rtol=1e-3, atol=1e-3)
        dense = x.T @ x  # entries off the diagonal cancel: what counts is their size beside the largest
        torch.testing.assert_close(found.grams[name], dense, rtol=1e-3, atol=1e-4 * float(dense.max()))


def error_of(place: Path, runtime: str, file: Path) -> float:
    """Mean square of what a file's answers differ by from those of its model, on held-out rows."""
    model = load_model(place / "model", dtype=torch.float32).eval()
    opened = open_runtime(runtime, file, threads=1, context=128)
    read, gaps = reader_of(opened), []
    for row in HELD_OUT:
        wanted = answers(model, row)
        if read is not None:
            got = read(row.ids)
        else:
            got = logits_at(opened, row.ids, list(range(row.prompt - 1, len(row))), row.prompt)
        gaps.append(np.square(got - wanted).mean() / np.square(wanted - wanted.mean()).mean())
    opened.close()
    return float(np.mean(gaps))


def test_compensated_onnx_is_nearer_to_the_model_than_plain(place: Path) -> None:
    scheme, known = parse_scheme("onnx:int4-b32"), read_calibration(place / "known")
    plain = export_onnx(place / "model", scheme, {"name": "x"}, made(place / "plain"), QUIET)
    facts = export_onnx_gptq(place / "model", scheme, {"name": "x"}, made(place / "gptq"), QUIET, known)
    assert facts["calibration"] == "gptq"
    assert facts["types"] == plain["types"]
    error = {name: error_of(place, "onnxruntime", place / name) for name in ("plain", "gptq")}
    assert error["gptq"] < 0.8 * error["plain"]


def test_calibrated_gguf_is_nearer_to_the_model_than_plain(place: Path) -> None:
    scheme, known, imatrix = parse_scheme("gguf:Q4_0"), read_calibration(place / "known"), place / "known/imatrix.gguf"
    error = {}
    for name, rounding in (
        ("none", Rounding()), ("imatrix", Rounding(imatrix)), ("gptq", Rounding(imatrix, known)),
    ):  # fmt: skip
        file = made(place / f"gguf-{name}")
        facts = export_gguf(place / "model", scheme, {"name": "x"}, file, QUIET, rounding=rounding)
        assert facts["calibration"] == (None if name == "none" else name)
        error[name] = error_of(place, "llama.cpp", file)
    assert error["gptq"] < error["imatrix"] < error["none"]
    assert error["gptq"] < 0.8 * error["none"]


@pytest.fixture(scope="module")
def measured(place: Path) -> Sensitivity:
    """What each type costs each matrix of the model, of both formats."""
    known, work = read_calibration(place / "known"), made(place / "sensitivity")
    write_sensitivity(place / "model", CALIBRATION, known, work, QUIET, max_tokens=2048, formats=("gguf", "onnx"))
    return read_sensitivity(work, place / "known")


def test_fisher_information_foretells_what_a_small_change_does(place: Path) -> None:
    model, other = (load_model(place / "model", dtype=torch.float32).eval() for _ in range(2))
    fisher = collect_fisher(load_model(place / "model", dtype=torch.float32).eval(), CALIBRATION, QUIET).fisher
    state, generator = other.state_dict(), torch.Generator().manual_seed(0)
    expected = 0.0
    with torch.no_grad():
        for name, part in other.named_modules():
            if isinstance(part, torch.nn.Linear) and name != "lm_head":
                weight = state[f"{name}.weight"]
                change = 1e-3 * weight.std() * torch.randn(weight.shape, generator=generator)
                weight += change
                expected += 0.5 * float((fisher[f"{name}.weight"] * change.square()).sum())
    gaps = []
    for row in CALIBRATION:
        was, now = (torch.from_numpy(np.atleast_2d(answers(each, row))).double() for each in (model, other))
        if kind_of_model(model) is EMBEDDER:
            gaps += (0.5 * (was - now).square().sum(-1)).tolist()
        else:
            p, q = (torch.log_softmax(each, -1) for each in (was, now))
            gaps += (p.exp() * (p - q)).sum(-1).tolist()
    assert 0.5 < expected / float(np.mean(gaps)) < 2.0


def test_a_gguf_mix_of_the_plain_file_s_size_is_nearer_to_the_model(place: Path, measured: Sensitivity) -> None:
    plain, mixed, scheme = made(place / "gguf-stock"), made(place / "gguf-mix"), parse_scheme("gguf:mix-1MB")
    budget = export_gguf(place / "model", parse_scheme("gguf:Q4_0"), {"name": "x"}, plain, QUIET)["size_bytes"]
    rounding = Rounding(mix=MixExport(Mix(budget=budget), measured, lambda: [], "calibration", "supervised"))
    facts = export_gguf(place / "model", scheme, {"name": "x"}, mixed, QUIET, rounding=rounding)
    assert facts["size_bytes"] <= budget
    assert len(facts["mix"]["histogram"]) > 1
    assert error_of(place, "llama.cpp", mixed) < 0.8 * error_of(place, "llama.cpp", plain)


def test_an_onnx_mix_keeps_its_budget_and_one_type_for_what_the_graph_joins(place: Path, measured: Sensitivity) -> None:
    plain, mixed, scheme = made(place / "onnx-stock"), made(place / "onnx-mix"), parse_scheme("onnx:mix-1MB")
    stock = export_onnx(place / "model", parse_scheme("onnx:int4-b32"), {"name": "x"}, plain, QUIET)["size_bytes"]
    mix = MixExport(Mix(budget=int(1.1 * stock)), measured, lambda: [], "calibration", "supervised")
    facts = export_onnx_mix(place / "model", scheme, {"name": "x"}, mixed, QUIET, mix)
    assert facts["size_bytes"] <= 1.1 * stock
    assert len(facts["mix"]["histogram"]) > 1
    assert any(name.endswith(" + 2") for name in facts["mix"]["types"])  # query, key, value
    assert error_of(place, "onnxruntime", mixed) < 0.8 * error_of(place, "onnxruntime", plain)


EMBEDDING = """
name: vectors
task: embedding
teacher: {model: a/b}
data: {source: r.jsonl, template: plain, prompt: "{{ text }}"}
signal: {kind: embeddings}
student: {init: {from: teacher, layers: 3}}
distill: {loss: {ce: 0, forward_kl: 0, embedding: 1, similarity: 1}}
bench: {workloads: [task]}
quantize: {calibration: gptq}
export: [onnx:int4-b32, gguf:Q4_0, EXPORT]
"""


def test_a_recipe_of_vectors_takes_a_budget_and_no_kl() -> None:
    recipe = parse_recipe(EMBEDDING.replace("EXPORT", "gguf:mix-20MB"), "r.yaml")
    assert [recipe.calibrated(scheme) for scheme in recipe.schemes] == [True, True, False]  # a mix has its own
    with pytest.raises(UserError, match=r"a mix under a KL, is for task .*, not for embedding: a number or a vector"):
        parse_recipe(EMBEDDING.replace("EXPORT", "onnx:mix-kl0.05"), "r.yaml")
