"""The unquantized GGUF of a model, which every scheme is made from: written here or by llama.cpp's own converter, and
compared with the model's tokenizer and with PyTorch."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.export import gguf_convert, gguf_vocab, gguf_write, support
from distill2edge.export.faithful import Check
from distill2edge.export.found_layout import found_layout
from distill2edge.export.gguf_compare import compare_tokenizers
from distill2edge.gguf.ggml_types import GGML_TYPES
from distill2edge.gguf.hf_layout import Layout, layout_of
from distill2edge.gguf.reader import read_gguf
from distill2edge.handover.write import form_for, template_for
from distill2edge.models.kinds import DECODER, kind_of
from distill2edge.models.loading import read_config
from distill2edge.pipeline.artifact import sha256_of
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.util.files import scratch
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    from distill2edge.data.model_inputs import InputForm
    from distill2edge.quantize.schemes import Scheme

_COMPARED: dict[tuple[str, ...], dict[str, Any]] = {}
"""What comparisons in this process said, by what they read."""


def converter_for(model_dir: Path, scheme: Scheme, chosen: Path | None, progress: Progress) -> Path | None:
    """The converter that writes a model; None: a writer here does.

    Args:
        chosen: a llama.cpp checkout's, which is then used for every family.

    Raises:
        UserError: nobody can write it.
        EnvironmentFault: the pinned llama.cpp's cannot be fetched.
    """
    config = read_config(model_dir)
    kind = kind_of(config)
    if chosen is not None:
        if not chosen.is_file():
            raise UserError("no such converter", where=str(chosen),
                            fix="give the path of convert_hf_to_gguf.py in a llama.cpp checkout")  # fmt: skip
        support.refuse(config, kind, scheme, str(model_dir), None)
        return chosen
    if not support.needs_converter(config, kind):
        support.refuse(config, kind, scheme, str(model_dir))
        return None
    script = gguf_convert.fetched(progress)
    support.refuse(config, kind, scheme, str(model_dir), gguf_convert.architectures(script))
    return script


def rehearse(model_dir: Path, form: str, work: Path, progress: Progress, *, converter: Path | None = None) -> None:
    """Convert a model that a converter will have to write once it is trained: what fails then is to fail now.

    Args:
        form: how it reads, as `input.json` has it.
        work: directory for files that are deleted again.
        converter: as `converter_for`'s `chosen`.

    Raises:
        UserError: as `export_gguf`: nobody can write it, the converter fails or takes too long, or the file is another
            model.
        EnvironmentFault: the converter cannot be fetched.
    """
    if kind_of(read_config(model_dir)) is not DECODER:
        return
    scheme = parse_scheme(f"gguf:{gguf_write.source_type(model_dir)}")
    script = converter_for(model_dir, scheme, converter, progress)
    if script is None:
        return
    progress.say("trying llama.cpp's converter on the student, before it is trained")
    tokenizer = gguf_vocab.load_tokenizer(model_dir)
    meta = {"input": form}
    with scratch(work, "rehearsal") as directory:
        write(
            model_dir, directory / "base.gguf", scheme.base, script, tokenizer, form_for(model_dir, meta, tokenizer),
            meta, progress,
        )  # fmt: skip


def write(
    model_dir: Path,
    base: Path,
    kind: str,
    converter: Path | None,
    tokenizer: Any,
    form: InputForm,
    meta: dict[str, Any],
    progress: Progress,
) -> dict[str, Any]:
    """Write the unquantized GGUF, in numbers of type `kind`, and compare its tokenizer and its logits with the model's.

    Every scheme of one model is made from the same unquantized bytes, and comparing them takes longer than all the
    rest: once in a process is enough (docs/decisions/0017-one-comparison-for-all-schemes.md).

    Returns:
        for export.json: tokenizer, faithful, converter.
    """
    _room(model_dir, base.parent, kind)
    vocabulary = _vocabulary(model_dir, converter, tokenizer, form, progress)
    if converter is None:
        gguf_write.write_gguf(model_dir, base, kind, vocabulary, meta, progress)
    else:
        progress.say(f"  converting to GGUF ({kind}) with llama.cpp's own converter")
        gguf_convert.convert(converter, model_dir, base, kind, meta, vocabulary, template_for(form, tokenizer))
    seen = _fingerprint(model_dir, base, converter)
    if seen in _COMPARED:
        progress.say("  the unquantized file is the one that was compared with PyTorch for another scheme")
    else:
        model = kind_of(read_config(model_dir)).name
        check = Check(model_dir, model, "llama.cpp", progress, str(GGML_TYPES[kind].dtype))
        _COMPARED[seen] = {
            "tokenizer": compare_tokenizers(tokenizer, read_gguf(base), form, strict=vocabulary is not None),
            "faithful": check.of(base, base.parent / "compare"),
        }
    return {**copy.deepcopy(_COMPARED[seen]), "converter": "built-in" if converter is None else converter.name}


def layout_of_base(base: Path, model_dir: Path, converter: Path | None) -> Layout:
    """Which weight each matrix of an unquantized file is."""
    return layout_of(model_dir) if converter is None else found_layout(base, model_dir)


def layout_for(model_dir: Path, work: Path, progress: Progress, *, converter: Path | None = None) -> Layout:
    """The layout of the GGUFs of a model. Of a family that a converter writes, it is written for that.

    Args:
        work: directory for a file that is deleted again.
        converter: as `converter_for`'s `chosen`.
    """
    scheme = parse_scheme(f"gguf:{gguf_write.source_type(model_dir)}")
    script = converter_for(model_dir, scheme, converter, progress)
    if script is None:
        return layout_of(model_dir)
    tokenizer = gguf_vocab.load_tokenizer(model_dir)
    with scratch(work, "layout") as directory:
        path = directory / "base.gguf"
        vocabulary = _vocabulary(model_dir, script, tokenizer, form_for(model_dir, {}, tokenizer), progress)
        gguf_convert.convert(script, model_dir, path, scheme.base, {}, vocabulary, None)
        return found_layout(path, model_dir)


def _fingerprint(model_dir: Path, base: Path, converter: Path | None) -> tuple[str, ...]:
    """Of what a comparison reads: the directory with its configuration and tokenizer, and every byte of the file."""
    small = sorted(path for pattern in ("*.json", "*.jinja", "*.txt", "*.model") for path in model_dir.glob(pattern))
    return (str(model_dir.resolve()), str(converter), *(sha256_of(path) for path in (base, *small)))


def _vocabulary(
    model_dir: Path, converter: Path | None, tokenizer: Any, form: InputForm, progress: Progress
) -> gguf_vocab.Vocabulary | None:
    """What the file gets as its tokenizer; None where the converter's own is all there is."""
    if converter is not None and not gguf_convert.leaves_out_vocabulary(converter):
        return None
    config = read_config(model_dir)
    size = (config.get("text_config") or config)["vocab_size"]
    ends = [*form.stop, *_eos_ids(model_dir)]  # the first after EOS itself becomes the end of a turn
    try:
        vocabulary = gguf_vocab.vocabulary_of(tokenizer, size, ends, str(model_dir))
    except gguf_vocab.NoEqual as error:
        if converter is None:
            raise
        progress.say(f"  the converter writes the tokenizer: {error.what}")
        return None
    vocabulary.chat_template = template_for(form, tokenizer)
    return vocabulary


def _eos_ids(model_dir: Path) -> list[int]:
    path = model_dir / "generation_config.json"
    found = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
    return [] if found is None else list(found) if isinstance(found, list) else [found]


def _room(model_dir: Path, work: Path, kind: str) -> None:
    stored = sum(file.stat().st_size for file in model_dir.glob("*.safetensors"))
    base = stored * GGML_TYPES[kind].block_bytes // GGML_TYPES[gguf_write.source_type(model_dir)].block_bytes
    free = shutil.disk_usage(work).free
    if free < 2 * base:
        raise EnvironmentFault(f"{free >> 20} MiB free, about {2 * base >> 20} MiB needed", where=str(work),
                               fix="free some disk space, or move the store")  # fmt: skip
