"""The judge: replies read or not, both orders, figures by their definition; a killed run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_llama, tiny_t5

from distill2edge import stages
from distill2edge.data.examples import Encoded, Row, example_id
from distill2edge.errors import RecipeErrors, UserError
from distill2edge.generation.generate import Answer, Ask
from distill2edge.generation.writers import Sampling
from distill2edge.judge import answer_worker, pairwise
from distill2edge.judge.answer_pairs import OUTCOMES, SCORES, Outcome, Pair, outcome_of, read_reply, tally
from distill2edge.judge.judge_model import open_judge, question
from distill2edge.judge.written_answers import Written
from distill2edge.models.model_file import Encodings, ModelFile
from distill2edge.pipeline.run_stages import keys_of
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.recipe.judge import PairwiseJudge
from distill2edge.recipe.load import parse_recipe
from distill2edge.teacher.endpoint_estimate import estimate
from distill2edge.util.isolate import Crash
from distill2edge.util.progress import SilentProgress
from distill2edge.verify.token_worker import write_encodings

# --- replies and figures --------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("[[A]]", "first"),
        (" [[ b ]] since it answers the question", "second"),
        ("Both are fine.\n[[C]]", "tie"),
        ("[[A]], as I said: [[A]]", "first"),
        ("[[A]] or [[B]]?", None),
        ("A", None),
        ("[A]", None),
        ("[[D]]", None),
        ("", None),
        ("<think>[[A]] or [[B]]? The latter.</think>\n[[B]]", "second"),
        ("so it is [[A]]...</think>[[C]]", "tie"),
        ("<think>[[A]] seems", None),
    ],
)
def test_a_reply_names_one_verdict_or_is_not_read(reply: str, said: str | None) -> None:
    assert read_reply(reply) == said


@pytest.mark.parametrize(
    ("student_first", "teacher_first", "outcome"),
    [
        ("[[A]]", "[[B]]", "win"),
        ("[[B]]", "[[A]]", "loss"),
        ("[[C]]", "[[C]]", "tie"),
        ("[[A]]", "[[A]]", "inconsistent"),
        ("[[B]]", "[[B]]", "inconsistent"),
        ("[[A]]", "[[C]]", "inconsistent"),
        ("[[A]]", "well", "unreadable"),
        (None, "[[A]]", "unreadable"),
    ],
)
def test_a_win_needs_both_orders(student_first: str | None, teacher_first: str | None, outcome: str) -> None:
    assert outcome_of(student_first, teacher_first) == outcome


def test_both_orders_show_the_same_two_answers() -> None:
    one, other = Pair("q", "mine", "theirs", "gold").orders()
    assert (one["first"], one["second"]) == (other["second"], other["first"]) == ("mine", "theirs")
    assert one["prompt"] == other["prompt"] == "q"
    assert one["reference"] == other["reference"] == "gold"
    assert Pair("q", " same\n", "same").identical


@given(st.lists(st.sampled_from(OUTCOMES), max_size=60))
def test_figures_are_those_of_their_definition(outcomes: list[Outcome]) -> None:
    found = tally(outcomes)
    counts = found["counts"]
    assert sum(counts.values()) == found["pairs"] == len(outcomes)
    readable = len(outcomes) - counts["unreadable"]
    if not readable or (counts["unreadable"] and readable == counts["identical"]):
        assert found["win_rate"] is None
    else:
        ties = counts["tie"] + counts["identical"] + counts["inconsistent"]
        rate = found["win_rate"]
        assert rate["value"] == pytest.approx((counts["win"] + ties / 2) / readable)
        assert 0 <= rate["low"] <= rate["value"] <= rate["high"] <= 1
        assert rate["low"] < rate["high"]  # where all are won too
        assert rate["n"] == readable
        swapped: list[Outcome] = [{"win": "loss", "loss": "win"}.get(name, name) for name in outcomes]  # type: ignore[misc]
        assert tally(swapped)["win_rate"]["value"] == pytest.approx(1 - rate["value"])
    judged = readable - counts["identical"]
    bias = found["position_bias"]
    assert (bias is None) == (judged == 0)
    if bias is not None:
        assert bias["value"] == pytest.approx(counts["inconsistent"] / judged)
        assert 0 <= bias["low"] <= bias["high"] <= 1


def test_every_readable_outcome_has_a_score() -> None:
    assert set(OUTCOMES) - set(SCORES) == {"unreadable"}


# --- the comparison -------------------------------------------------------------

ROWS = [Row(f"row{n}", f"prompt {n}", f"gold {n}") for n in range(6)]


class Fake:
    """A generator made of a function; counts what it is asked."""

    name, shard_rows = "fake", 64

    def __init__(self, write: Callable[[str], str], context: int = 10_000) -> None:
        self.write, self.context, self.asked, self.closed = write, context, list[str](), False
        self.facts: dict[str, Any] = {}

    def generate(self, asks: Sequence[Ask], sampling: Any, seed: int, done: Any = None) -> list[Answer]:
        prompts = [ask.messages[-1][1] for ask in asks]
        self.asked += prompts
        assert sampling.temperature == 0
        said = [self.write(prompt) for prompt in prompts]
        return [
            Answer("" if text == "REFUSED" else text, "filtered" if text == "REFUSED" else "stop", 1, 1)
            for text in said
        ]

    def fits(self, asks: Sequence[Ask], new: int) -> list[bool]:
        return [len(ask.messages[-1][1]) + new <= self.context for ask in asks]

    def close(self) -> None:
        self.closed = True


def teacher_says(prompt: str) -> str:
    return {"prompt 4": "same", "prompt 5": "REFUSED"}.get(prompt, f"teacher on {prompt}")


def careful(question: str) -> str:
    """Prefers what says `good`; says nothing of prompt 2; takes the first of prompt 3."""
    prompt, first, second = question.split("|")
    if prompt == "prompt 2":
        return "I like both of them"
    if prompt == "prompt 3":
        return "[[A]]"
    return "[[A]]" if "good" in first else "[[B]]" if "good" in second else "[[C]]"


STUDENT = {0: "good one", 1: "bad one", 2: "good", 3: "good", 4: "same ", 5: "good"}
SPEC = PairwiseJudge(model="m", rows=6, prompt="{{ prompt }}|{{ first }}|{{ second }}", answer_tokens=4)  # type: ignore[call-arg]


def models() -> list[ModelFile]:
    names = (("student", "torch:fp32"), ("student/gguf:Q8_0", "gguf:Q8_0"), ("student/gguf:Q4_0", "gguf:Q4_0"))
    return [ModelFile(name, "student", scheme, "torch", Path("x"), 1, 1) for name, scheme in names]


def compare(work: Path, teacher: Fake, judge: Fake, **changes: Any) -> dict[str, Any]:
    rows = [Encoded(str(n), [n + 3, 9], [False, True], row=row.id) for n, row in enumerate(ROWS)]
    pairwise.judge_students(
        models(), Encodings(rows, None, "v", (2,)), {row.id: row for row in ROWS}, None, teacher, judge,
        SPEC.model_copy(update=changes), system=None, seed=0, work=work, progress=SilentProgress(), threads=1,
    )  # fmt: skip
    return dict(json.loads((work / "judge.json").read_text()))


@pytest.fixture(autouse=True)
def _no_workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dense student and its 8-bit file say the same; the 4-bit file does not run."""

    def answers(model: ModelFile, prompts: Encodings, *rest: Any) -> list[Written] | Crash:
        if model.scheme == "gguf:Q4_0":
            return Crash("it broke")
        return [Written(STUDENT[int(row.id)], "stop") for row in prompts.rows]

    monkeypatch.setattr("distill2edge.judge.pairwise.file_answers", answers)


