"""Training on a grid: the forward pass is that of the file, gradients go through, merging changes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from distill2edge.data.examples import Encoded, example_id
from distill2edge.distill.encoder_training import load_encoder
from distill2edge.distill.fake_quantization import follow, install
from distill2edge.distill.train import load_student, train
from distill2edge.errors import UserError
from distill2edge.export.gguf import export_gguf
from distill2edge.export.gguf_rounding import Rounding
from distill2edge.export.grid import of_gguf, of_onnx
from distill2edge.export.onnx import export_onnx
from distill2edge.gguf.ggml_types import GGML_TYPES
from distill2edge.gguf.hf_layout import layout_of, names_to_gguf
from distill2edge.gguf.reader import GgufFile, read_gguf
from distill2edge.models.loading import load_model
from distill2edge.quantize import ggml, k_quants
from distill2edge.quantize.scales import TensorGrid
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.quantize.tensor_grids import load_grids, save_grids
from distill2edge.recipe.schema import LogitsSignal, Lora, Loss, Training
from distill2edge.runtimes import open_runtime
from distill2edge.teacher.logits import cache_logits
from distill2edge.util.progress import SilentProgress
from tests.tiny import tiny_bert, tiny_family, tiny_llama

IDS = list(range(5, 37))


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("hf")
    tiny_llama(directory, hidden=64)
    return directory


def rows(count: int = 12) -> list[Encoded]:
    generator = np.random.default_rng(0)
    found = []
    for _ in range(count):
        ids = generator.integers(3, 400, 24).tolist()
        mask = [False] + [True] * 23
        found.append(Encoded(example_id(ids, mask), ids, mask))
    return found


def grids_of(model_dir: Path, kind: str) -> dict[str, TensorGrid]:
    model = load_model(model_dir, dtype=torch.float32)
    return {
        f"{name}.weight": TensorGrid.fitted(module.weight.detach(), kind)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding) and name != "lm_head"
    }


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])  # the latter scales what it looks up
def test_the_forward_pass_is_that_of_the_stored_weights_and_the_gradient_goes_through(
    model_dir: Path, tmp_path: Path, family: str
) -> None:
    if family != "llama":
        tiny_family(model_dir := tmp_path, family)
    grids = grids_of(model_dir, "Q4_0")
    student = load_student(model_dir, None, torch.float32)
    install(student, grids, torch.float32)
    dense = load_model(model_dir, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in dense.named_parameters():
            if name in grids:
                parameter.copy_(grids[name].fake_quantized(parameter))
    ids = torch.tensor([IDS])
    ours, theirs = student(ids).logits, dense(ids).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for logits in (ours, theirs):
        F.cross_entropy(logits[0, :-1], ids[0, 1:]).backward()
    wanted = dict(dense.named_parameters())
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-4, atol=1e-6)


def test_an_adapter_learns_as_if_rounding_were_not_there(model_dir: Path) -> None:
    """dA and dB against autograd on W + s B A whose value is moved to the grid."""
    grids = grids_of(model_dir, "Q4_0")
    torch.manual_seed(0)
    student = load_student(model_dir, Lora(rank=4, alpha=8), torch.float32)
    for name, parameter in student.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    weights = install(student, grids, torch.float32)
    ids = torch.tensor([IDS])
    F.cross_entropy(student(ids).logits[0, :-1], ids[0, 1:]).backward()
    name = "model.layers.1.mlp.down_proj.weight"
    weight = weights[name]
    assert weight.low_rank is not None
    a, b, scaling = weight.low_rank
    dense = load_model(model_dir, dtype=torch.float32)
    with torch.no_grad():
        for key, parameter in dense.named_parameters():
            if key in weights:
                parameter.copy_(grids[key].fake_quantized(weights[key].full()))
    F.cross_entropy(dense(ids).logits[0, :-1], ids[0, 1:]).backward()
    whole = dict(dense.named_parameters())[name].grad
    assert whole is not None
    torch.testing.assert_close(b.weight.grad, scaling * whole @ a.weight.T, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(a.weight.grad, scaling * b.weight.T @ whole, rtol=1e-4, atol=1e-6)


def test_stored_weights_follow_a_student_that_is_moved_to_another_device(model_dir: Path) -> None:
    """As a trainer moves it to a GPU, after the head was checked; meta stands for any other device."""
    for kind in ("Q4_0", "IQ4_NL", "Q4_1"):
        grids = grids_of(model_dir, kind)
        for lora in (None, Lora(rank=2, alpha=4)):  # type: ignore[call-arg]
            student = load_student(model_dir, lora, torch.float32)
            weights = install(student, grids, torch.float32)
            assert {weight.quantized().device.type for weight in weights.values()} == {"cpu"}
            student.to("meta")  # it gets new parameters; on a GPU the old ones hold other data
            for weight in weights.values():
                weight.latent = torch.nn.Parameter(weight.latent.to("meta"))
            assert {weight.quantized().device.type for weight in weights.values()} == {"meta"}
            assert {grid.scale.device.type for grid in grids.values()} == {"cpu"}


@pytest.mark.parametrize("fused", [True, False])
def test_weights_are_put_on_the_grid_once_for_each_step(model_dir: Path, fused: bool) -> None:
    student = load_student(model_dir, None, torch.float32)
    weights = install(student, grids_of(model_dir, "Q4_0"), torch.float32)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, fused=fused)
    follow(optimizer, weights.values())
    ids = torch.tensor([IDS])
    for _ in range(3):
        for _ in range(4):  # micro-batches
            student(ids).logits.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    student(ids)
    assert {weight.computed for weight in weights.values()} == {4}


@pytest.mark.parametrize("lora", [None, Lora(rank=4, alpha=8)], ids=("full", "lora"))
@pytest.mark.parametrize("scheme", ["gguf:Q4_0", "onnx:int4-b32"])
def test_training_brings_the_file_nearer_to_the_student(
    model_dir: Path, tmp_path: Path, scheme: str, lora: Lora | None
) -> None:
    """All the way: grid of the untrained file, training, merge, export, KL of both files in their runtime."""
    from distill2edge.student.merge import merge

    quiet, wanted = SilentProgress(), parse_scheme(scheme)
    export = export_gguf if wanted.format == "gguf" else export_onnx
    export(model_dir, wanted, {"name": "plain"}, tmp_path / "plain", quiet)
    if wanted.format == "gguf":
        grids = of_gguf(tmp_path / "plain" / "model.gguf", layout_of(model_dir))
    else:
        grids = of_onnx(load_model(model_dir, dtype=torch.float32), wanted.name)
    data = rows()
    cache_logits(model_dir, data, LogitsSignal(top_k=400, temperature=1.0), tmp_path / "signal", quiet)
    training = Training(
        epochs=30, learning_rate=3e-4 if lora is None else 1e-3, batch_size=4, checkpoints=0, dtype="float32"
    )
    loss = Loss(ce=0, forward_kl=1)
    train(model_dir, data, (), tmp_path / "signal", training, loss, lora, 256, 0, tmp_path / "t", quiet, grids)
    merge(model_dir, tmp_path / "t", data, (), tmp_path)
    save_grids(grids, tmp_path)
    on_grid = {"rounding": Rounding(grid=tmp_path)} if wanted.format == "gguf" else {"grid": tmp_path}
    facts = export(tmp_path / "model", wanted, {"name": "trained"}, tmp_path / "trained", quiet, **on_grid)
    assert facts["trained"]
    assert facts["size_bytes"] <= (1.01 * sum(f.stat().st_size for f in (tmp_path / "plain").iterdir()))
    dense = load_model(model_dir, dtype=torch.float32).eval()
    kl = {arm: divergence(dense, tmp_path / arm, wanted.format, data) for arm in ("plain", "trained")}
    assert kl["trained"] < 0.7 * kl["plain"], kl


def divergence(dense: torch.nn.Module, path: Path, form: str, data: list[Encoded]) -> float:
    runtime = open_runtime("llama.cpp" if form == "gguf" else "onnxruntime", path, threads=1, context=64)
    total = 0.0
    for row in data:
        with torch.no_grad():
            wanted = torch.log_softmax(dense(torch.tensor([row.ids])).logits[0], -1)
        ours = torch.log_softmax(torch.from_numpy(runtime.logits(row.ids, range(len(row.ids)))), -1)
        total += float((wanted.exp() * (wanted - ours)).sum(-1).mean())
    runtime.close()
    return total / len(data)


def test_the_written_file_holds_what_the_forward_pass_saw(model_dir: Path, tmp_path: Path) -> None:
    export_gguf(model_dir, parse_scheme("gguf:Q4_0"), {"name": "p"}, tmp_path / "p", SilentProgress())
    grids = of_gguf(tmp_path / "p" / "model.gguf", layout_of(model_dir))
    save_grids(grids, tmp_path)
    again = load_grids(tmp_path)
    export_gguf(
        model_dir,
        parse_scheme("gguf:Q4_0"),
        {"name": "p"},
        tmp_path / "t",
        SilentProgress(),
        rounding=Rounding(grid=tmp_path),
    )
    file = read_gguf(tmp_path / "t" / "model.gguf")
    state = load_model(model_dir, dtype=torch.float32).state_dict()
    names = names_to_gguf(model_dir)
    assert len(again) == 15
    for name, grid in again.items():
        info = file.tensors[names[name]]
        raw = np.fromfile(file.path, dtype=np.uint8, count=info.size, offset=info.offset).reshape(info.shape[0], -1)
        stored = layout_of(model_dir).to_hf(names[name], ggml.dequantize(raw, grid.kind, info.shape[1]))
        np.testing.assert_array_equal(stored, grid.fake_quantized(state[name]).numpy())


@pytest.mark.parametrize(
    ("scheme", "hidden", "kinds"),
    [
        ("gguf:Q4_K_M", 256, {"Q4_K", "Q6_K"}),
        ("gguf:Q5_K_M", 128, {"Q5_K", "Q6_K", "Q5_1", "Q8_0"}),  # rows of 128 fall back, those of 256 don't
        ("gguf:Q4_0", 256, {"Q4_0", "Q6_K"}),
    ],
)
def test_k_quants_are_trained_and_written_as_llama_cpp_reads_them(
    tmp_path: Path, scheme: str, hidden: int, kinds: set[str]
) -> None:
    source, model, quiet = tmp_path / "hf", tmp_path / "model", SilentProgress()
    tiny_llama(source, hidden=hidden, vocabulary=320, scale=0.05)
    export_gguf(source, parse_scheme(scheme), {"name": "p"}, tmp_path / "plain", quiet)
    grids = of_gguf(tmp_path / "plain" / "model.gguf", layout_of(source))
    assert {grid.kind for grid in grids.values()} == kinds
    student = load_student(source, None, torch.float32)
    weights = install(student, grids, torch.float32)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    follow(optimizer, weights.values())
    ids, losses = torch.tensor([IDS]), []
    for _ in range(3):
        loss = F.cross_entropy(student(ids).logits[0, :-1], ids[0, 1:])
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]

    shutil.copytree(source, model)
    student.save_pretrained(model)
    save_grids(grids, tmp_path)
    export_gguf(
        model, parse_scheme(scheme), {"name": "t"}, tmp_path / "trained", quiet, rounding=Rounding(grid=tmp_path)
    )
    before, after = (read_gguf(tmp_path / arm / "model.gguf") for arm in ("plain", "trained"))
    for name, info in after.tensors.items():
        kind = next((k for k in k_quants.KINDS if info.type == gguf.GGMLQuantizationType[k]), None)
        if kind is not None:
            old, new = (blocks_of(file, name, kind) for file in (before, after))
            np.testing.assert_array_equal(k_quants.header(new, kind), k_quants.header(old, kind))
            assert (new != old).any(), name

    runtime = open_runtime("llama.cpp", tmp_path / "trained", threads=1, context=64)
    theirs = torch.from_numpy(runtime.logits(IDS, range(len(IDS))))
    runtime.close()
    with torch.no_grad():
        ours = student(ids).logits[0]
        rough = load_model(model, dtype=torch.float32)(ids).logits[0]
    # llama.cpp also rounds activations, to 8 bits: nearer to the stored weights than these are to the latent ones.
    assert (theirs - ours).norm() < 0.02 * ours.norm()
    assert (theirs - ours).norm() < 0.5 * (theirs - rough).norm()


def test_a_type_without_a_grid_is_refused_by_name(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "hf", hidden=256, vocabulary=320, layers=1)
    export_gguf(tmp_path / "hf", parse_scheme("gguf:Q3_K_M"), {"name": "p"}, tmp_path / "p", SilentProgress())
    with pytest.raises(UserError, match="Q3_K, whose grid cannot be trained on") as refused:
        of_gguf(tmp_path / "p" / "model.gguf", layout_of(tmp_path / "hf"))
    assert "gguf:Q4_K_M" in str(refused.value.fix)


def blocks_of(file: GgufFile, name: str, kind: str) -> np.ndarray:
    info = file.tensors[name]
    data = np.fromfile(file.path, dtype=np.uint8, count=info.size, offset=info.offset)
    return data.reshape(-1, GGML_TYPES[kind].row_bytes(256))


def test_a_grid_of_another_model_is_refused(model_dir: Path) -> None:
    student = load_student(model_dir, None, torch.float32)
    grids = grids_of(model_dir, "Q4_0")
    name = "model.layers.0.mlp.up_proj.weight"
    with pytest.raises(UserError, match="another shape"):
        install(student, {**grids, name: grids["model.layers.0.mlp.down_proj.weight"]}, torch.float32)
    with pytest.raises(UserError, match=r"no matrix model\.layers\.9"):
        install(student, {**grids, "model.layers.9.mlp.up_proj.weight": grids[name]}, torch.float32)


def test_a_head_that_is_trained_beside_an_adapter_is_on_its_grid_too(tmp_path: Path) -> None:
    tiny_bert(tmp_path)
    grids = grids_of(tmp_path, "Q4_0")
    student = load_encoder(tmp_path, Lora(rank=4, alpha=8)).eval()
    weights = install(student, grids, torch.float32)
    assert weights.keys() == grids.keys()
    dense = load_model(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in dense.named_parameters():
            if name in grids:
                parameter.copy_(grids[name].fake_quantized(parameter))
    ids = torch.tensor([[2, *range(5, 20), 3]])
    ours = student(input_ids=ids).logits
    torch.testing.assert_close(ours, dense(input_ids=ids).logits, rtol=1e-5, atol=1e-5)
    ours.sum().backward()
    learnt = {name for name, parameter in student.named_parameters() if parameter.grad is not None}
    assert {name.split(".")[-2] for name in learnt} == {"default"}
    assert any("classifier.modules_to_save" in name for name in learnt)


def test_dropout_has_no_place_on_a_grid(model_dir: Path) -> None:
    student = load_student(model_dir, Lora(rank=4, alpha=8, dropout=0.1), torch.float32)
    with pytest.raises(UserError, match="dropout"):
        install(student, grids_of(model_dir, "Q4_0"), torch.float32)
