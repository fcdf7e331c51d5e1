"""Asks the ONNX model in this folder. It needs onnxruntime, tokenizers and numpy, and nothing else.

python predict.py "a text"       or       echo "a text" | python predict.py
python predict.py "a text" "another"      where the model reads two (on standard input with a tab between them)

A classifier, or a model with a closed set of answers, prints each label with its probability, the likeliest first; one
of several labels at once those above its threshold, or nothing; an embedder prints the vector of the text as JSON, a
regressor its number, a token classifier a line for each entity: its type, its first character, the one after its last,
its text. Any other model prints the text that it writes. input.json says how the model was trained to read.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import unicodedata
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
CONTEXT, CHUNK = 2048, 256
ENCODERS = ("classifier", "multi-label", "regressor", "tagger", "embedder")
_PAIR = "the model reads two: predict.py FIRST SECOND, or both on a line of standard input with a tab between"
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Input:
    """From a text to token ids and back, as the model was trained."""

    def __init__(self, form: dict[str, Any]) -> None:
        self.form = form
        self.tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    def text(self, text: str) -> str:
        """The whole prompt: what stands around the text in a chat, and nothing more for a plain one."""
        frame = self.form["frame"]
        text = text.strip() if frame["strip"] else text
        return _written(frame["before"]) + text + _written(frame["after"])

    def pair(self, first: str, second: str) -> tuple[list[int], list[int]]:
        """Token ids of two texts, and the segment of each; the longer text is cut first where the model ends."""
        frame, most = self.form["pair_frame"], self.form["max_length"]
        one, two = self.bare(first), self.bare(second)
        special = [frame[name] for name in ("before", "between", "after")]
        room = (1 << 30 if most is None else most) - sum(map(len, special))
        if len(one) + len(two) > room:
            short = min(len(one), len(two), room // 2)
            keep = (short, room - short) if len(one) <= len(two) else (room - short, short)
            one, two = one[: keep[0]], two[: keep[1]]
        parts = [special[0], one, special[1], two, special[2]]
        types = [[kind] * len(part) for part, kind in zip(parts, frame["types"], strict=True)]
        return list(chain(*parts)), list(chain(*types))

    def ids(self, text: str) -> list[int]:
        """Token ids of a prompt; an encoder's text is cut where its model ends."""
        head, tail = self.form["head"], self.form["tail"]
        ids = head + self.bare(text) + tail
        most = self.form["max_length"]
        if self.form["kind"] in ENCODERS and most is not None and len(ids) > most:
            ids = ids[: most - len(tail)] + tail
        return ids

    def bare(self, text: str) -> list[int]:
        """Token ids of a text alone."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def placed(self, text: str) -> tuple[list[int], list[tuple[int, int]], list[int]]:
        """Token ids of a text cut after its last whole word, its words, and the token that says the tag of each."""
        head, tail, most = self.form["head"], self.form["tail"], self.form["max_length"]
        found, words = self.tokenizer.encode(text, add_special_tokens=False), words_of(text)
        room = len(found.ids) if most is None else most - len(head) - len(tail)
        ids, places = cut_at_word(found.ids, places_of(text, words, found.offsets), room)
        return [*head, *ids, *tail], words, [place + len(head) if place >= 0 else place for place in places]

    def choices(self, prompt: str) -> list[list[int]]:
        """Token ids of each choice as it continues the prompt."""
        found = []
        before = self.bare(prompt)
        for choice in self.form["choices"]:
            whole = [] if self.form["kind"] == "seq2seq" else self.bare(prompt + choice)
            found.append(whole[len(before) :] if whole[: len(before)] == before and whole else self.bare(choice))
        return found


class Encoder:
    """`model.onnx`: token ids -> a score for each label, or the numbers of a vector."""

    def __init__(self, threads: int) -> None:
        self.session = _session("model.onnx", threads)

    def scores(self, ids: list[int], types: list[int]) -> np.ndarray:
        """One score for each label, or the vector; `types`: the segment of each token."""
        tokens, segments = np.array([ids], dtype=np.int64), np.array([types], dtype=np.int64)
        known = {"input_ids": tokens, "attention_mask": np.ones_like(tokens), "token_type_ids": segments}
        feed = {item.name: known[item.name] for item in self.session.get_inputs()}
        return self.session.run(None, feed)[0][0].astype(np.float64)


class Decoder:
    """`model.onnx`: a decoder with a key-value cache."""

    def __init__(self, threads: int) -> None:
        self.session = _session("model.onnx", threads)
        self.inputs = {item.name: item for item in self.session.get_inputs()}
        self.outputs = [item.name for item in self.session.get_outputs()]
        self.past: dict[str, Any] = {}
        self.length = 0

    def read(self, ids: list[int]) -> np.ndarray:
        """Forget everything and read a prompt: logits [V] of the next token."""
        self.past, self.length = {name: self._empty(name) for name in self.inputs if name.startswith("past_")}, 0
        for start in range(0, len(ids), CHUNK):
            rows = self.feed(ids[start : start + CHUNK])
        return rows[-1]

    def feed(self, ids: list[int]) -> np.ndarray:
        """Read on: logits [len(ids), V] after each token."""
        end = self.length + len(ids)
        known = {
            "input_ids": np.array([ids], dtype=np.int64),
            "attention_mask": np.ones((1, end), dtype=np.int64),
            "position_ids": np.arange(self.length, end, dtype=np.int64)[None],
        }
        values = {name: _value(array) for name, array in known.items() if name in self.inputs}
        found = dict(zip(self.outputs, self.session.run_with_ort_values(self.outputs, values | self.past), strict=True))
        self.past = {name: found[name.replace("past_key_values", "present")] for name in self.past}
        self.length = end
        return found["logits"].numpy()[0].astype(np.float32)

    def _empty(self, name: str) -> Any:
        item = self.inputs[name]
        width = item.shape[3]
        if not isinstance(width, int):
            config = json.loads((HERE / "genai_config.json").read_text(encoding="utf-8"))
            width = config["model"]["decoder"]["head_size"]
        return _value(np.zeros((1, item.shape[1], 0, width), dtype=_TYPES[item.type]))


class Seq2Seq:
    """`encoder.onnx` reads the text once, `decoder.onnx` writes after it."""

    def __init__(self, threads: int) -> None:
        self.encoder, self.decoder = _session("encoder.onnx", threads), _session("decoder.onnx", threads)
        self.inputs = {item.name: item for item in self.decoder.get_inputs()}
        self.outputs = [item.name for item in self.decoder.get_outputs()]
        known = self.decoder.get_modelmeta().custom_metadata_map
        self.start = int(known["distill2edge.decoder_start_token_id"])
        self.source: dict[str, Any] = {}
        self.past: dict[str, Any] = {}

    def read(self, ids: list[int]) -> np.ndarray:
        """Read a source: logits [V] of the first token of the answer."""
        tokens = np.array([ids], dtype=np.int64)
        mask = np.ones_like(tokens)
        names = [item.name for item in self.encoder.get_outputs()]
        given = {"input_ids": tokens, "attention_mask": mask}
        feed = {item.name: _value(given[item.name]) for item in self.encoder.get_inputs()}
        values = self.encoder.run_with_ort_values(names, feed)
        self.source = {
            name.replace("present", "past_key_values"): value for name, value in zip(names, values, strict=True)
        }
        self.source["encoder_attention_mask"] = _value(mask)
        self.past = {name: self._empty(name) for name in self.inputs if re.match(r"past_.*\.decoder\.", name)}
        return self.feed([self.start])[-1]

    def feed(self, ids: list[int]) -> np.ndarray:
        """Read on in the answer: logits [len(ids), V] after each token."""
        given = {**self.source, **self.past, "decoder_input_ids": _value(np.array([ids], dtype=np.int64))}
        given = {name: value for name, value in given.items() if name in self.inputs}
        found = dict(zip(self.outputs, self.decoder.run_with_ort_values(self.outputs, given), strict=True))
        self.past = {name: found[name.replace("past_key_values", "present")] for name in self.past}
        return found["logits"].numpy()[0].astype(np.float32)

    def _empty(self, name: str) -> Any:
        item = self.inputs[name]
        return _value(np.zeros((1, item.shape[1], 0, item.shape[3]), dtype=_TYPES[item.type]))


def load(form: dict[str, Any], threads: int) -> tuple[Input, Any]:
    """What makes token ids of texts, and the model."""
    kinds = {**dict.fromkeys(ENCODERS, Encoder), "decoder": Decoder, "seq2seq": Seq2Seq}
    return Input(form), kinds[form["kind"]](threads)


def encode(given: list[str], form: dict[str, Any], reader: Input) -> tuple[list[int], list[int]]:
    """Token ids of the whole prompt of a text, or of two, and the segment of each."""
    if form.get("pair") is not None:
        return reader.pair(*given)
    return (ids := reader.ids(reader.text(given[0]))), [0] * len(ids)


def held(model: Any) -> int:
    """Bytes of the key-value cache as it is now."""
    return sum(int(value.numpy().nbytes) for value in model.past.values())


def generate(model: Any, ids: list[int], stop: list[int], most: int) -> list[int]:
    """The likeliest token each time, until one that stops."""
    written: list[int] = []
    logits = model.read(ids)
    while len(written) < most and (token := int(np.argmax(logits))) not in stop:
        written.append(token)
        if len(written) < most:
            logits = model.feed([token])[-1]
    return written


def likelihood(model: Any, ids: list[int], choice: list[int]) -> float:
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


def above(names: list[str], scores: np.ndarray, limits: list[float]) -> list[tuple[str, float]]:
    """Names whose own probability is above their threshold, the likeliest first."""
    small = np.exp(-np.abs(scores))
    share = np.where(scores >= 0, 1 / (1 + small), small / (1 + small))
    ranked = np.argsort(-share, kind="stable")
    return [(names[index], float(share[index])) for index in ranked if share[index] > limits[index]]


def vector(found: np.ndarray, size: int) -> str:
    """The first `size` numbers of a vector, all for 0, at unit length; as JSON."""
    if size:
        found = found[:size] / np.linalg.norm(found[:size])
    return json.dumps([round(float(value), 6) for value in found])


def entities(text: str, names: list[str], reader: Input, model: Any) -> list[str]:
    """A line for each entity: its type, its first character, the one after its last, its text."""
    ids, words, places = reader.placed(text)
    scores = model.scores(ids, [0] * len(ids))
    tags: list[str] = []
    for place in places:
        before = tags[-1] if tags else "O"
        tags.append(names[int(scores[place].argmax())] if place >= 0 else "I" + before[1:] if before != "O" else "O")
    found: list[tuple[int, int, str]] = []
    before = "O"
    for (begin, end), tag in zip(words, tags, strict=False):
        if tag[:2] == "I-" and before[2:] == tag[2:]:
            found[-1] = (found[-1][0], end, tag[2:])
        elif tag != "O":
            found.append((begin, end, tag[2:]))
        before = tag
    return [f"{name}\t{begin}\t{end}\t{' '.join(text[begin:end].split())}" for begin, end, name in found]


def words_of(text: str) -> list[tuple[int, int]]:
    """The words: runs of letters, digits, underscores and the marks on them, and every other character but blanks."""
    alone = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
    found: list[tuple[int, int]] = []
    begin = None
    for at, char in enumerate(text):
        single = any(low <= ord(char) <= high for low, high in alone)
        letter = char.isalnum() or char == "_"
        if not single and (letter or (begin is not None and unicodedata.category(char)[0] == "M")):
            begin = at if begin is None else begin
            continue
        if begin is not None:
            found.append((begin, at))
            begin = None
        if not char.isspace():
            found.append((at, at + 1))
    return found if begin is None else [*found, (begin, len(text))]


def places_of(text: str, words: list[tuple[int, int]], offsets: list[tuple[int, int]]) -> list[int]:
    """Of each word the first token that begins in it; -1 where none does: it continues the word before it."""
    places = [-1] * len(words)
    word = 0
    for token, (begin, end) in enumerate(offsets):
        while begin < end and text[begin].isspace():
            begin += 1
        if begin >= end:
            continue
        while word < len(words) and words[word][1] <= begin:
            word += 1
        if word == len(words):
            break
        if places[word] < 0 and words[word][0] <= begin:
            places[word] = token
    return places


def cut_at_word(ids: list[int], places: list[int], room: int) -> tuple[list[int], list[int]]:
    """The tokens of a text that fit, up to the end of a word, and the places of the words that are read."""
    if len(ids) <= room:
        return list(ids), places
    end = max((place for place in places if 0 < place <= room), default=room)
    beyond = next((word for word, place in enumerate(places) if place >= end), len(places))
    return list(ids[:end]), places[:beyond]


def answer(given: list[str], form: dict[str, Any], reader: Input, model: Any, most: int, size: int) -> str:
    """What the model says to a text, or to two."""
    if len(given) != (reads := 2 if form.get("pair") is not None else 1):
        sys.exit(f"error: {len(given)} text(s), and {_PAIR if reads == 2 else 'the model reads one'}")
    prompt = reader.text(given[0])
    ids, types = encode(given, form, reader)
    if not ids or (form["kind"] not in ENCODERS and len(ids) > form["context"]):
        sys.exit(f"error: the text has {len(ids)} tokens, and the model reads 1 to {form['context']}")
    if form["kind"] == "tagger":
        return "\n".join(entities(given[0], form["labels"], reader, model))
    if form["kind"] == "embedder":
        return vector(model.scores(ids, types), size)
    if form["kind"] == "regressor":
        return f"{float(model.scores(ids, types)[0]):.6g}"
    if form["kind"] == "classifier":
        found = shares(form["labels"], model.scores(ids, types))
    elif form["kind"] == "multi-label":
        limits = form.get("thresholds") or [form["threshold"]] * len(form["labels"])
        found = above(form["labels"], model.scores(ids, types), limits)
    elif form["choices"]:
        choices = with_end(reader.choices(prompt), form["end"])
        scores = np.array([likelihood(model, ids, choice) for choice in choices], dtype=np.float64)
        found = shares(form["choices"], scores)
    else:
        written = generate(model, ids, form["stop"], min(most, form["context"] - len(ids)))
        return reader.tokenizer.decode(written, skip_special_tokens=True)
    return "\n".join(f"{' '.join(name.split())}\t{share:.4f}" for name, share in found)


def main() -> None:
    """Reads the command line, or standard input."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("text", nargs="?", help="the text; without it, standard input is one")
    parser.add_argument("second", nargs="?", help="the second text, where the model reads two")
    parser.add_argument(
        "--lines", action="store_true", help="each line of standard input is a text; an empty line ends an answer"
    )
    parser.add_argument("--max-tokens", type=int, default=256, help="most tokens of an answer (256)")
    parser.add_argument("--dimensions", type=int, default=0, help="of an embedder: the first N numbers; 0: all")
    parser.add_argument("--threads", type=int, default=0, help="0 leaves it to onnxruntime")
    options = parser.parse_args()
    form = json.loads((HERE / "input.json").read_text(encoding="utf-8"))
    reader, model = load(form, options.threads)
    asked = [[text for text in (options.text, options.second) if text is not None]]
    if not asked[0]:
        read = sys.stdin.read()
        lines = read.splitlines() if options.lines else [read.removesuffix("\n")]
        asked = [line.split("\t", 1) if form.get("pair") is not None else [line] for line in lines]
    for texts in asked:
        said = _shown(answer(texts, form, reader, model, options.max_tokens, options.dimensions))
        print(_ended(said, form) if options.lines else said, flush=True)


def _shown(text: str) -> str:
    """Characters that steer a terminal, as escapes."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _ended(said: str, form: dict[str, Any]) -> str:
    """An answer among several: one that the model wrote is a line, the empty line after it is the end."""
    listed = form["kind"] in ("classifier", "multi-label", "tagger") or form["choices"]
    return (said if listed else said.replace("\n", "\\n")) + "\n"


def _written(parts: list[Any]) -> str:
    return "".join(part if isinstance(part, str) else time.strftime(part["now"]) for part in parts)


def _session(name: str, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(HERE / name), options, providers=["CPUExecutionProvider"])


def _value(array: np.ndarray) -> Any:
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _log_softmax(row: np.ndarray) -> np.ndarray:
    shifted = row - row.max()
    return shifted - np.log(np.exp(shifted).sum(dtype=np.float64))


if __name__ == "__main__":
    main()
