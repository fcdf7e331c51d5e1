"""Quality of every model and file: scores, distances, seeds, and some answers."""

from __future__ import annotations

from collections.abc import Sequence

from distill2edge.quantize.schemes import is_compared
from distill2edge.report import figures
from distill2edge.report.blocks import Block, Cell, Document, Section, Table, figure, filled, present, row, verdict_cell
from distill2edge.report.units import Unit, unit_of


def blocks(report: Document) -> list[Block]:
    """As `Section.blocks`."""
    return present(
        models_table(report),
        seeds_table(report),
        distances_table(report),
        vectors_table(report),
        numbers_table(report),
        ranking_table(report),
        entities_table(report),
        types_table(report),
        samples_table(report),
    )


def models_table(report: Document) -> Table:
    """Quality of every model and file, with 95% intervals; below them what needs no model."""
    metric, texts = report["metric"], unit_of(report).name == "text"
    rows = []
    for model in report["models"]:
        error = model.get("error")
        rows.append(
            row(
                Cell(str(model["id"]), "mono", beside=f"could not be run: {error}" if error else ""),
                figure(model.get("score")),
                figures.number(model.get("balanced_accuracy")),
                figures.number(model.get("macro_f1")),
                figure(model.get("exact")),
                figure(model.get("steps_off")),
                figures.number(model.get("weighted_kappa")),
                figures.number(model.get("ece")),
                figure(model.get("top1_teacher"), figures.percent) if texts else figures.MISSING,
                figure(model.get("retained"), figures.percent),
                figure(model.get("kl_student")),
                figure(model.get("top1_student"), figures.percent),
                figure(model.get("output_length_ratio")),
                figures.count(model.get("parameters")),
                figures.size(model.get("size_bytes")),
                verdict_cell(model.get("passed")),
            )
        )
    head = [
        "model", figures.metric(metric["name"]), "balanced accuracy", "macro F1",
        "whole set right", "steps off", "weighted kappa", "ECE", "agreement with teacher",
        "retained", "KL to student", "top-1 agreement",
        "length ratio", "parameters", "size", "gates",
    ]  # fmt: skip
    baseline = metric.get("baseline") or {}
    for name, value in ((baseline.get("name"), baseline.get("score")), ("a guess (chance)", baseline.get("chance"))):
        if value is not None:
            rows.append(row(Cell(str(name), "weak"), figure(value), *[figures.MISSING] * (len(head) - 2)))
    note = (
        f"{figures.count(metric.get('rows'))} held-out rows, {figures.count(metric.get('tokens'))} "
        f"{unit_of(report).compared} compared, with 95% intervals over rows. KL is in nats per {unit_of(report).name}, "
        "from the merged student to the file; top-1 agreement is with the merged student too. "
        "Retained: the score divided by the teacher's on the same rows."
    )
    if texts:
        note += f" {agreement_note(unit_of(report))} ECE: expected calibration error."
    if any(model.get("steps_off") for model in report["models"]):
        note += " Steps off: mean distance to the right label on the scale. Weighted kappa: quadratic (Cohen 1968)."
    if "references" in report["data"]:
        note += " No row had a response: those of the held-out rows are the teacher's own greedy answers, so a score "
        note += "is agreement with them."
    classes = metric.get("classes") or {}
    if classes:
        shown = sorted(classes.items(), key=lambda item: -item[1])
        note += " Rows of each class: " + ", ".join(f"{name} {figures.count(n)}" for name, n in shown[:12])
        note += f", and {len(shown) - 12} smaller ones." if len(shown) > 12 else "."
    return filled("", head, rows, note=note)


def agreement_note(unit: Unit) -> str:
    """What agreement with the teacher is."""
    return f"Agreement with teacher: share of the {unit.compared} where the teacher's {unit.answer} is the model's."


def distances_table(report: Document) -> Table | None:
    """How far each model is from the teacher, and the tail of its distance from the student."""
    unit = unit_of(report)
    texts = unit.name == "text"  # then the agreement stands beside the accuracy
    rows = [
        row(
            Cell(str(model["id"]), "mono"),
            figures.number(model.get("kl_student_p99")),
            figure(model.get("kl_teacher")),
            figures.MISSING if texts else figure(model.get("top1_teacher"), figures.percent),
            figure(model.get("perplexity"), lambda x: figures.number(x, 4)),
        )
        for model in report["models"]
        if not model.get("error")
    ]
    head = ["model", "p99 of KL to student", "KL to teacher", "agreement with teacher", "perplexity"]
    note = "" if texts else agreement_note(unit)
    table = filled("Further distances", head, rows, note=note)
    return table if rows and len(table.head) > 1 else None


