"""Checks that the model in this folder computes here what it computed where it was verified. It needs what predict.py
needs, and nothing else.

python selftest.py            under 30 seconds on one thread: says what it found, and writes proof.json

Looked at: the files (SHA-256), the tokens of texts, the prompt around them, the bytes of the key-value cache, and how
far the probabilities are from those in reference.json. Then speed and memory. Exit code 3: something is not as it was.
`distill2edge report RUN --add proof.json` puts the figures beside the run's own.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import platform
import struct
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
REFERENCE, PROOF = "reference.json", "proof.json"
ENCODERS = ("classifier", "multi-label", "regressor", "tagger", "embedder")
VALUES = ("regressor", "embedder")
"""Kinds that say numbers, not probabilities."""
FIDELITY_S, SPEED_S = 12.0, 3.0
"""After so many seconds no further probe begins, and no further measurement of speed."""
FAILED = 3


def outputs(model: Any, form: dict[str, Any], ids: list[int], types: list[int], start: int) -> np.ndarray:
    """What the model says of a probe: log-probabilities [positions, outcomes], or of a vector its numbers [1, D].

    Args:
        ids: of a model that writes, the prompt and what follows it.
        start: of those, the first token whose probability is looked at; before it stands the prompt.
    """
    kind = form["kind"]
    if kind not in ENCODERS:
        rows = [model.read(ids[:start])[None]]
        if len(ids) > start + 1:
            rows.append(model.feed(ids[start:-1]))
        return log_softmax(np.concatenate(rows))
    found = np.atleast_2d(model.scores(ids, types))
    if kind in VALUES:
        return found.astype(np.float64)
    if kind == "multi-label":  # each label is an event of its own
        return np.stack([-np.logaddexp(0, -found[0]), -np.logaddexp(0, found[0])], axis=1)
    return log_softmax(found)


def log_softmax(rows: np.ndarray) -> np.ndarray:
    """Log-probabilities [n, V] of logits in float32, whose sums are of float64."""
    rows = rows.astype(np.float32)
    rows -= rows.max(axis=1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True, dtype=np.float64)).astype(np.float32)


def kl(reference: np.ndarray, found: np.ndarray) -> np.ndarray:
    """KL(reference || found) in nats at each position, of k outcomes and the rest as one.

    Args:
        reference, found: [n, k] log-probabilities of the same outcomes.
    """
    p, q = np.exp(reference), np.exp(found)
    rest_p, rest_q = np.maximum(1 - p.sum(axis=1), 0), np.maximum(1 - q.sum(axis=1), 1e-12)
    known = (p * (reference - found)).sum(axis=1)
    rest = np.where(rest_p > 1e-9, rest_p * (np.log(np.maximum(rest_p, 1e-12)) - np.log(rest_q)), 0.0)
    return np.maximum(known + rest, 0.0)  # never negative, but for rounding


def distance(reference: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Squared distance of each vector [n, D] from its reference, in squares of the reference's length."""
    size = np.maximum((reference**2).sum(axis=1), 1e-12)
    return ((reference - found) ** 2).sum(axis=1) / size


def divergence(kind: str, reference: np.ndarray, found: np.ndarray) -> np.ndarray:
    """How far each position is from its reference: KL, or of numbers the distance. Infinite where it is undefined."""
    each = (distance if kind in VALUES else kl)(reference, found)
    return np.where(np.isfinite(found).all(axis=1), each, np.inf)


def packed(values: np.ndarray, kind: str) -> str:
    """Numbers as text; `kind` is NumPy's name of their type."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=kind).tobytes()).decode("ascii")


def unpacked(text: str, kind: str, width: int) -> np.ndarray:
    """What `packed` wrote, as [n, width]."""
    return np.frombuffer(base64.b64decode(text), dtype=kind).reshape(-1, width)


def sha256_of(path: Path) -> str:
    """Of a file, which may be larger than the memory."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def digest_of(document: dict[str, Any]) -> str:
    """SHA-256 of a document without its `digest`: what was altered by hand no longer has it."""
    rest = {name: value for name, value in document.items() if name != "digest"}
    return hashlib.sha256(canonical(rest).encode("utf-8", "surrogatepass")).hexdigest()


