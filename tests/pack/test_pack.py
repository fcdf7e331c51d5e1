"""`distill2edge pack`: a folder that runs alone and proves itself, what its self-test finds, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from made_run import made_run
from tiny import tiny_bert, tiny_llama

from distill2edge.cli.main import main
from distill2edge.data.model_inputs import InputForm
from distill2edge.errors import UserError
from distill2edge.handover import selftest
from distill2edge.pack.targets import TARGETS, check_target
from distill2edge.util.files import write_json

FORMS = {
    "gguf:Q8_0": InputForm("decoder", "chat", "Be brief.", 256),
    "onnx:int8": InputForm("classifier", max_length=40),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with a decoder in GGUF and a classifier in ONNX, as `run` leaves it."""
    root = tmp_path_factory.mktemp("finished")
    tiny_llama(root / "decoder", layers=1)
    tiny_bert(root / "classifier", layers=1, scale=0.3)
    return made_run(root, FORMS)


@pytest.fixture(scope="module")
def packs(finished: Path) -> dict[str, Path]:
    """A python pack of each file."""
    found = {}
    for name in FORMS:
        done = ask("pack", str(finished), "--target", "python", "--file", name, "--json")
        assert done.exit_code == 0, done.output
        found[name] = Path(json.loads(done.stdout)["pack"])
    return found


def ask(*words: str) -> Any:
    return CliRunner().invoke(main, list(words), env={"COLUMNS": "300"})


def prove(pack: Path, *words: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-I", str(pack / "selftest.py"), *words], capture_output=True, text=True, check=False
    )
    return done.returncode, json.loads((pack / "proof.json").read_text())


@pytest.mark.parametrize("name", FORMS)
def test_a_pack_runs_alone_and_proves_itself(packs: dict[str, Path], finished: Path, name: str, tmp_path: Path) -> None:
    pack = tmp_path / "there"
    shutil.copytree(packs[name], pack)
    assert (pack / "reference.json").stat().st_size <= 100_000
    assert "selftest.py" in (pack / "USE.md").read_text()
    assert ("llama-cpp-python==" if name.startswith("gguf") else "onnxruntime==") in (
        pack / "requirements.txt"
    ).read_text()
    assert not [path.name for path in pack.iterdir() if path.name.startswith((".", "__", "scratch"))]
    code, proof = prove(pack, "--device", "raspberry-pi-5")
    assert (code, proof["faults"]) == (0, [])
    assert proof["seconds"] < 30
    assert proof["checks"]["fidelity"]["mean"] < 1e-6  # the same machine and runtime
    report = ask("report", str(finished), "--add", str(pack / "proof.json"))
    assert report.exit_code == 0, report.output
    assert "raspberry-pi-5" in report.stdout
    row = next(each for each in json.loads((finished / "report.json").read_text())["devices"] if name in each["model"])
    assert (row["device"], row["passed"], row["peak_rss_bytes"] > 1e6) == ("raspberry-pi-5", True, True)
    assert row["usd_per_1000"] > 0
    assert (row["decode_tps"] or row["texts_per_s"]) > 0
    assert "raspberry-pi-5" in (finished / "report.html").read_text()


