"""What 1 million to 10 billion tokens take: arithmetic on measured constants and on stated assumptions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

HERE = Path(__file__).parent
RESULTS, PRICES = HERE.parent / "results", HERE.parents[1] / "distill2edge" / "cost" / "prices.yaml"

ASSUMED = {
    # The card of prices.yaml, by its maker's figures: dense bfloat16 FLOPs and bytes a second, and its bytes.
    "peak": 756e12, "bandwidth": 2.0e12, "memory": 80e9,
    # Shares of them: reading rows, a training step, the weights' bytes while writing so many answers at once.
    "reads": 0.40, "trains": 0.35, "writes": 0.50, "together": 64,
    # Of the machine: cards, and bytes a second to the store.
    "gpus": 8, "network": 10e9 / 8,
    # Tokens of a row, and the share that is its prompt.
    "row": 512, "prompt": 0.25,
}  # fmt: skip
TOKENS = {"1M": 1e6, "100M": 1e8, "10B": 1e10}
PAIRS = (("1B", 1e9, "135M", 0.135e9), ("70B", 70e9, "1B", 1e9))
API = "openai-gpt-5.6-luna"
BINDS = {
    "rows": "rows, one core", "teacher": "teacher, GPUs", "student": "student, GPUs", "signal": "reading the signal",
    "network": "network",
}  # fmt: skip


def scale() -> str:
    """The page."""
    known = {**ASSUMED, **measured()}
    page = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    return page.from_string((HERE / "scale.md.j2").read_text(encoding="utf-8")).render(
        **known,
        logits=list(logits(known)),
        written=list(written(known)),
        waits=known["read_s"] * known["peak"] * known["trains"] / 6,
        api_name=API,
        us=lambda seconds: f"{1e6 * seconds:.2g}",
        percent=lambda share: f"{share:.0%}",
        time=time_of,
        dollars=dollars_of,
        usd=lambda seconds: dollars_of(seconds * known["gpu_hour"] * known["gpus"] / 3600),
        size=size_of,
    )


def measured() -> dict[str, Any]:
    """Seconds of a row and a token, bytes of a token, dollars: of the result files and the price list."""
    of_token = _metrics("scale_constants")
    seconds = {name: found["median"] * 1e-6 for name, found in of_token["microseconds_per_token"].items()}
    sizes, prices = of_token["bytes_per_token"], yaml.safe_load(PRICES.read_text(encoding="utf-8"))
    asked = prices["api"][API]
    return {
        "row_s": _metrics("data_stage")["2000000"]["microseconds_per_row"] * 1e-6,
        "encode_s": seconds["encode"] + seconds["store encoded"],
        "read_s": seconds["read"],
        "signal_bytes": sizes["signal"],
        "row_bytes": sizes["text"] + sizes["encoded"],
        "gpu_hour": prices["rented"]["gpu-h100"]["usd_per_hour"]["value"],
        "api": (asked["input"]["value"], asked["output"]["value"]),
    }


def _metrics(name: str) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["metrics"]
    return metrics


def logits(known: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Of each pair and number of tokens: seconds of each part on the machine, bytes, the part that takes longest."""
    flops = known["peak"] * known["gpus"]
    for teacher, weights, student, trained in PAIRS:
        for name, tokens in TOKENS.items():
            disk = (known["signal_bytes"] + known["row_bytes"]) * tokens
            seconds = {
                "rows": (known["row_s"] / known["row"] + known["encode_s"]) * tokens,
                "teacher": 2 * weights * tokens / (flops * known["reads"]),
                "student": 6 * trained * tokens / (flops * known["trains"]),
                "signal": known["read_s"] * tokens / known["gpus"],
                "network": disk / known["network"],
            }
            longest = max(seconds, key=lambda part: seconds[part])
            yield {
                "pair": f"{teacher}, {student}", "tokens": name, "seconds": seconds, "disk": disk,
                "binds": BINDS[longest],
            }  # fmt: skip


def written(known: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Of each teacher and number of tokens: seconds of the machine, where every step of a batch reads all weights once
    (2 bytes each) or multiplies by them, whichever takes longer; and the dollars of an API."""
    flops, prompt = known["peak"] * known["reads"], known["prompt"]
    for teacher, weights, _, _ in PAIRS:
        step = 2 * weights * max(1 / (known["bandwidth"] * known["writes"]), known["together"] / flops)
        each = (1 - prompt) * step / known["together"] + prompt * 2 * weights / flops
        price = (prompt * known["api"][0] + (1 - prompt) * known["api"][1]) / 1e6
        for name, tokens in TOKENS.items():
            yield {
                "teacher": teacher,
                "tokens": name,
                "seconds": each * tokens / known["gpus"],
                "asked": price * tokens,
            }


def time_of(seconds: float) -> str:
    """In the largest unit of which there are at least one and a half."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"


def dollars_of(dollars: float) -> str:
    """Whole ones from ten on."""
    return f"${dollars:,.0f}" if dollars >= 10 else f"${dollars:.2f}"


def size_of(size: float) -> str:
    """Bytes in MB, GB or TB."""
    for unit, of in (("TB", 1e12), ("GB", 1e9)):
        if size >= of:
            return f"{size / of:.3g} {unit}"
    return f"{size / 1e6:.3g} MB"
