"""What ships: the files, how far each is from its model, and whether the trained change survives quantization."""

from __future__ import annotations

from typing import Any

from distill2edge.quantize.schemes import is_compared
from distill2edge.report import charts, figures
from distill2edge.report.blocks import Block, Cell, Document, Fact, Section, Table, chart, facts, present, row
from distill2edge.report.quantization_tables import frontier_table, quantization_table, survival_table, types_text
from distill2edge.report.units import unit_of


def blocks(report: Document) -> list[Block]:
    """As `Section.blocks`."""
    files = files_table(report)
    kl_chart = charts.kl_chart(report["models"], report["gates"], unit_of(report).name)
    if files is None and kl_chart is None:
        return []
    mix_chart = charts.pareto_chart(
        report["pareto"].get("kl", []),
        {"name": "kl_student", "higher_is_better": False},
        x_title="megabytes on disk",
        x_unit="MB",
    )
    return present(
        chart(
            kl_chart,
            "How far each file is from the model it was made from",
            "KL divergence from the merged student (for the teacher's own files: from the teacher), on held-out rows "
            "and the same token ids.",
        ),
        files,
        chart(
            mix_chart,
            "KL against size",
            "KL divergence from the merged student, on held-out rows; down and to the left is better. The line is the "
            "Pareto frontier.",
        ),
        frontier_table(report),
        quantization_table(report),
        survival_table(report),
        facts(merge_facts(report)),
    )


def files_table(report: Document) -> Table | None:
    """What ships: size, effective bits, what fell back to another type, and the types really used."""
    if not report["files"]:
        return None
    rows = [
        row(
            Cell(str(file["model"]), "mono"),
            figures.size(file.get("size_bytes")),
            figures.number(file.get("effective_bits")),
            Cell(types_text(file.get("types")), "small"),
            Cell(fallbacks_text(file.get("fallbacks")), "small"),
        )
        for file in report["files"]
        if not is_compared(str(file["model"]))
    ]
    note = (
        "Bits per weight are an average over all weights. A fallback is a tensor that could not take the "
        "requested type."
    )
    return Table("Files to ship", ["file", "size", "bits per weight", "types", "fallbacks"], rows, note=note)


def fallbacks_text(fallbacks: Any) -> str:
    """How many tensors fell back, and to what, the first three named."""
    if not fallbacks:
        return "none"
    if not isinstance(fallbacks, list):
        return str(fallbacks)
    names = [_fallback(item) for item in fallbacks]
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)}: {'; '.join(names[:3])}{rest}"


def _fallback(item: Any) -> str:
    if not isinstance(item, dict):
        return str(item)
    if "used" in item:
        return f"{item.get('tensor')} {item.get('wanted')} -> {item['used']}"
    return f"{item.get('tensor')}: {item.get('reason')}"


def merge_facts(report: Document) -> list[Fact]:
    """Logits before and after the merge; nothing of a student trained in full, whose weights need none."""
    merge = report["merge"]
    if merge.get("kind") == "full":
        return []
    return [
        Fact(f"merge: {key.replace('_', ' ')}", figures.number(value))
        for key, value in merge.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and "difference" in key
    ]


SECTION = Section("files", "Files", "The files that ship", blocks, on_card=True)