def canonical(value: Any) -> str:
    """One text for a JSON value, in any language: numbers as the bytes of a double, keys in order, no blanks."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{canonical(name)}:{canonical(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return struct.pack(">d", value).hex()
    return json.dumps(value, ensure_ascii=False)


def different_files(reference: dict[str, Any], where: Path) -> list[str]:
    """Names of the files that are missing, or not those that were packed."""
    return [
        name
        for name, sha256 in reference["files"].items()
        if not (where / name).is_file() or sha256_of(where / name) != sha256
    ]


def bare_hash(reader: Any, text: str) -> str:
    """What the tokens of a text are known by."""
    return hashlib.sha256(json.dumps(reader.bare(text)).encode()).hexdigest()[:12]


def read_tokens(predict: Any, reference: dict[str, Any], form: dict[str, Any], reader: Any) -> dict[str, Any]:
    """The texts that are read in other tokens, and the prompts that are written otherwise."""
    texts = [text for text, known in reference["tokenizer"] if bare_hash(reader, text) != known]
    prompts = []
    for probe in reference["probes"]:
        ids, types = predict.encode(probe["texts"], form, reader)
        wanted = probe["ids"][: probe["prompt"]]
        if ids != wanted or (types if any(types) else []) != probe["types"]:
            prompts.append(probe["texts"][0])
    return {
        "texts": len(reference["tokenizer"]),
        "different": texts,
        "prompts": len(reference["probes"]),
        "different_prompts": prompts,
    }


def read_probes(reference: dict[str, Any], form: dict[str, Any], model: Any, budget_s: float) -> np.ndarray:
    """What the model says of the outcomes that the reference knows [n, k], of as many probes as time allows."""
    width = reference["outcomes"]
    ids = unpacked(reference["ids"], "<u4", width).astype(np.int64)
    found: list[np.ndarray] = []
    begun, at = time.monotonic(), 0
    for probe in reference["probes"]:
        if found and time.monotonic() - begun > budget_s:
            break
        types = probe["types"] or [0] * len(probe["ids"])
        said = outputs(model, form, probe["ids"], types, probe["start"])
        found.append(np.take_along_axis(said, ids[at : at + len(said)], axis=1))
        at += len(said)
    return np.concatenate(found).astype(np.float32)


def compared(reference: dict[str, Any], kind: str, found: np.ndarray, rows: list[int] | None = None) -> dict[str, Any]:
    """How far the numbers are from the reference, and whether that is within what rounding alone explains.

    Args:
        rows: which positions of the reference were looked at; None: the first.
    """
    known = unpacked(reference["logprobs"], "<f4", reference["outcomes"])
    wanted = known[: len(found)] if rows is None else known[rows]
    wanted = wanted.astype(np.float64)
    each = divergence(kind, wanted, found.astype(np.float64))
    mean, most = float(each.mean()), float(each.max())
    agrees = float((found.argmax(axis=1) == wanted.argmax(axis=1)).mean())
    return {
        "measure": "distance" if kind in VALUES else "kl",
        "mean": mean if np.isfinite(mean) else None,
        "max": most if np.isfinite(most) else None,
        "top1": None if kind in VALUES else agrees,
        "positions": len(found),
        "of": len(known),
        "tolerance": reference["tolerance"],
        "passed": bool(mean <= reference["tolerance"]),
    }


def cache_bytes(predict: Any, reference: dict[str, Any], model: Any) -> int | None:
    """Bytes that the key-value cache grows by for the tokens of the first probe: they tell its type."""
    if reference["kind"] in ENCODERS:
        return None
    ids = reference["probes"][0]["ids"]
    start = reference["probes"][0]["start"]
    model.read(ids[:start])
    before = predict.held(model)
    model.feed(ids[start:])
    return predict.held(model) - before


def speed(reference: dict[str, Any], form: dict[str, Any], model: Any, budget_s: float) -> dict[str, float | None]:
    """Tokens/s of reading and of writing, or texts/s; medians of what the time allows."""
    probe = max(reference["probes"], key=lambda each: len(each["ids"]))
    ids, types, begun = probe["ids"], probe["types"] or [0] * len(probe["ids"]), time.monotonic()
    reading: list[float] = []
    writing: list[float] = []
    writes = reference["kind"] not in ENCODERS
    while not reading or (time.monotonic() - begun < budget_s / (2 if writes else 1) and len(reading) < 20):
        start = time.perf_counter()
        logits = model.read(ids[: probe["prompt"]]) if writes else model.scores(ids, types)
        reading.append(time.perf_counter() - start)
    while writes and (not writing or (time.monotonic() - begun < budget_s and len(writing) < 64)):
        start = time.perf_counter()
        logits = model.feed([int(np.argmax(logits))])[-1]
        writing.append(time.perf_counter() - start)
    once = float(np.median(reading))
    return {
        "prefill_tps": probe["prompt"] / once if writes else None,
        "decode_tps": 1 / float(np.median(writing)) if writing else None,
        "texts_per_s": None if writes else 1 / once,
    }


def peak_rss_bytes() -> int | None:
    """The most memory this process held; null where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most if sys.platform == "darwin" else most * 1024)


