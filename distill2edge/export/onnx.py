"""The ONNX export stage: a merged Hugging Face directory becomes graphs in one scheme, ready for ONNX Runtime."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import UserError
from distill2edge.export import genai_config, onnx_file, onnx_graph, support
from distill2edge.export.faithful import Check
from distill2edge.handover.clean_tokenizer import write_tokenizer
from distill2edge.handover.write import form_for, hand_over, limit_of, template_for
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.models.kinds import (
    CLASSIFIER,
    DECODER,
    EMBEDDER,
    ENCODER_DECODER,
    MULTI_LABEL,
    REGRESSOR,
    TAGGER,
    Kind,
    kind_of,
    start_token_id,
)
from distill2edge.models.loading import read_config
from distill2edge.quantize.schemes import ALL, DYNAMIC, Scheme
from distill2edge.runtimes.onnx_seq2seq import START
from distill2edge.util.files import scratch, write_json

if TYPE_CHECKING:
    import onnx_ir as ir

    from distill2edge.export.onnx_tally import Tally
    from distill2edge.util.progress import Progress


def export_onnx(
    model_dir: Path,
    scheme: Scheme,
    meta: dict[str, Any],
    work: Path,
    progress: Progress,
    *,
    grid: Path | None = None,
    compared: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Export a model and describe what was written.

    Its graph is compared with PyTorch (`faithful`) before any weight is rounded: of the lossless schemes the very file
    that is written. A decoder gives `model.onnx` with a key-value cache and `genai_config.json`; a classifier gives
    `model.onnx`; a sequence-to-sequence model gives `encoder.onnx` and `decoder.onnx`, which share their weights file.
    Beside them lie the tokenizer files and `export.json`.

    Args:
        model_dir: dense Hugging Face directory (safetensors and tokenizer).
        meta: name, licence, teacher, recipe, recipe_key, description: they go into the graph's metadata.
        work: directory to write into; files of an earlier try are overwritten.
        grid: directory of the grid that this model was trained on, or rounded to: the file gets its scales. Matrices
            that it does not know are rounded plainly (`onnx_types.rest_of`).
        compared: what an earlier export of the same architecture said of its comparison; None: this graph is compared.

    Returns:
        the content of export.json.

    Raises:
        UserError: a scheme of another format, an architecture that cannot be exported, a graph that is another model.
        EnvironmentFault: a package that the export needs is missing.
    """
    config = _carried(scheme, model_dir, grid)
    kind, dtype = kind_of(config), scheme.type.dtype if scheme.type is not None else None
    exporter = _EXPORTERS[kind]
    tokenizer = load_tokenizer(model_dir)
    form = form_for(model_dir, meta, tokenizer)
    properties = _properties(meta := {**meta, "input": form.dumps()}, kind, model_dir)
    with scratch(work, "graph") as directory:
        against = (model_dir, kind.name, "onnxruntime", progress, dtype or "float32")
        check = Check(*against, pairs=form.pair is not None) if compared is None else None
        progress.say(f"  building the {kind} graph of {meta.get('name', model_dir.name)}")
        graphs, built = exporter.graphs(model_dir, directory)
        if check is not None and dtype is None:
            compared = check.of(exporter.unrounded(graphs, model_dir, directory, properties), directory)
        tally = _round(graphs, scheme, grid, model_dir, directory, progress)
        size = onnx_file.write_graphs(graphs, work, {**properties, "distill2edge.scheme": scheme.name})
    files = write_tokenizer(tokenizer, model_dir, form, template_for(form, tokenizer), limit_of(form, model_dir), work)
    if built is not None:
        genai_config.write_genai_config(built, work, work)
    if check is not None and dtype is not None:
        with scratch(work, "compare") as directory:
            compared = check.of(work, directory)
    facts = _described(scheme, kind.name, graphs, size, tally)
    facts |= {"trained": grid is not None, "calibration": None, "faithful": compared, "tokenizer_files": files}
    facts |= {"exporter": exporter.versions(), "meta": meta}
    facts["handover"] = hand_over(work, form, tokenizer, model_dir, facts, str(meta.get("name") or "model"), progress)
    write_json(work / "export.json", facts)
    return facts


def _described(scheme: Scheme, kind: str, graphs: dict[str, ir.Model], size: int, tally: Tally) -> dict[str, Any]:
    """Facts of the written graphs."""
    return {
        "schema_version": 1,
        "format": "onnx",
        "scheme": scheme.name,
        "kind": kind,
        "graphs": sorted(f"{stem}.onnx" for stem in graphs),
        "size_bytes": size,
        "effective_bits": round(tally.effective_bits, 4),
        "types": tally.types,
        "fallbacks": tally.fallbacks,
    }


def _properties(meta: dict[str, Any], kind: Kind, model_dir: Path) -> dict[str, str]:
    """A graph's metadata."""
    found = {f"distill2edge.{key}": str(value) for key, value in meta.items() if value is not None}
    return {**found, START: str(_start(model_dir))} if kind.pairs else found


