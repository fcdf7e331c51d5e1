"""The file's own chat template, stop and tools in llama.cpp's chat path; and its Modelfile by Ollama's grammar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from modelfile import parse_modelfile
from tiny import TOOL_TEMPLATE, tiny_llama

from distill2edge.data.conversation import Conversation
from distill2edge.data.encode import encode_prompts
from distill2edge.data.model_inputs import InputForm
from distill2edge.data.tokens import stop_token_ids
from distill2edge.export.gguf import export_gguf
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.util.progress import SilentProgress

TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "of a town", "parameters": {"type": "object"}},
}
SYSTEM = 'Be "brief".'


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder whose turns end with another token than its EOS, and its file."""
    root = tmp_path_factory.mktemp("chat-path")
    tiny_llama(root / "model", layers=1, hidden=32)
    tokenizer: Any = load_tokenizer(root / "model")
    tokenizer.eos_token, tokenizer.chat_template = "<|endoftext|>", TOOL_TEMPLATE
    tokenizer.save_pretrained(root / "model")
    form = InputForm("decoder", "chat", SYSTEM, 256)
    meta = {"name": "tools", "input": form.dumps()}
    export_gguf(root / "model", parse_scheme("gguf:F32"), meta, root / "file", SilentProgress())
    return root


@pytest.fixture(scope="module")
def opened(place: Path) -> Any:
    from llama_cpp import Llama

    model = Llama(str(place / "file" / "model.gguf"), n_ctx=512, verbose=False, n_threads=1)
    yield model
    model.close()


def asked(model: Any, monkeypatch: pytest.MonkeyPatch, **request: Any) -> tuple[list[int], dict[str, Any]]:
    """The prompt's tokens as llama.cpp's chat path makes them, and its answer."""
    seen: list[Any] = []
    complete = type(model).create_completion

    def noted(self: Any, prompt: Any, **options: Any) -> Any:
        seen.append(prompt)
        return complete(self, prompt, **options)

    monkeypatch.setattr(type(model), "create_completion", noted)
    answer = model.create_chat_completion(temperature=0.0, max_tokens=4, **request)
    (prompt,) = seen
    return (model.tokenize(prompt.encode(), add_bos=False, special=True) if isinstance(prompt, str) else prompt), answer


@pytest.mark.parametrize("tools", [(), (TOOL,)])
def test_llama_cpp_reads_a_chat_as_it_was_trained(
    place: Path, opened: Any, tools: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": "good"},
        {"role": "user", "content": "and then?"},
    ]
    prompt = Conversation(tuple(turns), tools).text()
    (wanted,) = encode_prompts([prompt], load_tokenizer(place / "model"), "chat", SYSTEM)
    found, _ = asked(opened, monkeypatch, messages=turns, **({"tools": list(tools)} if tools else {}))
    assert found == wanted
    said = opened.detokenize(found, special=True).decode()
    assert SYSTEM in said
    assert ('"name": "weather", "description": "of a town"' in said) == bool(tools)


def test_generation_stops_at_the_token_that_ends_a_turn(
    place: Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(place / "model")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert stop_token_ids(tokenizer, "chat") == (end, tokenizer.eos_token_id)
    assert end != tokenizer.eos_token_id
    messages = [{"role": "user", "content": "hi"}]
    _, answer = asked(opened, monkeypatch, messages=messages)
    assert answer["choices"][0]["finish_reason"] == "length"
    monkeypatch.undo()
    _, answer = asked(opened, monkeypatch, messages=messages, logit_bias={str(end): 100.0})
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["choices"][0]["message"]["content"] == ""


def test_the_modelfile_has_template_system_and_stops_in_ollamas_grammar(place: Path) -> None:
    text = (place / "file" / "Modelfile").read_text()
    found = parse_modelfile(text)
    assert found[0] == ("FROM", "./model.gguf")
    said = dict(found)
    assert said["SYSTEM"] == SYSTEM
    assert SYSTEM not in said["TEMPLATE"]  # it gives way to a system message of the user's own
    assert said["TEMPLATE"].count("{{") == said["TEMPLATE"].count("}}") > 8
    assert [value for name, value in found if name == "PARAMETER stop"] == ["<|im_end|>", "<|endoftext|>"]
    assert "also writes tools" in text
    for broken in ("TEMPLATE x", 'FROM a\nSYSTEM """x', "FROM a\nPARAMETER wings 2", "FROM a\nPARAMETER seed x"):
        with pytest.raises(ValueError):  # noqa: PT011
            parse_modelfile(broken)


@pytest.mark.parametrize(
    ("template", "system", "words"),
    [
        # Numbered turns: no words for them in a Modelfile, and one exchange is as trained.
        ("{% for m in messages %}{{ loop.index }}{{ m.content }}<|im_end|>{% endfor %}", None, "further turns are not"),
        # No system role: the trained message is part of the template.
        (
            "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}[{{ m.content }}]"
            "{% endfor %}",
            None,
            "TEMPLATE",
        ),
    ],
)
def test_templates_of_other_forms_are_told(
    place: Path, template: str, system: str | None, words: str, tmp_path: Path
) -> None:
    from distill2edge.handover.write import _modelfile

    tokenizer: Any = load_tokenizer(place / "model")
    tokenizer.chat_template = template
    asked = {"name": "a", "form": {"context": 512}, "stops": ["<|im_end|>"], "facts": {}, "example": None}
    text = _modelfile(InputForm("decoder", "chat", system), tokenizer, asked)
    assert words in text
    assert "SYSTEM" not in dict(parse_modelfile(text))
