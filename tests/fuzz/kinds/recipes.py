"""Recipes of the repository, mutated: structure, types, numbers, strings, YAML syntax, anchors, bytes and encodings."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from random import Random
from typing import Any

import yaml

from distill2edge.errors import RecipeErrors
from distill2edge.util.progress import SilentProgress

COUNT = 10_000
RECIPES = Path(__file__).parents[3] / "recipes"

_NUMBERS = (
    "0", "-1", "1e-320", "1e308", "1e999", "-1e999", ".nan", ".inf", "-.inf", "9" * 25, "9" * 5000, "0x" + "f" * 300,
    "0o777", "010", "1_000", "9007199254740993", "2147483648", "4294967296", "0.1.2", "1e", "+", "1" + "0" * 300, "95",
)  # fmt: skip
_STRINGS = (
    "", " ", "null", "true", "~", "\u00e9\u4e2d\U0001f600", "a" * 5000, "../" * 200, "/dev/zero", "/proc/self/mem",
    "file:///etc/passwd", "endpoint:", "endpoint:http://", "endpoint:http://[::1", "endpoint:ftp://x", "bundled:",
    "bundled:nothing", "package:", "package:os/../x", "package:..", "*", "[", "**/*", "{{", "{{ x }}", "{% for %}",
    "{{ " + "(" * 400, "{{ x" + "|upper" * 2000 + " }}", "gguf:mix-", "gguf:mix-kl", "gguf:mix-1e400GB",
    "gguf:mix-" + "9" * 400 + "GB", "onnx:mix-kl1e-999", "gguf:Q4_0" + "-untrained" * 500, "onnx:int8-plain-plain",
    "chat-1-1", "chat-99999999999999999999-1", "chat--1--1", "\u202e", "a\u0000b", "\ud800", "\x1b[31m", "name: x\n",
    "owner/name", "a/b/c", "~root/x", "~nobody-here/x", "CON", ".", "..", "x" * 300 + ".jsonl", "rows.jsonl", "(" * 90,
)  # fmt: skip
_SNIPPETS = (
    "&a ", "*a", "<<: *a", "!!python/object:os.system ", "!!int ", "!!float ", "!!binary ", "!!timestamp ", "!!set ",
    "!<x> ", "? ", ": ", "- ", "| ", "> ", "---\n", "...\n", "%YAML 1.1\n", "%TAG ! x:\n", "\t", "\x00", "\x07",
    "\u0085", "\u2028", "\ufeff", "{", "}", "[", "]", "'", '"', "#", ",", "\r", "\n\n", "@", "`", '"\\UFFFFFFFF"',
    '"\\x00"', '"\\ud800"', "0b1", "x: &b [*b]\n", "{" * 200, "[" * 3000, "- " * 3000, "? " * 3000, "a: " * 100,
)  # fmt: skip


def prepare(work: Path) -> Any:
    """The recipes' texts; what reads them is imported once, and a few rows of bundled data speak for all."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from distill2edge import preflight
    from distill2edge.planning import sizes
    from distill2edge.preflight import data
    from distill2edge.recipe import load
    from distill2edge.stages import graph

    data._ROWS_OF_BUNDLE = 20
    texts = [path.read_text(encoding="utf-8") for path in sorted(RECIPES.rglob("*.yaml"))]
    assert len(texts) >= 10
    return (load, preflight, sizes, graph), texts


def attempt(random: Random, prepared: Any, work: Path) -> None:
    """Read one mutated recipe as `recipe check` and `plan` do, with all that is said about it."""
    (load, preflight, sizes, graph), texts = prepared
    text = random.choice(texts)
    way = random.random()
    if way < 0.55:
        data = _restructured(random, text).encode("utf-8", "surrogatepass")
    elif way < 0.8:
        data = _respelt(random, text).encode("utf-8", "surrogatepass")
    elif way < 0.92:
        data = _recoded(random, text)
    else:
        data = _unfolding(random, text).encode()
    path = work / "recipe.yaml"
    path.write_bytes(data)
    overrides = [_override(random)] if random.random() < 0.15 else []
    read = load.read_recipe(path, overrides)
    problems, _ = preflight.problems_of_world(read)
    if errors := read.errors(problems):
        raise RecipeErrors(errors)
    recipe = read.recipe
    preflight.unseen(recipe)
    load.parse_recipe(load.dump_recipe(recipe), "shown")
    known = sizes.sizes_of(recipe, {})
    sources = graph.Sources(recipe, SilentProgress())
    for stage in graph.Graph(sources, sources).build():
        cost = stage.estimate(known, 1e11)
        for figure in (cost.seconds, cost.memory, cost.disk):
            assert figure is None or 0 <= figure < float("inf"), (stage.name, figure)


# --- mutations ----------------------------------------------------------------


_MOST = 500  # places of a document; beyond it doubling would take the fuzzer itself minutes


