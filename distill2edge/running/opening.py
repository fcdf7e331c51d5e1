"""Opening a model that answers: a file of a run, a GGUF, or a directory of ONNX or Hugging Face."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill2edge.data.model_inputs import KEY, InputForm, default_form, parse_form, read_form
from distill2edge.data.tokens import stop_token_ids
from distill2edge.errors import UserError
from distill2edge.intake.tokenizer_files import open_tokenizer
from distill2edge.models.kinds import kind_of_directory, kind_of_gguf
from distill2edge.models.kv_cache import PLAIN
from distill2edge.models.loading import context_of
from distill2edge.running.answering import OpenModel
from distill2edge.running.reading import choose_export
from distill2edge.runtimes import open_runtime
from distill2edge.runtimes.protocol import reader_of
from distill2edge.util.threads import available_threads

CONTEXT = 2048
"""The most tokens of prompt and answer together, where the model reads no fewer."""


def open_model(target: Path | str, scheme: str | None = None, *, kv_cache: str = PLAIN) -> OpenModel:
    """Load a model to ask it: of a run (its directory or recipe) one of its files; a `.gguf` file; a directory of ONNX
    or Hugging Face.

        with d2e.open_model("runs/tickets", "gguf:Q4_0") as model:
            print(model.answer("My parcel is late."))

    Args:
        scheme: which file of a run; by default the smallest that passed.
        kv_cache: of a GGUF's decoder, the type of keys and values: `f16`, `q8_0` or `q4_0`.

    Raises:
        UserError: nothing that can be loaded there, no such scheme, a run over several seeds, keys and values in a type
            that its runtime does not have.
    """
    path = choose_export(Path(target), scheme)
    gguf = path if path.suffix == ".gguf" else path / "model.gguf"
    return _open_gguf(gguf, kv_cache) if gguf.is_file() else _open_directory(path, kv_cache)


def _open_gguf(path: Path, cache: str) -> OpenModel:
    from distill2edge.gguf.finite import check_finite
    from distill2edge.gguf.llama_process import check_loads
    from distill2edge.gguf.reader import read_gguf
    from distill2edge.runtimes.llama_tokenizer import LlamaTokenizer

    check_loads(path)  # llama.cpp ends the process over some damaged files
    file = read_gguf(path)
    check_finite(file)
    window = file.get(".context_length")
    context = (
        min(CONTEXT, int(window)) if isinstance(window, int) and not kind_of_gguf(file.architecture).pairs else CONTEXT
    )
    runtime: Any = open_runtime("llama.cpp", path, threads=available_threads(), context=max(context, 1), cache=cache)
    tokenizer: Any = LlamaTokenizer(runtime)
    stated = file.get(KEY)
    if stated is not None:
        form = parse_form(str(stated), str(path))
    else:
        labels, pooling = file.get(".classifier.output_labels"), file.get(".pooling_type")
        form = default_form(kind_of_gguf(file.architecture, labels, pooling), tokenizer)
    return _loaded(runtime, tokenizer, form, path)


def _open_directory(path: Path, cache: str) -> OpenModel:
    if not (path / "tokenizer.json").is_file() and not (path / "tokenizer_config.json").is_file():
        raise UserError("no model with a tokenizer here", where=str(path), fix="give an export of `distill2edge run`")
    runtime_name = "onnxruntime" if any((path / name).is_file() for name in ("model.onnx", "encoder.onnx")) else "torch"
    tokenizer: Any = open_tokenizer(path, None)
    kind = kind_of_directory(path)
    runtime: Any = open_runtime(runtime_name, path, threads=available_threads(), context=_window(path), cache=cache)
    return _loaded(runtime, tokenizer, read_form(path) or default_form(kind, tokenizer), path)


def _loaded(runtime: Any, tokenizer: Any, form: InputForm, path: Path) -> OpenModel:
    if form.reading.answers == (reader_of(runtime) is not None):
        raise UserError(f"it says that it holds a {form.kind}, and its model is another kind", where=str(path),
                        fix="export the model again")  # fmt: skip
    stop: Sequence[int | None] = form.stop
    if not stop and form.reading.answers:
        stop = (*stop_token_ids(tokenizer, form.template), getattr(tokenizer, "eot_token_id", None))
    return OpenModel(runtime, tokenizer, form, frozenset(token for token in stop if token is not None), str(path))


def _window(path: Path) -> int:
    """Positions of a directory's model: no more than it has."""
    found = context_of(path)
    return CONTEXT if found is None else min(CONTEXT, found)