def _carried(scheme: Scheme, model_dir: Path, grid: Path | None) -> dict[str, Any]:
    """The model's configuration, which the scheme can carry."""
    given = scheme.mix is not None and grid is not None
    if scheme.format != "onnx" or (scheme.type is None and not given):
        known = ", ".join(str(each) for each in ALL if each.format == "onnx" and str(each) != DYNAMIC)
        raise UserError(f"{scheme} is not an ONNX scheme", fix=f"use one of {known}")
    config = read_config(model_dir)
    support.refuse(config, kind_of(config), scheme, str(model_dir))
    return config


def _round(
    graphs: dict[str, ir.Model],
    scheme: Scheme,
    grid: Path | None,
    model_dir: Path,
    directory: Path,
    progress: Progress,
) -> Tally:
    """Put the weights of each graph into the scheme, in place, and tell what became of them."""
    # imported here: this module must load without onnxruntime
    from distill2edge.export.grid import RowGrids
    from distill2edge.export.onnx_dynamic import quantize_dynamic
    from distill2edge.export.onnx_quantize import apply_scheme
    from distill2edge.export.onnx_tally import Tally
    from distill2edge.quantize.onnx_types import rest_of

    tally, rest = Tally(), rest_of(scheme)
    grids = None if grid is None else RowGrids(grid, model_dir, rest)
    for name, model in graphs.items():
        progress.say(f"  storing its weights as {scheme.name}")
        if str(scheme) != DYNAMIC:
            apply_scheme(model, scheme.base, tally, grids)
        else:
            graphs[name] = quantize_dynamic(model, directory, tally)
    if grids is not None and grids.unknown:
        names = ", ".join(grids.unknown[:3])
        progress.say(f"  {len(grids.unknown)} matrices that nothing was measured of ({names}) are plain {rest}")
    for entry in tally.fallbacks:
        progress.say(f"  {entry['tensor']} {entry['shape']}: {entry['reason']}")
    return tally


Graphs = dict[str, "ir.Model"]


@dataclass(frozen=True)
class Exporter:
    """How one kind of model becomes graphs.

    Attributes:
        package: that writes them.
        graphs: model directory, scratch directory -> graphs by file, and the builder's own settings.
        unrounded: graphs, model directory, scratch directory, properties -> a directory that a runtime loads.
    """

    package: str
    graphs: Callable[[Path, Path], tuple[Graphs, dict[str, Any] | None]]
    unrounded: Callable[[Graphs, Path, Path, dict[str, str]], Path]

    def versions(self) -> dict[str, str]:
        """For export.json."""
        from importlib.metadata import version

        return {"name": self.package, "version": version(self.package), "onnxruntime": version("onnxruntime")}


def _decoder(model_dir: Path, scratch: Path) -> tuple[Graphs, dict[str, Any] | None]:
    model, built = onnx_graph.decoder_graph(model_dir, scratch)
    return {"model": model}, built


def _classifier(model_dir: Path, scratch: Path) -> tuple[Graphs, dict[str, Any] | None]:
    from distill2edge.export.onnx_encoders import classifier_graph

    return {"model": classifier_graph(model_dir)}, None


def _tagger(model_dir: Path, scratch: Path) -> tuple[Graphs, dict[str, Any] | None]:
    from distill2edge.export.onnx_encoders import tagger_graph

    return {"model": tagger_graph(model_dir)}, None


def _embedder(model_dir: Path, scratch: Path) -> tuple[Graphs, dict[str, Any] | None]:
    from distill2edge.export.onnx_encoders import embedder_graph

    return {"model": embedder_graph(model_dir)}, None


def _encoder_decoder(model_dir: Path, scratch: Path) -> tuple[Graphs, dict[str, Any] | None]:
    from distill2edge.export.onnx_encoders import seq2seq_graphs

    return seq2seq_graphs(model_dir), None


def _built(graphs: Graphs, model_dir: Path, directory: Path, properties: dict[str, str]) -> Path:
    """The directory that the builder wrote."""
    return directory / "graph"


def _written(graphs: Graphs, model_dir: Path, directory: Path, properties: dict[str, str]) -> Path:
    """A directory with these graphs."""
    target = directory / "unrounded"
    target.mkdir()
    onnx_file.write_graphs(graphs, target, properties)
    shutil.copyfile(model_dir / "config.json", target / "config.json")
    return target


_EXPORTERS = {
    DECODER: Exporter("onnxruntime-genai", _decoder, _built),
    CLASSIFIER: Exporter("transformers", _classifier, _written),
    MULTI_LABEL: Exporter("transformers", _classifier, _written),
    REGRESSOR: Exporter("transformers", _classifier, _written),
    TAGGER: Exporter("transformers", _tagger, _written),
    EMBEDDER: Exporter("transformers", _embedder, _written),
    ENCODER_DECODER: Exporter("transformers", _encoder_decoder, _written),
}


def _start(model_dir: Path) -> int:
    """The token that a target begins after: the graphs don't say it, and no runtime may guess it."""
    from transformers import AutoConfig

    return start_token_id(AutoConfig.from_pretrained(model_dir, trust_remote_code=False, local_files_only=True))
