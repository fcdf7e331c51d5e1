"""Calibration of models other than decoders: the statistics of each kind, and what they do to its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_bert, tiny_embedder, tiny_t5

from distill2edge.export.gguf import export_gguf
from distill2edge.export.gguf_rounding import Rounding
from distill2edge.export.gptq import export_onnx_gptq
from distill2edge.export.onnx import export_onnx
from distill2edge.models.kinds import logits_of
from distill2edge.models.loading import load_model
from distill2edge.quantize.activation_statistics import collect
from distill2edge.quantize.calibrate import read_calibration, write_calibration
from distill2edge.quantize.calibration_texts import Pair
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.runtimes import open_runtime
from distill2edge.runtimes.protocol import logits_at, reader_of
from distill2edge.util.progress import SilentProgress

QUIET = SilentProgress()


def rows(seed: int, count: int) -> list[Pair]:
    """Random texts of a few words, so that inputs are correlated, with targets of other lengths or of the same."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(6, 24, (count, 2))
    return [Pair(generator.integers(5, 60, source + target).tolist(), int(source)) for source, target in lengths]


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


@pytest.fixture(scope="module", params=sorted(MADE))
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one kind with its statistics beside it."""
    root = tmp_path_factory.mktemp(request.param)
    MADE[request.param](root / "model")
    with_outliers(root / "model")
    (root / "known").mkdir()
    texts = {str(number): row for number, row in enumerate(CALIBRATION)}
    write_calibration(root / "model", texts, (), root / "known", QUIET, max_tokens=9999, dataset="rows", grams=True)
    return root


def answers(model: Any, row: Pair) -> np.ndarray:
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
        torch.testing.assert_close(found.grams[name], x.T @ x, rtol=1e-3, atol=0.1)


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


def made(directory: Path) -> Path:
    directory.mkdir()
    return directory