def test_wins_losses_and_what_cannot_be_read_are_counted(tmp_path: Path) -> None:
    teacher, judge = Fake(teacher_says), Fake(careful)
    document = compare(tmp_path, teacher, judge)
    dense, file, broken = document["models"]
    wanted = {"win": 1, "loss": 0, "tie": 1, "identical": 1, "inconsistent": 1, "unreadable": 1}
    assert dense["counts"] == file["counts"] == wanted
    assert dense["win_rate"]["value"] == pytest.approx((1 + 3 / 2) / 4)
    assert dense["position_bias"]["value"] == pytest.approx(1 / 3)
    assert (broken["error"], broken["counts"], broken["win_rate"]) == ("it broke", None, None)
    assert (document["rows"], document["unanswered"]) == (5, 1)  # what the teacher would not answer says nothing
    assert len(judge.asked) == len(set(judge.asked)) == 2 * 4  # both files say the same, one pair is identical
    assert teacher.closed
    assert judge.closed
    pair = document["pairs"][0]
    assert (pair["prompt"], pair["teacher"], pair["reference"]) == ("prompt 0", "teacher on prompt 0", "gold 0")
    assert pair["students"]["student"] == {
        "answer": "good one", "student_first": "[[A]]", "teacher_first": "[[B]]", "outcome": "win",
    }  # fmt: skip


