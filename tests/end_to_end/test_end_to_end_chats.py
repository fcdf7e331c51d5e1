"""Conversations of several turns with tools: ShareGPT rows in, a GGUF that chats as it was trained out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from light import loads
from tiny import TOOL_TEMPLATE, tiny_llama

from distill2edge.cli.main import main
from distill2edge.data.encode import encode_rows
from distill2edge.data.examples import Encoded
from distill2edge.data.split_files import read_rows
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.util import remembered

TOOL = {"name": "lookup", "description": "finds a film", "parameters": {"type": "object"}}
LONGEST = 350  # of the tiny tokenizer's tokens: all but one row
RECIPE = f"""\
name: chats
teacher: {{model: teacher, licence: apache-2.0}}
data:
  source: rows.jsonl
  max_length: {LONGEST}
  splits: {{validation: 6, calibration: 6, test: 8}}
signal: {{kind: logits, top_k: 8}}
student: {{init: {{from: teacher, layers: 1}}, lora: {{rank: 4, alpha: 8}}}}
distill: {{loss: {{ce: 0.5, forward_kl: 0.5}}, epochs: 1, batch_size: 8, packing: true, dtype: float32}}
export: [gguf:Q8_0]
"""


def talk(number: int) -> dict[str, Any]:
    call = json.dumps({"name": "lookup", "arguments": {"number": number}})
    turns = [
        ("human", f"film {number}?"),
        ("function_call", call),
        ("observation", f"film {number} is {'good' if number % 2 else 'bad'}"),
        ("gpt", f"It is {'good' if number % 2 else 'bad'}."),
        ("human", "a word more " + "word " * (60 * (number == 3))),
        ("gpt", f"Film {number} has {number % 7} songs."),
    ]
    said = [{"from": name, "value": value} for name, value in turns]
    return {"conversations": said, "tools": json.dumps([TOOL]), "system": "You know films."}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The place of a run up to its file, and what it said."""
    root = tmp_path_factory.mktemp("chats")
    tiny_llama(root / "teacher", layers=2, hidden=32)
    tokenizer: Any = load_tokenizer(root / "teacher")
    tokenizer.chat_template = TOOL_TEMPLATE
    tokenizer.save_pretrained(root / "teacher")
    (root / "rows.jsonl").write_text("".join(json.dumps(talk(number)) + "\n" for number in range(60)))
    (root / "chats.yaml").write_text(RECIPE)
    result = CliRunner().invoke(main, ["export", str(root / "chats.yaml"), "--store", str(root / "store")])
    assert result.exit_code == 0, result.output
    return root, result.output


def eleventh(root: Path) -> Encoded:
    """The row of film 10, as it is trained."""
    directory = next((root / "store").glob("data*/*/data.json")).parent
    row = next(row for row in read_rows(directory, "train") if row.number == 11)
    return encode_rows([row], load_tokenizer(root / "teacher"), "chat", None, LONGEST)[0]


def test_it_says_what_the_rows_are_and_what_was_cut(finished: tuple[Path, str]) -> None:
    root, said = finished
    assert "data: rows are of the form sharegpt (from and value) in conversations" in said
    facts = json.loads(next((root / "store").glob("data*/*/data.json")).read_text())
    assert facts["form"] == {"name": "sharegpt", "columns": ["conversations"], "trimmed": 0}
    assert "1 of 40 training rows are conversations that go beyond data.max_length" in said


def test_a_second_time_loads_no_heavy_library(finished: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "SETTLED_S", 0.0)
    command = ("export", str(finished[0] / "chats.yaml"), "--store", str(finished[0] / "store"))
    assert CliRunner().invoke(main, command).exit_code == 0
    assert loads(*command) == []


def test_every_turn_of_the_assistant_is_trained_and_the_call_too(finished: tuple[Path, str]) -> None:
    root, _ = finished
    example, tokenizer = eleventh(root), load_tokenizer(root / "teacher")
    supervised = tokenizer.decode([token for token, on in zip(example.ids, example.mask, strict=True) if on])
    assert supervised == (
        '<tool_call>\n{"name": "lookup", "arguments": {"number": 10}}\n</tool_call><|im_end|>It is bad.<|im_end|>'
        "Film 10 has 3 songs.<|im_end|>"
    )


def test_the_file_chats_with_tools_as_it_was_trained(finished: tuple[Path, str]) -> None:
    from llama_cpp import Llama
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    root, _ = finished
    directory = next((root / "store").glob("export*/*/model.gguf")).parent
    model = Llama(str(directory / "model.gguf"), n_ctx=512, verbose=False, n_threads=1)
    formatter = Jinja2ChatFormatter(model.metadata["tokenizer.chat_template"], "<|im_end|>", "<|im_start|>")
    call = {"type": "function", "function": {"name": "lookup", "arguments": {"number": 10}}}
    messages: list[Any] = [
        {"role": "system", "content": "You know films."},
        {"role": "user", "content": "film 10?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "film 10 is bad"},
    ]
    prompt = formatter(messages=messages, tools=[{"type": "function", "function": TOOL}]).prompt  # type: ignore[list-item]
    tokens = model.tokenize(prompt.encode(), add_bos=False, special=True)
    assert eleventh(root).ids[: len(tokens)] == tokens
    model.close()
    assert (directory / "Modelfile").is_file()
