"""The page that sets each published system beside what its recipe gave here, from the benchmarks' result files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
HEAD = """# Systems

What published systems claim, and what their recipes gave here. Every figure is a bar of a file in
[benchmarks/results](../benchmarks/results): the target, the value with its 95% interval, and whether it is met.
"""


@dataclass(frozen=True)
class System:
    """A published system: its claim, our recipe, and the names of its result files."""

    name: str
    source: str
    claim: str
    recipe: str
    results: tuple[str, ...]


SYSTEMS = (
    System(
        "Labels by a language model",
        "Wang et al. 2021, arXiv 2108.13487",
        "a small model trained on a language model's labels comes near it, at a fraction of the cost of labels",
        "recipes/llm-to-encoder",
        ("llm_to_encoder",),
    ),
    System(
        "DistilBERT",
        "Sanh et al. 2019, arXiv 1910.01108",
        "40% fewer parameters, 97% of GLUE, 1.63x as fast",
        "recipes/distilbert",
        ("distilbert", "pretrain"),
    ),
    System(
        "Alpaca",
        "Taori et al. 2023",
        "52,000 instructions written by the teacher make a small model follow instructions",
        "recipes/alpaca",
        ("alpaca",),
    ),
    System(
        "BuzzFeed",
        "BuzzFeed Tech 2023",
        "Flan-T5 with LoRA on generated data: 80% lower cost of inference than the API",
        "recipes/buzzfeed",
        ("buzzfeed",),
    ),
    System(
        "Nemotron",
        "NVIDIA 2024, arXiv 2406.11704",
        "a student larger than its teacher surpasses it",
        "recipes/nemotron",
        ("nemotron",),
    ),
    System(
        "Llama 3",
        "Grattafiori et al. 2024, arXiv 2407.21783",
        "training on its own output helps a model only when the output is verified",
        "recipes/self-improve",
        ("self_improve",),
    ),
    System(
        "GKD (on-policy)",
        "Agarwal et al. 2024, arXiv 2306.13649",
        "a student learns best from its own texts, scored by the teacher",
        "recipes/on-policy",
        ("on_policy", "on_policy_few"),
    ),
    System(
        "Model2Vec",
        "Minish 2024, minishlab.github.io",
        "a table of token vectors made of a sentence encoder is many times smaller and faster, and keeps much of it",
        "recipes/embedding",
        ("embedding",),
    ),
)


def systems() -> str:
    """The page's Markdown: one row per system."""
    lines = ["| system | claim | recipe | measured here | command |", "|---|---|---|---|---|"]
    for system in SYSTEMS:
        paths = [RESULTS / f"{name}.json" for name in system.results]
        documents = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
        found = "<br>".join(_found(document) for document in documents) or "not measured yet"
        command = "<br>".join(f"`{document['command']}`" for document in documents)
        where = f"[{system.recipe}](../{system.recipe})" if (ROOT / system.recipe).exists() else f"`{system.recipe}`"
        lines.append(f"| {system.name} ({system.source}) | {system.claim} | {where} | {found} | {command} |")
    return HEAD + "\n" + "\n".join(lines) + "\n"


def _found(document: dict[str, Any]) -> str:
    bars = "<br>".join(_bar(bar) for bar in document["bars"])
    return f"{bars}<br>seeds: {', '.join(map(str, document['seeds']))}"


def _bar(bar: dict[str, Any]) -> str:
    unit = f" {bar['unit']}" if bar["unit"] else ""
    if bar["value"] is None:
        return f"{bar['name']}: no value ({bar['op']} {bar['target']:g}{unit}): **missed**"
    interval = f" [{bar['interval'][0]:.4g}, {bar['interval'][1]:.4g}]" if bar["interval"] else ""
    verdict = "met" if bar["met"] else "**missed**"
    return f"{bar['name']}: {bar['value']:.4g}{interval}{unit} ({bar['op']} {bar['target']:g}): {verdict}"
