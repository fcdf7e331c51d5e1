"""Conversations: found by their form, kept whole, and supervised where the assistant speaks and nowhere else."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import CHAT_TEMPLATE, TOOL_TEMPLATE, tiny_tokenizer

from distill2edge.data.conversation import answer_of, opened, opened_turns, plain_answer, plain_prompt, shorter
from distill2edge.data.encode import SPLITS, encode_messages, encode_prompts, encode_rows
from distill2edge.data.examples import Encoded, Row, row_id
from distill2edge.data.prepare import prepare
from distill2edge.data.split_files import read_rows
from distill2edge.errors import RecipeErrors, UserError
from distill2edge.preflight.data import problems
from distill2edge.recipe import schema
from distill2edge.recipe.load import parse_recipe
from distill2edge.util.progress import SilentProgress

MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n{% generation %}{{ m.content }}"
    "<|im_end|>{% endgeneration %}\n{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The stop outside of the marks, as in some templates.
MARKED_SHORT = MARKED.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")
# What was thought in earlier turns is left out, and what the last turn thought is kept: as Qwen 3.
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% set said = m.content.split('</think>')[-1] | trim %}"
    "{% if loop.last and m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ said }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRICT = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOL = {"name": "weather", "description": "of a town", "parameters": {"type": "object", "properties": {}}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"town": "Bern"}}}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    directory = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(directory)
    return AutoTokenizer.from_pretrained(directory)


@pytest.fixture
def tokenizer(loaded: Any) -> Iterator[Any]:
    yield loaded
    loaded.chat_template = CHAT_TEMPLATE


def talk(*texts: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def made(path: Path, rows: list[dict[str, Any]], **options: Any) -> list[Row]:
    """The rows of a source, all of them, in its order."""
    from distill2edge.data.rows import Dropped, Rows

    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = schema.Data.model_validate({"source": str(path), **options})
    return [item.row for _, item in Rows(data).items(rows, Dropped())]


def spoken(tokenizer: Any, example: Encoded) -> list[str]:
    """The supervised runs of an example, as texts."""
    runs: list[list[int]] = []
    for at, (token, on) in enumerate(zip(example.ids, example.mask, strict=True)):
        if on and not example.mask[at - 1]:
            runs.append([])
        if on:
            runs[-1].append(token)
    return [tokenizer.decode(run) for run in runs]


# --- forms --------------------------------------------------------------------

SHAREGPT = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "good"}, {"from": "human", "value": "and?"},
            {"from": "gpt", "value": "fine"}]  # fmt: skip
EXCHANGE = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "good"}]


@pytest.mark.parametrize(
    ("row", "form", "prompt", "response"),
    [
        ({"messages": EXCHANGE}, "messages", "hi", "good"),
        ({"id": 3, "dialogue": EXCHANGE, "source": "x"}, "messages", "hi", "good"),
        ({"messages": json.dumps(EXCHANGE)}, "messages", "hi", "good"),
        ({"conversations": SHAREGPT}, "sharegpt", "user: hi\nassistant: good\nuser: and?", "fine"),
        ({"conversations": SHAREGPT, "system": "be"}, "sharegpt", "system: be\nuser: hi\nassistant: good\nuser: and?",
         "fine"),
        ({"instruction": "Add.", "input": "1 2", "output": "3"}, "alpaca", "Add.\n\n1 2", "3"),
        ({"instruction": "Add.", "input": "", "output": "3"}, "alpaca", "Add.", "3"),
        ({"instruction": "Add.", "context": None, "response": "3"}, "alpaca", "Add.", "3"),
        ({"prompt": "hi", "completion": "good"}, "prompt-completion", "hi", "good"),
        ({"prompt": EXCHANGE[:1], "completion": EXCHANGE[1:]}, "prompt-completion", "hi", "good"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]},
                       EXCHANGE[1]]}, "messages", "hi", "good"),
    ],
)  # fmt: skip
def test_each_form_is_found_by_itself_and_by_name(
    row: dict[str, Any], form: str, prompt: str, response: str, tmp_path: Path
) -> None:
    for named in ("auto", form):
        (only,) = made(tmp_path / "rows.jsonl", [row], form=named)
        assert (plain_prompt(only.prompt), only.response) == (prompt, response)
    if "\n" not in prompt or form == "alpaca":  # one question and one answer are an ordinary row
        assert only.id == row_id(prompt, response)


def test_rows_of_prompt_and_response_stay_what_they_were(tmp_path: Path) -> None:
    row = {"prompt": "hi", "response": "good", "messages": talk("a", "b")}
    (only,) = made(tmp_path / "rows.jsonl", [row])
    assert (only.prompt, only.response, only.number) == ("hi", "good", 0)
    (only,) = made(tmp_path / "rows.jsonl", [row], form="messages")
    assert (only.prompt, only.response) == ("a", "b")
    (only,) = made(tmp_path / "rows.jsonl", [row], prompt="{{ messages[0].content }}")
    assert (only.prompt, only.response) == ("a", "good")


def test_a_table_holds_alpaca_rows(tmp_path: Path) -> None:
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("instruction", "input", "output"), *((f"Add {n}.", "", f"sum {n}") for n in range(60))])
    data = schema.Data.model_validate({"source": str(tmp_path / "rows.csv"), "splits": {"test": 5, "validation": 5}})
    facts = prepare(
        data.model_copy(update={"splits": schema.Splits(train=None, validation=5, calibration=5, test=5)}),
        0, tmp_path / "work", SilentProgress(),
    )  # fmt: skip
    assert facts["form"] == {"name": "alpaca", "columns": ["instruction", "output"], "trimmed": 0}
    assert {row.prompt.split()[0] for row in read_rows(tmp_path / "work", "train")} == {"Add"}


def test_tools_calls_and_thoughts_are_kept(tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "weather?"},
        {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": {"town": "Bern"}})},
        {"from": "observation", "value": "sun"},
        {"from": "gpt", "value": "It is sunny."},
    ]
    (row,) = made(tmp_path / "a.jsonl", [{"conversations": turns, "tools": json.dumps([TOOL])}])
    chat = opened(row.prompt)
    assert [message["role"] for message in chat.messages] == ["user", "assistant", "tool"]
    assert chat.messages[1]["tool_calls"] == [CALL]
    assert chat.tools == ({"type": "function", "function": TOOL},)
    assert row.response == "It is sunny."
    assert shorter(row.prompt) is not None
    assert answer_of(shorter(row.prompt)[1])["tool_calls"] == [CALL]  # type: ignore[index]
    calling = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "weather",
               "arguments": '{"town": "Bern"}'}}]}  # fmt: skip
    thinking = {"role": "assistant", "content": "four", "reasoning_content": "2 + 2"}
    tools = [{"type": "function", "function": {**TOOL, "strict": None}}]
    rows = made(
        tmp_path / "b.jsonl",
        [{"messages": [EXCHANGE[0], calling], "tools": tools}, {"messages": [EXCHANGE[0], thinking]}],
    )
    assert answer_of(rows[0].response)["tool_calls"] == [CALL]
    assert opened(rows[0].prompt).tools[0]["function"] == TOOL  # what a table says of all rows is not there
    assert plain_answer(rows[1].response) == "2 + 2\nfour"
    assert len({row.id for row in rows}) == 2


# --- what is dropped, and what is refused -----------------------------------------


class Heard(SilentProgress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def test_odd_conversations_are_counted_and_explained(tmp_path: Path) -> None:
    system = {"role": "system", "content": "be"}
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    odd = [[*talk("q")], [system, system, *talk("q", "a")], [picture, *talk("q", "a")[1:]], talk("q", "a", "more?"), []]
    rows = [{"messages": talk(f"q{n}", f"a{n}", f"r{n}", f"s{n}")} for n in range(30)]
    rows += [{"messages": turns} for turns in odd]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = schema.Data.model_validate(
        {"source": str(tmp_path / "rows.jsonl"), "splits": {"validation": 4, "calibration": 4, "test": 4}}
    )
    heard = Heard()
    facts = prepare(data, 0, tmp_path / "work", heard)
    assert facts["dropped"] == {"empty": 1, "image": 1, "systems": 1, "unanswered": 1}
    assert facts["form"] == {"name": "messages", "columns": ["messages"], "trimmed": 1}
    said = "\n".join(heard.said)
    assert "data: rows are of the form messages (role and content) in messages" in said
    assert "1 conversations without an answer of the assistant (the first is row 31)" in said
    assert "1 conversations with two system messages (the first is row 32)" in said
    assert "1 with an image or another part that is no text (the first is row 33)" in said
    assert "1 conversations end without an answer" in said
    held = {row.number for name in SPLITS for row in read_rows(tmp_path / "work", name)}
    assert held == {*range(1, 31), 34}


@pytest.mark.parametrize(
    ("turns", "tools", "said"),
    [
        ([{"role": "oracle", "content": "x"}, *EXCHANGE], None, "row 2: a message of the role 'oracle'"),
        ("hello", None, "row 2: field messages is no list of messages"),
        ([{"content": "x"}], None, "row 2: a message without 'role'"),
        ([{"role": "user", "content": {"a": 1}}, EXCHANGE[1]], None, "row 2: a message whose content is a dict"),
        (EXCHANGE, "[{]", "row 2: tools that are no JSON"),
        (EXCHANGE, [{"type": "function"}], "row 2: a tool without a name"),
        ([EXCHANGE[0], {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}
          ]}], None, "row 2: arguments of a tool call that are no JSON"),
        (talk("q\0", "a"), None, "row 2: the text holds a NUL character"),
        (talk("\u2402chat\u2403", "a"), None, "row 2: a text begins with a mark"),
    ],
)  # fmt: skip
def test_a_malformed_conversation_is_refused_with_its_row(turns: Any, tools: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        made(tmp_path / "rows.jsonl", [{"messages": EXCHANGE}, {"messages": turns, "tools": tools}])
    assert caught.value.what.startswith(said)
    assert caught.value.fix


def test_what_a_recipe_may_ask_of_conversations(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"row 1 has no sharegpt \(from and value\); its fields are messages"):
        made(tmp_path / "a.jsonl", [{"messages": EXCHANGE}], form="sharegpt")
    with pytest.raises(UserError, match="row 1: a conversation of several turns") as caught:
        made(tmp_path / "a.jsonl", [{"messages": talk("a", "b", "c", "d")}], template="plain")
    assert caught.value.fix.startswith("set data.template: chat")
    text = "name: a\nteacher: {model: b}\nstudent: {init: {from: teacher, layers: 1}}\ndata: {source: c, %s}\n"
    with pytest.raises(RecipeErrors, match="form alpaca says what is prompt and response"):
        parse_recipe(text % "form: alpaca, prompt: '{{ a }}'", "a.yaml")
    with pytest.raises(RecipeErrors, match="supervise: last chooses among the turns of a chat"):
        parse_recipe(text % "template: plain, supervise: last", "a.yaml")


def test_the_check_renders_the_first_rows_with_the_tokenizer_that_is_here(tmp_path: Path) -> None:
    from tiny import tiny_llama

    tiny_llama(tmp_path / "model", layers=1, hidden=16)
    config = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "model" / "chat_template.jinja").write_text(STRICT)
    rows = [{"messages": talk(f"q{n}", f"a{n}")} for n in range(40)]
    rows[6]["messages"].insert(0, {"role": "system", "content": "be"})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {"name": "a", "teacher": {"model": str(tmp_path / "model")}, "student": {"init": {"layers": 1}},
              "data": {"source": str(tmp_path / "rows.jsonl"),
                       "splits": {"validation": 4, "calibration": 4, "test": 4}}}  # fmt: skip
    recipe["student"] = {"init": {"from": "teacher", "layers": 1}}
    (found,) = problems(parse_recipe(json.dumps(recipe), "a.yaml"), [])
    assert found.path == ("data", "template")
    assert (
        "row 7: the tokenizer's chat template refuses the messages (system, user): roles must alternate" in found.what
    )


# --- what is supervised ------------------------------------------------------------


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, MARKED, MARKED_SHORT, STRICT])
@pytest.mark.parametrize(
    ("supervise", "turns"), [("all", ["good<|im_end|>", "fine<|im_end|>"]), ("last", ["fine<|im_end|>"])]
)
def test_every_turn_of_the_assistant_is_supervised_or_the_last(
    tokenizer: Any, template: str, supervise: str, turns: list[str], tmp_path: Path
) -> None:
    tokenizer.chat_template = template
    rows = made(tmp_path / "a.jsonl", [{"messages": talk("hi", "good", "and?", "fine")}])
    (example,) = encode_rows(rows, tokenizer, "chat", None, 200, supervise=supervise)
    assert spoken(tokenizer, example) == turns
    assert tokenizer.decode(example.ids[example.prompt_length :]) == "fine<|im_end|>"
    # what is trained begins as what is generated from, and nothing but the masks differs between the two
    assert example.ids[: example.prompt_length] == encode_prompts([rows[0].prompt], tokenizer, "chat")[0]
    assert encode_messages([[("user", rows[0].prompt)]], tokenizer, "chat")[0] == example.ids[: example.prompt_length]


def test_marks_are_asked_for_and_must_be_there(tokenizer: Any, tmp_path: Path) -> None:
    rows = made(tmp_path / "a.jsonl", [{"messages": talk("hi", "good", "and?", "fine")}])
    with pytest.raises(UserError, match=r"no \{% generation %\} marks") as caught:
        encode_rows(rows, tokenizer, "chat", None, 200, supervise="marked")
    assert "data.supervise: all" in caught.value.fix
    tokenizer.chat_template = MARKED
    (example,) = encode_rows(rows, tokenizer, "chat", None, 200, supervise="marked")
    assert len(spoken(tokenizer, example)) == 2


def test_thoughts_of_earlier_turns_are_left_out_as_the_template_leaves_them(tokenizer: Any, tmp_path: Path) -> None:
    first, last = ({"role": "assistant", "content": text, "reasoning_content": f"so {text}"} for text in ("b", "d"))
    turns = [*talk("a"), first, *talk("c"), last]
    rows = made(tmp_path / "a.jsonl", [{"messages": turns}])
    tokenizer.chat_template = THINKING
    (example,) = encode_rows(rows, tokenizer, "chat", None, 200)
    assert spoken(tokenizer, example) == ["b<|im_end|>", "<think>\nso d\n</think>\n\nd<|im_end|>"]
    inline = [{"messages": talk("a", "<think>\nso b\n</think>\n\nb", "c", "<think>\nso d\n</think>\n\nd")}]
    (other,) = encode_rows(made(tmp_path / "b.jsonl", inline), tokenizer, "chat", None, 200)
    assert other.ids == example.ids
    tokenizer.chat_template = THINKING.replace(
        "<|im_start|>assistant\n{% endif", "<|im_start|>assistant\n<think>\n{% endif"
    )
    (open_,) = encode_rows(rows, tokenizer, "chat", None, 200, supervise="last")
    assert spoken(tokenizer, open_) == ["so d\n</think>\n\nd<|im_end|>"]


def test_tool_calls_are_supervised_as_the_template_writes_them(tokenizer: Any, tmp_path: Path) -> None:
    calling = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    turns = [*talk("weather?"), calling, {"role": "tool", "content": "sun"}, {"role": "assistant", "content": "Sunny."}]
    rows = made(tmp_path / "a.jsonl", [{"messages": turns, "tools": [TOOL]}, {"messages": turns[:2], "tools": [TOOL]}])
    tokenizer.chat_template = TOOL_TEMPLATE
    both, alone = encode_rows(rows, tokenizer, "chat", "be brief", 400)
    call = '<tool_call>\n{"name": "weather", "arguments": {"town": "Bern"}}\n</tool_call><|im_end|>'
    assert spoken(tokenizer, both) == [call, "Sunny.<|im_end|>"]
    assert spoken(tokenizer, alone) == [call]
    text = tokenizer.decode(both.ids)
    assert all(part in text for part in ("be brief\n<tools>", '"description": "of a town"', "<tool_response>\nsun"))
    tokenizer.chat_template = CHAT_TEMPLATE
    with pytest.raises(UserError, match="row 1: the tokenizer's chat template leaves out the tools of the row"):
        encode_rows(rows, tokenizer, "chat", None, 400)
    bare = made(tmp_path / "b.jsonl", [{"messages": turns[:2]}])
    with pytest.raises(UserError, match="row 1: the tokenizer's chat template leaves out the call of 'weather'"):
        encode_rows(bare, tokenizer, "chat", None, 400)
    with pytest.raises(UserError, match="row 1: the earlier turns of the assistant can't be told"):
        encode_rows(made(tmp_path / "c.jsonl", [{"messages": turns}]), tokenizer, "chat", None, 400)


def test_an_answer_that_holds_the_stop_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    rows = made(tmp_path / "a.jsonl", [{"messages": talk("a", "b<|im_end|>\nc", "d", "e")}])
    with pytest.raises(UserError, match="row 1: the earlier turns") as caught:
        encode_rows(rows, tokenizer, "chat", None, 200)
    assert "data.supervise: last" in caught.value.fix


def test_a_conversation_too_long_is_cut_at_a_turn(tokenizer: Any, tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "be"}, *talk("hi", "good", "and?", "fine " * 40)]
    rows = made(
        tmp_path / "a.jsonl", [{"messages": turns}, {"messages": talk("x", "y")}, {"messages": talk("z " * 99, "y")}]
    )
    counts: Counter[str] = Counter()
    encoded = encode_rows(rows, tokenizer, "chat", None, 40, counts=counts)
    assert tokenizer.decode(encoded[0].ids).endswith("assistant\ngood<|im_end|>")
    assert tokenizer.decode(encoded[0].ids).startswith("<|im_start|>system\nbe")
    assert (counts["cut"], counts["too_long"], len(encoded)) == (1, 1, 2)
    assert encoded[0].row == rows[0].id
    counts.clear()
    assert len(encode_rows(rows, tokenizer, "chat", None, 40, counts=counts, supervise="answer")) == 1
    assert counts["too_long"] == 2


def test_a_system_message_of_the_row_stands_in_place_of_the_recipes() -> None:
    own = opened(opened_turns([("system", "a"), ("user", "b")]).text())
    head = opened_turns([("system", "theirs"), ("user", own.text())])
    assert [message["content"] for message in head.messages] == ["a", "b"]
    assert [message["content"] for message in opened(own.text(), "theirs").messages] == ["a", "b"]
    assert [message["content"] for message in opened("b", "theirs").messages] == ["theirs", "b"]
