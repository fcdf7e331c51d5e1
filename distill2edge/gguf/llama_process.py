"""llama.cpp in a process of its own, since it can abort: tokenize with a file's vocabulary, quantize a file.

Run as `python -m distill2edge.gguf.llama_process`: one JSON request on standard input, one JSON reply as the last
line of standard output. The library's log goes to standard error; its last lines are the words of a crash.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.util.files import disk_is_full, room_is_out
from distill2edge.util.interrupts import NO_BACKTRACE, PARENT, die_with_parent

_LAST_WORDS = 8
_SECONDS, _BYTES_PER_SECOND = 4, 25 << 20  # of the processor, for a file somebody else made
_OVER = {f"signal {getattr(signal, name, None)}" for name in ("SIGXCPU", "SIGKILL")}
_MEMORY = 8 << 30  # addresses; most of them are the libraries' own


def tokenize(path: Path, texts: Sequence[str], *, special: bool = True, around: bool = False) -> list[list[int]]:
    """Token ids of each text by llama.cpp with this file's vocabulary.

    Args:
        special: whether special tokens in the text are recognised.
        around: with the special tokens that llama.cpp itself puts before and after a text.

    Raises:
        UserError: llama.cpp cannot load the vocabulary.
        EnvironmentFault: llama-cpp-python is not installed.
    """
    request = {"do": "tokenize", "path": str(path), "texts": list(texts), "special": special, "around": around}
    reply = _call(request, str(path), limited=path.stat().st_size)
    return [list(map(int, ids)) for ids in reply["ids"]]


def check_loads(path: Path) -> None:
    """Load a file and compute one token, or one text of a classifier: what would end a process ends that one.

    Raises:
        UserError: llama.cpp refuses the file, or crashes or takes very long over it.
        EnvironmentFault: llama-cpp-python is not installed.
    """
    _call({"do": "load", "path": str(path)}, str(path), limited=path.stat().st_size)


def quantize(
    source: Path,
    target: Path,
    ftype: int,
    *,
    threads: int,
    imatrix: Path | None = None,
) -> None:
    """Quantize a GGUF into another with `llama_model_quantize`.

    Args:
        imatrix: importance matrix, as `gguf.imatrix` writes it.

    Raises:
        UserError: llama.cpp refused or crashed; its last words are in the message.
        EnvironmentFault: llama-cpp-python is not installed.
    """
    request = {
        "do": "quantize",
        "source": str(source),
        "target": str(target),
        "ftype": ftype,
        "threads": threads,
        "imatrix": str(imatrix) if imatrix else None,
    }
    _call(request, str(source))


def _call(request: dict[str, Any], where: str, *, limited: int | None = None) -> dict[str, Any]:
    """Ask a process.

    Args:
        limited: bytes of a file whose work takes seconds at most: the process is held to that, and to some memory.
    """
    if limited is not None:
        request = {**request, "seconds": _SECONDS + limited // _BYTES_PER_SECOND, "bytes": _MEMORY + 3 * limited}
    package_root = str(Path(__file__).resolve().parents[2])
    environment = {
        **os.environ,
        **NO_BACKTRACE,
        PARENT: str(os.getpid()),
        "PYTHONPATH": os.pathsep.join([package_root, os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name if __spec__ else __name__],
        input=json.dumps(request).encode(),
        capture_output=True,
        env=environment,
        check=False,
    )
    words = done.stderr.decode("utf-8", "replace").strip().splitlines()
    if done.returncode == 0:
        reply: dict[str, Any] = json.loads(done.stdout.decode().splitlines()[-1])
        if "missing" in reply:
            raise EnvironmentFault(
                f"llama-cpp-python cannot be loaded: {reply['missing']}", fix="pip install llama-cpp-python"
            )
        if "error" not in reply:
            return reply
        what = reply["error"]
    else:
        over = "seconds" in request and _signal(done.returncode) in _OVER
        ended = f"took over {request['seconds']} s" if over else f"ended with {_signal(done.returncode)}"
        what = f"llama.cpp {ended}"
    if request["do"] == "quantize" and room_is_out(Path(request["target"]).parent):
        raise disk_is_full(Path(request["target"]).parent)
    tail = " | ".join(words[-_LAST_WORDS:])
    raise UserError(
        f"{what} while asked to {request['do']}" + (f"; its last words: {tail}" if tail else ""),
        where=where,
        fix="the words above say why; another scheme or another file may work",
    )


def _signal(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _main() -> dict[str, Any]:
    die_with_parent(int(os.environ[PARENT]) if PARENT in os.environ else None)
    request = json.load(sys.stdin)
    _limit(request)
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        return {"missing": str(error)}
    # The package installs a logger of its own that hides everything below an error; we want the last words.
    log = llama_cpp.llama_log_callback(lambda level, text, data: os.write(2, text))
    llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return {"tokenize": _tokenize, "load": _load, "quantize": _quantize}[request["do"]](llama_cpp, request)


def _limit(request: dict[str, Any]) -> None:
    if "seconds" not in request:
        return
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (request["seconds"], request["seconds"] + 1))
        resource.setrlimit(resource.RLIMIT_AS, (request["bytes"], request["bytes"]))


def _load(api: Any, request: dict[str, Any]) -> dict[str, Any]:
    params = api.llama_model_default_params()
    params.n_gpu_layers = 0
    model = api.llama_model_load_from_file(request["path"].encode(), params)
    if not model:
        return {"error": "llama.cpp cannot load the file"}
    settings = api.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = 32
    settings.n_threads = settings.n_threads_batch = 1
    context = api.llama_init_from_model(model, settings)
    if not context:
        return {"error": "llama.cpp cannot open a context"}
    token = (api.llama_token * 1)(0)
    batch = api.llama_batch_get_one(token, 1)
    run = api.llama_encode if api.llama_model_has_encoder(model) else api.llama_decode
    if (status := run(context, batch)) != 0:
        return {"error": f"llama.cpp returned {status}"}
    return {}


def _tokenize(api: Any, request: dict[str, Any]) -> dict[str, Any]:
    params = api.llama_model_default_params()
    params.vocab_only = True
    params.n_gpu_layers = 0
    model = api.llama_model_load_from_file(request["path"].encode(), params)
    if not model:
        return {"error": "llama.cpp cannot load the vocabulary"}
    vocab = api.llama_model_get_vocab(model)
    found: list[list[int]] = []
    for text in request["texts"]:
        raw = text.encode()
        room = len(raw) + 16
        buffer = (api.llama_token * room)()
        count = api.llama_tokenize(vocab, raw, len(raw), buffer, room, request["around"], request["special"])
        if count < 0:
            return {"error": f"llama.cpp cannot tokenize {text!r}"}
        found.append(list(buffer[:count]))
    api.llama_model_free(model)
    return {"ids": found}


def _quantize(api: Any, request: dict[str, Any]) -> dict[str, Any]:
    params = api.llama_model_quantize_default_params()
    params.ftype = request["ftype"]
    params.nthread = request["threads"]
    # The arrays end with an entry of null; what they point to must live until the call returns.
    keep: list[Any] = []
    if request["imatrix"]:
        from distill2edge.gguf.imatrix import read_imatrix

        means = read_imatrix(Path(request["imatrix"])).means()
        entries = (api.llama_model_imatrix_data * (len(means) + 1))()
        for entry, (name, values) in zip(entries, means.items(), strict=False):
            entry.name, entry.size = name.encode(), len(values)
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = entries
        keep += [means, entries]
    status = api.llama_model_quantize(request["source"].encode(), request["target"].encode(), ctypes.byref(params))
    return {} if status == 0 else {"error": f"llama.cpp returned {status}"}


if __name__ == "__main__":
    print("\n" + json.dumps(_main()), flush=True)
