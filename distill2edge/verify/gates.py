"""Gates -> verdict. Pure: figures in, passed or failed out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from distill2edge.gguf.ggml_types import GGML_TYPES, Precision
from distill2edge.quantize.schemes import is_compared, parse_scheme
from distill2edge.recipe.schema import Verify

LENGTH_LOW, LENGTH_HIGH = 0.9, 1.1
"""A student that keeps its score by answering longer, or in fewer words, is not the same service (MLPerf's bounds)."""


@dataclass(frozen=True)
class Gate:
    """One condition on one model file.

    Attributes:
        name: `loads`, `min_retained`, `min_ndcg_retained`, `max_kl`, `min_top1`, `min_length` or `max_length`.
        model: id of the file.
        op: how the value must stand to the target.
        value: the point estimate; None where it could not be measured, which never passes.
        default: whether the target is the one that a recipe has without saying so.
    """

    name: str
    model: str
    op: Literal[">=", "<="]
    target: float
    value: float | None
    default: bool = False

    @property
    def passed(self) -> bool:
        """Whether the value meets the target."""
        if self.value is None or math.isnan(self.value):
            return False
        return self.value >= self.target if self.op == ">=" else self.value <= self.target

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "passed": self.passed}


def apply_gates(models: Sequence[Mapping[str, Any]], verify: Verify) -> list[Gate]:
    """The gates of a recipe, applied to the entries of `verify.json`.

    Every student file that ships has to pass them (the dense student too where nothing is exported), and so is the
    dense teacher to running at all. The control, the teacher's own files and the arms without calibration or training
    on the grid are there to compare with: reported, no gate.

    Args:
        models: entries with id, role, scheme, error and figures.
        verify: the recipe's section; a gate that is null is not applied.
    """
    ships = shipped(models)
    gated = [model for model in models if model["id"] in {"teacher", "student"} or model in ships]
    gates = [Gate("loads", model["id"], ">=", 1.0, 0.0 if model["error"] else 1.0) for model in gated]
    for model in ships:
        if model["error"]:
            continue  # its failed `loads` says all there is to say
        gates += _gates_of(model, verify)
    return gates


def shipped(models: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The entries of what ships: the student's files without the arms to compare with, else the dense student."""
    students = [model for model in models if model["role"] == "student"]
    files = [model for model in students if precision_of(model) is not None] or students
    return [model for model in files if not is_compared(model["scheme"])]


def precision_of(model: Mapping[str, Any]) -> Precision | None:
    """That of a file's scheme, or of its keys and values where they have fewer bits; None of a dense model, which is no
    file."""
    if model["scheme"].startswith("torch:"):
        return None
    found = [parse_scheme(model["scheme"]).precision]
    if model.get("kv_cache"):
        found.append(GGML_TYPES[model["kv_cache"]["type"].upper()].precision)
    return max(found, key=get_args(Precision).index)


def verdict(gates: Sequence[Gate]) -> Literal["pass", "fail"]:
    """Pass when every gate did."""
    return "pass" if all(gate.passed for gate in gates) else "fail"


def _gates_of(model: Mapping[str, Any], verify: Verify) -> list[Gate]:
    name, gates = model["id"], list[Gate]()
    if verify.min_retained is not None:
        gates.append(Gate("min_retained", name, ">=", verify.min_retained, _value(model, "retained")))
    if verify.min_ndcg_retained is not None:
        gates.append(Gate("min_ndcg_retained", name, ">=", verify.min_ndcg_retained, _value(model, "ndcg_retained")))
    precision = precision_of(model)
    if precision is not None and (limit := verify.max_kl.of(precision)) is not None:
        default = verify.max_kl.is_default(precision)
        gates.append(Gate("max_kl", name, "<=", limit, _value(model, "kl_student"), default))
    if verify.min_top1 is not None and precision is not None:
        gates.append(Gate("min_top1", name, ">=", verify.min_top1, _value(model, "top1_student")))
    if verify.min_retained is not None and model.get("output_length_ratio") is not None:
        length = _value(model, "output_length_ratio")
        gates.append(Gate("min_length", name, ">=", LENGTH_LOW, length))
        gates.append(Gate("max_length", name, "<=", LENGTH_HIGH, length))
    return gates


def _value(model: Mapping[str, Any], key: str) -> float | None:
    figure = model.get(key)
    return None if figure is None else float(figure["value"])
