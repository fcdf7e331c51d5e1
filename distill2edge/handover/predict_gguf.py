"""Asks the GGUF model in this folder. It needs llama-cpp-python (and numpy, which that brings), and nothing else.

python predict.py "a text"       or       echo "a text" | python predict.py

A classifier, or a model with a closed set of answers, prints each label with its probability, the likeliest first; an
embedder prints the vector of the text as JSON; any other model prints the text that it writes. input.json says how the
model was trained to read.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import llama_cpp as api
import numpy as np

HERE = Path(__file__).resolve().parent
CHUNK, FLASH_OFF, FLASH_ON, F32 = 512, 0, 1, 0
CACHES = {"f16": 1, "q8_0": 8, "q4_0": 2}
ENCODERS = ("classifier", "embedder")
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_quiet = api.llama_log_callback(lambda level, text, data: None)  # must live as long as the program


class Model:
    """The file, open in llama.cpp. `kind`: `decoder`, `seq2seq`, `classifier` or `embedder`."""

    def __init__(self, form: dict[str, Any], threads: int, cache: str = "f16") -> None:
        self.form, self.kind = form, form["kind"]
        api.llama_log_set(_quiet, ctypes.c_void_p(0))
        api.llama_backend_init()
        params = api.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = api.llama_model_load_from_file(str(HERE / "model.gguf").encode(), params)
        if not self.model:
            sys.exit("error: llama.cpp cannot load model.gguf")
        self.vocabulary = api.llama_model_get_vocab(self.model)
        self.size = int(api.llama_vocab_n_tokens(self.vocabulary))
        context = api.llama_context_default_params()
        context.n_ctx, context.n_seq_max = form["context"], 1
        # An encoder looks both ways, so a text goes through it in one piece.
        self.batch = CHUNK if self.kind == "decoder" else form["context"]
        context.n_batch = context.n_ubatch = min(self.batch, form["context"])
        context.n_threads = context.n_threads_batch = threads or context.n_threads
        if self.kind != "decoder":
            context.flash_attn_type = FLASH_OFF
        if self.kind == "seq2seq":
            context.type_k = context.type_v = F32
        elif self.kind == "decoder" and cache != "f16":
            context.type_k = context.type_v = CACHES[cache]
            context.flash_attn_type = FLASH_ON
        context.embeddings = self.kind in ENCODERS  # how it pools is in the file
        self.context = api.llama_init_from_model(self.model, context)
        if not self.context:
            sys.exit("error: llama.cpp cannot open a context")
        self.tokens = api.llama_batch_init(self.batch, 0, 1)
        self.length = 0

    def bare(self, text: str) -> list[int]:
        """Token ids of a text alone."""
        raw = text.encode("utf-8", "replace")
        buffer = (api.llama_token * (len(raw) + 16))()
        count = api.llama_tokenize(self.vocabulary, raw, len(raw), buffer, len(buffer), False, True)
        return list(buffer[:count])

    def decode(self, ids: list[int]) -> str:
        """The text of tokens."""
        raw = b""
        for token in ids:
            size = 64
            while True:
                buffer = ctypes.create_string_buffer(size)
                count = api.llama_token_to_piece(self.vocabulary, token, buffer, size, 0, False)
                if count >= 0:
                    break
                size = -count
            raw += buffer.raw[:count]
        return raw.decode("utf-8", "replace")

    def scores(self, ids: list[int], types: list[int]) -> np.ndarray:
        """A classifier's score for each label, or an embedder's vector; no GGUF here reads two texts (`types`)."""
        self._fill(ids, 0)
        self._run("llama_encode")
        pointer = api.llama_get_embeddings_seq(self.context, 0)
        width = len(self.form["labels"]) or int(api.llama_model_n_embd(self.model))
        return np.ctypeslib.as_array(pointer, shape=(width,)).astype(np.float64)

    def read(self, ids: list[int]) -> np.ndarray:
        """Forget everything and read a prompt: logits [V] of the next token."""
        api.llama_memory_clear(api.llama_get_memory(self.context), False)
        self.length = 0
        if self.kind == "seq2seq":
            self._fill(ids, 0)
            self._run("llama_encode")
            return self.feed([int(api.llama_model_decoder_start_token(self.model))])[-1]
        for start in range(0, len(ids), self.batch):
            rows = self.feed(ids[start : start + self.batch], every=False)
        return rows[-1]

    def feed(self, ids: list[int], every: bool = True) -> np.ndarray:
        """Read on: logits [len(ids), V] after each token; or [1, V] after the last."""
        self._fill(ids, self.length, every)
        self._run("llama_decode")
        self.length += len(ids)
        pointer = api.llama_get_logits(self.context)
        return np.ctypeslib.as_array(pointer, shape=(len(ids) if every else 1, self.size)).astype(np.float32)

    def _fill(self, ids: list[int], start: int, every: bool = True) -> None:
        for index, token in enumerate(ids):
            self.tokens.token[index], self.tokens.pos[index] = token, start + index
            self.tokens.n_seq_id[index], self.tokens.seq_id[index][0] = 1, 0
            self.tokens.logits[index] = every or index == len(ids) - 1
        self.tokens.n_tokens = len(ids)

    def _run(self, step: str) -> None:
        status = getattr(api, step)(self.context, self.tokens)
        if status != 0:
            sys.exit(f"error: {step} returned {status}")


def load(form: dict[str, Any], threads: int, cache: str = "f16") -> tuple[Model, Model]:
    """What makes token ids of texts (`bare`), and the model."""
    model = Model(form, threads, cache)
    return model, model


def encode(given: list[str], form: dict[str, Any], reader: Model) -> tuple[list[int], list[int]]:
    """Token ids of the whole prompt of a text, and the segment of each."""
    ids = ids_of(prompt_of(given[0], form), form, reader)
    return ids, [0] * len(ids)


def held(model: Model) -> int:
    """Bytes of the key-value cache as it is now."""
    return int(api.llama_state_seq_get_size(model.context, 0))


def prompt_of(text: str, form: dict[str, Any]) -> str:
    """The whole prompt: what stands around the text in a chat, and nothing more for a plain one."""
    frame = form["frame"]
    text = text.strip() if frame["strip"] else text
    return _written(frame["before"]) + text + _written(frame["after"])


def ids_of(prompt: str, form: dict[str, Any], model: Model) -> list[int]:
    """Token ids of a prompt; an encoder's text is cut where its model ends."""
    ids = form["head"] + model.bare(prompt) + form["tail"]
    most = form["max_length"]
    if form["kind"] in ENCODERS and most is not None and len(ids) > most:
        ids = ids[: most - len(form["tail"])] + form["tail"]
    return ids


