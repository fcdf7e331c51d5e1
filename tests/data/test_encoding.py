"""One encoding: training, signal, verify, bench, chat and what is shipped read a text as the same tokens."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import CHAT_TEMPLATE, corpus, tiny_bert, tiny_llama, tiny_t5

from distill2edge.data.chat_templates import frame_of, portable, render_chat, shipped_template, turns_of
from distill2edge.data.encode import encode_rows
from distill2edge.data.encode_texts import encode_texts
from distill2edge.data.examples import Row, row_id
from distill2edge.data.model_inputs import InputForm, encode_inputs, parse_form
from distill2edge.data.pairs import encode_pairs
from distill2edge.errors import UserError
from distill2edge.export.gguf import export_gguf
from distill2edge.export.onnx import export_onnx
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.running.answering import OpenModel
from distill2edge.running.opening import open_model
from distill2edge.util.progress import SilentProgress

TEXTS = ("Review: film 1 the 37 dog\nSentiment:", "  two  spaces", "café 你好 🙂", "x", "the fox " * 60)
LONG = 48


class Heard(SilentProgress):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, text: str) -> None:
        self.lines.append(text)


def with_bos(directory: Path) -> None:
    """A Llama whose tokenizer puts BOS before plain text."""
    from tokenizers import processors

    tiny_llama(directory, layers=1)
    tokenizer = load_tokenizer(directory)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    tokenizer.save_pretrained(directory)


def sentencepiece(directory: Path) -> None:
    """A Llama with SentencePiece BPE: byte fallback, a space before the text, BOS."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tiny_llama(directory, layers=1)
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    core.decoder = decoders.Sequence(parts)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256))]
    core.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False))
    spec = json.loads(core.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if not token["content"].startswith("<0x")]
    core = Tokenizer.from_str(json.dumps(spec))
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(directory)
    (directory / "chat_template.jinja").unlink(missing_ok=True)


def padded(directory: Path) -> None:
    """A BERT whose tokenizer.json pads to 128 tokens and cuts at 16, as MiniLM's does."""
    tiny_bert(directory, labels=("bad", "good"), scale=0.3)
    tokenizer = load_tokenizer(directory)
    tokenizer.backend_tokenizer.enable_padding(length=128, pad_id=tokenizer.pad_token_id)
    tokenizer.backend_tokenizer.enable_truncation(16)
    tokenizer.backend_tokenizer.save(str(directory / "tokenizer.json"))


MODELS: dict[str, tuple[Callable[[Path], Any], InputForm]] = {
    "byte level, chat": (lambda d: tiny_llama(d, layers=1), InputForm("decoder", "chat", "Be 'brief'.\n", 256)),
    "byte level, plain": (lambda d: tiny_llama(d, layers=1), InputForm("decoder", "plain", None, 256)),
    "byte level with BOS": (with_bos, InputForm("decoder", "plain", None, 256)),
    "byte level with BOS, text": (with_bos, InputForm("decoder", "text", None, 256)),
    "SentencePiece": (sentencepiece, InputForm("decoder", "plain", None, 256)),
    "WordPiece": (lambda d: tiny_bert(d, labels=("bad", "good"), scale=0.3), InputForm("classifier", max_length=LONG)),
    "WordPiece, padded": (padded, InputForm("classifier", max_length=LONG)),
    "T5": (tiny_t5, InputForm("seq2seq", max_length=256)),
}


def trained(form: InputForm, tokenizer: Any, text: str) -> list[int]:
    """Tokens of a text as training feeds them, up to where the response begins."""
    row = Row(row_id(text, "∎"), text if form.template != "text" else "", "∎")  # merges with nothing
    if form.kind == "classifier":
        return encode_texts([row], tokenizer, form.max_length or 0)[0].ids
    if form.kind == "seq2seq":
        example = encode_pairs([row], tokenizer, 1000)[0]
    elif form.template == "text":
        whole = encode_rows([Row("", "", text)], tokenizer, "text", None, 1000)[0].ids
        return whole[:-1]  # without the end
    else:
        example = encode_rows([row], tokenizer, form.template, form.system, 1000)[0]
    return example.ids[: example.prompt_length]


@pytest.fixture(scope="module", params=MODELS, ids=lambda name: name.replace(", ", "-").replace(" ", "-"))
def shipped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    make, form = MODELS[request.param]
    root = tmp_path_factory.mktemp("encoding")
    make(root / "hf")
    meta = {"name": "x", "input": form.dumps()}
    export_onnx(root / "hf", parse_scheme("onnx:fp32"), meta, root / "onnx", SilentProgress())
    export_gguf(root / "hf", parse_scheme("gguf:F32"), meta, root / "gguf", SilentProgress())
    return root, form


