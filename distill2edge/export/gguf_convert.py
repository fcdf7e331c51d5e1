"""GGUF by llama.cpp's own converter, in a process of its own, for families that no writer here covers."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import UserError
from distill2edge.export import gguf_write
from distill2edge.export.converted import OWN_HEAD
from distill2edge.export.support import needs_converter
from distill2edge.gguf.reader import read_gguf
from distill2edge.intake import bundled
from distill2edge.util.files import disk_is_full, room_is_out
from distill2edge.util.interrupts import PARENT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distill2edge.export.gguf_vocab import Vocabulary
    from distill2edge.models.kinds import Kind
    from distill2edge.util.progress import Progress

SCRIPT = "convert_hf_to_gguf.py"
PACKAGE = "llama.cpp-converter"
"""Its entry in the table of bundled packages."""
_LAST_WORDS = 6
_SECONDS, _BYTES_PER_SECOND = 300, 4 << 20  # libraries are loaded first, and a busy machine takes its time


def fetched(progress: Progress) -> Path:
    """The script of the pinned llama.cpp, fetched the first time.

    Raises:
        EnvironmentFault: as `bundled.fetch`.
    """
    return bundled.fetch(PACKAGE, progress) / SCRIPT


@lru_cache(maxsize=4)
def architectures(script: Path) -> frozenset[str]:
    """The classes of transformers that the pinned converter knows, of text models."""
    text = (script.parent / "conversion" / "__init__.py").read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "TEXT_MODEL_MAP" and node.value is not None:
            return frozenset(ast.literal_eval(node.value))
    raise AssertionError(f"{script} lists no models")


def is_here() -> bool:
    """Whether the pinned converter was fetched."""
    return bundled.cached_path(PACKAGE) is not None


def known_here(config: Mapping[str, Any], kind: Kind) -> frozenset[str] | None:
    """What `support.refusals` takes as `known`, without a network: None where nobody can say before it is fetched."""
    if not needs_converter(config, kind):
        return frozenset()
    found = bundled.cached_path(PACKAGE)
    # The text model of a larger one names no class of its own; the model that is saved of it does.
    return architectures(found / SCRIPT) if found is not None and config.get("architectures") else None


def leaves_out_vocabulary(script: Path) -> bool:
    """Whether it can be told to: a script of one file cannot."""
    return (script.parent / "conversion").is_dir()


def convert(
    script: Path,
    model_dir: Path,
    target: Path,
    kind: str,
    meta: dict[str, Any],
    vocabulary: Vocabulary | None,
    template: str | None,
) -> None:
    """Write an unquantized GGUF.

    Args:
        script: `convert_hf_to_gguf.py`, in its checkout.
        target: file to write.
        kind: F32, F16 or BF16, the type of matrices.
        meta: the export's metadata, written over the converter's.
        vocabulary: in place of the converter's own; None where the tokenizer has no equal here.
        template: the chat template that the model was trained with.

    Raises:
        UserError: the converter failed, or took too long; its last words are in the message.
    """
    raw = target.with_name("converted.part")
    stored = sum(file.stat().st_size for file in model_dir.glob("*.safetensors"))
    limit = _SECONDS + stored // _BYTES_PER_SECOND
    own = vocabulary is not None
    _run(script, [str(int(own)), str(model_dir), "--outfile", str(raw), "--outtype", kind.lower()], limit)
    if not raw.is_file():
        raise UserError("the converter wrote no file", where=str(script), fix="run it by hand to see what it does")
    _complete(raw, target, meta, vocabulary, template)
    raw.unlink()


def _run(script: Path, arguments: list[str], limit: int) -> None:
    root = str(Path(__file__).resolve().parents[2])
    environment = {
        **os.environ,
        PARENT: str(os.getpid()),
        "HF_HUB_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",  # beside the fetched script, whose hash is checked
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
    }
    command = [sys.executable, "-m", "distill2edge.export.convert_worker", str(script), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=limit, env=environment, check=False)
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"llama.cpp's converter was ended: it took over {limit} s{_words(error.stderr)}",
            where=str(script),
            fix="run again on a machine that is less busy, or export to ONNX",
        ) from error
    if done.returncode:
        if room_is_out(Path(arguments[3]).parent):
            raise disk_is_full(Path(arguments[3]).parent)
        raise UserError(
            f"llama.cpp's converter failed{_words(done.stderr or done.stdout)}",
            where=str(script),
            fix="the words above say why; use another model, export to ONNX, or give a newer one with --converter PATH",
        )


def _words(text: bytes | None) -> str:
    lines = [line.strip() for line in (text or b"").decode("utf-8", "replace").splitlines() if line.strip()]
    return f"; its last words: {' | '.join(lines[-_LAST_WORDS:])[-1500:]}" if lines else ""


def _complete(
    source: Path, target: Path, meta: dict[str, Any], vocabulary: Vocabulary | None, template: str | None
) -> None:
    """Copy a GGUF with our metadata over its own, also the vocabulary and the chat template, and with all tensors that
    llama.cpp asks for."""
    import gguf

    read_gguf(source)
    reader = gguf.GGUFReader(source)
    ours = dict(gguf_write.metadata_fields(meta))
    named = "tokenizer.chat_template"
    if vocabulary is None and template:
        ours[named] = template
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents(), use_temp_file=False)
    for key, field in reader.fields.items():
        replaced = key.startswith("tokenizer.") if vocabulary is not None else key == named
        if key.startswith("GGUF.") or key == "general.architecture" or replaced or key in ours:
            continue
        sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), field.types[0], sub_type=sub)
    for key, value in ours.items():
        writer.add_uint32(key, value) if isinstance(value, int) else writer.add_string(key, value)
    if vocabulary is not None:
        vocabulary.write(writer)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if reader.fields["general.architecture"].contents() in OWN_HEAD and "token_embd.weight" in tensors:
        tensors.setdefault("output.weight", tensors["token_embd.weight"])
    for name, tensor in tensors.items():
        writer.add_tensor_info(name, tensor.data.shape, tensor.data.dtype, tensor.data.nbytes, tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors.values():
        writer.write_tensor_data(tensor.data)
    writer.close()
