"""A language model behind an endpoint that teaches sets of labels: its answers name some of them, or say `none`."""

from __future__ import annotations

from pathlib import Path

from distill2edge.data.choice_sets import set_of
from distill2edge.data.split_files import read_rows
from distill2edge.errors import UserError
from distill2edge.recipe.schema import Recipe
from distill2edge.tasks.classification.asked.work import as_asked, asked_rows, warn_of_silent
from distill2edge.tasks.work import Facts
from distill2edge.util.progress import Progress


def labels_by_answers(recipe: Recipe, teacher: Path, rows_dir: Path, work: Path, progress: Progress) -> Facts:
    """Cache the logits of the labels of all texts: of the share of the answers that name each. The test texts are asked
    too, since an endpoint cannot be asked again.

    Raises:
        UserError: nothing of what the teacher says can be read.
    """
    import torch

    from distill2edge.teacher.endpoint_sets import ask_sets
    from distill2edge.teacher.label_sets import set_facts
    from distill2edge.teacher.labels import Scored, write_shard
    from distill2edge.teacher.open_teacher import open_generator

    asked, ask = as_asked(recipe), recipe.teacher.ask
    names = [choice.strip() for choice in recipe.data.choices or ()]
    assert ask is not None
    rows = [row for split in ("train", "validation", "test") for row in read_rows(rows_dir, split)]
    generator = open_generator(asked, teacher, work, progress, "teacher.ask")
    try:
        answers = ask.answers or names
        heard = ask_sets(generator, asked_rows(asked, rows, rows_dir), answers, ask, recipe.seed, progress)
        facts = {**heard.facts, **generator.facts}
    finally:
        generator.close()
    if not heard.scores:
        what = "the teacher says nothing that can be read of any text"
        raise UserError(what, where="teacher.ask", fix="have it name the choices that apply, or say `none`")
    if unread := facts["unreadable"]:
        progress.warn(
            f"{unread:,} of {facts['answers']:,} answers ({unread / facts['answers']:.1%}) name no choice and do not "
            f"say none: for instance {', '.join(facts['unreadable_examples'])}"
        )
    ids = list(heard.scores)
    logits = torch.tensor([heard.scores[name] for name in ids])
    write_shard(work / "labels-00000.safetensors", logits, ids)
    said = dict(zip(names, (logits > 0).sum(0).tolist(), strict=True))
    warn_of_silent(said, len(ids), progress)
    sets = {row.id: set_of(row.response, names) for row in rows if row.id in heard.scores}
    return set_facts(
        Scored(ids, logits, facts),
        {name: labels for name, labels in sets.items() if labels is not None},
        work,
        correction={"name": "none", "lengths": False},
        corrections=[],
        said=said,
        left_out=sum(row.id not in heard.scores for row in rows),
    )
