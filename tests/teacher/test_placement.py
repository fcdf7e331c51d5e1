"""`teacher.load`: shared out over CPU and disk, a teacher says the same; four bits are refused without a GPU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from golden import stages as golden
from tiny import tiny_bert, tiny_embedder, tiny_llama, tiny_recipe, tiny_t5

import distill2edge as d2e
from distill2edge.data.examples import Encoded
from distill2edge.errors import RecipeErrors, UserError
from distill2edge.generation.generate import Ask, LocalGenerator
from distill2edge.generation.open_backend import open_backend
from distill2edge.generation.writers import Sampling
from distill2edge.models import placement as module
from distill2edge.models.loading import load_to_run
from distill2edge.models.placement import WHOLE, Placement
from distill2edge.models.precision import compute_dtype
from distill2edge.pipeline.run_stages import keys_of
from distill2edge.preflight import check
from distill2edge.recipe.load import parse_recipe
from distill2edge.runtimes import open_for
from distill2edge.stages.measuring import Measuring
from distill2edge.teacher.labels import by_head
from distill2edge.teacher.tags import cache_tags
from distill2edge.teacher.vectors import cache_vectors
from distill2edge.util.progress import SilentProgress

ROWS = [Encoded(f"{n}", [5 + n, *range(3, 12 + n)], [0] * 4 + [1] * (6 + n)) for n in range(4)]
RECIPE = "name: a\nteacher: {model: o/t}\ndata: {source: a.csv}\nstudent: {init: {from: teacher, layers: 1}}\n"


def tiny_tagger(path: Path) -> None:
    from transformers import AutoConfig, BertForTokenClassification

    tiny_bert(path, layers=4)
    torch.manual_seed(0)
    BertForTokenClassification(AutoConfig.from_pretrained(path)).save_pretrained(path)


MAKERS = {
    "llama": lambda path: tiny_llama(path, layers=4),
    "untied": lambda path: tiny_llama(path, layers=4, tied=False),
    "t5": tiny_t5,
    "bert": lambda path: tiny_bert(path, layers=4),
    "embedder": lambda path: tiny_embedder(path, layers=4),
    "tagger": tiny_tagger,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name, make in MAKERS.items():
        make(root / name)
    return root


def halved(path: Path, width: int = 4) -> Placement:
    """Half of a model in memory, the other half on disk; `width`: bytes of a weight as it computes."""
    return Placement("auto", {"cpu": (path / "model.safetensors").stat().st_size * width // 8})


@contextmanager
def counted() -> Iterator[list[dict[str, Any]]]:
    """The maps of the models that are loaded within."""
    import distill2edge.models.checkpoint as checkpoint

    maps: list[dict[str, Any]] = []

    def kept(model: Any, folder: str) -> None:
        maps.append(model.hf_device_map)
        module.remove_with(model, folder)

    with patch.object(checkpoint, "remove_with", kept):
        yield maps
    assert maps
    assert all(set(each.values()) == {"cpu", "disk"} for each in maps), maps


def logits(path: Path, dtype: str, placement: Placement) -> list[torch.Tensor]:
    backend = open_backend("transformers", path, None, dtype, longest=30, placement=placement)
    return [found for _, found in sorted(backend.supervised_logits(ROWS), key=lambda each: each[0])]


@pytest.mark.parametrize(("name", "dtype"), [("llama", "float32"), ("llama", "bfloat16"), ("untied", "bfloat16"),
                                             ("t5", "float32")])  # fmt: skip
def test_logits_are_those_of_the_whole_model(models: Path, name: str, dtype: str) -> None:
    with counted():
        found = logits(models / name, dtype, halved(models / name, 4 if dtype == "float32" else 2))
    for part, wanted in zip(found, logits(models / name, dtype, WHOLE), strict=True):
        torch.testing.assert_close(part, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_text_is_that_of_the_whole_model(models: Path, name: str) -> None:
    def written(placement: Placement) -> list[str]:
        generator = LocalGenerator(models / name, template="plain", backend="transformers", placement=placement)
        asks = [Ask((("user", text),)) for text in ("the quick brown", "a lazy dog and then it")]
        return [answer.text for answer in generator.generate(asks, Sampling(12, 1.0), 0)]

    with counted():
        found = written(halved(models / name, compute_dtype("auto").itemsize))
    assert found == written(WHOLE)
    assert all(found)


def test_what_encoders_say_is_that_of_the_whole_model(models: Path, tmp_path: Path) -> None:
    tagged = [Encoded(row.id, row.ids, [], places=tuple(range(1, 5))) for row in ROWS]

    def said(name: str, placement: Placement) -> np.ndarray:
        path, work = models / name, tmp_path / f"{name}-{bool(placement)}"
        if name == "bert":
            return by_head(path, placement)(ROWS, lambda steps: None).numpy()
        from safetensors.numpy import load_file

        if name == "embedder":
            cache_vectors(path, ROWS, work, SilentProgress(), placement=placement)
        else:
            cache_tags(path, tagged, work, SilentProgress(), placement=placement)
        return load_file(next(work.glob("*.safetensors")))["logits"]

    for name in ("bert", "embedder", "tagger"):
        with counted():
            found = said(name, halved(models / name))
        np.testing.assert_array_equal(found, said(name, WHOLE))


@pytest.mark.parametrize("name", ["llama", "t5", "bert", "embedder", "tagger"])
def test_a_worker_runs_it_from_its_spec(models: Path, name: str) -> None:
    def said(placement: Placement) -> np.ndarray:
        spec = {"runtime": "torch", "path": str(models / name), "threads": 1, "context": 32, **placement.spec}
        runtime: Any = open_for(spec)
        ids = list(range(3, 12))
        if name in ("llama", "t5"):
            return np.concatenate([runtime.prefill(ids), runtime.decode(7)])
        return np.asarray(getattr(runtime, {"bert": "classify", "embedder": "embed", "tagger": "tag"}[name])(ids))

    with counted():
        found = said(halved(models / name))
    np.testing.assert_array_equal(found, said(WHOLE))


def test_a_device_that_is_not_there_says_what_to_change(models: Path) -> None:
    with pytest.raises(UserError, match=r"can't be placed as teacher.load says") as caught:
        load_to_run(models / "llama", torch.float32, placement=Placement("auto", {"7": 1 << 30}))
    assert "teacher.load.max_memory" in caught.value.fix


def test_bits_are_part_of_the_key_and_places_are_not() -> None:
    def keys(load: str) -> dict[str, str]:
        return keys_of(golden.graph_of(parse_recipe(RECIPE, "a.yaml", (f"teacher.load={load}",))))

    with golden._looked_up():
        whole, shared = keys("null"), keys("{device_map: auto, max_memory: {0: 20GiB, cpu: 1GB}}")
        rounded = keys("{quantization: nf4}")
    for graph in (whole, shared, rounded):
        del graph["report"]  # it shows the recipe
    assert shared == whole
    same = {name for name in whole if rounded[name] == whole[name]}
    assert same == {"data", "teacher", "student"}


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (("teacher.load={max_memory: {cpu: 1GB}}",), "max_memory is for a device map"),
        (("teacher.load={device_map: auto, max_memory: {gpu: 1GB}}",), "'gpu' is no device: write cpu"),
        (("teacher.load={device_map: auto, max_memory: {cpu: lots}}",), "'lots' is not a file size"),
        (("teacher.load={device_map: auto}", "teacher.fit={}"), "teacher.fit trains the teacher, whole"),
        (("teacher={model: t.gguf, backend: llama.cpp, load: {quantization: nf4}}",), "llama.cpp runs this teacher"),
        (("teacher={model: 'endpoint:http://x/v1', endpoint: {model: y}, load: {device_map: auto}}",
          "student={init: {model: o/s}}", "signal={kind: text}", "distill.loss={ce: 1}"), "an endpoint loads its"),
    ],
)  # fmt: skip
def test_what_cannot_be_placed_is_refused(overrides: tuple[str, ...], wanted: str) -> None:
    with pytest.raises(RecipeErrors) as caught:
        parse_recipe(RECIPE, "a.yaml", overrides)
    assert wanted in str(caught.value)


@pytest.mark.parametrize(("cuda", "wanted"), [(False, "finds none here"), (True, "bitsandbytes is not installed")])
def test_four_bits_are_refused_where_nothing_rounds_them(tmp_path: Path, cuda: bool, wanted: str) -> None:
    recipe = tiny_recipe(tmp_path)
    with patch("torch.cuda.is_available", lambda: cuda), pytest.raises(RecipeErrors) as caught:
        check(recipe, {"teacher.load.quantization": "nf4"}, quiet=True)
    said = str(caught.value)
    assert wanted in said
    assert "teacher.load.quantization" in said
    assert "teacher.dequantize: false" in said


def test_verify_and_bench_load_the_teacher_so(tmp_path: Path) -> None:
    recipe = parse_recipe(RECIPE, "a.yaml", ("teacher.load={quantization: nf4, device_map: auto}",))
    stored = SimpleNamespace(path=tmp_path, facts={"parameters": 1})
    stages = {stage.kind: stage for stage in golden.graph_of(recipe) if isinstance(stage, Measuring)}
    assert stages.keys() == {"verify", "bench"}
    for stage in stages.values():
        teacher, student = replace(stage, exports=(), merged=stage.merged[:1]).models(defaultdict(lambda: stored))
        assert (teacher.id, teacher.scheme, teacher.is_reference) == ("teacher", "torch:nf4", True)
        assert teacher.spec["placement"] == {"device_map": "auto", "max_memory": {}, "quantization": "nf4"}
        assert student.scheme == "torch:fp32"
        assert "placement" not in student.spec


def test_the_plan_says_where_it_lies(tmp_path: Path) -> None:
    load = {"device_map": "auto", "max_memory": {"cpu": 160_000}}
    recipe, store = tiny_recipe(tmp_path), tmp_path / "store"
    shared, whole = (d2e.plan(recipe, {"teacher.load": each}, store=store, quiet=True) for each in (load, None))
    assert "the teacher: layers shared out over devices (auto: cpu at most 160.0 kB)" in str(shared)
    assert "the teacher: " not in str(whole)
    memory = [next(stage.memory for stage in each.stages if stage.name == "signal") for each in (shared, whole)]
    assert memory[0] < memory[1]
