"""YAML with the YAML 1.2 core schema, and the line of every key.

PyYAML follows YAML 1.1, in which `1e-5` is a string and `no` is a boolean; recipes follow 1.2.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from distill2edge.errors import UserError

Path = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):  # type: ignore[misc, unused-ignore]
    """SafeLoader with the scalars of the YAML 1.2 core schema."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def _int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    # YAML 1.1 reads 010 as octal; 1.2 reads it as ten.
    text = loader.construct_scalar(node)
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


_Loader.add_constructor("tag:yaml.org,2002:int", _int)


def parse_value(text: str) -> Any:
    """The value of one YAML scalar, list or mapping, as in `--set a.b=VALUE`.

    Raises:
        UserError: the text is not YAML.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"not a YAML value: {text!r} ({_first_line(error)})", where="--set") from None


def parse_document(text: str, name: str) -> tuple[dict[str, Any], dict[Path, int]]:
    """Read one mapping, and the line (1-based) of every path in it.

    Raises:
        UserError: not YAML, a key written twice, or a top level that is not a mapping.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        lines: dict[Path, int] = {}
        _walk(node, (), lines, name)
        value = loader.construct_document(node) if node is not None else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        raise UserError(
            f"not valid YAML: {_first_line(error)}", where=where, fix="check indentation and quotes"
        ) from None
    finally:
        loader.dispose()
    if not isinstance(value, dict):
        raise UserError("the top level is not a mapping", where=name, fix="start from `distill2edge recipe new`")
    return value, lines


def _walk(node: yaml.Node | None, path: Path, lines: dict[Path, int], name: str) -> None:
    if node is None:
        return
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            if here in lines:
                raise UserError(
                    f"key {key.value!r} is written twice (also on line {lines[here]})",
                    where=f"{name}:{key.start_mark.line + 1}: {dotted(here)}",
                    fix="keep one of them",
                )
            lines[here] = key.start_mark.line + 1
            _walk(value, here, lines, name)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _walk(value, (*path, index), lines, name)


def dotted(path: Path) -> str:
    """`student.lora.rank`, `export[1]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text


def _first_line(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None)
    return problem or str(error).splitlines()[0]
