"""Whether llama.cpp reads texts with a written file as the model's own tokenizer does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distill2edge.data.chat_templates import apply_template
from distill2edge.data.conversation import Conversation
from distill2edge.data.encode import prompt_text
from distill2edge.data.encode_texts import around
from distill2edge.data.model_inputs import InputForm
from distill2edge.data.tokens import tokenize, wants_bos
from distill2edge.errors import UserError
from distill2edge.gguf import llama_process
from distill2edge.gguf.corpus import TEXTS, around_token
from distill2edge.gguf.reader import GgufFile
from distill2edge.util.progress import Progress
from distill2edge.util.terminal import one_line

_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")
_BETWEEN = " ; "


def compare_tokenizers(tokenizer: Any, file: GgufFile, form: InputForm, *, strict: bool) -> dict[str, Any]:
    """Token ids of the model's tokenizer against llama.cpp's with the file: on a corpus, a chat, and every added token
    in context; and the tokens that each puts around a text.

    A WordPiece tokenizer may differ outside ASCII: llama.cpp decomposes accents and Hangul by tables of its own. An
    added token may differ beside spaces and inside words: llama.cpp knows none of its flags.

    Returns:
        `texts_compared`; `different`: texts; `added_tokens`: those that differ, each with its flags and the texts.

    Raises:
        UserError: with `strict`, any other difference.
    """
    wordpiece = file.get("tokenizer.ggml.model") == "bert"
    texts = [*TEXTS, *_chats(tokenizer, form)]
    different: list[str] = []
    for text, wanted, got in _pairs(tokenizer, file, texts):
        if strict and wanted != got and not (wordpiece and not text.isascii()):
            raise UserError(
                f"llama.cpp tokenizes {text!r} as {got}, the model's own tokenizer as {wanted}",
                where=str(file.path),
                fix="this tokenizer cannot be exported faithfully; use ONNX, or give --converter PATH",
            )
        if wanted != got:
            different.append(text)
    added, compared = _added_tokens(tokenizer, file)
    if strict:
        _check_around(tokenizer, file, form)
    return {"texts_compared": len(texts) + compared, "different": different, "added_tokens": added}


def warn_of(scheme: str, facts: dict[str, Any], progress: Progress) -> None:
    """Say on the console what `compare_tokenizers` found of ordinary texts.

    Added tokens beside spaces or inside words matter to who writes a model's markup by hand: USE.md and export.json
    have them.
    """
    if facts["different"]:
        progress.warn(
            f"{scheme}: programs built on llama.cpp tokenize {len(facts['different'])} of {facts['texts_compared']} "
            f"sample texts otherwise than training did, such as {one_line(facts['different'][0], 40)!r}: answers to "
            "texts like these can be worse than the report says. Where your users write such texts, ship an ONNX export"
        )


def _chats(tokenizer: Any, form: InputForm) -> list[str]:
    if not form.reading.chats or form.template != "chat":
        return []
    chat = [{"role": "user", "content": "Hi 🙂"}, {"role": "assistant", "content": "Hello.\n"}]
    found = [prompt_text("Hi 🙂", tokenizer, "chat", form.system)]
    try:
        return [*found, apply_template(tokenizer, Conversation(tuple(chat)), generation=False)]
    except UserError:
        return found  # a template of one turn


def _pairs(tokenizer: Any, file: GgufFile, texts: Sequence[str]) -> list[tuple[str, list[int], list[int]]]:
    return list(zip(texts, tokenize(tokenizer, texts), llama_process.tokenize(file.path, texts), strict=True))


def _added_tokens(tokenizer: Any, file: GgufFile) -> tuple[list[dict[str, Any]], int]:
    """Added tokens that llama.cpp reads otherwise in some context, and how many contexts were looked at."""
    added = [token for _, token in sorted(tokenizer.added_tokens_decoder.items())]
    contexts = {token.content: around_token(token.content) for token in added}
    joined = [_BETWEEN.join(texts) for texts in contexts.values()]
    suspects = {
        content
        for content, (_, wanted, got) in zip(contexts, _pairs(tokenizer, file, joined), strict=True)
        if wanted != got
    }
    texts = [text for content in contexts if content in suspects for text in contexts[content]]
    unlike = {text for text, wanted, got in _pairs(tokenizer, file, texts) if wanted != got} if texts else set()
    found = [
        {
            "token": token.content,
            "flags": [flag for flag in _FLAGS if getattr(token, flag)],
            "texts": [text for text in contexts[token.content] if text in unlike],
        }
        for token in added
        if token.content in suspects
    ]
    return found, sum(map(len, contexts.values()))


def _check_around(tokenizer: Any, file: GgufFile, form: InputForm) -> None:
    """Refuse a file with which llama.cpp puts other tokens before or after a text than training did."""
    head, tail = around(tokenizer)
    if form.reading.chats:  # it gets BOS or nothing (`data.encode`)
        head, tail = ([tokenizer.bos_token_id] if wants_bos(tokenizer) else []), []
    (bare,), (whole,) = (llama_process.tokenize(file.path, ["a"], around=on) for on in (False, True))
    got = whole[: len(whole) - len(bare)] if form.reading.chats else whole
    wanted = head if form.reading.chats else [*head, *bare, *tail]
    if form.reading.chats and file.get("tokenizer.ggml.add_eos_token"):
        got = got[: len(head)]
    if got != wanted:
        raise UserError(
            f"llama.cpp puts other tokens around a text than the model's tokenizer: {whole}, not {wanted}",
            where=str(file.path),
            fix="this tokenizer cannot be exported faithfully; use ONNX, or give --converter PATH",
        )
