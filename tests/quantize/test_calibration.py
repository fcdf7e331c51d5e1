"""Calibration: the statistics, llama.cpp's own file of them, and what they do to a quantized file."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill2edge.errors import UserError
from distill2edge.export.gguf import export_gguf
from distill2edge.export.gguf_rounding import Rounding
from distill2edge.gguf.hf_layout import names_to_gguf
from distill2edge.gguf.imatrix import Importance, read_imatrix, write_imatrix
from distill2edge.gguf.reader import read_gguf
from distill2edge.models.loading import load_model
from distill2edge.quantize import ggml
from distill2edge.quantize.activation_statistics import collect
from distill2edge.quantize.calibrate import write_calibration
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.recipe.load import parse_recipe
from distill2edge.util.progress import SilentProgress
from tests.tiny import tiny_llama

ROWS = {f"row{i}": np.random.default_rng(i).integers(3, 400, 20 + i).tolist() for i in range(6)}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("hf")
    tiny_llama(directory)
    return directory


def calibrate(model_dir: Path, work: Path) -> Path:
    write_calibration(model_dir, ROWS, (), work, SilentProgress(), max_tokens=10_000, dataset="rows")
    return work / "imatrix.gguf"


def test_statistics_are_the_squared_inputs_padding_left_out(model_dir: Path) -> None:
    model = load_model(model_dir, dtype=torch.float32).eval()
    found = collect(model, list(ROWS.values()), SilentProgress(), grams=True)
    name = "model.layers.1.mlp.down_proj.weight"
    seen: list[torch.Tensor] = []
    handle = model.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(
        lambda _, args: seen.append(args[0][0])
    )
    with torch.no_grad():
        for ids in ROWS.values():
            model(torch.tensor([ids]))
    handle.remove()
    x = torch.cat(seen)
    torch.testing.assert_close(found.squares[name].float(), x.square().sum(0), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.grams[name], x.T @ x, rtol=1e-3, atol=1e-3)
    assert found.tokens[name] == sum(map(len, ROWS.values()))
    assert found.squares.keys() == found.grams.keys()


@settings(max_examples=20)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=4), st.integers(1, 10**6))
def test_the_file_round_trips(sizes: list[int], count: int) -> None:
    import tempfile

    generator = np.random.default_rng(count)
    sums = {f"blk.{i}.ffn_down.weight": generator.random(n).astype(np.float32) for i, n in enumerate(sizes)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "imatrix.gguf"
        write_imatrix(path, Importance(sums, dict.fromkeys(sums, count), ["a", "b"], 256))
        back = read_imatrix(path)
    assert back.datasets == ["a", "b"]
    assert back.chunk == 256
    assert dict(back.counts) == dict.fromkeys(sums, count)
    for name, values in sums.items():
        np.testing.assert_array_equal(back.sums[name], values)
        assert (back.means()[name] > 0).all()


def test_ggmls_own_reader_finds_what_llama_cpp_looks_for(model_dir: Path, tmp_path: Path) -> None:
    path = calibrate(model_dir, tmp_path)
    library = ggml._library()

    class Params(ctypes.Structure):
        _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))

    library.gguf_init_from_file.restype = ctypes.c_void_p
    library.gguf_init_from_file.argtypes = [ctypes.c_char_p, Params]
    context = library.gguf_init_from_file(str(path).encode(), Params(True, None))
    assert context
    library.gguf_find_key.argtypes = library.gguf_find_tensor.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.gguf_find_key.restype = library.gguf_find_tensor.restype = ctypes.c_int64
    for key in ("general.type", "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"):
        assert library.gguf_find_key(context, key.encode()) >= 0
    for name in ("blk.0.attn_q.weight", "blk.1.ffn_down.weight", "token_embd.weight"):
        for part in (".in_sum2", ".counts"):
            assert library.gguf_find_tensor(context, (name + part).encode()) >= 0
    library.gguf_free.argtypes = [ctypes.c_void_p]
    library.gguf_free(context)


def test_the_file_is_rounded_by_what_matters(model_dir: Path, tmp_path: Path) -> None:
    imatrix = calibrate(model_dir, tmp_path)
    means = read_imatrix(imatrix).means()
    error = {}
    for scheme in ("gguf:Q4_0", "gguf:Q4_0-plain"):
        work = tmp_path / scheme.replace(":", "-")
        facts = export_gguf(
            model_dir, parse_scheme(scheme), {"name": "x"}, work, SilentProgress(), rounding=Rounding(imatrix=imatrix)
        )
        assert facts["calibration"] == (None if "plain" in scheme else "imatrix")
        file = read_gguf(work / "model.gguf")
        name = "blk.1.ffn_up.weight"
        wanted = (
            load_model(model_dir, dtype=torch.float32).eval().state_dict()["model.layers.1.mlp.up_proj.weight"].numpy()
        )
        error[scheme] = float((means[name] * (file.tensor(name) - wanted) ** 2).sum())
    assert error["gguf:Q4_0"] < error["gguf:Q4_0-plain"]


def test_ggml_in_this_process_gives_the_bytes_of_the_file(model_dir: Path, tmp_path: Path) -> None:
    imatrix = calibrate(model_dir, tmp_path)
    export_gguf(
        model_dir,
        parse_scheme("gguf:Q5_0"),
        {"name": "x"},
        tmp_path / "out",
        SilentProgress(),
        rounding=Rounding(imatrix=imatrix),
    )
    file = read_gguf(tmp_path / "out/model.gguf")
    weight = (
        load_model(model_dir, dtype=torch.float32).eval().state_dict()["model.layers.0.mlp.gate_proj.weight"].numpy()
    )
    name = "blk.0.ffn_gate.weight"
    data = ggml.quantize(weight, "Q5_0", read_imatrix(imatrix).means()[name])
    np.testing.assert_array_equal(ggml.dequantize(data, "Q5_0", weight.shape[1]), file.tensor(name))


def test_names_of_a_tied_head_lead_to_the_embedding(model_dir: Path) -> None:
    names = names_to_gguf(model_dir)
    assert names["lm_head.weight"] == "token_embd.weight"
    assert names["model.layers.0.self_attn.q_proj.weight"] == "blk.0.attn_q.weight"


def test_bad_input_is_told(model_dir: Path, tmp_path: Path) -> None:
    def write(rows: dict, held_out: tuple = ()) -> None:
        write_calibration(model_dir, rows, held_out, tmp_path, SilentProgress(), max_tokens=1000, dataset="rows")

    with pytest.raises(UserError, match="1 calibration rows are held-out rows too, for instance row2"):
        write(ROWS, ("row2", "other"))
    with pytest.raises(UserError, match="no calibration rows"):
        write({})
    with pytest.raises(UserError, match="are not finite"):
        write_imatrix(tmp_path / "x", Importance({"a": np.array([np.nan], dtype=np.float32)}, {"a": 1}))
    with pytest.raises(UserError, match="NaN or Inf"):
        ggml.quantize(np.full((1, 32), np.inf), "Q4_0")
    export_gguf(model_dir, parse_scheme("gguf:F16"), {"name": "x"}, tmp_path / "f16", SilentProgress())
    with pytest.raises(UserError, match="not an importance matrix"):
        read_imatrix(tmp_path / "f16/model.gguf")


def test_the_recipe_names_the_plain_arm_only_where_it_is_compared() -> None:
    text = (
        "name: a\nteacher: {model: o/t}\ndata: {source: r.jsonl}\nstudent: {init: {from: teacher, layers: 2}}\n"
        "export: [onnx:int8, gguf:Q8_0, gguf:Q4_0]\n"
    )
    assert [str(s) for s in parse_recipe(text, "a.yaml").schemes] == ["onnx:int8", "gguf:Q8_0", "gguf:Q4_0"]
    assert not parse_recipe(text, "a.yaml").calibrates
    compared = parse_recipe(text + "quantize: {calibration: imatrix, compare: true}\n", "a.yaml")
    assert [str(s) for s in compared.schemes][3:] == ["gguf:Q4_0-plain"]
    with pytest.raises(UserError, match="nothing is calibrated"):
        parse_recipe(text + "quantize: {compare: true, calibration: none}\n", "a.yaml")
    with pytest.raises(ValueError, match="unknown scheme"):
        parse_scheme("gguf:Q8_0-plain")
    with pytest.raises(UserError, match=r"data\.splits\.calibration"):
        parse_recipe(
            text.replace("r.jsonl}", "r.jsonl, splits: {calibration: 0}}") + "quantize: {calibration: imatrix}\n", "a"
        )
