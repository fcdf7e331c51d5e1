"""The picture and the table of docs/quantization.md, from `benchmarks/results/quantization_aware.json`."""

from __future__ import annotations

import json
import math
from html import escape
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent.parent / "benchmarks" / "results" / "quantization_aware.json"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 64, 740, 34, 368
COLOURS = {"plain": "#9a9a9a", "imatrix": "#3b76c4", "compensated": "#7a4fb5", "trained": "#c4472f"}


def _figures() -> dict[str, dict[str, Any]]:
    document = json.loads(RESULT.read_text(encoding="utf-8"))
    found = document["metrics"]["files"]
    return dict(sorted(found.items(), key=lambda item: (item[1]["bytes"], item[1]["kl"])))


def figures() -> str:
    """A table of every file: size, KL, top-1."""
    lines = [
        "# What each way of quantizing keeps",
        "",
        "The files of [quantization.md](quantization.md), smallest first.",
        "",
        "| file | MB | KL, nats per token (standard error) | top-1 agreement | perplexity |",
        "|---|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {name} | {f['bytes'] / 1e6:.1f} | {f['kl']:.4f} ({f['kl_se']:.4f}) | {f['top1']:.3f} "
        f"| {f['perplexity']:.1f} |"
        for name, f in _figures().items()
    ]
    document = json.loads(RESULT.read_text(encoding="utf-8"))
    lines += ["", "Bars:", ""]
    for bar in document["bars"]:
        verdict = "met" if bar["met"] else "**missed**"
        lines.append(f"- {bar['name']}: {bar['value']:.4g} ({bar['op']} {bar['target']:.3g}): {verdict}; {bar['note']}")
    return "\n".join([*lines, "", f"Command: `{document['command']}`", ""])


def picture() -> str:
    """KL (logarithmic) against size, one mark for each file, the ways in their colours."""
    found = _figures()
    sizes = [f["bytes"] / 1e6 for f in found.values()]
    kls = [f["kl"] for f in found.values()]
    low_x, high_x = math.floor(min(sizes) / 5) * 5, math.ceil(max(sizes) / 5) * 5
    low_y, high_y = min(kls) / 1.3, max(kls) * 1.3

    def x(size: float) -> float:
        return LEFT + (size - low_x) / (high_x - low_x) * (RIGHT - LEFT)

    def y(kl: float) -> float:
        return BOTTOM - math.log(kl / low_y) / math.log(high_y / low_y) * (BOTTOM - TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="11"><rect width="100%" height="100%" fill="#fff"/>'
    ]
    for tick in range(low_x, high_x + 1, 5):
        parts.append(f'<path d="M{x(tick):.1f} {TOP}V{BOTTOM}" stroke="#e5e5e5"/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{BOTTOM + 16}" text-anchor="middle" fill="#444">{tick}</text>')
    for tick in (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0):
        if low_y <= tick <= high_y:
            parts.append(f'<path d="M{LEFT} {y(tick):.1f}H{RIGHT}" stroke="#e5e5e5"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end" fill="#444">{tick:g}</text>')
    parts.append(f'<text x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle" fill="#222">MB</text>')
    parts.append('<text x="6" y="16" fill="#222">KL to full precision, nats per token</text>')
    for index, (way, colour) in enumerate(COLOURS.items()):
        at = 330 + index * 105
        parts.append(f'<circle cx="{at}" cy="12" r="5" fill="{colour}"/><text x="{at + 9}" y="16">{way}</text>')
    for name, f in found.items():
        kind, _, way = name.rpartition(", ")
        px, py = x(f["bytes"] / 1e6), y(f["kl"])
        title = escape(f"{name}: {f['bytes'] / 1e6:.1f} MB, KL {f['kl']:.4f}")
        parts.append(
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="5" fill="{COLOURS[way]}"><title>{title}</title></circle>'
            f'<text x="{px + 8:.1f}" y="{py + 4:.1f}" fill="#333">{escape(kind.split(" at ")[0])}</text>'
        )
    return "".join(parts) + "</svg>\n"