@pytest.mark.parametrize(("reply", "bias"), [("[[A]]", 1.0), ("[[B]]", 1.0), ("[[C]]", 0.0)])
def test_a_judge_that_looks_at_the_place_alone_gives_no_wins(tmp_path: Path, reply: str, bias: float) -> None:
    figures = compare(tmp_path, Fake(teacher_says), Fake(lambda _: reply))["models"][0]
    assert figures["counts"]["win"] == figures["counts"]["loss"] == 0
    assert figures["win_rate"]["value"] == 0.5
    assert figures["position_bias"]["value"] == bias


def test_finished_answers_and_replies_are_not_written_again_and_changed_ones_are(tmp_path: Path) -> None:
    def stop(_: str) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(tmp_path, Fake(teacher_says), Fake(stop))
    teacher, judge = Fake(stop), Fake(careful)
    first = compare(tmp_path, teacher, judge)
    assert not teacher.asked
    assert compare(tmp_path, Fake(stop), Fake(stop)) == first
    other = Fake(careful)
    compare(tmp_path, Fake(stop), other, prompt="{{ prompt }}|{{ second }}|{{ first }}")
    assert other.asked


def test_questions_too_long_for_the_judge_are_unreadable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge = Fake(careful, context=0)
    figures = compare(tmp_path, Fake(teacher_says), judge)["models"][0]
    assert not judge.asked
    assert (figures["counts"]["unreadable"], figures["counts"]["identical"], figures["win_rate"]) == (4, 1, None)
    said = capsys.readouterr().err
    assert "8 of 8 questions are too long for the judge" in said
    assert "could be read in only 1 of 5 pairs" in said


def test_a_teacher_that_answers_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="answers none of 6"):
        compare(tmp_path, Fake(lambda _: "REFUSED"), Fake(careful))


# --- real models ----------------------------------------------------------------