def asked(loaded: OpenModel, text: str) -> list[int]:
    if loaded.form.template == "chat":
        return loaded.encode_chat([{"role": "user", "content": text}])
    return loaded.encode(text, None)


def test_every_file_reads_a_text_as_training_did(shipped: Any) -> None:
    root, form = shipped
    tokenizer = load_tokenizer(root / "hf")
    for name in ("onnx", "gguf"):
        loaded = open_model(root / name)
        packed = json.loads((root / name / "input.json").read_text())
        assert replace(loaded.form, stop=()) == form
        for text in TEXTS:
            wanted = trained(form, tokenizer, text)
            assert encode_inputs([text], tokenizer, form)[0] == wanted
            assert encode_inputs([text], loaded.tokenizer, loaded.form)[0] == wanted, name
            assert asked(loaded, text) == wanted, name
            assert packed_ids(packed, loaded.tokenizer, text) == wanted, name
        loaded.runtime.close()


def packed_ids(form: dict[str, Any], tokenizer: Any, text: str) -> list[int]:
    """As predict.py does it."""
    frame = form["frame"]
    whole = "".join(frame["before"]) + (text.strip() if frame["strip"] else text) + "".join(frame["after"])
    ids = form["head"] + tokenizer([whole], add_special_tokens=False)["input_ids"][0] + form["tail"]
    if form["kind"] == "classifier" and len(ids) > form["max_length"]:
        ids = ids[: form["max_length"] - len(form["tail"])] + form["tail"]
    return ids


def test_the_tokenizer_that_ships_pads_nothing_and_cuts_a_classifiers_text_alone(shipped: Any) -> None:
    from tokenizers import Tokenizer

    root, form = shipped
    core = Tokenizer.from_file(str(root / "onnx" / "tokenizer.json"))
    assert core.padding is None
    if form.kind == "classifier":
        assert core.truncation["max_length"] == LONG
        assert [core.encode(text).ids for text in TEXTS] == [
            trained(form, load_tokenizer(root / "hf"), text) for text in TEXTS
        ]
        assert json.loads((root / "onnx" / "tokenizer_config.json").read_text())["model_max_length"] == LONG
    else:
        assert core.truncation is None


def test_a_file_has_the_chat_template_that_it_was_trained_with(shipped: Any) -> None:
    from distill2edge.gguf.reader import read_gguf

    root, form = shipped
    template = read_gguf(root / "gguf" / "model.gguf").get("tokenizer.chat_template")
    file = root / "onnx" / "chat_template.jinja"
    assert (file.read_text() if file.is_file() else None) == template
    if form.kind != "decoder":
        assert template is None
        return
    tokenizer = load_tokenizer(root / "onnx")
    said = tokenizer.apply_chat_template([{"role": "user", "content": "the dog"}], add_generation_prompt=True)
    assert said["input_ids"] == trained(form, load_tokenizer(root / "hf"), "the dog")
    if form.template == "chat":
        again = [{"role": "system", "content": "Other."}, {"role": "user", "content": "x"}]
        assert "Be 'brief'" not in tokenizer.apply_chat_template(again, tokenize=False)


def test_long_texts_are_refused_by_a_generator_with_the_fix(shipped: Any) -> None:
    root, form = shipped
    if form.kind == "classifier":
        return
    loaded = open_model(root / "gguf")
    with pytest.raises(UserError, match="reads at most"):
        loaded.encode("the fox jumps " * 3000)
    loaded.runtime.close()


# --- chat templates -----------------------------------------------------------

NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
USER = [{"role": "user", "content": " hi \n"}]


@pytest.mark.parametrize("dash", ["", "-"])
def test_generation_marks_become_what_every_runtime_reads(dash: str) -> None:
    marked = (
        "{% for m in messages %}\n{%" + dash + " generation " + dash + "%}\n {{ m.content }}\n{%" + dash
        + " endgeneration " + dash + "%}\n{% if loop.index > 9 %}{% break %}{% endif %}\n{% endfor %}"
    )  # fmt: skip
    assert "generation" not in portable(marked)
    assert render_chat(portable(marked), USER, NAMES, generation=True) == render_chat(
        marked, USER, NAMES, generation=True
    )


@pytest.mark.parametrize(
    "kept",
    ["{% raw %}{% generation %}{% endraw %}", "{# {% generation %} #}", "{{ '}}{% generation %}' }}",
     '{{ "it\'s {% endgeneration %}" }}', "{{ 'a\\'{% generation %}' }}"],
)  # fmt: skip
def test_what_only_looks_like_a_generation_mark_stays(kept: str) -> None:
    marked = kept + "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}" + kept
    plain = portable(marked)
    assert (plain.count("generation"), plain.count("if true")) == (2 * kept.count("generation"), 1)
    assert render_chat(plain, USER, NAMES, generation=True) == render_chat(marked, USER, NAMES, generation=True)