def vectors_table(report: Document) -> Table | None:
    """How near an embedder's vectors are to its teacher's, and what its shorter ones are worth."""
    models = [model for model in report["models"] if "dimensions" in model and not model.get("error")]
    if not models:
        return None
    metric = figures.metric(report["metric"]["name"])
    sizes = sorted({int(size) for model in models for size in model["dimensions"]}, reverse=True)
    rows = [
        row(
            Cell(str(model["id"]), "mono"),
            figure(model.get("cosine_teacher")),
            *[figure(model["dimensions"].get(str(size))) for size in sizes],
            figure((model.get("gold_pairs") or {}).get("spearman")),
            figure((model.get("gold_pairs") or {}).get("against_teacher")),
        )
        for model in models
    ]
    head = [
        "model", "cosine to teacher", *(f"{metric}, {size} dimensions" for size in sizes),
        "Spearman, scored pairs", "difference to teacher",
    ]  # fmt: skip
    note = (
        "Cosine of model's and teacher's vector of a text. KL and agreement above are of how alike a text is to the "
        "others: the softmax of 20 cosines, and the nearest neighbour."
    )
    if any(model.get("gold_pairs") for model in models):
        note += " Spearman, scored pairs: rank correlation of the cosines with the scores that people gave to pairs."
    return filled("Vectors", head, rows, note=note)


def numbers_table(report: Document) -> Table | None:
    """How near a regressor's numbers are to the data's; the baseline's last."""
    models = [model for model in report["models"] if "mae" in model and not model.get("error")]
    rows = [
        row(Cell(str(model["id"]), "mono"), figure(model.get("pearson")), figure(model.get("mae"))) for model in models
    ]
    head = ["model", "Pearson's correlation", "mean absolute error"]
    note = "Of the models' numbers and the data's. KL above is of normal distributions around two numbers."
    return filled("Numbers", head, rows, note=note) if rows else None


def ranking_table(report: Document) -> Table | None:
    """How well a reranker orders the texts of each query."""
    models = [model for model in report["models"] if model.get("ndcg") and not model.get("error")]
    rows = [
        row(
            Cell(str(model["id"]), "mono"),
            *[figure(model.get(name)) for name in ("ndcg", "mrr")],
            figure(model.get("ndcg_retained"), figures.percent),
        )
        for model in models
    ]
    note = (
        "Over the queries: held-out rows that share their first text. Gains of nDCG are the data's grades; MRR is of "
        "the best text. Retained: nDCG at 10 divided by the teacher's on the same queries."
    )
    return filled("Ranking", ["model", "nDCG at 10", "MRR", "nDCG retained"], rows, note=note) if rows else None


def entities_table(report: Document) -> Table | None:
    """How a token classifier's entities and tags are right or wrong."""
    models = [model for model in report["models"] if "word_accuracy" in model and not model.get("error")]
    rows = [
        row(
            Cell(str(model["id"]), "mono"),
            *[figure(model.get(name)) for name in ("precision", "recall")],
            figure(model.get("word_accuracy"), figures.percent),
        )
        for model in models
    ]
    note = (
        "Precision: share of the entities found that are right (type, first and last word). Recall: share of the "
        "data's entities that are found. Accuracy of words: most are outside of entities."
    )
    return filled("Entities", ["model", "precision", "recall", "accuracy of words"], rows, note=note) if rows else None


def types_table(report: Document) -> Table | None:
    """F1 of each type of entity, and how many there are."""
    models = [model for model in report["models"] if model.get("types") and not model.get("error")]
    if not models:
        return None
    wanted = {label: found["wanted"] for label, found in models[0]["types"].items()}
    rows = [
        row(Cell(str(model["id"]), "mono"), *[figure(model["types"].get(label, {}).get("f1")) for label in wanted])
        for model in models
    ]
    note = "Held-out entities: " + ", ".join(f"{label} {figures.count(count)}" for label, count in wanted.items()) + "."
    return filled("F1 by type", ["model", *wanted], rows, note=note)


def seeds_table(report: Document) -> Table | None:
    """Verdict and scores of each seed; None for a run of one."""
    runs = (report.get("seeds") or {}).get("runs") or []
    if not runs:
        return None
    names = [name for name in runs[0]["scores"] if not is_compared(name)]
    rows = [
        row(
            str(run["seed"]),
            verdict_cell(run["verdict"] == "pass"),
            *[figures.number(run["scores"].get(name)) for name in names],
            Cell(f"seed-{run['seed']}/report.html", "mono small"),
        )
        for run in runs
    ]
    note = (
        "All seeds share the split of the rows, the teacher and its signal. Scores above are means over the seeds, row "
        "by row, with an interval over rows; divergences are means with the wider of two intervals, over seeds and "
        "over rows. Sizes, speeds and cost are those of the first seed."
    )
    return filled("By seed", ["seed", "verdict", *names, "its report"], rows, note)


def samples_table(report: Document) -> Table | None:
    """Some held-out prompts with what each model answers."""
    samples: Sequence[Document] = report.get("samples") or []
    if not samples:
        return None
    names = list(dict.fromkeys(name for sample in samples for name in (sample.get("outputs") or {})))
    rows = [
        row(
            Cell(str(sample.get("prompt", "")), "small"),
            Cell(str(sample.get("expected", figures.MISSING)), "small"),
            *[Cell(str((sample.get("outputs") or {}).get(name, figures.MISSING)), "small") for name in names],
        )
        for sample in samples
    ]
    return Table("Samples", ["prompt", "expected", *names], rows, left=2 + len(names))


SECTION = Section("quality", "Quality", "Quality", blocks, on_card=True)