def choices_of(prompt: str, form: dict[str, Any], model: Model) -> list[list[int]]:
    """Token ids of each choice as it continues the prompt."""
    found = []
    before = model.bare(prompt)
    for choice in form["choices"]:
        whole = [] if form["kind"] == "seq2seq" else model.bare(prompt + choice)
        found.append(whole[len(before) :] if whole[: len(before)] == before and whole else model.bare(choice))
    return found


def generate(model: Model, ids: list[int], stop: list[int], most: int) -> list[int]:
    """The likeliest token each time, until one that stops."""
    written: list[int] = []
    logits = model.read(ids)
    while len(written) < most and (token := int(np.argmax(logits))) not in stop:
        written.append(token)
        if len(written) < most:
            logits = model.feed([token])[-1]
    return written


def likelihood(model: Model, ids: list[int], choice: list[int]) -> float:
    """log p(choice | prompt)."""
    rows = [model.read(ids)]
    if len(choice) > 1:
        rows += list(model.feed(choice[:-1]))
    return sum(_log_softmax(row)[token] for row, token in zip(rows, choice, strict=True))


def with_end(choices: list[list[int]], end: list[int]) -> list[list[int]]:
    """The choices, each with the end token where one begins another: elsewhere it tells nothing."""
    begins = any(one is not other and other[: len(one)] == one for one in choices for other in choices)
    return [choice + end for choice in choices] if begins else choices


def shares(names: list[str], scores: np.ndarray) -> list[tuple[str, float]]:
    """Names with their probabilities, the likeliest first."""
    share = np.exp(scores - scores.max())
    share /= share.sum()
    return [(names[index], float(share[index])) for index in np.argsort(-share, kind="stable")]


def vector(found: np.ndarray, size: int, unit: bool) -> str:
    """The first `size` numbers of a vector, all for 0; at unit length where the model has it so, or is cut; as JSON."""
    found = found[: size or None]
    if size or unit:
        found = found / np.linalg.norm(found)
    return json.dumps([round(float(value), 6) for value in found])


def answer(text: str, form: dict[str, Any], model: Model, most: int, size: int) -> str:
    """What the model says to a text."""
    prompt = prompt_of(text, form)
    ids, types = encode([text], form, model)
    if not ids or (form["kind"] not in ENCODERS and len(ids) > form["context"]):
        sys.exit(f"error: the text has {len(ids)} tokens, and the model reads 1 to {form['context']}")
    if form["kind"] == "embedder":
        return vector(model.scores(ids, types), size, form["normalize"])
    if form["kind"] == "classifier":
        found = shares(form["labels"], model.scores(ids, types))
    elif form["choices"]:
        choices = with_end(choices_of(prompt, form, model), form["end"])
        found = shares(form["choices"], np.array([likelihood(model, ids, choice) for choice in choices]))
    else:
        return model.decode(generate(model, ids, form["stop"], min(most, form["context"] - len(ids))))
    return "\n".join(f"{' '.join(name.split())}\t{share:.4f}" for name, share in found)


def main() -> None:
    """Reads the command line, or standard input."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("text", nargs="?", help="the text; without it, standard input is one")
    parser.add_argument(
        "--lines", action="store_true", help="each line of standard input is a text; an empty line ends an answer"
    )
    parser.add_argument("--max-tokens", type=int, default=256, help="most tokens of an answer (256)")
    parser.add_argument("--dimensions", type=int, default=0, help="of an embedder: the first N numbers; 0: all")
    parser.add_argument("--threads", type=int, default=0, help="0 leaves it to llama.cpp")
    parser.add_argument(
        "--kv-cache", choices=CACHES, default="f16", help="of a language model: the type of keys and values (f16)"
    )
    options = parser.parse_args()
    form = json.loads((HERE / "input.json").read_text(encoding="utf-8"))
    _, model = load(form, options.threads, options.kv_cache)
    given = options.text if options.text is not None else sys.stdin.read()
    for text in given.splitlines() if options.lines else [given.removesuffix("\n")]:
        said = _shown(answer(text, form, model, options.max_tokens, options.dimensions))
        print(_ended(said, form) if options.lines else said, flush=True)


def _shown(text: str) -> str:
    """Characters that steer a terminal, as escapes."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _ended(said: str, form: dict[str, Any]) -> str:
    """An answer among several: one that the model wrote is a line, the empty line after it is the end."""
    listed = form["kind"] == "classifier" or form["choices"]
    return (said if listed else said.replace("\n", "\\n")) + "\n"


def _written(parts: list[Any]) -> str:
    return "".join(part if isinstance(part, str) else time.strftime(part["now"]) for part in parts)


def _log_softmax(row: np.ndarray) -> np.ndarray:
    shifted = row - row.max()
    return shifted - np.log(np.exp(shifted).sum(dtype=np.float64))


if __name__ == "__main__":
    main()