@pytest.mark.parametrize("text", ["{{", "{{ '", "{% raw %}", "{#", "{{ \\'", "{%   "])
def test_a_template_without_end_takes_no_time(text: str) -> None:
    begin = time.process_time()
    assert portable(text * 20_000) == text * 20_000
    assert time.process_time() - begin < 1.0


def test_the_system_message_is_baked_in_once_and_gives_way_to_another() -> None:
    system = 'It\'s "x" {{ y }} {% z %} \\ \n ü'
    baked = shipped_template(CHAT_TEMPLATE, "chat", system, None)
    assert baked is not None
    assert render_chat(baked, USER, NAMES, generation=True).startswith(f"<|im_start|>system\n{system}<|im_end|>")
    other = [{"role": "system", "content": "Other."}, *USER]
    assert system not in render_chat(baked, other, NAMES, generation=True)
    assert shipped_template(baked, "chat", system, None) == baked


def test_a_frame_has_dates_and_strips_and_says_where_a_template_looks_into_the_text() -> None:
    dated = "{{ bos_token }}{{ strftime_now('%Y') }}|{% for m in messages %}{{ m.content | trim }}{% endfor %}|"
    frame = frame_of(dated, None, NAMES)
    assert frame is not None
    assert frame.before == ("<s>", {"now": "%Y"}, "|")
    assert frame.after == ("|",)
    assert frame.strip
    assert frame_of("{% for m in messages %}{{ m.content | upper }}{% endfor %}", None, NAMES) is None


def test_turns_are_those_of_the_template_or_none() -> None:
    turns = turns_of(lambda messages: render_chat(CHAT_TEMPLATE, messages, NAMES, generation=True))
    assert turns is not None
    chat = [("user", "a"), ("assistant", "b"), ("user", "c")]
    wanted = render_chat(CHAT_TEMPLATE, [{"role": r, "content": c} for r, c in chat], NAMES, generation=True)
    assert f"{turns.first}a{turns.answer}b{turns.next}c{turns.answer}" == wanted
    numbered = "{% for m in messages %}{{ loop.index }}{{ m.content }}{% endfor %}"
    assert turns_of(lambda messages: render_chat(numbered, messages, NAMES, generation=True)) is None


@pytest.mark.parametrize("template", ["{{ 1 / 0 }}", "{% for %}", "{{ messages.x.y }}", "{{ raise_exception('no') }}"])
def test_a_broken_template_is_refused(template: str) -> None:
    with pytest.raises(UserError, match="chat template"):
        render_chat(template, USER, NAMES, generation=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "1",
        "[" * 9999,
        '{"kind": "x"}',
        '{"kind": "decoder", "max_length": true}',
        '{"kind": "decoder", "choices": [1]}',
        '{"kind": "decoder", "stop": [-1]}',
    ],
)
def test_a_damaged_form_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="no input form"):
        parse_form(text, "here")


# --- added tokens -------------------------------------------------------------


@pytest.mark.parametrize("flags", [{"lstrip": True}, {"rstrip": True}, {"single_word": True}, {}])
def test_added_tokens_that_llama_cpp_reads_otherwise_are_named(flags: dict[str, bool], tmp_path: Path) -> None:
    from tokenizers import AddedToken

    tiny_llama(tmp_path / "hf", layers=1)
    tokenizer = load_tokenizer(tmp_path / "hf")
    content = str(tokenizer.convert_ids_to_tokens(399))  # it has a row in the embedding
    tokenizer.backend_tokenizer.add_tokens([AddedToken(content, special=False, normalized=False, **flags)])
    tokenizer.backend_tokenizer.save(str(tmp_path / "hf" / "tokenizer.json"))
    heard = Heard()
    meta = {"name": "x", "input": InputForm("decoder", "plain").dumps()}
    facts = export_gguf(tmp_path / "hf", parse_scheme("gguf:F32"), meta, tmp_path / "out", heard)
    found = {entry["token"]: entry for entry in facts["tokenizer"]["added_tokens"]}
    if not flags:
        assert found == {}
        assert heard.lines == []
        return
    assert found[content]["flags"] == list(flags)
    assert found[content]["texts"]
    assert "`tokenizer` in export.json says which" in (tmp_path / "out" / "USE.md").read_text(encoding="utf-8")
    assert "export.json" in (tmp_path / "out" / "USE.md").read_text()
