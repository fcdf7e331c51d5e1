"""The Hugging Face model card: YAML front matter, then what a user of the files must know."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from distill2edge.report import claims, figures
from distill2edge.report.blocks import Facts, Section, Table
from distill2edge.report.markdown import code, escape, fenced, render_block
from distill2edge.report.schema_version import check_version
from distill2edge.report.section_list import SECTIONS, shown
from distill2edge.report.units import unit_of

Document = dict[str, Any]

HUB_LICENCES = frozenset(
    {
        "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
        "cc-by-nc-sa-4.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "openrail", "bigscience-openrail-m",
        "bigcode-openrail-m", "creativeml-openrail-m", "gemma", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3",
        "llama4", "unknown",
    }
)  # fmt: skip
"""Identifiers that the hub knows; every other licence is `other` with its name."""


def render_card(report: Document, sections: Sequence[Section] = SECTIONS) -> str:
    """README.md of the model.

    Raises:
        UserError: the schema version is not ours.
    """
    check_version(report)
    front = yaml.safe_dump(_one_line(front_matter(report)), sort_keys=False, allow_unicode=True, width=1000)
    teacher = report["teacher"].get("name") or "the teacher"
    verdict = report["verdict"]
    data = report["data"]
    public = {**report, "data": {**data, "source": _public(data["source"])}} if data.get("source") else report
    parts = [
        f"---\n{front}---",
        f"# {escape(report['name'])}",
        f"A student distilled from {escape(teacher)} with distill2edge. {escape(claims.lead(report))}",
        f"**The verdict is {verdict['result'].upper()}: {escape(verdict['summary'])}**"
        + (" Do not rely on these files for the task." if verdict["result"] != "pass" else ""),
        _licence(report["licence"]),
        *_sections(public, sections),
        "## Use",
        _use(report),
        "## Limits",
        "Quality was measured on held-out rows of the task's own data and nowhere else. The student has "
        "also learnt the teacher's mistakes, and it was not tested for safety or bias.",
        "## Reproduce",
        fenced(str(report["reproduce"]["command"] or "not recorded")),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _sections(report: Document, sections: Sequence[Section]) -> list[str]:
    """The first table or list of facts of every section that stands on a card."""
    found = []
    for section, blocks in shown(report, [section for section in sections if section.on_card]):
        main = next((block for block in blocks if isinstance(block, (Table, Facts))), None)
        found += [f"## {section.name}", render_block(main)] if main else []
    return found


def _licence(licence: Document) -> str:
    """What must not be missed of the teacher's licence; its record is a section."""
    if not licence:
        return "The teacher's licence is not recorded."
    reason = licence.get("accepted")
    if not reason:
        return ""
    return f"The licence gate did not permit this teacher. It was overridden, with this reason: {escape(reason)}"


