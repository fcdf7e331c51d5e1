"""Where a pack can run: one table. What a target has no runtime for is refused with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from distill2edge.errors import UserError
from distill2edge.models.kinds import KINDS

EVERY = frozenset(KINDS)
WRITES = frozenset(name for name, kind in KINDS.items() if kind.writes)


@dataclass(frozen=True)
class Target:
    """A place for a pack.

    Attributes:
        runs: for people.
        serves: format -> the kinds of model that it runs there.
        because: format -> why it runs no others.
    """

    name: str
    runs: str
    serves: Mapping[str, frozenset[str]]
    because: Mapping[str, str]


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("python", "onnxruntime, or llama-cpp-python", {"onnx": EVERY, "gguf": EVERY}, {}),
        Target(
            "web",
            "llama.cpp or ONNX Runtime in WebAssembly",
            {"gguf": frozenset({"decoder"}), "onnx": frozenset({"classifier", "multi-label", "regressor", "embedder"})},
            {
                "gguf": "of GGUF files, the page runs those that write",
                "onnx": "of ONNX files, the page runs those that read a whole text: 4-bit products are slow there, and "
                "its tokenizer says no places of words",
            },
        ),
        Target(
            "c",
            "llama.cpp's C API",
            {"gguf": frozenset({"decoder"})},
            {"gguf": "the program asks for text, which only a decoder writes there"},
        ),
    )
}  # fmt: skip


def check_target(target: Target, form: str, kind: str, scheme: str, others: list[str]) -> None:
    """See that a target can serve a file.

    Args:
        form: `onnx` or `gguf`; kind: of model, as input.json says.
        others: formats of the run's files.

    Raises:
        UserError: it cannot.
    """
    if kind in target.serves.get(form, frozenset()):
        return
    fits = [name for name, kinds in target.serves.items() if kind in kinds]
    there = [name for name in fits if name in others]
    fix = "--target python"
    if there:
        fix = f"choose one of the run's {there[0].upper()} files with --file, or {fix}"
    elif fits:
        fix = f"export the model to {' or '.join(fits)} too (`export` in the recipe), or {fix}"
    why = target.because.get(form, f"{target.runs} reads no {form.upper()}")
    raise UserError(f"a {target.name} pack cannot serve a {kind} in {form.upper()}: {why}", where=scheme, fix=fix)