def test_a_judge_without_a_chat_template_is_refused_and_a_random_one_is_not_read(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "model", layers=1)
    spec = SPEC.model_copy(update={"model": str(tmp_path / "model"), "max_new_tokens": 3})
    judge = open_judge(spec, tmp_path / "a", SilentProgress(), "verify.judge")
    figures = compare(tmp_path, Fake(teacher_says), judge, max_new_tokens=3)["models"][0]  # type: ignore[arg-type]
    assert figures["counts"]["unreadable"] == 4
    assert figures["win_rate"] is None  # one pair is identical, but that is no judgement
    (tmp_path / "model" / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template") as caught:
        open_judge(spec, tmp_path / "b", SilentProgress(), "verify.judge")
    assert caught.value.where == "verify.judge.template"


def test_a_judge_in_gguf_is_run_by_llama_cpp_from_its_own_file(tmp_path: Path) -> None:
    from distill2edge.export.gguf import export_gguf

    tiny_llama(tmp_path / "model", layers=1)
    meta = {"name": "tiny", "licence": None, "teacher": None, "recipe": None, "recipe_key": None, "description": ""}
    export_gguf(tmp_path / "model", parse_scheme("gguf:F32"), meta, tmp_path / "gguf", SilentProgress())
    file = tmp_path / "gguf" / "model.gguf"
    judge = open_judge(
        SPEC.model_copy(update={"model": str(file)}), tmp_path, SilentProgress(), "verify.judge", gguf=file
    )
    answers = judge.generate([question("film"), question("dog")], Sampling(5), 0)
    judge.close()
    assert judge.name == "llama.cpp"
    assert all(0 < answer.tokens <= 5 for answer in answers)
    assert not list((tmp_path / "judge").rglob("*.safetensors"))  # it may be large


def test_a_file_writes_what_its_model_does_greedily(tmp_path: Path) -> None:
    import torch

    model = tiny_t5(tmp_path / "model")
    source = [20, 30, 40, 1]
    with torch.no_grad():
        whole = model.generate(torch.tensor([source]), max_new_tokens=6, do_sample=False, eos_token_id=1)[0].tolist()
    wanted = [token for token in whole[1:] if token != 1]
    row = Encoded(example_id(source, [False] * 4), [*source, 7, 1], [False] * 4 + [True] * 2, row="r")
    write_encodings(tmp_path / "rows.json", Encodings([row], None, "v", (1,)))
    spec = {
        "runtime": "torch", "path": str(tmp_path / "model"), "threads": 1, "context": 16, "rows": "rows.json",
        "stop": [1], "limit": 6, "result": str(tmp_path / "found.json"),
    }  # fmt: skip
    assert answer_worker.work(spec, lambda _: None) == {"answers": [wanted]}


# --- the recipe -----------------------------------------------------------------

MINIMAL = """\
name: x
teacher: {model: a/teacher}
data: {source: b, template: plain}
student: {init: {from: teacher, layers: 3}}
export: [onnx:int8, gguf:Q4_0]
quantize: {calibration: imatrix, compare: true}
"""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.choices=[a, b]", r"compares open answers\n  fix: take data.choices out"),
        ("data.template=text", "needs prompts to answer"),
        ("task=classification", "not for classification: it compares written answers"),
        ("verify.judge={}", "required"),
        ('verify.judge.prompt="{{ first }} or {{ secnd }}?"', "knows no secnd"),
        ("verify.judge.prompt=is {{ first }} right?", "must show both answers"),
        ('verify.judge.prompt="{{ first }} {{ second"', "not valid Jinja"),
    ],
)
def test_what_a_judge_cannot_compare_is_refused(change: str, said: str) -> None:
    more = (
        ["data.choices=[a, b]", "signal={kind: labels}", "bench.workloads=[task]"] if "classification" in change else []
    )
    more += ["quantize={}"] if "classification" in change else []
    with pytest.raises(RecipeErrors, match=said):
        parse_recipe(MINIMAL, "r.yaml", ["verify.judge={model: c/judge}", *more, change])


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[dict[str, str], list[Any]]]:
    monkeypatch.setattr("distill2edge.data.row_sources.fingerprint", lambda *args: {"sha256": "rows"})
    monkeypatch.setattr("distill2edge.intake.obtain.fingerprint", lambda model, *args: {"sha256": model})

    def of(*overrides: str) -> tuple[dict[str, str], list[Any]]:
        recipe = parse_recipe(MINIMAL, "r.yaml", overrides)
        found = stages.build_stages(recipe, SilentProgress())
        return keys_of(found), found

    return of


def test_a_judge_is_a_stage_of_its_own_and_moves_the_report_alone(keys: Any) -> None:
    without, _ = keys()
    judged, found = keys("verify.judge={model: c/judge}")
    assert list(judged) == [*list(without)[:-2], "judge", *list(without)[-2:]]
    assert {name for name in without if without[name] != judged[name]} == {"report"}
    stage = next(stage for stage in found if stage.kind == "judge")
    assert {"student", "teacher", "data", "merge", "export student/onnx:int8", "export student/gguf:Q4_0"} == set(
        stage.parents
    )
    assert stage.sources.judges_of_its_own == []
    more, _ = keys("verify.judge={model: c/judge, rows: 41}")
    assert {name for name in judged if more[name] != judged[name]} == {"judge", "report"}


@pytest.mark.parametrize(
    ("who", "changes"), [("teacher", ("verify.judge={model: a/teacher}",)),
                         ("student", ("verify.judge={model: c/own}", "student.init={model: c/own}"))],
)  # fmt: skip
def test_a_judge_that_is_teacher_or_student_is_told(
    keys: Any, who: str, changes: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    _, found = keys(*changes)
    assert found[0].sources.judges_of_its_own == [who]
    assert f"the judge is the {who}'s own model" in capsys.readouterr().err


def test_what_an_endpoint_is_paid_for_the_answers_to_compare_with_is_in_the_plan() -> None:
    text = MINIMAL.replace("a/teacher", "endpoint:https://host/v1, endpoint: {model: m, max_tokens: 9999999}")
    asked = ["signal={kind: text}", "distill.loss={ce: 1}", "student.init={model: c}", "data.splits.test=30"]
    plain, judged = (parse_recipe(text, "r", [*asked, *more]) for more in ([], ["verify.judge={model: d}"]))
    before, after = (estimate(recipe, 100, 10.0) for recipe in (plain, judged))
    assert before is not None
    assert after is not None
    assert after["requests"] - before["requests"] == 30  # not 40: that many rows there are
    assert after["tokens"] - before["tokens"] == 30 * (10 + 128)
