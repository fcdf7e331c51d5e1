"""A server scores the rows: what it says is what the model says here, or it is refused before it is paid for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_endpoint import Handler, serving
from tiny import tiny_llama
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill2edge.data.encode import encode_rows
from distill2edge.data.examples import Encoded, Row, row_id
from distill2edge.distill.logit_cache import SignalReader
from distill2edge.errors import EnvironmentFault, RecipeErrors, UserError
from distill2edge.generation.endpoint import asking
from distill2edge.recipe.load import parse_recipe
from distill2edge.teacher.served import cache_served
from distill2edge.util.progress import SilentProgress

RECIPE = """\
name: served
teacher:
  model: endpoint:{url}
  endpoint: {{model: m, max_tokens: 100000, timeout_s: 10, retries: 1, concurrency: 2, input_usd: 1, output_usd: 2}}
  licence: mit
data: {{source: rows.jsonl}}
signal: {{kind: logits, top_k: {k}, temperature: 1}}
student: {{init: {{model: {student}}}}}
"""
Scored = Callable[..., dict[str, Any]]


class Said(SilentProgress):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def warn(self, line: str) -> None:
        self.lines.append(line)


class Server:
    """Scores as servers do, with a model of its own.

    Args:
        form: `ids` (vLLM), `echo` (OpenAI's older completions), `late` (llama-cpp-python, where no BOS begins a text).
        most: log-probabilities that it lists; `refuses` more, or lists fewer.
        begins: it puts BOS before a text.
    """

    def __init__(self, directory: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self.form, self.most, self.refuses, self.begins, self.spoil = "echo", 100, False, False, lambda reply, ids: None

    def __call__(self, handler: Handler, body: dict[str, Any], number: int) -> None:
        asked = body.get("prompt_logprobs") or body.get("logprobs") or 0
        if self.refuses and asked > self.most:
            handler.reply(400, {"error": {"message": f"logprobs of {asked} is greater than {self.most}"}})
            return
        handler.reply(200, self.scored(body))

    def scored(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = body["prompt"]
        ids = prompt if isinstance(prompt, list) else self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        if self.begins and not isinstance(prompt, list):
            ids = [self.tokenizer.bos_token_id, *ids]
        with torch.no_grad():
            logp = torch.log_softmax(self.model(torch.tensor([ids])).logits[0], -1)
        ids_and_next = [*ids, int(logp[-1].argmax())]
        names = [self.tokenizer.decode([index]) for index in range(logp.shape[-1])]
        count = min(self.most, body.get("prompt_logprobs") or body.get("logprobs") or 0)

        def listed(place: int, own: int | None) -> list[tuple[int, float]]:
            found = {int(index): float(logp[place, index]) for index in logp[place].topk(count).indices}
            return list((found | ({} if own is None else {own: float(logp[place, own])})).items())

        def spelt(place: int, own: int | None) -> dict[str, float]:
            return {names[index]: value for index, value in reversed(listed(place, own))}

        choice: dict[str, Any] = {"index": 0, "text": names[ids_and_next[-1]], "finish_reason": "length"}
        if self.form == "ids" and "prompt_logprobs" in body:
            choice["prompt_logprobs"] = [None] + [
                {str(index): {"logprob": value, "decoded_token": names[index]} for index, value in listed(at - 1, own)}
                for at, own in list(enumerate(ids))[1:]
            ]
        elif self.form != "none" and body.get("logprobs"):
            shown = ids_and_next if body.get("echo") else ids_and_next[-1:]
            first = len(ids_and_next) - len(shown)
            late = self.form == "late" and bool(body.get("echo"))
            top = [
                None if at == 0 else spelt(at - (0 if late else 1), shown[at - first] if at < len(logp) else None)
                for at in range(first, len(ids_and_next) - (1 if late else 0))
            ]
            shown = shown[: len(top)]
            own = [None if each is None else float(logp[at - 1, index]) for at, (each, index) in
                   enumerate(zip(top, shown, strict=True), first)]  # fmt: skip
            choice["logprobs"] = {"tokens": [names[i] for i in shown], "token_logprobs": own, "top_logprobs": top}
        reply = {"choices": [choice], "usage": {"prompt_tokens": len(ids), "completion_tokens": 1}}
        self.spoil(reply, ids)  # type: ignore[no-untyped-call]
        return reply


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("teacher")
    tiny_llama(directory, scale=0.3)
    return directory


@pytest.fixture
def behaviour(teacher: Path) -> Server:
    return Server(teacher)


@pytest.fixture
def server(behaviour: Server) -> Iterator[Any]:
    with serving(behaviour) as found:
        yield found


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "backoff", lambda attempt: 0.01)


def rows(teacher: Path, template: str = "chat", count: int = 40) -> list[Encoded]:
    texts = [f"the quick brown fox {n}" for n in range(count)]
    made = [Row(row_id(text, "x"), text, " good film, it jumps", 0) for text in texts]
    return encode_rows(made, AutoTokenizer.from_pretrained(teacher), template, None, 200)


def score(server: Any, teacher: Path, work: Path, k: int = 8, template: str = "chat", **options: Any) -> dict[str, Any]:
    said = server.said = Said()
    recipe = parse_recipe(RECIPE.format(url=server.url, k=k, student=teacher), "r.yaml", options.pop("sets", []))
    return cache_served(recipe, teacher, rows(teacher, template, **options), work, said)


def assert_is_the_model(teacher: Path, examples: list[Encoded], work: Path, *, spelt: bool = True) -> None:
    """The shards say of each token what the model here says, or that it has an even share of the rest."""
    model, reader = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32), SignalReader(work)
    tokenizer, own, slots = AutoTokenizer.from_pretrained(teacher), 0, 0
    texts = [tokenizer.decode([index]).replace("\ufffd", "") for index in range(len(tokenizer))]
    alone = torch.tensor([not spelt or texts.count(text) == 1 for text in texts])
    for example in examples:
        found = reader.get(example.id)
        with torch.no_grad():
            logp = torch.log_softmax(model(torch.tensor([example.ids])).logits[0], -1)
        places = [at - 1 for at, on in enumerate(example.mask) if on]
        there = logp[places].gather(-1, found.tokens)
        share = found.log_p.min(-1, keepdim=True).values
        filled = (found.log_p - share).abs() < 2e-3  # the last of a full list is in here too
        assert ((found.log_p - there).abs()[~filled] < 0.02).all()
        assert torch.allclose(found.log_p.exp().sum(-1) + found.log_tail.exp(), torch.ones(len(places)), atol=1e-3)
        own, slots = own + int((~filled).sum()), slots + filled.numel()
        first = logp[places].argmax(-1)
        assert (found.tokens[:, 0] == first)[alone[first]].all()  # where its spelling stands for it alone
    assert own >= 0.6 * slots


@pytest.mark.parametrize(
    ("form", "template"), [("ids", "chat"), ("echo", "chat"), ("echo", "plain"), ("late", "plain")]
)
def test_the_shards_are_what_the_model_says_here(
    server: Any, behaviour: Server, teacher: Path, tmp_path: Path, form: str, template: str
) -> None:
    behaviour.form = form
    facts = score(server, teacher, tmp_path, template=template)
    examples = rows(teacher, template)
    assert facts["examples"] == len(examples) == 40
    assert facts["dropped"] == {}
    assert facts["top_k"] == facts["asked_top_k"] == 8
    assert 0 < facts["tail_mass"] < 1
    assert facts["usd"] > 0
    assert_is_the_model(teacher, examples, tmp_path, spelt=form != "ids")
    probes = {"ids": 1, "echo": 2, "late": 2}[form]
    assert len(server.seen) == 40 + probes  # one request to a row
    assert any("scores a row by" in line for line in server.said.lines)


def test_a_second_run_pays_for_nothing_and_a_kill_for_what_is_missing(
    server: Any, teacher: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="budget is reached"):
        score(server, teacher, tmp_path, sets=["teacher.endpoint.max_tokens=600"])
    paid = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert 3 < len(paid) < 42
    with open(tmp_path / "answers.jsonl", "ab") as file:
        file.write(b'{"key": "half a li')
    first = score(server, teacher, tmp_path)
    assert len(server.seen) == 42
    assert (tmp_path / "answers.jsonl").read_text().splitlines()[: len(paid)] == paid
    shards = {path.name: path.read_bytes() for path in tmp_path.glob("shard-*")}
    again = score(server, teacher, tmp_path)
    assert len(server.seen) == 42
    assert again["usd"] == first["usd"] > 0
    assert {path.name: path.read_bytes() for path in tmp_path.glob("shard-*")} == shards


@pytest.mark.parametrize("refuses", [True, False])
def test_a_server_that_lists_fewer_is_taken_at_what_it_gives(
    server: Any, behaviour: Server, teacher: Path, tmp_path: Path, refuses: bool
) -> None:
    behaviour.form, behaviour.most, behaviour.refuses = "ids", 5, refuses
    facts = score(server, teacher, tmp_path, k=64)
    assert facts["asked_top_k"] == 64
    assert 5 <= facts["top_k"] <= 6  # the token itself comes beside the five
    assert SignalReader(tmp_path).top_k == facts["top_k"]
    assert any("log-probabilities of the 64" in line for line in server.said.lines)
    assert_is_the_model(teacher, rows(teacher), tmp_path, spelt=False)


def test_a_server_that_begins_each_text_itself_is_sent_texts_without_bos(
    server: Any, behaviour: Server, teacher: Path, tmp_path: Path
) -> None:
    behaviour.begins = True
    facts = score(server, teacher, tmp_path)
    assert facts["dropped"] == {}
    assert_is_the_model(teacher, rows(teacher), tmp_path)


def test_one_that_puts_bos_where_the_student_has_none_is_refused(
    server: Any, behaviour: Server, teacher: Path, tmp_path: Path
) -> None:
    behaviour.begins = True
    with pytest.raises(UserError, match=r"tokens are not those of student\.init\.model") as error:
        score(server, teacher, tmp_path, template="plain")
    assert "BOS" in error.value.fix
    assert len(server.seen) <= 8


@pytest.mark.parametrize("form", ["ids", "echo"])
def test_another_tokenizer_stops_it_after_the_first_rows(
    server: Any, behaviour: Server, teacher: Path, tmp_path: Path, form: str
) -> None:
    behaviour.form = form

    def other(reply: dict[str, Any], ids: list[int]) -> None:
        choice = reply["choices"][0]
        if form == "ids":
            for place in filter(None, choice.get("prompt_logprobs") or ()):
                for each in place.values():
                    each["decoded_token"] = each["decoded_token"] + "x"
        elif "logprobs" in choice:
            choice["logprobs"]["tokens"][3] = "something else"

    behaviour.spoil = other
    with pytest.raises(UserError, match=r"tokens are not those of student\.init\.model: its token") as error:
        score(server, teacher, tmp_path)
    assert "signal: {kind: text}" in error.value.fix
    assert len(server.seen) <= 34  # of 40 rows


def test_a_row_that_is_read_otherwise_is_left_out_and_counted(
    server: Any, behaviour: Server, teacher: Path, tmp_path: Path
) -> None:
    odd = rows(teacher)[7]

    def other(reply: dict[str, Any], ids: list[int]) -> None:
        if ids == odd.ids and "logprobs" in reply["choices"][0]:
            reply["usage"]["prompt_tokens"] += 2

    behaviour.spoil = other
    facts = score(server, teacher, tmp_path)
    assert facts["dropped"] == {"other tokens": 1}
    assert facts["examples"] == 39
    assert odd.id not in SignalReader(tmp_path)
    assert any("1 of 40 rows are left out: 1 x other tokens" in line for line in server.said.lines)


def test_a_server_without_log_probabilities_is_an_error_after_one_request(
    server: Any, behaviour: Server, teacher: Path, tmp_path: Path
) -> None:
    behaviour.form = "none"
    with pytest.raises(UserError, match="gives no log-probabilities of a text") as error:
        score(server, teacher, tmp_path)
    assert "signal: {kind: text}" in error.value.fix
    assert len(server.seen) == 1


def test_one_that_fails_at_them_alone_is_told_from_one_that_is_down(server: Any, teacher: Path, tmp_path: Path) -> None:
    def fails(handler: Handler, body: dict[str, Any], number: int) -> None:
        if "logprobs" in body:
            handler.reply(500, {"error": {"message": "logprobs is not supported with logits_all=False"}})
        else:
            handler.reply(200, {"choices": [{"text": "x", "finish_reason": "length"}]})

    server.behaviour = fails
    with pytest.raises(UserError, match=r"gives no log-probabilities of a text that it is sent: .*logits_all"):
        score(server, teacher, tmp_path / "a")
    server.behaviour = lambda handler, body, number: handler.reply(500, {"error": "down"})
    with pytest.raises(EnvironmentFault, match="failed 2 times"):
        score(server, teacher, tmp_path / "b")


@pytest.mark.parametrize("status", [404, 400])
def test_one_without_completions_is_an_error_with_the_fix(
    server: Any, teacher: Path, tmp_path: Path, status: int
) -> None:
    server.behaviour = lambda handler, body, number: handler.reply(status, {"error": {"message": "chat only"}})
    with pytest.raises(UserError, match="chat only") as error:
        score(server, teacher, tmp_path)
    assert "signal: {kind: text}" in error.value.fix


@pytest.mark.parametrize("wrong", [math.nan, 0.5, "high"])
def test_numbers_that_are_no_log_probabilities_are_never_learnt(
    server: Any, behaviour: Server, teacher: Path, tmp_path: Path, wrong: Any
) -> None:
    odd = rows(teacher)[7]

    def spoil(reply: dict[str, Any], ids: list[int]) -> None:
        if ids == odd.ids and (found := reply["choices"][0].get("logprobs")):
            found["top_logprobs"][-2][next(iter(found["top_logprobs"][-2]))] = wrong

    behaviour.spoil = spoil
    facts = score(server, teacher, tmp_path)
    assert facts["dropped"] == {"unreadable": 1}
    assert facts["charged_without_answer"] == 2  # each try is counted, since it may have been charged
    assert odd.id not in SignalReader(tmp_path)
    kept = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert sum(record.get("finish", "").startswith("unreadable") for record in kept) == 1


@pytest.mark.parametrize(("change", "said"), [
    ("signal.temperature=2", "set signal.temperature: 1"),
    ("distill.on_policy={}", "distill.on_policy runs its teacher in PyTorch"),
    ("task=seq2seq", "signal.kind: logits of an endpoint is for task causal-lm"),
    ("student.init={from: teacher, layers: 2}", "give student.init a model of its own"),
])  # fmt: skip
def test_what_a_served_teacher_cannot_do_is_refused_by_the_recipe(change: str, said: str) -> None:
    text = RECIPE.format(url="http://127.0.0.1:1/v1", k=8, student="bundled:smollm2-135m-instruct")
    with pytest.raises(RecipeErrors) as error:
        parse_recipe(text, "r.yaml", [change])
    assert said in str(error.value)
