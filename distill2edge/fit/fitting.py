"""From a teacher, rows and a budget to the students that fit, what each costs to train, and the recipe of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from distill2edge.errors import UserError
from distill2edge.fit.decoder import Decoder, decoder_of
from distill2edge.fit.halving import Candidate, Trial, distinct, steps_of
from distill2edge.fit.header import Words, vocabularies
from distill2edge.fit.loss import Estimate
from distill2edge.fit.profiles import Profile
from distill2edge.fit.search import Budget, Point, choose, points
from distill2edge.fit.stages import influence_stages
from distill2edge.intake.glance import Glance, glance
from distill2edge.models.kv_cache import PLAIN
from distill2edge.models.widths import NAMES
from distill2edge.pipeline.run_stages import run_stages
from distill2edge.pipeline.store import Store
from distill2edge.planning.costs import Work
from distill2edge.planning.sizes import Model, Sizes, sizes_of
from distill2edge.preflight.data import sample
from distill2edge.recipe.load import parse_recipe
from distill2edge.recipe.new import Fitted
from distill2edge.recipe.schema import Recipe
from distill2edge.running.columns import Asked
from distill2edge.running.starter import starter
from distill2edge.stages import build_stages
from distill2edge.student.influence import Influence, read_influence
from distill2edge.student.tensor_roles import why_not
from distill2edge.util.progress import Progress
from distill2edge.util.quantities import readable_bytes

SHOWN = 12
"""Points of a table, at most: the first is the chosen one, the others are spread over the rest."""
_ROWS = 20_000
"""Whose tokens a trimmed vocabulary is made of, at most."""


@dataclass(frozen=True)
class Costed:
    """A point, and what its training takes on this machine; seconds and bytes, null where they are not known."""

    point: Point
    seconds: float | None
    memory: float | None


@dataclass(frozen=True)
class Fit:
    """What was found.

    Attributes:
        rows: the points within the budget that no other beats, the chosen one first; some of them.
        best: how many there are in all.
        tried: students that were looked at.
        nearest: of all, where none is within the budget.
        recipe: text of the chosen one's.
        candidates: the best few, which may be trained for a try.
    """

    teacher: str
    budget: Budget
    context: int
    profile: Profile
    rows: tuple[Costed, ...]
    best: int
    tried: int
    nearest: Point | None
    recipe: str | None
    notes: tuple[str, ...]
    candidates: tuple[Candidate, ...] = ()


def fit(
    asked: Asked,
    budget: Budget,
    profile: Profile,
    context: int,
    speed: float,
    store: Store,
    progress: Progress,
    *,
    train: int = 0,
) -> Fit:
    """The students of a teacher that fit a device.

    Args:
        asked: teacher, rows and name of the recipe.
        context: tokens that are held at most.
        speed: FLOPs per second of this machine, which trains.
        store: where what the teacher's parts do is kept, once it was measured.
        train: candidates for `halving`, at most.

    Raises:
        UserError: no such teacher here, another kind of model, or rows that make no recipe.
    """
    looked = _teacher(asked.teacher)
    whole = decoder_of(looked)
    limit = looked.facts.positions
    if limit is not None and context > limit:
        raise UserError(f"{context} tokens, and the teacher reads {limit} at most", where="--context",
                        fix=f"give {limit} or fewer")  # fmt: skip
    asked = _writing(asked, whole)
    base = parse_recipe(starter(replace(asked, fitted=Fitted(whole.layers, {}, "keep", "gguf:Q8_0"))), "fit")
    found = searched(base, looked, budget, profile, context, store, progress)
    shown = _spread(found.best)
    sizes = sizes_of(base, {})
    rows = tuple(_costed(point, base, sizes, speed) for point in shown)
    recipe = _recipe(asked, whole, shown[0], profile, context) if shown else None
    steps = steps_of(base, sizes)
    candidates = tuple(
        Candidate(point, _recipe(asked, whole, point, profile, context), steps) for point in distinct(found.best, train)
    )
    return Fit(
        str(asked.teacher), budget, context, profile, rows, len(found.best), found.tried, found.nearest, recipe,
        found.notes, candidates,
    )  # fmt: skip


@dataclass(frozen=True)
class Searched:
    """The points of a search: those that no other beats from the least expected loss, how many there were, and the
    nearest where none is within the budget."""

    best: list[Point]
    nearest: Point | None
    tried: int
    notes: tuple[str, ...]


def searched(
    recipe: Recipe, looked: Glance, budget: Budget, profile: Profile, context: int, store: Store, progress: Progress
) -> Searched:
    """Every student of a recipe's teacher, once what its parts do was measured on the recipe's calibration rows.

    Args:
        looked: the teacher.

    Raises:
        UserError: no calibration rows, or a licence that is not known or forbids.
    """
    whole, texts = decoder_of(looked), _texts(recipe)
    words = vocabularies(looked.path, texts, whole.vocabulary)
    why = why_not(looked.tensors, NAMES, looked.text)
    estimate = Estimate(whole, _influence(recipe, store, progress), getattr(recipe.student.init, "select", "even"))
    found = list(points(whole, words, profile, context, estimate, disk=budget.disk, widths=why is None))
    best, nearest = choose(found, budget)
    return Searched(best, nearest, len(found), tuple(_notes(words, texts, why)))


def _influence(recipe: Recipe, store: Store, progress: Progress) -> Influence:
    """What the parts of the recipe's teacher do on its calibration rows.

    Raises:
        UserError: it has none, or a licence that is not known or forbids.
    """
    if not recipe.calibration_rows:
        raise UserError("there are no calibration rows, on which the parts of the teacher are compared",
                        where="--data", fix="give more rows: some hundreds for a first try")  # fmt: skip
    done = run_stages(influence_stages(build_stages(recipe, progress)), store, progress)
    return read_influence(done[-1].artifact.path)


def _teacher(model: str | None) -> Glance:
    looked = glance(model)
    if looked is None:
        raise UserError("the teacher is not here, so its shapes are not known", where=f"--teacher {model}",
                        fix="fetch a bundled one, or give a local directory or a .gguf file")  # fmt: skip
    return looked


def _writing(asked: Asked, whole: Decoder) -> Asked:
    """Asked for a student that writes: rows with labels too."""
    text = starter(replace(asked, fitted=Fitted(whole.layers, {}, "keep", "gguf:Q8_0")))
    task = parse_recipe(text, "fit").task
    return asked if task == "causal-lm" else replace(asked, task="causal-lm")


def _texts(recipe: Recipe) -> list[str]:
    pairs, _ = sample(recipe, _ROWS)
    return ["\n".join(pair) for pair in pairs]


def _spread(best: Sequence[Point]) -> list[Point]:
    if len(best) <= SHOWN:
        return list(best)
    step = (len(best) - 1) / (SHOWN - 1)
    return [best[round(index * step)] for index in range(SHOWN)]


def _costed(point: Point, recipe: Recipe, sizes: Sizes, speed: float) -> Costed:
    shape = point.shape
    model = Model(shape.body, shape.embedding, shape.layers, shape.widths.hidden, shape.vocabulary)
    cost = Work(recipe, replace(sizes, student=model), speed, model).trained(recipe.distill, recipe.student.lora)
    return Costed(point, cost.seconds, cost.memory)


def _recipe(asked: Asked, whole: Decoder, point: Point, profile: Profile, context: int) -> str:
    narrow = point.shape.widths
    width = {name: int(getattr(narrow, name)) for name in NAMES if getattr(narrow, name) != getattr(whole.widths, name)}
    how = "predicted, not measured on the device" if profile.predicted else "predicted from measurements of the device"
    about = [
        f"Chosen by distill2edge fit for {profile.name}, context {context}; figures are {how}:",
        f"file {readable_bytes(point.file.bytes)}, RAM {readable_bytes(point.figures.memory)}, "
        f"{point.figures.decode:.0f} tokens/s, first token after {1000 * point.figures.first:.0f} ms.",
    ]
    cache = "" if point.cache == PLAIN else point.cache
    if cache:
        about.append(f"It counts on keys and values in {cache}: run the file with that (chat --kv-cache {cache}).")
    chosen = Fitted(point.shape.layers, width, point.vocabulary, f"gguf:{point.scheme}", cache, tuple(about))
    return starter(replace(asked, fitted=chosen))


def noted(recipe: str, trials: Sequence[Trial]) -> str:
    """The text of the winner's recipe, whose head says what was measured of it and the others."""
    last, count = trials[-1], len({id(trial.candidate) for trial in trials})
    lines = [
        f"Chosen among {count} students by short trainings: {last.kl:.3f} nats per token from the teacher",
        f"on {last.rows} validation rows ({last.positions:,} positions) after {last.steps} of {last.candidate.steps} "
        "steps. The others, best first:",
        *(f"  round {trial.round}, {trial.steps} steps: {trial.kl:.3f}, {told(trial.candidate.point)}"
          for trial in reversed(trials[:-1]) if trial.candidate is not last.candidate),
    ]  # fmt: skip
    head, _, rest = recipe.partition("\n\n")
    return "\n".join([head, *(f"# {line}" for line in lines)]) + f"\n\n{rest}"


