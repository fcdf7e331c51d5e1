"""Stock schemes rounded with compensated errors (GPTQ): their types stay, the weights serve the layers' outputs."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from distill2edge.export.gguf_write import open_weights
from distill2edge.export.initial_weights import gguf_types, write_initial_weights
from distill2edge.export.onnx import export_onnx
from distill2edge.gguf.hf_layout import Layout
from distill2edge.gguf.repack import repack
from distill2edge.quantize.activations import Activations
from distill2edge.quantize.grids import GRIDS
from distill2edge.quantize.rounding import gguf_bytes
from distill2edge.quantize.schemes import Scheme
from distill2edge.util.files import scratch, write_json
from distill2edge.util.progress import Progress


def round_again(
    path: Path, target: Path, model_dir: Path, layout: Layout, activations: Activations, progress: Progress
) -> None:
    """Write a GGUF again with its matrices compensated, those whose types have a grid here.

    Args:
        path: the file as llama.cpp quantized it, by importance; what is not compensated is copied: Q2_K, Q3_K,
            IQ4_XS, and matrices whose activations are not known.
        model_dir: the model it was made of.
        layout: of the file.
        activations: of the calibration rows, by the file's names.
    """
    types = {name: kind for name, kind in gguf_types(path, activations.grams).items() if kind in GRIDS}
    tensors = {}
    with ExitStack() as stack, progress.task("compensating", len(types)) as task:
        weights = open_weights(model_dir, stack)
        for name, kind in types.items():
            weight = weights[activations.sources[name]].get_tensor(activations.sources[name])
            data = gguf_bytes(weight, kind, *activations.sums(name))
            tensors[name] = (kind, layout.to_gguf(name, data))
            task.advance(note=f"{name} {kind}")
    repack(path, target, tensors)


def export_onnx_gptq(
    model_dir: Path, scheme: Scheme, meta: dict[str, Any], work: Path, progress: Progress, activations: Activations
) -> dict[str, Any]:
    """What `export_onnx` writes in 8- or 4-bit blocks, with compensated errors: `export.json` names the calibration.

    Raises:
        UserError: what `export_onnx` raises; weights that are not finite.
    """
    with scratch(work, "gptq") as directory:
        start = directory / "start"
        write_initial_weights(scheme, activations, model_dir, start, progress)
        facts = export_onnx(start, scheme, meta, work, progress, grid=start)
    facts |= {"calibration": "gptq", "trained": False}
    write_json(work / "export.json", facts)
    return facts