def device(name: str) -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    for place in ("/proc/device-tree/model", "/proc/cpuinfo"):  # what a board, or a processor, calls itself
        try:
            said = Path(place).read_text(errors="replace").strip("\0\n")
        except OSError:
            continue
        lines = said.splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
        cpu = lines[0] if len(lines) == 1 else names[0] if names else cpu
        break
    known = {}
    for package in ("onnxruntime", "llama-cpp-python", "tokenizers", "numpy"):
        try:
            known[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return {"name": name or cpu, "cpu": cpu, "cores": os.cpu_count(), "os": system,
            "python": platform.python_version(), "versions": known}  # fmt: skip


def faults_of(checks: dict[str, Any]) -> list[str]:
    """What is not as it was, in words."""
    found = [f"{name} is missing, or another file" for name in checks["files"]["different"]]
    tokens, cache, fidelity = checks["tokens"], checks["cache"], checks["fidelity"]
    if tokens and tokens["different"]:
        found.append(f"the tokenizer reads {len(tokens['different'])} of {tokens['texts']} texts in other tokens")
    if tokens and tokens["different_prompts"]:
        found.append(f"{len(tokens['different_prompts'])} of {tokens['prompts']} prompts are other tokens (template)")
    if cache and cache["bytes"] != cache["wanted"]:
        found.append(f"the key-value cache is of another type: {cache['bytes']} bytes, not {cache['wanted']}")
    if fidelity and not fidelity["passed"]:
        found.append(f"it computes otherwise: {fidelity['measure']} above what rounding explains")
    if checks["opened"]:
        found.append(checks["opened"])
    return found


def prove(where: Path, threads: int, name: str) -> dict[str, Any]:
    """The whole proof. A model whose own files are others is not opened."""
    begun = time.monotonic()
    text = (where / REFERENCE).read_bytes()
    reference = json.loads(text)
    checks: dict[str, Any] = {"files": {"count": len(reference["files"]), "different": []}}
    checks |= {"tokens": None, "cache": None, "fidelity": None, "opened": ""}
    checks["files"]["different"] = different_files(reference, where)
    timed: dict[str, Any] = {}
    found = np.zeros((0, reference["outcomes"]), dtype=np.float32)
    if not set(checks["files"]["different"]) & set(reference["opened"]):
        try:
            found = _measure(where, reference, threads, checks, timed)
        except (Exception, SystemExit) as error:  # a broken file, or a runtime that cannot open it
            checks["opened"] = f"it cannot be run here: {error}"
    faults = faults_of(checks)
    document = {
        "schema_version": 1,
        "reference_sha256": hashlib.sha256(text).hexdigest(),
        "model": reference["model"],
        "target": reference["target"],
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "passed": not faults,
        "faults": faults,
        "checks": checks,
        "speed": timed,
        "threads": threads,
        "peak_rss_bytes": peak_rss_bytes(),
        "seconds": round(time.monotonic() - begun, 2),
        "device": device(name),
        "rows": list(range(len(found))),
        "found": packed(found, "<f4"),
    }
    return {**document, "digest": digest_of(document)}


def _measure(
    where: Path, reference: dict[str, Any], threads: int, checks: dict[str, Any], timed: dict[str, Any]
) -> np.ndarray:
    sys.path.insert(0, str(where))
    import predict

    form = json.loads((where / "input.json").read_text(encoding="utf-8"))
    start = time.monotonic()
    reader, model = predict.load(form, threads)
    timed["load_s"] = round(time.monotonic() - start, 3)
    checks["tokens"] = read_tokens(predict, reference, form, reader)
    if reference["cache_bytes"] is not None:
        checks["cache"] = {"bytes": cache_bytes(predict, reference, model), "wanted": reference["cache_bytes"]}
    found = read_probes(reference, form, model, FIDELITY_S)
    checks["fidelity"] = compared(reference, reference["kind"], found)
    timed |= speed(reference, form, model, SPEED_S)
    return found


def main() -> None:
    """Reads the command line, writes the proof, says what it found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="", metavar="NAME", help="what this device is called in the report")
    parser.add_argument("--threads", type=int, default=1, help="1, as the reference was made")
    parser.add_argument(
        "--out", type=Path, default=HERE / PROOF, help=f"where the proof goes ({PROOF} beside this file)"
    )
    options = parser.parse_args()
    proof = prove(HERE, options.threads, options.device)
    options.out.write_text(json.dumps(proof, indent=1) + "\n", encoding="utf-8")
    fidelity = proof["checks"]["fidelity"]
    if fidelity and fidelity["mean"] is not None:
        print(f"{fidelity['measure']} {fidelity['mean']:.3g} over {fidelity['positions']} positions")
    shown = {name: value for name, value in proof["speed"].items() if value is not None}
    print(", ".join(f"{name} {value:.3g}" for name, value in shown.items()))
    for fault in proof["faults"]:
        print(f"fault: {fault}", file=sys.stderr)
    print(f"{'passed' if proof['passed'] else 'FAILED'} in {proof['seconds']:.1f} s: {options.out}")
    sys.exit(0 if proof["passed"] else FAILED)


if __name__ == "__main__":
    main()
