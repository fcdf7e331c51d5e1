"""On-policy rounds: what the student writes, how the teacher scores it, and what comes of the training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_recipe, tiny_t5

from distill2edge.data.model_inputs import encode_for
from distill2edge.data.split_files import read_rows
from distill2edge.distill.logit_cache import SignalReader
from distill2edge.distill.on_policy_rounds import kept_response, read_written, training_of, turn
from distill2edge.errors import UserError
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.recipe.load import load_recipe
from distill2edge.recipe.on_policy import OnPolicy
from distill2edge.recipe.schema import Distill
from distill2edge.running.run_recipe import run
from distill2edge.stages import build_stages
from distill2edge.util.progress import SilentProgress

ROUNDS = "distill.on_policy={rounds: 2, rows: 24, max_new_tokens: 6, epochs: 4, learning_rate: 1e-2}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("on-policy")
    tiny_recipe(root)
    return root


def until(place: Path, kind: str, *overrides: str) -> dict[str, Path]:
    done = run(place / "tiny.yaml", [ROUNDS, *overrides], upto=kind, store=place / "store", quiet=True)
    return {name: artifact.path for name, artifact in done.of(kind).items()}


def test_each_round_writes_scores_and_learns_from_the_round_before(place: Path) -> None:
    merged = until(place, "merge")
    assert {"merge warm-start", "merge on-policy 1", "merge"} <= merged.keys()
    weights = {name: (path / "model" / "model.safetensors").read_bytes() for name, path in merged.items()}
    assert len(set(weights.values())) == len(weights)


def test_every_written_token_is_supervised_and_scored(place: Path) -> None:
    signals = until(place, "signal")
    for number in (1, 2):
        directory = signals[f"signal on-policy {number}"]
        written, reader = read_written(directory), SignalReader(directory)
        assert written
        for row in written:
            assert reader.positions(row.id) == row.supervised == len(row.ids) - row.prompt_length
            assert row.supervised <= 6


def test_an_encoder_decoder_writes_targets_that_its_teacher_scores(place: Path) -> None:
    tiny_t5(place / "t5", layers=2, hidden=32)
    (place / "t5" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    task = ["task=seq2seq", f"teacher.model={place / 't5'}", "data.choices=null", "student.lora=null"]
    rounds = "distill.on_policy={rounds: 1, rows: 24, data_share: 0.25, max_new_tokens: 6, epochs: 8}"
    artifacts = {kind: until(place, kind, *task, rounds) for kind in ("signal", "merge", "distill", "teacher")}
    signal = artifacts["signal"]["signal on-policy 1"]
    written, reader = read_written(signal), SignalReader(signal)
    ends = load_tokenizer(artifacts["teacher"]["teacher"] / "model").eos_token_id
    for row in written:
        assert row.ids[row.prompt_length - 1] == ends  # a source ends with it, and the target begins after that
        assert 0 < reader.positions(row.id) == row.supervised == len(row.ids) - row.prompt_length <= 6
    assert len(reader) == len(written) + 6 + 8  # and the data's share, and the rows of validation
    weights = {(path / "model" / "model.safetensors").read_bytes() for path in artifacts["merge"].values()}
    assert len(weights) == len(artifacts["merge"]) == 2
    log = json.loads((artifacts["distill"]["distill"] / "train.json").read_text())["log"]
    assert log[-1]["loss"] < log[0]["loss"]


def test_the_student_comes_nearer_to_the_teacher_on_its_own_texts(place: Path) -> None:
    for name in ("distill on-policy 1", "distill"):
        log = json.loads((until(place, "distill")[name] / "train.json").read_text())["log"]
        assert log[-1]["loss"] < log[0]["loss"]


def test_a_killed_round_keeps_what_was_written(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distill2edge.stages import on_policy

    recipe = load_recipe(place / "tiny.yaml", [ROUNDS])
    student = until(place, "merge")["merge warm-start"] / "model"
    spec = recipe.distill.on_policy
    assert spec is not None
    prompts = [f"Review: film {n}" for n in range(70)]
    on_policy.write_texts(recipe, spec, student, prompts, 1, tmp_path, SilentProgress())
    whole = [path.read_bytes() for path in sorted(tmp_path.glob("written-*.json"))]
    assert len(whole) == 2
    (tmp_path / "written-00001.json").unlink()
    kept = (tmp_path / "written-00000.json").stat().st_mtime_ns
    on_policy.write_texts(recipe, spec, student, prompts, 1, tmp_path, SilentProgress())
    assert (tmp_path / "written-00000.json").stat().st_mtime_ns == kept
    assert [path.read_bytes() for path in sorted(tmp_path.glob("written-*.json"))] == whole


@given(st.integers(1, 50), st.integers(1, 80), st.integers(1, 9))
def test_rounds_take_the_rows_in_turn(count: int, size: int, rounds: int) -> None:
    taken = [turn(count, size, number) for number in range(1, rounds + 1)]
    flat = [at for one in taken for at in one]
    assert flat == [at % count for at in range(len(flat))]
    assert all(len(set(one)) == len(one) for one in taken)


@given(st.integers(0, 200), st.floats(0, 0.99))
def test_the_share_of_the_data_is_kept_to_a_row(count: int, share: float) -> None:
    kept = sum(kept_response(at, share) for at in range(count))
    assert kept == pytest.approx(count * share, abs=1)


def test_with_a_share_of_the_data_the_student_writes_the_rest(place: Path) -> None:
    share = "distill.on_policy.data_share=0.25"
    signal = until(place, "signal", share)["signal on-policy 2"]
    written, reader = read_written(signal), SignalReader(signal)
    assert len(written) <= 18
    assert len(reader) == len(written) + 6 + 8  # and the data's share, and the rows of validation
    trained = json.loads((until(place, "distill", share)["distill"] / "train.json").read_text())
    assert trained["supervised_tokens"] > 4 * sum(row.supervised for row in written)


def test_prompts_beyond_the_warm_rows_cost_no_scoring(place: Path) -> None:
    warm = ("distill.on_policy.data_share=0.25", "distill.on_policy.warm_rows=16")
    signals = until(place, "signal", *warm)
    recipe = load_recipe(place / "tiny.yaml", [ROUNDS, *warm])
    train = read_rows(until(place, "data", *warm)["data"], "train")
    teacher = until(place, "teacher", *warm)["teacher"] / "model"
    scored = SignalReader(signals["signal"])
    assert len(train) > 16
    assert len(scored) == 16 + 8  # and the rows of validation
    fresh = {tuple(row.ids[: row.prompt_length]) for row in encode_for(recipe.data, train[16:], teacher)}
    for number in (1, 2):
        directory = signals[f"signal on-policy {number}"]
        written = read_written(directory)
        assert {tuple(row.ids[: row.prompt_length]) for row in written} <= fresh
        assert len(SignalReader(directory)) == len(written) + 6 + 8


def test_the_rounds_never_train_on_the_student_s_own_words_as_truth() -> None:
    training = training_of(Distill(learning_rate=1e-3), OnPolicy())
    assert training.loss.ce == 0
    assert training.learning_rate == pytest.approx(2e-4)


def test_a_recipe_without_rounds_keeps_its_stages(place: Path) -> None:
    plain = build_stages(load_recipe(place / "tiny.yaml", ["distill.on_policy=null"]), SilentProgress())
    assert not [stage.name for stage in plain if "on-policy" in stage.name or "warm" in stage.name]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("signal={kind: text}", "use signal: {kind: logits}"),
        ("teacher.backend=llama.cpp", "leave teacher.backend out"),
        ("distill.on_policy={reverse_kl: 0}", "compares nothing"),
        ("task=classification", "not for classification: an encoder writes no text that a teacher could score"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_fix(place: Path, change: str, said: str) -> None:
    more = ["distill.loss={ce: 1}"] if "text" in change else []
    with pytest.raises(UserError, match=said):
        load_recipe(place / "tiny.yaml", [ROUNDS, *more, change])
