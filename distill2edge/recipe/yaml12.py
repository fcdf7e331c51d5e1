"""YAML with the YAML 1.2 core schema, and the line of every key.

PyYAML follows YAML 1.1, in which `1e-5` is a string and `no` is a boolean; recipes follow 1.2. A text from elsewhere is
bounded before it costs anything: its bytes, its depth, and how much its aliases unfold to.
"""

from __future__ import annotations

import math
import re
import stat
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import yaml

from distill2edge.errors import UserError

Path = tuple[str | int, ...]

MAX_BYTES = 128 * 1024
MAX_DEPTH = 40
MAX_VALUES = 20_000  # scalars, lists and mappings, each alias unfolded
MAX_INTEGER = 2**53  # beyond it a float no longer tells neighbours apart; no field asks for more
_TAG = "tag:yaml.org,2002:"
_MEANT = "; a text that looks like a number goes into quotes"


class _Loader(yaml.SafeLoader):  # type: ignore[misc, unused-ignore]
    """Composes nodes with the scalars of the YAML 1.2 core schema, down to a depth."""

    depth = count = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        self.count += 1
        if self.depth > MAX_DEPTH or self.count > MAX_VALUES:
            what = f"nested more than {MAX_DEPTH} deep" if self.depth > MAX_DEPTH else f"more than {MAX_VALUES} values"
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call, unused-ignore]
            raise yaml.composer.ComposerError(None, None, what, mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


_PATTERNS = {
    "null": (r"~|null|Null|NULL|", "~nN"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
_COMPILED = {name: re.compile(f"(?:{pattern})") for name, (pattern, _) in _PATTERNS.items()}
_Loader.yaml_implicit_resolvers = {}
for _name, (_pattern, _first) in _PATTERNS.items():
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), list(_first))
_Loader.yaml_implicit_resolvers[""] = _Loader.yaml_implicit_resolvers["~"]  # of a key with nothing behind it


def read_text(path: FilePath) -> str:
    """The text of a YAML file.

    Raises:
        UserError: a directory, pipe or device, a file beyond `MAX_BYTES`, one that may not be read, or no UTF-8 text;
            with the line, where it has one.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a directory" if stat.S_ISDIR(mode) else "no regular file"
            raise UserError(f"this is {kind}", where=str(path), fix="name a YAML file")
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(path), fix="name a YAML file") from None
    if len(data) > MAX_BYTES:
        raise UserError(
            f"larger than {MAX_BYTES // 1024} KiB, which no recipe is",
            where=str(path),
            fix="name a recipe; data belongs into files of their own",
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        guess = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:4] else "Latin-1, or damaged"
        raise UserError(
            f"not UTF-8 text (byte 0x{data[error.start]:02x}); it may be {guess}",
            where=f"{path}:{line}",
            fix="save it as UTF-8",
        ) from None


class Document(NamedTuple):
    """What a YAML text holds.

    Attributes:
        value: of the text.
        lines: 1-based, of every path in it.
        written: numbers, truth values and nulls as they stand there (`010`), by path.
    """

    value: Any
    lines: dict[Path, int]
    written: dict[Path, str]


def parse_value(text: str, where: str = "--set") -> Document:
    """One YAML scalar, list or mapping, as in `--set a.b=VALUE`.

    Args:
        where: it was given, for messages.

    Raises:
        UserError: the text is not YAML, or beyond the limits of a document.
    """
    if text.lstrip().startswith(("{{", "{%")):
        return Document(text, {}, {})  # a template; as YAML it would be a mapping whose key is one
    try:
        return _parse(text, where)
    except UserError as error:
        shown = text if len(text) <= 60 else text[:57] + "..."
        raise UserError(f"not a YAML value: {shown!r} ({error.what})", where=where, fix=error.fix) from None


def parse_document(text: str, name: str) -> Document:
    """Read one mapping.

    Raises:
        UserError: not YAML, a key written twice, a value that no recipe can hold (not finite, beyond `MAX_INTEGER`,
            a control character), too deep, too much, or a top level that is not a mapping.
    """
    found = _parse(text, name)
    if not isinstance(found.value, dict):
        raise UserError("the top level is not a mapping", where=name, fix="start from `distill2edge recipe new`")
    return found


def _parse(text: str, name: str) -> Document:
    if len(text) > MAX_BYTES:
        raise UserError(f"longer than {MAX_BYTES // 1024} KiB", where=name, fix="data belongs into files of their own")
    for position, character in enumerate(text):
        if _is_control(character):
            raise UserError(
                f"a character that text does not have: {character!a}",
                where=f"{name}:{text.count(chr(10), 0, position) + 1}",
                fix="delete it; the file may be damaged, or not text",
            )
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        fix = _fix_of_yaml(_first_line(error), text.split("\n"), mark.line if mark else 0)
        raise UserError(f"not valid YAML: {_first_line(error)}", where=where, fix=fix) from None
    except (ValueError, OverflowError) as error:  # an escape or directive whose number is out of range
        where = f"{name}:{loader.line + 1}"
        raise UserError(f"not valid YAML: {error}", where=where, fix="check the escapes in quotes") from None
    finally:
        loader.dispose()
    reader = _Reader(name)
    return Document(None if node is None else reader.value(node, ()), reader.lines, reader.written)


@dataclass
class _Reader:
    """Turns nodes into values, and notes the line of every path, and what is no text as it is written."""

    name: str
    lines: dict[Path, int] = field(default_factory=dict)
    written: dict[Path, str] = field(default_factory=dict)
    count: int = 0
    open: list[yaml.Node] = field(default_factory=list)

    def value(self, node: yaml.Node, path: Path) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        self.count += 1
        if self.count > MAX_VALUES:
            key = path[:1]  # the values themselves stand where the anchor is
            raise UserError(
                "its aliases unfold to more than a recipe can hold",
                where=f"{self.name}:{self.lines.get(key, 1)}: {dotted(key)}",
                fix="write the values out",
            )
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if any(node is outer for outer in self.open):
            raise self._error("an alias stands inside what it names", node, path, "write the value out")
        self._plain_tag(node, path, "seq" if isinstance(node, yaml.SequenceNode) else "map")
        self.open.append(node)
        value: Any
        if isinstance(node, yaml.MappingNode):
            value = self._mapping(node, path)
        else:
            value = [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        self.open.pop()
        return value

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for key, inner in node.value:
            if not isinstance(key, yaml.ScalarNode):
                fix = 'keys are words; a template goes into quotes: "{{ text }}"'
                raise self._error("a key is a list or mapping", key, path, fix)
            here = (*path, str(key.value))
            if key.value == "<<":
                raise self._error("merge keys (<<) are not part of YAML 1.2", key, here, "write the keys out")
            if key.value in value:
                what = f"key {key.value!r} is written twice (also on line {self.lines[here]})"
                raise self._error(what, key, here, "keep one of them")
            self.lines[here] = key.start_mark.line + 1
            value[str(key.value)] = self.value(inner, here)
        return value

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        text = str(node.value)
        kind = self._plain_tag(node, path, "str", *_PATTERNS)
        if kind == "str":
            if strange := next(filter(_is_control, text), None):
                what = f"a character that text does not have: {strange!a}"
                raise self._error(what, node, path, "delete its escape")
            return text
        if not _COMPILED[kind].fullmatch(text):
            raise self._error(f"{text[:40]!r} is no {kind}", node, path, "take the tag away")
        self.written[path] = text
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if len(text) > 400:
            raise self._error(f"a number of {len(text)} characters", node, path, f"give one that fits{_MEANT}")
        if kind == "int":
            # YAML 1.1 reads 010 as octal; 1.2 reads it as ten.
            number: float = int(text, 0) if text[:2] in ("0o", "0x") else int(text)
            fits = abs(number) <= MAX_INTEGER
        else:
            number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
            fits = math.isfinite(number)
        if not fits:
            shown = text if len(text) <= 40 else text[:37] + "..."
            raise self._error(
                f"{shown} is no number that a recipe can use", node, path, f"give a finite number{_MEANT}"
            )
        return number

    def _plain_tag(self, node: yaml.Node, path: Path, *kinds: str) -> str:
        """The node's kind, which must be one of the core schema's for such a node."""
        kind = str(node.tag).removeprefix(_TAG)
        if kind not in kinds:
            shown = str(node.tag).replace(_TAG, "!!")[:60]
            raise self._error(f"the tag {shown} is not read", node, path, "take the tag away")
        return kind

    def _error(self, what: str, node: yaml.Node, path: Path, fix: str) -> UserError:
        inside = f": {dotted(path)}" if path else ""
        return UserError(what, where=f"{self.name}:{node.start_mark.line + 1}{inside}", fix=fix)


def _is_control(character: str) -> bool:
    """Whether no text has this character: C0 and C1 controls but white space, surrogates, non-characters."""
    if " " <= character <= "~":
        return False
    if character in "\t\n\r\x85":
        return False
    return unicodedata.category(character) in ("Cc", "Cs") or ord(character) & 0xFFFE == 0xFFFE


def dotted(path: Path) -> str:
    """`student.lora.rank`, `export[1]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text


def _fix_of_yaml(what: str, lines: list[str], at: int) -> str:
    if "\\t" in what:
        return "indent with spaces, not tabs"
    for number in (at, at - 1):
        if 0 <= number < len(lines) and (key := re.match(r"\s*(?:- )?([A-Za-z_]\w*):(?![\s/])\S", lines[number])):
            return f"put a blank after the colon of {key[1]}: in line {number + 1}"
    if "mapping values are not allowed" in what:
        return 'a text with ": " in it goes into quotes, and keys of one section begin in one column'
    if "block end" in what or "block mapping" in what:
        return "keys of one section begin in one column; those in a section of it are further in"
    return "check indentation and quotes"


def _first_line(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None)
    return problem or str(error).splitlines()[0]