def _restructured(random: Random, text: str) -> str:
    """Values replaced, keys renamed, moved, doubled or deleted, subtrees put elsewhere."""
    document = yaml.safe_load(text)
    for _ in range(random.choice((1, 1, 2, 3, 8))):
        places = list(_places(document))
        if len(places) > _MOST:
            break
        holder, key = random.choice(places)
        value = holder[key]
        what = random.randrange(7)
        if what == 0:
            del holder[key]
        elif what == 1:
            holder[key] = _value(random)
        elif what == 2:
            other, there = random.choice(places)
            holder[key] = copy.deepcopy(other[there])
        elif what == 3 and isinstance(holder, dict):
            holder[_typo(random, str(key))] = holder.pop(key)
        elif what == 4:
            holder[key] = [value] * random.choice((0, 1, 2, 50))
        elif what == 5:
            holder[key] = {str(random.choice(_STRINGS)): value}
        else:
            for _ in range(random.choice((1, 5, 60))):
                value = [value] if random.random() < 0.5 else {"x": value}
            holder[key] = value
        if not document:
            return "{}"
    dumped = str(yaml.dump(document, allow_unicode=True, sort_keys=False, Dumper=_Dumper))
    for index, number in enumerate(_NUMBERS):
        dumped = dumped.replace(f"NUMBER-{index}-", number)
    return dumped


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _value(random: Random) -> Any:
    kind = random.randrange(8)
    if kind < 3:
        return f"NUMBER-{random.randrange(len(_NUMBERS))}-"  # written without quotes, as it is
    if kind < 6:
        return random.choice(_STRINGS)
    return random.choice((None, True, False, [], {}, [[]], [None], {"": None}, {"kind": "text"}, {"format": "gguf"}))


def _places(value: Any) -> Any:
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _typo(random: Random, word: str) -> str:
    at = random.randrange(len(word) + 1)
    return word[:at] + random.choice(("", "x", "_", " ", "é", word)) + word[at + random.randrange(2) :]


def _respelt(random: Random, text: str) -> str:
    """Pieces of syntax put in, and pieces of the text deleted, doubled or cut."""
    for _ in range(random.choice((1, 1, 2, 4, 20))):
        at, to = sorted(random.randrange(len(text) + 1) for _ in range(2))
        to = min(to, at + random.choice((1, 10, 200)))
        what = random.randrange(5)
        if what < 2:
            text = text[:at] + random.choice(_SNIPPETS) + text[at:]
        elif what == 2:
            text = text[:at] + text[to:]
        elif what == 3:
            text = text[:to] + text[at:]
        else:
            text = text[:at] + random.choice(_NUMBERS + _STRINGS) + text[to:]
    return text


def _recoded(random: Random, text: str) -> bytes:
    """Another encoding, cut or flipped bytes."""
    what = random.randrange(5)
    if what == 0:
        return text.replace("a", "\u00e4", 3).encode(
            random.choice(("latin-1", "cp1252", "utf-16", "utf-32")), "replace"
        )
    data = bytearray(text.encode())
    if what == 1:
        return bytes(data[: random.randrange(len(data))])
    if what == 2:
        return bytes(random.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\x00", b"GGUF", b"\x1f\x8b"))) + bytes(
            data
        )
    if what == 3:
        return bytes(data) * random.choice((2, 40, 400))
    for _ in range(random.choice((1, 3, 30))):
        data[random.randrange(len(data))] = random.randrange(256)
    return bytes(data)


def _unfolding(random: Random, text: str) -> str:
    """Anchors that unfold, that hold themselves, or that are legitimate."""
    what = random.randrange(4)
    if what == 0:
        width, levels = random.randrange(1, 12), random.randrange(1, 30)
        lines = ["a0: &a0 [x]"]
        lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
        return text + "\n" + "\n".join(lines) + "\n"
    if what == 1:
        return text + random.choice(("z: &z [*z]\n", "z: &z {y: *z}\n", "z: &z [[{y: [*z]}]]\n", "z: *y\n"))
    if what == 2:
        head, _, tail = text.partition("description: ")
        return f"{head}description: &d {tail}" + random.choice(("", "x: *d\n", "verify: *d\n"))
    return text + "x: " + random.choice(("[", "{a: ", "- ", "? ")) * random.randrange(1, 4000)


def _override(random: Random) -> str:
    keys = (
        *(
            "student.init.layers",
            "name",
            "export[0]",
            "export.9",
            "export",
            "a" + ".a" * 300,
            "data",
            "",
            "distill.loss",
        ),
        *("teacher.model", "data.splits.train", "export.\u00b2", "student..init", "verify.teacher_schemes.0"),
    )
    value = random.choice((*_NUMBERS, *_STRINGS, *_SNIPPETS))
    return random.choice(keys) + random.choice(("=", "=", "=", "")) + value
