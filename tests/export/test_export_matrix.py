"""Every listed family in every format, and every variant that a format could get wrong: the file is the model, or it
is refused by the table; and what is refused would have been another model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime_genai
import pytest
import torch
from export_matrix import VARIANTS
from tiny import tiny_family

from distill2edge.errors import UserError
from distill2edge.export import probes, support
from distill2edge.export.faithful import Check, deviation_of, difference
from distill2edge.export.gguf import export_gguf
from distill2edge.export.onnx import export_onnx
from distill2edge.models.kinds import kind_of, logits_of
from distill2edge.models.loading import load_model
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.runtimes import open_runtime
from distill2edge.util.progress import SilentProgress

META = {"name": "tiny", "licence": "MIT"}


def export(model_dir: Path, scheme: str, out: Path) -> dict[str, Any]:
    parsed = parse_scheme(scheme)
    write: Any = export_onnx if parsed.format == "onnx" else export_gguf
    facts: dict[str, Any] = write(model_dir, parsed, META, out, SilentProgress())
    return facts


def made(directory: Path, name: str) -> Path:
    tiny_family(directory / "model", VARIANTS[name].family, **VARIANTS[name].changes)
    return directory / "model"


def kl(model_dir: Path, out: Path, length: int) -> float:
    """Nats per token of torch || file on ids that no check has seen."""
    ids = np.random.default_rng(7).integers(3, 390, length).tolist()
    with torch.no_grad():
        expected = logits_of(load_model(model_dir, dtype=torch.float32).eval(), ids, 0).numpy()
    kind = "onnxruntime" if (out / "model.onnx").is_file() else "llama.cpp"
    runtime = open_runtime(kind, out, threads=1, context=length + 8)
    got = runtime.logits(ids, range(length))
    runtime.close()
    return difference(expected, got, deviation_of([expected]))[0]


def goes_out_or_is_refused(name: str, form: str, tmp_path: Path) -> None:
    scheme = {"onnx": "onnx:fp32", "gguf": "gguf:F32"}[form]
    model_dir = made(tmp_path, name)
    carried = getattr(VARIANTS[name], form)
    config = json.loads((model_dir / "config.json").read_text())
    found = support.refusals(config, kind_of(config), [parse_scheme(scheme)])
    assert not found if carried else found, found
    if not carried:
        with pytest.raises(UserError) as caught:
            export(model_dir, scheme, tmp_path / "out")
        assert found[0].reason in str(caught.value)
        return
    facts = export(model_dir, scheme, tmp_path / "out")
    compared, window = facts["faithful"], support.window_of(config)
    assert compared["positions"] == window
    assert compared["kl"] < 1e-6
    assert window is not None
    assert kl(model_dir, tmp_path / "out", min(window, 200)) < 1e-6
    if form == "onnx":
        onnxruntime_genai.Model(str(tmp_path / "out"))  # opens what its configuration names


FAST = [name for name, variant in VARIANTS.items() if variant.fast]
SLOW = [(name, form) for name in VARIANTS for form in ("onnx", "gguf") if name not in FAST or form == "gguf"]


@pytest.mark.parametrize("name", FAST)
def test_a_family_goes_out_in_onnx(name: str, tmp_path: Path) -> None:
    goes_out_or_is_refused(name, "onnx", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "form"), SLOW)
def test_every_variant_goes_out_or_is_refused(name: str, form: str, tmp_path: Path) -> None:
    goes_out_or_is_refused(name, form, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["onnx:fp16", "onnx:int8", "onnx:int4-b32"])
@pytest.mark.parametrize("family", support.ONNX_DECODERS)
def test_every_family_in_every_onnx_scheme(family: str, scheme: str, tmp_path: Path) -> None:
    name = next(name for name, variant in VARIANTS.items() if variant.family == family)
    facts = export(made(tmp_path, name), scheme, tmp_path / "out")
    assert facts["faithful"]["kl"] < 1e-6
    assert kl(tmp_path / "model", tmp_path / "out", 60) < 0.4


def test_every_listed_family_is_in_the_matrix() -> None:
    families = {variant.family for variant in VARIANTS.values()}
    assert set(support.ONNX_DECODERS) <= families
    assert set(support.GGUF) - {"bert", "t5"} <= families  # those: test_gguf_classifier, test_gguf_t5
    assert not [name for name, each in VARIANTS.items() if each.gguf and each.family not in support.GGUF]


# --- the comparison itself ----------------------------------------------------------


def broken(path: Path, change: Any) -> None:
    model = onnx.load(str(path / "model.onnx"), load_external_data=False)
    change(model.graph)
    onnx.save(model, str(path / "model.onnx"))


def set_attribute(name: str, value: Any) -> Any:
    def change(graph: Any) -> None:
        found = [each for node in graph.node for each in node.attribute if each.name == name]
        assert found
        for each in found:
            each.CopyFrom(onnx.helper.make_attribute(name, value))

    return change


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mistral window", set_attribute("local_window_size", -1)),
        ("mistral window", set_attribute("local_window_size", 17)),
        ("mistral far window", set_attribute("local_window_size", -1)),
        ("mistral far window", set_attribute("local_window_size", 401)),
        ("mistral far window", set_attribute("local_window_size", 399)),
        ("gemma2", set_attribute("softcap", 0.0)),
        ("granite", set_attribute("scale", 0.25)),
    ],
)
def test_a_graph_that_is_another_model_is_refused(name: str, change: Any, tmp_path: Path) -> None:
    """Off by one position of a window of 400 too: no text from the start reaches it."""
    model_dir = made(tmp_path, name)
    export(model_dir, "onnx:fp32", tmp_path / "out")
    check = Check(model_dir, "decoder", "onnxruntime", SilentProgress())
    check.of(tmp_path / "out", tmp_path / "work")
    broken(tmp_path / "out", change)
    with pytest.raises(UserError, match="does not compute what the model does in PyTorch"):
        check.of(tmp_path / "out", tmp_path / "work")


@pytest.mark.parametrize("scheme", ["onnx:int8", "onnx:fp32", "gguf:Q4_0"])
def test_no_scheme_comes_of_a_wrong_graph(scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter takes another base of the rotary frequencies than the model that it is compared with."""
    model_dir = made(tmp_path, "llama linear")
    original = probes.load_model

    def other(directory: Path, **options: Any) -> Any:
        model = original(directory, **options)
        model.model.rotary_emb.inv_freq *= 4.0  # without the scaling
        return model

    monkeypatch.setattr(probes, "load_model", other)
    with pytest.raises(UserError, match="does not compute what the model does in PyTorch"):
        export(model_dir, scheme, tmp_path / "out")
    assert not list((tmp_path / "out").glob("export.json"))
    assert not list((tmp_path / "out").glob("scratch*"))


