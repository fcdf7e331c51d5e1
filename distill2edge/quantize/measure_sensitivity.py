"""The sensitivity stage: what each type would cost each tensor of a mix, measured on the calibration rows.

Activations are those that the calibration stage gathered. Memory is bounded, as there: the Fisher information is
gathered for as many tensors at a time as fit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import UserError
from distill2edge.gguf.hf_layout import names_to_gguf
from distill2edge.models.kinds import DECODER, kind_of_model
from distill2edge.models.loading import load_model
from distill2edge.quantize import onnx_types, sensitivity
from distill2edge.quantize.activations import Activations, groups, matrices
from distill2edge.quantize.allocation import Options
from distill2edge.quantize.calibrate import read_calibration, read_calibration_facts
from distill2edge.quantize.calibration_texts import take
from distill2edge.quantize.fisher import collect_fisher
from distill2edge.quantize.shared_inputs import groups_of
from distill2edge.util.files import read_json, write_json
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    import torch

FISHER_SHARE = 4
"""Only one in so many calibration tokens is used for the Fisher information, which takes a backward pass."""
_FACTS = "sensitivity.json"


@dataclass(frozen=True)
class Sensitivity(Activations):
    """The activations, and what the types cost; tensors are named as in a GGUF.

    Attributes:
        options: tensor -> type -> (bytes, expected KL in nats per prediction, see `fisher`), of a GGUF.
        onnx: the same of an ONNX file, by the groups of weights that its graph joins.
        joined: group -> its weights, in the directory.
        facts: rows and tokens that were seen.
    """

    options: Options
    onnx: Options
    joined: Mapping[str, Sequence[str]]
    facts: Mapping[str, Any]


def write_sensitivity(
    model_dir: Path,
    rows: Sequence[Sequence[int]],
    activations: Activations,
    work: Path,
    progress: Progress,
    *,
    max_tokens: int,
    formats: Collection[str] = ("gguf",),
) -> dict[str, Any]:
    """Write `sensitivity.json`.

    Args:
        model_dir: the model in Hugging Face's layout.
        rows: token ids of each calibration row.
        activations: of the same model on the same rows, with the products of inputs.
        max_tokens: of the calibration; a quarter of them give the Fisher information.
        formats: `gguf` or `onnx`: the files whose types are measured.

    Returns:
        {schema_version, fisher_tokens, tensors}.

    Raises:
        UserError: an architecture whose tensors have no GGUF names here, weights or gradients that are not finite.
    """
    import torch

    model = load_model(model_dir, dtype=torch.float32).eval()
    parts, weights = matrices(model, names_to_gguf(model_dir))
    options: dict[str, Any] = {}
    by_weight: dict[str, Any] = {}
    fisher_tokens = max(64, max_tokens // FISHER_SHARE)
    for name, fisher in _fisher(model, parts, rows, fisher_tokens, str(model_dir), progress):
        weight = weights[parts[name][0]]
        if "gguf" in formats:
            able = name in activations.grams
            importance = activations.importance.get(name)
            options[name] = sensitivity.option(weight.numpy(), fisher.numpy(), importance, compensated=able)
        if "onnx" in formats:
            by_weight[parts[name][0]] = onnx_types.option(weight, fisher, *activations.means(name))
    members = groups_of(model, take(rows, 64)[0], by_weight)
    facts = {"schema_version": 2, "fisher_tokens": min(fisher_tokens, sum(map(len, rows))), "tensors": len(parts)}
    document = {**facts, "options": options, "onnx": onnx_types.joined(by_weight, members)}
    if by_weight and kind_of_model(model) is not DECODER:  # whose groups follow from names
        document["joined"] = members
    write_json(Path(work) / _FACTS, document)
    return facts


def _fisher(
    model: Any,
    parts: Mapping[str, Sequence[str]],
    rows: Sequence[Sequence[int]],
    max_tokens: int,
    where: str,
    progress: Progress,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensor by tensor the Fisher information of its weights, [rows, columns]; of a tied matrix the sum of its uses.

    Args:
        parts: GGUF tensor -> the weights of the model's state that are it.
        where: the model, for messages.

    Raises:
        UserError: gradients that are missing or not finite.
    """
    import torch

    weights = model.state_dict()
    for group in groups({name: 4 * weights[own[0]].numel() for name, own in parts.items()}):
        only = [source for name in group for source in parts[name]]
        fisher = collect_fisher(model, rows, progress, max_tokens=max_tokens, only=only).fisher
        with progress.task("measuring sensitivity by type", len(group)) as task:
            for name in group:
                found = [fisher.pop(source) for source in parts[name] if source in fisher]
                if not found or not all(bool(torch.isfinite(part).all()) for part in found):
                    raise UserError(f"the gradients of {name} are missing or not finite", where=where,
                                    fix="check the weights for NaN or Inf, or export a stock scheme")  # fmt: skip
                yield name, sum(found[1:], found[0])
                task.advance(note=name)


def read_sensitivity(directory: Path, calibration: Path) -> Sensitivity:
    """What `write_sensitivity` wrote, with the activations in the directory of the calibration."""
    document, activations = read_json(Path(directory) / _FACTS), read_calibration(calibration)
    options, onnx = (
        {
            name: {kind: (int(size), float(loss)) for kind, (size, loss) in kinds.items()}
            for name, kinds in document.pop(table, {}).items()
        }
        for table in ("options", "onnx")
    )
    joined = document.pop("joined", None) or onnx_types.groups(activations.sources.values())
    facts = {**read_calibration_facts(calibration), **document}
    return Sensitivity(**vars(activations), options=options, onnx=onnx, joined=joined, facts=facts)
