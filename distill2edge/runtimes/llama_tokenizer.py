"""llama.cpp's own tokenizer of an open GGUF, with the names that `data.encode` reads from one of transformers."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from distill2edge.gguf.reader import GgufFile, read_gguf
from distill2edge.runtimes.llama_library import LlamaModel

_CONTROL = 3
_NONE = -1  # llama.cpp's id of a token that is not there
_PIECE = 64


class LlamaTokenizer:
    """What a device tokenizes with: the vocabulary inside the file.

    Attributes:
        bos_token_id, eos_token_id, eot_token_id, pad_token_id, unk_token_id: ids; None where the file names none.
        special_tokens_map: what a chat template may name.
        chat_template: of the file, or None.
    """

    def __init__(self, model: LlamaModel) -> None:
        self._api, self._vocabulary = model._api, model._vocabulary
        self._file: GgufFile = read_gguf(model.path)
        api, vocabulary = self._api, self._vocabulary
        self.bos_token_id = _id(api.llama_vocab_bos(vocabulary))
        self.eos_token_id = _id(api.llama_vocab_eos(vocabulary))
        self.eot_token_id = _id(api.llama_vocab_eot(vocabulary))
        self.pad_token_id = _id(api.llama_vocab_pad(vocabulary))
        unknown = self._file.get("tokenizer.ggml.unknown_token_id")
        self.unk_token_id = None if unknown is None else int(unknown)
        template = self._file.get("tokenizer.chat_template")
        self.chat_template = str(template) if template else None
        named = {"bos_token": self.bos_token_id, "eos_token": self.eos_token_id, "pad_token": self.pad_token_id}
        self.special_tokens_map = {
            name: self._piece(index).decode("utf-8", "replace") for name, index in named.items() if index is not None
        }
        types = self._file.get("tokenizer.ggml.token_type") or []
        self.all_special_ids = [index for index, kind in enumerate(types) if kind == _CONTROL]
        self.added_tokens_decoder: dict[int, Any] = {}

    def __call__(self, texts: Sequence[str], *, add_special_tokens: bool = True, **_: Any) -> dict[str, Any]:
        """`{"input_ids": [...]}` of each text, nothing cut and nothing padded.

        Raises:
            ValueError: llama.cpp cannot tokenize a text.
        """
        return {"input_ids": [self._tokenize(text, add_special_tokens) for text in texts]}

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True, **_: Any) -> str:
        """The text of tokens; bytes that are no character yet become U+FFFD."""
        raw = b"".join(self._piece(token, special=not skip_special_tokens) for token in ids)
        return raw.decode("utf-8", "replace")

    def _tokenize(self, text: str, special: bool) -> list[int]:
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 16
        buffer = (self._api.llama_token * room)()
        count = self._api.llama_tokenize(self._vocabulary, raw, len(raw), buffer, room, special, True)
        if count < 0:
            raise ValueError(f"llama.cpp cannot tokenize {text[:80]!r}")
        return list(buffer[:count])

    def _piece(self, token: int, special: bool = True) -> bytes:
        size = _PIECE
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = self._api.llama_token_to_piece(self._vocabulary, token, buffer, size, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            size = -count


def _id(token: int) -> int | None:
    return None if token == _NONE else int(token)