def test_flat_distributions_do_not_hide_another_model() -> None:
    """Logits of 0.01: any two distributions are alike in nats, the difference is as large as the logits."""
    random = np.random.default_rng(0)
    first, second = random.normal(0, 0.01, (2, 5, 400))
    deviation = deviation_of([first])
    nats, relative = difference(first, second, deviation)
    assert nats < 1e-3
    assert relative > 1
    assert difference(first, first + 3.0, deviation) == (pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-9))
    assert difference(first, np.full_like(first, np.nan), deviation) == (np.inf, np.inf)
    assert difference(first, first[:, :5], deviation) == (np.inf, np.inf)


# Within its window `dynamic` is no scaling; llama.cpp would go on beyond it.
LET_THROUGH = [
    name
    for name, each in VARIANTS.items()
    if not each.gguf and each.family in support.GGUF and not name.endswith("dynamic")
]


@pytest.mark.slow
@pytest.mark.parametrize("name", LET_THROUGH)
def test_what_gguf_refuses_would_be_another_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let through, the writer's file differs, is refused by llama.cpp, or has a field that nobody can write."""
    monkeypatch.setattr(support, "GGUF", {
        family: dataclasses.replace(carries, ropes=support._EVERY_ROPE, windows=True, partial=True, only={},
                                    more=lambda config: ())
        for family, carries in support.GGUF.items()
    })  # fmt: skip
    with pytest.raises(UserError):
        export(made(tmp_path, name), "gguf:F32", tmp_path / "out")
