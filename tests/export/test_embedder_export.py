"""Embedders as files: pooling and length of the vector are in the graph, or in the file for llama.cpp."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_embedder

from distill2edge.export.gguf import export_gguf
from distill2edge.export.onnx import export_onnx
from distill2edge.export.support import refusals
from distill2edge.models.kinds import EMBEDDER
from distill2edge.models.loading import read_config
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.runtimes import open_runtime
from distill2edge.util.progress import SilentProgress

IDS = ([2, 9, 40, 3], [2, *range(20, 60), 3])
META = {"name": "tiny"}


def vectors(runtime: str, path: Path) -> np.ndarray:
    opened = open_runtime(runtime, path, threads=1)
    found = np.array([opened.embed(ids) for ids in IDS])  # type: ignore[attr-defined]
    opened.close()
    return found


@pytest.mark.parametrize(
    ("pooling", "normalize"),
    [
        ("mean", True),
        pytest.param("cls", True, marks=pytest.mark.slow),
        pytest.param("max", False, marks=pytest.mark.slow),
    ],
)
def test_onnx_gives_the_vector_itself(tmp_path: Path, pooling: str, normalize: bool) -> None:
    import onnxruntime

    tiny_embedder(tmp_path / "model", pooling=pooling, normalize=normalize)
    export_onnx(tmp_path / "model", parse_scheme("onnx:fp32"), META, tmp_path / "out", SilentProgress())
    wanted = vectors("torch", tmp_path / "model")
    np.testing.assert_allclose(vectors("onnxruntime", tmp_path / "out"), wanted, atol=2e-6)
    assert np.allclose(np.linalg.norm(wanted, axis=1), 1, atol=1e-5) == normalize
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    assert [item.name for item in session.get_outputs()] == ["sentence_embedding"]
    ids = np.zeros((2, len(IDS[1])), dtype=np.int64)
    ids[0, : len(IDS[0])], ids[1] = IDS[0], IDS[1]
    mask = (np.arange(ids.shape[1]) < np.array([[len(IDS[0])], [len(IDS[1])]])).astype(np.int64)
    feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    np.testing.assert_allclose(session.run(None, feed)[0], wanted, atol=2e-6)


@pytest.mark.parametrize(("pooling", "normalize"), [("cls", False), pytest.param("mean", True, marks=pytest.mark.slow)])
def test_llama_cpp_pools_as_the_model_does(tmp_path: Path, pooling: str, normalize: bool) -> None:
    tiny_embedder(tmp_path / "model", pooling=pooling, normalize=normalize)
    export_gguf(tmp_path / "model", parse_scheme("gguf:F32"), META, tmp_path / "out", SilentProgress())
    wanted = vectors("torch", tmp_path / "model")
    np.testing.assert_allclose(vectors("llama.cpp", tmp_path / "out"), wanted, atol=5e-4 * np.abs(wanted).max())


def test_what_llama_cpp_does_not_compute_is_refused_from_the_configuration(tmp_path: Path) -> None:
    tiny_embedder(tmp_path, pooling="max")
    config, schemes = read_config(tmp_path), [parse_scheme("gguf:Q8_0"), parse_scheme("onnx:int8")]
    (refused,) = refusals(config, EMBEDDER, schemes)
    assert "pooling 'max'" in refused.reason
    (refused,) = refusals({**config, "model_type": "mpnet"}, EMBEDDER, schemes)
    assert str(refused.scheme) == "gguf:Q8_0"