def _one_line(value: Any) -> Any:
    """Strings without line breaks: a `---` on a line of its own would end the front matter for some readers."""
    if isinstance(value, dict):
        return {key: _one_line(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_one_line(item) for item in value]
    return " ".join(value.split()) if isinstance(value, str) else value


def front_matter(report: Document) -> Document:
    """The metadata that the hub reads.

    `base_model_relation` is `finetune`: the student's weights come from the base model's own, or from the checkpoint
    that the recipe names. A path of this machine is never written as a base model.
    """
    licence = report["licence"]
    name = str(licence.get("licence") or licence.get("id") or licence.get("name") or "unknown").lower()
    known = name in HUB_LICENCES
    base = _base_model(report)
    kinds = sorted({str(file.get("format")) for file in report["files"]})
    front: Document = {"license": name if known else "other"}
    if not known:
        front["license_name"] = name
        if figures.web_address(licence.get("source")):
            front["license_link"] = str(licence["source"])
    if base:
        front |= {"base_model": base, "base_model_relation": "finetune"}
    data = report["data"]
    dataset = _hub_id(data.get("source")) if data.get("kind", "hub") == "hub" else None
    if dataset:
        front["datasets"] = [dataset]
    front |= {
        "pipeline_tag": _pipeline(report),
        "tags": ["distillation", "distill2edge", *kinds],
        "metrics": [report["metric"]["name"]] if report["metric"]["name"] != "neg_log_likelihood" else ["perplexity"],
        "distill2edge": {
            "verdict": report["verdict"]["result"],
            "licence_verdict": licence.get("verdict") or "not recorded",
            "accept_licence": licence.get("accepted"),
            "teacher": report["teacher"].get("name"),
            "schema_version": report["schema_version"],
        },
    }
    if report.get("ledgers"):
        front["distill2edge"]["synthetic_rows"] = {
            stage: {key: rows[key] for key in ("rows", "kept", "dropped", "methods", "not_distillation")}
            for stage, rows in report["ledgers"].items()
        }
    results = _results(report, dataset)
    if results:
        front["model-index"] = [{"name": str(report["name"]), "results": results}]
    return front


def _pipeline(report: Document) -> str:
    """The hub's name of what the files do."""
    return unit_of(report).pipeline


def _results(report: Document, dataset: str | None) -> list[Document]:
    metric = report["metric"]["name"]
    found = []
    for model in report["models"]:
        value = figures.value_of(model.get("score"))
        if model.get("role") != "student" or model.get("error") or value is None:
            continue
        found.append(
            {
                "task": {"type": _pipeline(report)},
                "dataset": {
                    "name": _public(report["data"].get("source")) or "held-out rows",
                    "type": dataset or "other",
                },
                "metrics": [{"type": metric, "value": round(value, 6), "name": f"{metric}, {model['id']}"}],
            }
        )
    return found


def _base_model(report: Document) -> str | None:
    recipe = report["reproduce"]["recipe"]
    init = (recipe.get("student") or {}).get("init") or {}
    if isinstance(init.get("model"), dict):
        return None  # randomly initialised
    teacher = report["teacher"]
    for candidate in (init.get("model"), teacher.get("source"), teacher.get("home")):
        found = _hub_id(candidate)
        if found:
            return found
    return None


def _hub_id(value: Any) -> str | None:
    """`owner/name`, where the value is one; not a path, not a `bundled:` name."""
    if not isinstance(value, str):
        return None  # nothing, or the shape of a randomly initialised model
    said = value.removeprefix("hf://").removeprefix("https://huggingface.co/")
    owner, slash, name = said.partition("/")
    fine = bool(owner and slash and name) and all(part.replace("-", "").replace("_", "").replace(".", "").isalnum()
                                                 for part in (owner, name))  # fmt: skip
    path = said.startswith((".", "/", "~")) or said.endswith((".gguf", ".csv", ".json", ".jsonl", ".parquet", ".txt"))
    return said if fine and not path else None


def _public(source: Any) -> str:
    """A data source without the folders of this machine."""
    said = str(source or "")
    return said if ":" in said or _hub_id(said) else said.rsplit("/", 1)[-1]


def _use(report: Document) -> str:
    """How to ask the files: the template of the recipe's task, filled."""
    recipe = report["reproduce"]["recipe"]
    data = recipe.get("data") or {}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "use"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    environment.filters |= {"code": code, "block": fenced}
    found = environment.select_template([f"{recipe.get('task')}.md.j2", "causal-lm.md.j2"]).render(
        kinds={str(file.get("format")) for file in report["files"]},
        template=str(data.get("template") or "chat"),
        system=data.get("system"),
        prompt=data.get("prompt"),
        pair=data.get("pair"),
        choices=list(data.get("choices") or ()),
        max_length=data.get("max_length"),
        dimensions=list((recipe.get("student") or {}).get("dimensions") or ())[1:],
    )
    return re.sub(r"\n{3,}", "\n\n", found).strip()
