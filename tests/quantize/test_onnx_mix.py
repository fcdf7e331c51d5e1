"""Types by matrix in an ONNX file: grids as ONNX Runtime's operators read them, the choice, and the file end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill2edge.distill.fake_quantization import install
from distill2edge.errors import UserError
from distill2edge.export.onnx import export_onnx
from distill2edge.models.loading import load_model
from distill2edge.quantize import onnx_types
from distill2edge.quantize.activation_statistics import Statistics, collect
from distill2edge.quantize.allocation import choose
from distill2edge.quantize.fisher import collect_fisher
from distill2edge.quantize.grids import GRIDS, plain
from distill2edge.quantize.rounding import compensate, inverse, round_matrix
from distill2edge.quantize.scales import TensorGrid
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.quantize.tensor_grids import ModelGrid, load_grids, save_grids
from distill2edge.quantize.types import ONNX_TYPES
from distill2edge.runtimes import open_runtime
from distill2edge.util.progress import SilentProgress
from tests.quantize.test_grids import matrices
from tests.tiny import tiny_llama

IDS = list(range(5, 37))
EMBEDDING = "model.embed_tokens.weight"


def run(nodes: list[ir.Node], inputs: list[ir.Value], constants: list[ir.Value], feed: np.ndarray) -> np.ndarray:
    """The output of the last node in ONNX Runtime."""
    out = nodes[-1].outputs[0]
    out.name, out.type = "out", ir.TensorType(ir.DataType.FLOAT)
    imports = {"": 22, "com.microsoft": 1}
    model = ir.Model(ir.Graph(inputs, [out], nodes=nodes, initializers=constants, opset_imports=imports, name="g"),
                     ir_version=10)  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return session.run(None, {"x": feed})[0]


def constant(name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))


def given_x(kind: ir.DataType, *shape: int) -> ir.Value:
    return ir.Value(name="x", type=ir.TensorType(kind), shape=ir.Shape(shape))


def parts(grid: TensorGrid, weight: torch.Tensor, flat: bool) -> tuple[list[ir.Value], list[ir.Value], ir.Node]:
    """Initializers of a matrix, the operands after the activations, and the node that widens its scales."""
    packed, scales, zeros = grid.onnx(weight)
    found = [constant("w", packed.reshape(len(packed), -1) if flat else packed), constant("s", scales)]
    cast = ir.node("Cast", [found[1]], {"to": ir.DataType.FLOAT})
    if zeros is not None:
        found.append(constant("z", zeros))
    return found, [found[0], cast.outputs[0], *found[2:]], cast


def within(matrix: np.ndarray) -> torch.Tensor:
    """The matrix, scaled down where its blocks have no 16-bit scale."""
    most = float(np.abs(matrix).max())
    return torch.from_numpy(matrix * np.float32(1e4 / most) if most > 1e4 else matrix)


@settings(max_examples=60)
@given(matrices(odd=True), st.sampled_from(onnx_types.KINDS))
def test_a_lookup_in_onnx_runtime_is_what_the_grid_says_bit_for_bit(matrix: np.ndarray, kind: str) -> None:
    weight = within(matrix)
    grid, (rows, columns) = TensorGrid.fitted(weight, kind), matrix.shape
    constants, (table, scale, *zeros), cast = parts(grid, weight, flat=True)
    x = given_x(ir.DataType.INT64, rows)
    attributes = {"bits": GRIDS[kind].bits, "block_size": GRIDS[kind].block, "gather_axis": 0, "quantize_axis": 1}
    node = ir.node("GatherBlockQuantized", [table, x, scale, *zeros], attributes, domain="com.microsoft")
    found = run([cast, node], [x], constants, np.arange(rows))
    np.testing.assert_array_equal(found[:, :columns], grid.fake_quantized(weight).numpy())


@settings(max_examples=40)
@given(matrices(odd=True), st.sampled_from(onnx_types.KINDS), st.sampled_from((0, 4)))
def test_a_product_in_onnx_runtime_is_that_of_the_grid(matrix: np.ndarray, kind: str, level: int) -> None:
    weight = within(matrix)
    grid, (rows, columns) = TensorGrid.fitted(weight, kind), matrix.shape
    constants, operands, cast = parts(grid, weight, flat=False)
    x = given_x(ir.DataType.FLOAT, 4, columns)
    attributes = {"K": columns, "N": rows, "bits": GRIDS[kind].bits, "block_size": GRIDS[kind].block}
    node = ir.node("MatMulNBits", [x, operands[0], operands[1], *operands[2:]],
                   {**attributes, "accuracy_level": level}, domain="com.microsoft")  # fmt: skip
    fed = np.random.default_rng(0).standard_normal((4, columns)).astype(np.float32)
    wanted = fed.astype(np.float64) @ grid.fake_quantized(weight).numpy().astype(np.float64).T
    sizes = np.abs(grid.fake_quantized(weight).numpy()).astype(np.float64)
    allowed = 1e-5 * np.abs(fed).astype(np.float64) @ sizes.T + 1e-12
    if level:  # activations are rounded to 8 bits per block: each is off by half a step of the largest at most
        allowed += 1.05 * np.abs(fed).max(-1, keepdims=True) / 254 * sizes.sum(-1)
    assert (np.abs(run([cast, node], [x], constants, fed) - wanted) <= allowed).all()


@settings(max_examples=60)
@given(matrices(odd=True), st.sampled_from(onnx_types.KINDS))
def test_weights_on_the_grid_stay_where_they_are(matrix: np.ndarray, kind: str) -> None:
    weight = within(matrix)
    grid = TensorGrid.fitted(weight, kind)
    stored = grid.fake_quantized(weight)
    torch.testing.assert_close(grid.fake_quantized(stored), stored, rtol=0, atol=0)


@settings(max_examples=60)
@given(st.integers(1, 5), st.integers(1, 300), st.sampled_from(onnx_types.KINDS))
def test_the_size_of_a_type_is_that_of_its_bytes(rows: int, columns: int, kind: str) -> None:
    weight = torch.randn(rows, columns)
    assert ONNX_TYPES[kind].size(rows, columns) == sum(
        part.nbytes for part in TensorGrid.fitted(weight, kind).onnx(weight) if part is not None
    )


@pytest.mark.parametrize("kind", onnx_types.KINDS)
def test_compensated_rounding_errs_less_in_what_the_layer_computes(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(512, 128, generator=generator) @ torch.randn(128, 128, generator=generator)
    weight, gram = torch.randn(48, 128, generator=generator), inputs.T @ inputs / 512
    moved, grid = compensate(weight, kind, inverse(gram))

    def error(stored: torch.Tensor) -> float:
        gap = stored - weight
        return float(((gap @ gram) * gap).sum())

    assert error(grid.fake_quantized(moved)) < 0.8 * error(
        TensorGrid.fitted(weight, kind, gram.diagonal()).fake_quantized(weight)
    )


def test_a_row_that_the_blocks_do_not_fill_is_not_compensated() -> None:
    with pytest.raises(UserError, match="rows of 96 weights don't fit uint4-b64-f16"):
        compensate(torch.ones(2, 96), "uint4-b64-f16", inverse(torch.eye(96)))


def test_no_stock_quantizer_is_claimed_for_a_type_that_has_none() -> None:
    with pytest.raises(ValueError, match="no quantizer"):
        plain(torch.ones(2, 32), "uint4-b32-f16")


# --- a whole model -----------------------------------------------------------


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("hf")
    tiny_llama(directory, hidden=64)
    return directory


@pytest.fixture(scope="module")
def measured(model_dir: Path) -> tuple[dict[str, torch.Tensor], dict, dict, dict]:
    """Weights, Fisher information, mean squared inputs and grams of the tiny model."""
    rows = np.random.default_rng(0).integers(3, 400, (8, 32)).tolist()

    def model() -> torch.nn.Module:
        return load_model(model_dir, dtype=torch.float32).eval()

    squares: Statistics = collect(model(), rows, SilentProgress(), grams=True)
    fisher = collect_fisher(model(), rows, SilentProgress()).fisher
    weights = {
        f"{name}.weight": module.weight.detach()
        for name, module in model().named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding) and name != "lm_head"
    }
    used = {name: "lm_head.weight" if name == EMBEDDING else name for name in weights}
    return (
        weights,
        {name: fisher[key] for name, key in used.items()},
        {name: (squares.squares[key] / squares.tokens[key]).float() for name, key in used.items()},
        {name: squares.grams[key] / squares.tokens[key] for name, key in used.items()},
    )


def test_what_a_graph_joins_has_one_type_and_the_choice_fits(measured: tuple) -> None:
    weights, fisher, inputs, grams = measured
    table = onnx_types.joined(
        {
            name: onnx_types.option(weight, fisher[name], inputs[name], grams.get(name))
            for name, weight in weights.items()
        },
        members := onnx_types.groups(weights),
    )
    assert set(table["model.layers.0.self_attn.qkv_proj.weight"]) == {
        "uint4-b16-f16", "uint4-b32-f16", "uint4-b64-f16", "int8-b64-f16"}  # fmt: skip
    for kinds in table.values():
        assert kinds["int8-b64-f16"][1] < kinds["uint4-b16-f16"][1] < kinds["uint4-b64-f16"][1]
    least = sum(min(size for size, _ in kinds.values()) for kinds in table.values())
    most = sum(max(size for size, _ in kinds.values()) for kinds in table.values())
    for budget in (least, (least + most) // 2):
        types = onnx_types.by_weight(choose(table, budget), members)
        assert sum(ONNX_TYPES[kind].size(*weights[name].shape) for name, kind in types.items()) <= budget
        for layer in range(2):
            assert len({types[f"model.layers.{layer}.self_attn.{part}_proj.weight"] for part in "qkv"}) == 1
    with pytest.raises(UserError, match="the smallest types need"):
        choose(table, least - 1)


def rounded(
    weights: dict, types: dict[str, str], inputs: dict, grams: dict
) -> tuple[dict[str, torch.Tensor], ModelGrid]:
    both = {n: round_matrix(weights[n], kind, inputs[n], grams.get(n)) for n, kind in types.items()}
    return {name: moved for name, (moved, _) in both.items()}, {name: grid for name, (_, grid) in both.items()}


def write_rounded(model_dir: Path, moved: dict[str, torch.Tensor], grids: ModelGrid, directory: Path) -> None:
    """A model with moved weights beside its grid."""
    model = load_model(model_dir, dtype=torch.float32)
    state = model.state_dict()
    for name, weight in moved.items():
        state[name].copy_(weight)
    model.save_pretrained(directory)
    for path in model_dir.iterdir():
        if not (directory / path.name).exists():
            (directory / path.name).write_bytes(path.read_bytes())
    save_grids(grids, directory)


@pytest.mark.parametrize("embedding", ["uint4-b32-f16", "int8-b64-f16"])
def test_the_file_computes_with_its_grids(model_dir: Path, tmp_path: Path, measured: tuple, embedding: str) -> None:
    """Every type in one file, grids read back; torch with the stored weights against ONNX Runtime."""
    weights, _, inputs, grams = measured
    names = list(onnx_types.groups(weights).values())
    types = {n: onnx_types.KINDS[i % 4] if i % 5 else "int8-b64-f16" for i, g in enumerate(names) for n in g}
    types = {n: k if weights[n].shape[1] % GRIDS[k].block == 0 else "uint4-b64-f16" for n, k in types.items()}
    types[EMBEDDING] = embedding
    start = tmp_path / "start"
    write_rounded(model_dir, *rounded(weights, types, inputs, grams), start)
    facts = export_onnx(start, parse_scheme("onnx:int4-b32"), {"name": "mix"}, tmp_path / "mix", SilentProgress(),
                        grid=start)  # fmt: skip
    assert {kind for kind in facts["types"] if kind in GRIDS} == set(types.values())
    stored = sum(entry["bytes"] for kind, entry in facts["types"].items() if kind in GRIDS)
    assert stored == sum(ONNX_TYPES[kind].size(*weights[name].shape) for name, kind in types.items())
    config = json.loads((tmp_path / "mix" / "genai_config.json").read_text())
    assert config["model"]["decoder"]["filename"] == "model.onnx"
    runtime = open_runtime("onnxruntime", tmp_path / "mix", threads=1, context=64)
    try:
        ours = torch.from_numpy(np.array(runtime.logits(IDS, range(len(IDS)))))
    finally:
        runtime.close()
    student = load_model(start, dtype=torch.float32).eval()
    install(student, load_grids(start), torch.float32)
    with torch.no_grad():
        wanted = student(torch.tensor([IDS])).logits[0]
        far = load_model(model_dir, dtype=torch.float32).eval()(torch.tensor([IDS])).logits[0]
    # The rest is activations in 8 bits.
    assert (ours - wanted).square().mean() < 0.05 * (far - wanted).square().mean()


def test_genai_runs_the_file(model_dir: Path, tmp_path: Path, measured: tuple) -> None:
    genai = pytest.importorskip("onnxruntime_genai")
    weights, _, inputs, grams = measured
    start = tmp_path / "start"
    types = dict.fromkeys(weights, "uint4-b32-f16") | {EMBEDDING: "int8-b64-f16"}
    write_rounded(model_dir, *rounded(weights, types, inputs, grams), start)
    export_onnx(start, parse_scheme("onnx:int4-b32"), {"name": "mix"}, tmp_path / "mix", SilentProgress(), grid=start)
    model = genai.Model(str(tmp_path / "mix"))
    params = genai.GeneratorParams(model)
    params.set_search_options(max_length=40, min_length=40, do_sample=False)
    generator = genai.Generator(model, params)
    generator.append_tokens(np.array(IDS, dtype=np.int32))
    runtime = open_runtime("onnxruntime", tmp_path / "mix", threads=1, context=64)
    try:
        token = int(np.array(runtime.logits(IDS, [len(IDS) - 1]))[0].argmax())
    finally:
        runtime.close()
    generator.generate_next_token()
    assert int(generator.get_next_tokens()[0]) == token


def test_a_grid_trains(model_dir: Path, measured: tuple) -> None:
    """Zero points hold still, gradients go through, and a step moves weights between levels."""
    weights, _, inputs, _ = measured
    grids = {name: TensorGrid.fitted(weight, "uint4-b32-f16", inputs[name]) for name, weight in weights.items()}
    student = load_model(model_dir, dtype=torch.float32)
    seen = install(student, grids, torch.float32)
    optimizer = torch.optim.SGD(student.parameters(), lr=1.0)
    ids = torch.tensor([IDS])
    losses = []
    for _ in range(5):
        loss = torch.nn.functional.cross_entropy(student(ids).logits[0, :-1], ids[0, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    for name, weight in seen.items():
        codes = grids[name].codes(weight.full())
        assert codes.min() >= 0
        assert codes.max() <= 15


def test_matrices_that_the_graph_joins_cannot_have_two_types(model_dir: Path, tmp_path: Path, measured: tuple) -> None:
    weights, _, inputs, _ = measured
    types = dict.fromkeys(weights, "uint4-b32-f16") | {"model.layers.0.self_attn.q_proj.weight": "int8-b64-f16"}
    write_rounded(model_dir, *rounded(weights, types, inputs, {}), tmp_path / "start")
    with pytest.raises(UserError, match="joins matrices whose grids are of several types"):
        export_onnx(tmp_path / "start", parse_scheme("onnx:int4-b32"), {"name": "mix"}, tmp_path / "mix",
                    SilentProgress(), grid=tmp_path / "start")  # fmt: skip


@pytest.mark.parametrize("columns", [40, 72])
def test_rows_that_no_block_fills_are_padded_and_not_compensated(columns: int) -> None:
    weight, gram = torch.randn(6, columns), torch.eye(columns)
    found = onnx_types.option(weight, torch.ones_like(weight), torch.ones(columns), gram)
    assert set(found) == set(onnx_types.KINDS)
    for kind in onnx_types.KINDS:
        moved, grid = round_matrix(weight, kind, torch.ones(columns), gram)
        torch.testing.assert_close(moved, weight)
        assert grid.fake_quantized(moved).shape == weight.shape


def test_weights_beyond_the_16_bit_scales_are_refused() -> None:
    with pytest.raises(UserError, match="beyond the 16-bit scales of uint4-b32-f16"):
        TensorGrid.fitted(torch.full((2, 32), 1e30), "uint4-b32-f16")