def changed(name: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    """A document of the pack, changed together with its hash: what else than the hash finds it?"""

    def plant(pack: Path) -> None:
        document = json.loads((pack / name).read_text())
        change(document)
        write_json(pack / name, document)
        write_hash(pack, name)

    return plant


def write_hash(pack: Path, name: str) -> None:
    reference = json.loads((pack / "reference.json").read_text())
    reference["files"][name] = selftest.sha256_of(pack / name)
    write_json(pack / "reference.json", reference)


def another_model(pack: Path) -> None:
    """The same tensors with others' values."""
    path = pack / "model.gguf"
    content = bytearray(path.read_bytes())
    content[-4000:] = bytes(reversed(content[-4000:]))
    path.write_bytes(content)
    write_hash(pack, "model.gguf")


def another_cache(pack: Path) -> None:
    """As a runtime whose default for keys and values is another."""
    path = pack / "predict.py"
    path.write_text(path.read_text().replace("context.n_ctx,", "context.type_k = F32; context.n_ctx,"))
    write_hash(pack, "predict.py")


def other_arithmetic(pack: Path) -> None:
    """As a runtime that rotates otherwise."""
    path = pack / "predict.py"
    path.write_text(path.read_text().replace("context.n_ctx,", "context.rope_freq_base = 100; context.n_ctx,"))
    write_hash(pack, "predict.py")


PLANTS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "file": ("gguf:Q8_0", lambda pack: (pack / "model.gguf").write_bytes(b"GGUF"), "model.gguf is missing, or another"),
    "weights": ("gguf:Q8_0", another_model, "computes otherwise"),
    "tokenizer": (
        "onnx:int8",
        changed("tokenizer.json", lambda it: it["normalizer"].update(lowercase=False)),
        "texts in other tokens",
    ),
    "template": ("gguf:Q8_0", changed("input.json", lambda it: it["frame"]["before"].append(" ")), "prompts are other"),
    "cache": ("gguf:Q8_0", another_cache, "key-value cache is of another type"),
    "arithmetic": ("gguf:Q8_0", other_arithmetic, "computes otherwise"),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_fault_is_found_and_named(packs: dict[str, Path], plant: str, tmp_path: Path) -> None:
    name, spoil, said = PLANTS[plant]
    pack = tmp_path / "there"
    shutil.copytree(packs[name], pack)
    spoil(pack)
    code, proof = prove(pack)
    assert code == 3
    assert any(said in fault for fault in proof["faults"]), proof["faults"]


def altered(proof: dict[str, Any]) -> None:
    proof["speed"]["decode_tps"] = 1e6


def altered_with_digest(proof: dict[str, Any]) -> None:
    proof["checks"]["fidelity"]["mean"] = 0.5e-3
    proof["digest"] = selftest.digest_of(proof)


def of_another_reference(proof: dict[str, Any]) -> None:
    proof["reference_sha256"] = "0" * 64
    proof["digest"] = selftest.digest_of(proof)


def no_proof(proof: dict[str, Any]) -> None:
    del proof["device"]


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        (altered, "this proof was altered"),
        (altered_with_digest, "contradicts itself"),
        (of_another_reference, "no pack of this run has the reference"),
        (no_proof, "not a proof of a pack: device"),
    ],
)
def test_an_altered_proof_is_refused(
    packs: dict[str, Path], finished: Path, alter: Callable[[Any], None], said: str, tmp_path: Path
) -> None:
    good = packs["gguf:Q8_0"]
    if not (good / "proof.json").exists():
        prove(good)
    proof = json.loads((good / "proof.json").read_text())
    alter(proof)
    write_json(tmp_path / "proof.json", proof)
    before = sorted(path.name for path in (finished / "proofs").glob("*"))
    # With a good one beside it: all or none.
    done = ask("report", str(finished), "--add", str(good / "proof.json"), "--add", str(tmp_path / "proof.json"))
    assert done.exit_code == 2
    assert said in done.output
    assert sorted(path.name for path in (finished / "proofs").glob("*")) == before


def test_a_proof_of_another_file_is_refused(packs: dict[str, Path], finished: Path, tmp_path: Path) -> None:
    """The run was made again since: its file is another."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    if not (packs["gguf:Q8_0"] / "proof.json").exists():
        prove(packs["gguf:Q8_0"])
    document = json.loads((run / "exports.json").read_text())
    for entry in document["files"]:
        entry["sha256"]["model.gguf"] = "0" * 64
    write_json(run / "exports.json", document)
    done = ask("report", str(run), "--add", str(packs["gguf:Q8_0"] / "proof.json"))
    assert done.exit_code == 2
    assert "a proof of another file than this run's student/gguf:Q8_0" in done.output


def spoil_file(run: Path) -> None:
    with open(run / "exports" / "quickstart-gguf-Q8_0" / "model.gguf", "ab") as file:
        file.write(b"x")


def spoil_gates(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    for gate in report["gates"]:
        if gate["model"] == "student/gguf:Q8_0":
            gate["passed"] = False
    write_json(run / "report.json", report)


def leave(run: Path) -> None:
    (run / "there").mkdir()


@pytest.mark.parametrize(
    ("spoil", "words", "said"),
    [
        (spoil_file, (), "not the file that was verified"),
        (spoil_gates, (), "did not pass its gates"),
        (leave, (), "there is something already"),
        (lambda run: None, ("--file", "gguf:Q4_0"), "no gguf:Q4_0 in this run"),
        (lambda run: None, ("--target", "pyhton"), "Did you mean 'python'"),
    ],
)
def test_what_cannot_be_packed_is_refused_and_leaves_nothing(
    finished: Path, spoil: Callable[[Path], None], words: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    spoil(run)
    before = sorted(path.name for path in run.iterdir())
    given = ("--target", "python", "--file", "gguf:Q8_0", "--out", str(run / "there"), *words)
    done = ask("pack", str(run), *given)
    assert done.exit_code == 2
    assert said in done.output
    assert sorted(path.name for path in run.iterdir()) == before


@pytest.mark.parametrize(
    ("target", "form", "kind"),
    [("web", "onnx", "decoder"), ("web", "onnx", "tagger"), ("web", "gguf", "classifier"), ("c", "onnx", "classifier")],
)
def test_what_a_target_cannot_serve_is_refused_with_what_can(target: str, form: str, kind: str) -> None:
    with pytest.raises(UserError, match=f"a {target} pack cannot serve a {kind} in {form.upper()}") as caught:
        check_target(TARGETS[target], form, kind, f"{form}:x", ["onnx", "gguf"])
    assert "--target python" in str(caught.value)
