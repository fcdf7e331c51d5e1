"""Teachers from a directory, the bundled table and the hub: safetensors only, the gate in front."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import tiny_llama, tiny_tokenizer

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.intake import bundled
from distill2edge.intake.obtain import fetch_model, fingerprint, gguf_of, materialise, resolve
from distill2edge.intake.vocabularies import check_same_vocabulary, same_vocabulary, vocabulary_hash
from distill2edge.util.progress import SilentProgress

CARD = "---\nlicense: apache-2.0\n---\n"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("teacher")
    tiny_llama(directory)
    (directory / "README.md").write_text(CARD)
    return directory


@pytest.fixture
def teacher(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "teacher"))


def load(model: Path | str, work: Path, **options: Any) -> dict[str, Any]:
    settings = {"revision": None, "licence": None, "accept_licence": None} | options
    return materialise(str(model), work=work, progress=SilentProgress(), **settings)


def test_a_directory_is_taken_and_described(teacher: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (teacher / "extra.py").write_text("boom")
    (teacher / "optimizer.pt").write_text("boom")
    facts = load(teacher, tmp_path / "work")
    out = tmp_path / "work" / "model"
    assert not (out / "extra.py").exists()
    assert not (out / "optimizer.pt").exists()
    model = AutoModelForCausalLM.from_pretrained(out)
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert (facts["layers"], facts["eos"], facts["pad"], facts["vocabulary"]) == (2, 2, 2, 400)
    assert facts["licence"]["verdict"] == "permit"
    assert facts["vocabulary_hash"] == vocabulary_hash(AutoTokenizer.from_pretrained(teacher))
    assert facts == json.loads((tmp_path / "work" / "teacher.json").read_text())
    # A copy: the user's later change does not reach the artifact.
    (teacher / "config.json").write_text("{}")
    assert json.loads((out / "config.json").read_text())["model_type"] == "llama"


def test_a_killed_try_leaves_nothing_behind(teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "work" / "model").mkdir(parents=True)
    (tmp_path / "work" / "model" / "half.safetensors").write_text("half")
    load(teacher, tmp_path / "work")
    assert not (tmp_path / "work" / "model" / "half.safetensors").exists()


def test_the_gate_stands_before_the_files(teacher: Path, tmp_path: Path) -> None:
    (teacher / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    with pytest.raises(UserError, match="does not permit"):
        load(teacher, tmp_path / "work")
    assert not (tmp_path / "work").exists()
    facts = load(teacher, tmp_path / "work", accept_licence="teaching at a public school")
    assert facts["licence"]["accepted"] == "teaching at a public school"
    (teacher / "README.md").unlink()
    with pytest.raises(UserError, match="declares no licence"):
        load(teacher, tmp_path / "other")
    assert load(teacher, tmp_path / "other", licence="mit")["licence"]["found_in"] == "recipe"
    # A checkpoint for the student has no outputs to store, and so no gate.
    assert fetch_model(str(teacher), None, tmp_path / "third", SilentProgress(), where="student.init.model")


def test_pickles_are_refused(teacher: Path, tmp_path: Path) -> None:
    (teacher / "model.safetensors").rename(teacher / "pytorch_model.bin")
    with pytest.raises(UserError, match="only pickle weights") as caught:
        load(teacher, tmp_path / "work")
    assert "safetensors" in caught.value.fix


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "../x.safetensors"}, "no safetensors file"),
        ({"a": "no.safetensors"}, "which is missing"),
        (None, "damaged"),
    ],
)
def test_a_bad_index_is_refused(teacher: Path, tmp_path: Path, weight_map: Any, message: str) -> None:
    (teacher / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(UserError, match=message):
        load(teacher, tmp_path / "work")


def test_sharded_weights_are_taken(teacher: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(teacher)
    (teacher / "model.safetensors").unlink()
    model.save_pretrained(teacher, max_shard_size="100KB")
    assert len(list(teacher.glob("*.safetensors"))) > 1
    assert load(teacher, tmp_path / "work")["parameters"] == sum(p.numel() for p in model.parameters())


def test_models_that_cannot_be_used(teacher: Path, tmp_path: Path) -> None:
    config = json.loads((teacher / "config.json").read_text())
    (teacher / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(UserError, match="quantized already"):
        load(teacher, tmp_path / "work")
    (teacher / "config.json").write_text(json.dumps(config | {"model_type": "house_model"}))
    with pytest.raises(UserError, match="without remote code"):
        load(teacher, tmp_path / "work")
    (teacher / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (teacher / name).unlink()
    with pytest.raises(UserError, match="no usable tokenizer"):
        load(teacher, tmp_path / "work")


def test_a_cut_off_file_is_a_user_error(teacher: Path, tmp_path: Path) -> None:
    weights = teacher / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        load(teacher, tmp_path / "work")


def test_unknown_models_name_what_can_be_given(tmp_path: Path) -> None:
    for name in ("./no", "nothing", "no/such/dir", "x.gguf"):
        with pytest.raises(UserError, match="no model") as caught:
            resolve(name, SilentProgress())
        assert "bundled:smollm2-135m-instruct" in caught.value.fix
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no config\.json"):
        fingerprint(str(tmp_path / "empty"), None, SilentProgress())
    (tmp_path / "a.bin").write_text("")
    with pytest.raises(UserError, match="neither a directory nor a"):
        resolve(str(tmp_path / "a.bin"), SilentProgress())
    with pytest.raises(UserError, match="cannot be used here"):
        resolve("bundled:movie-sentiment", SilentProgress())


def test_a_directory_that_holds_one_gguf_is_that_gguf(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    assert resolve(str(tmp_path), SilentProgress()).kind == "gguf"
    assert gguf_of(str(tmp_path), SilentProgress()) == tmp_path / "a.gguf"


def test_a_truncated_gguf_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    with pytest.raises(UserError) as caught:
        load(tmp_path / "a.gguf", tmp_path / "work", licence="mit")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "work").exists()


def test_fingerprint_follows_the_weights(teacher: Path) -> None:
    before = fingerprint(str(teacher), None, SilentProgress())
    assert before == fingerprint(str(teacher), None, SilentProgress())
    tiny_llama(teacher, seed=1)
    assert fingerprint(str(teacher), None, SilentProgress()) != before


def test_a_bundled_directory(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = bundled.Bundled("toy", "model", "toy==1", "0" * 64, (), "mit", "https://example.org", "toy")
    monkeypatch.setitem(bundled.BUNDLED, "toy", entry)
    monkeypatch.setattr(bundled, "_ENTRIES", (entry,))
    monkeypatch.setattr(bundled, "fetch", lambda name, progress: teacher)
    (teacher / "README.md").unlink()
    facts = load("bundled:toy", tmp_path / "work")
    assert facts["name"] == "toy"
    assert facts["licence"]["found_in"] == "bundled table"
    assert facts["sha256"] == entry.sha256


# --- the hub, with its client replaced --------------------------------------------


def test_a_hub_model(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: dict[str, Any] = {}

    def snapshot(model: str, **options: Any) -> str:
        asked.update(options, model=model)
        return str(teacher)

    card = SimpleNamespace(to_dict=lambda: {"license": "other", "license_name": "llama3.1"})
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *a, **k: SimpleNamespace(sha="abc", card_data=card))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    facts = load("owner/name", tmp_path / "work")
    assert (facts["revision"], facts["name"], facts["licence"]["licence"]) == ("abc", "name", "llama3.1")
    assert asked["revision"] == "abc"
    assert not [pattern for pattern in asked["allow_patterns"] if pattern.endswith((".bin", ".py", ".pt"))]
    assert fingerprint("owner/name", None, SilentProgress()) == {"hub": "owner/name", "revision": "abc"}


def test_the_hub_out_of_reach(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no network")

    def not_cached(*_: Any, **__: Any) -> Any:
        raise LocalEntryNotFoundError("not here")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", offline)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", not_cached)
    with pytest.raises(EnvironmentFault, match="can't be reached for owner/name") as caught:
        load("owner/name", tmp_path / "work")
    assert caught.value.exit_code == 4
    assert "bundled:" in caught.value.fix
    # What an earlier run downloaded still serves.
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: str(teacher))
    facts = load("owner/name", tmp_path / "work")
    assert facts["revision"] == teacher.name
    assert facts["licence"]["found_in"] == "model card"


def test_no_such_hub_model_and_a_gated_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    for error, message in (
        (RepositoryNotFoundError, "no model owner/name"),
        (RevisionNotFoundError, "no revision 'v1'"),
        (GatedRepoError, "is gated"),
    ):

        def fail(*_: Any, kind: Any = error, **__: Any) -> Any:
            raise kind.__new__(kind)

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
        with pytest.raises(UserError, match=message) as caught:
            load("owner/name", tmp_path / "work", revision="v1")
        assert caught.value.exit_code == 2


# --- vocabularies -------------------------------------------------------------------


def test_vocabularies_are_compared_token_by_token(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tiny_tokenizer(tmp_path / "a")
    a, same = (AutoTokenizer.from_pretrained(tmp_path / "a") for _ in range(2))
    assert same_vocabulary(a, same)
    check_same_vocabulary(a, same)
    # As large, but two tokens have changed places.
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    content = json.loads((tmp_path / "b" / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (tmp_path / "b" / "tokenizer.json").write_text(json.dumps(content))
    b = AutoTokenizer.from_pretrained(tmp_path / "b")
    assert len(a) == len(b)
    assert not same_vocabulary(a, b)
    assert vocabulary_hash(a) != vocabulary_hash(b)
    with pytest.raises(UserError, match="2 of 400 tokens") as caught:
        check_same_vocabulary(a, b)
    assert "kind: text" in caught.value.fix