def told(point: Point) -> str:
    """`12 layers of 2 / 1024 / 576, 18,880 tokens, Q4_K_M`."""
    return f"{point.shape.layers} layers of {point.width}, {point.shape.vocabulary:,} tokens, {point.scheme}"


def _notes(words: Sequence[Words], texts: Sequence[str], why: str | None) -> list[str]:
    found = []
    if why is not None:
        found.append(f"widths are left as they are: {why}")
    if len(words) == 1:
        found.append(
            "no trimmed vocabulary: " + ("the tokenizer cannot be trimmed" if texts else "the rows are not here")
        )
    else:
        found.append(f"a trimmed vocabulary has {words[-1].rows:,} of {words[0].rows:,} tokens, by {len(texts):,} rows")
    return found


def as_json(found: Fit, trials: Sequence[Trial] = ()) -> dict[str, Any]:
    """For scripts: what `distill2edge fit --json` prints."""
    budget, profile = found.budget, found.profile
    return {
        "schema_version": 1,
        "teacher": found.teacher,
        "budget": {"ram_bytes": budget.ram, "disk_bytes": budget.disk, "tokens_per_second": budget.tokens_per_second,
                   "ttft_s": budget.ttft, "context": found.context},
        "device": {"name": profile.name, "source": profile.source, "url": profile.url, "measured": profile.measured,
                   "predicted": profile.predicted, "threads": profile.threads},
        "met": bool(found.rows),
        "tried": found.tried,
        "best": found.best,
        "points": [_row(each.point) | {"training_s": each.seconds, "training_memory_bytes": each.memory}
                   for each in found.rows],
        "nearest": None if found.nearest is None else
                   _row(found.nearest) | {"lacks": found.nearest.lacks(budget), "over": found.nearest.over(budget)},
        "notes": list(found.notes),
        "trials": [_tried(trial) for trial in trials],
    }  # fmt: skip


def _tried(trial: Trial) -> dict[str, Any]:
    return {**_row(trial.candidate.point), "round": trial.round, "share": float(trial.share), "steps": trial.steps,
            "kl": trial.kl, "rows": trial.rows, "positions": trial.positions, "kept": trial.kept}  # fmt: skip


def _row(point: Point) -> dict[str, Any]:
    widths = point.shape.widths
    return {
        "layers": point.shape.layers,
        **{name: getattr(widths, name) for name in NAMES},
        "vocabulary": point.vocabulary,
        "tokens": point.shape.vocabulary,
        "scheme": f"gguf:{point.scheme}",
        "kv_cache": point.cache,
        "parameters": point.file.weights,
        "size_bytes": point.file.bytes,
        "memory_bytes": point.figures.memory,
        "decode_tokens_per_s": point.figures.decode,
        "prefill_tokens_per_s": point.figures.prefill,
        "ttft_s": point.figures.first,
        "expected_kl": point.loss,
    }
