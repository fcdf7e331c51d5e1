"""What a recipe uses that not every task supports, and under which key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from distill2edge.quantize.schemes import DYNAMIC, parse_scheme
from distill2edge.recipe.scratch import Scratch
from distill2edge.tasks import features
from distill2edge.tasks.features import Feature

if TYPE_CHECKING:
    from distill2edge.recipe.schema import Recipe

Path = tuple[str | int, ...]


def used_features(recipe: Recipe) -> Iterator[tuple[Feature, Path, str]]:
    """What a recipe uses, where, and how to call it there (empty: as it is always called)."""
    yield from ((feature, path, "") for feature, path, says in _table(recipe) if says)
    for path, text in schemes_of(recipe):
        if parse_scheme(text).mix:
            yield features.MIXES, path, f"{text}, {features.MIXES.label},"
        if (mix := parse_scheme(text).mix) and mix.max_kl is not None:
            yield features.KL_MIXES, path, f"{text}, {features.KL_MIXES.label},"
        if str(parse_scheme(text)) == DYNAMIC:
            yield features.DYNAMIC_INT8, path, DYNAMIC


def _table(recipe: Recipe) -> tuple[tuple[Feature, Path, object], ...]:
    """Every feature, its key, and what tells that it is used."""
    student, distill = recipe.student, recipe.distill
    return (
        (features.ALIGNED, ("signal", "align"), getattr(recipe.signal, "align", "none") != "none"),
        *(
            (feature, path, used)
            for path, loss in recipe.losses
            for feature, used in (
                (features.HIDDEN_STATES, loss.needs_layers),
                (features.EMBEDDINGS, any(loss.weighed("embeddings", "similarities"))),
                (features.NUMBERS, any(loss.weighed("numbers", "teacher_numbers"))),
                (features.ORDERED_LOSS, any(loss.weighed("steps"))),
            )
        ),
        (features.SETS, ("data", "multi"), recipe.data.multi),
        (features.ORDER, ("data", "ordered"), recipe.data.ordered),
        (features.DIMENSIONS, ("student", "dimensions"), student.dimensions),
        (features.TOKEN_TABLE, ("student", "init", "layers"), getattr(student.init, "is_table", False)),
        (features.POOLING, ("teacher", "pooling"), recipe.teacher.pooling),
        (features.TRIMMED_VOCABULARY, ("student", "vocabulary"), student.trim is not None),
        (
            features.RARE_TOKENS,
            ("student", "vocabulary", "min_frequency"),
            student.trim and student.trim.min_frequency > 1,
        ),
        (features.PRETRAINING, ("student", "pretrain"), student.pretrain),
        (features.RANDOM_MODELS, ("teacher", "model"), isinstance(recipe.teacher.model, Scratch)),
        (features.RANDOM_MODELS, ("student", "init", "model"), isinstance(getattr(student.init, "model", 0), Scratch)),
        (features.SERVED_LOGITS, ("signal", "kind"), recipe.scored_elsewhere),
        (features.ASKED_TEACHER, ("teacher", "ask"), recipe.teacher.ask),
        (features.FIT, ("teacher", "fit"), recipe.teacher.fit),
        *(
            (features.CLASS_WEIGHTS, (*path, "class_weights"), loss.class_weights != "none")
            for path, loss in recipe.losses
        ),
        (features.LLAMA_CPP_TEACHER, ("teacher", "backend"), _llama_cpp(recipe)),
        (features.PAIRS, ("data", "pair"), recipe.data.pair is not None),
        (features.SYSTEM_MESSAGE, ("data", "system"), recipe.data.system is not None),
        (features.ENTITIES, ("data", "entities"), recipe.data.entities),
        (features.CALIBRATION, ("quantize", "calibration"), recipe.quantize.calibration in ("imatrix", "gptq")),
        (features.ON_POLICY, ("distill", "on_policy"), distill.on_policy),
        (features.QUANTIZATION_AWARE, ("distill", "quantization_aware"), distill.quantization_aware),
        *(
            (features.PACKING, (*path, "packing"), getattr(training, "packing", False))
            for path, training in (
                (("distill",), distill),
                (("teacher", "fit"), recipe.teacher.fit),
                (("distill", "quantization_aware"), distill.quantization_aware),
                (("student", "pretrain"), student.pretrain),
                (("student", "pretrain", "teacher"), getattr(student.pretrain, "teacher", None)),
            )
        ),
        (features.GOLD_PAIRS, ("verify", "pairs"), recipe.verify.pairs),
        (features.JUDGE, ("verify", "judge"), recipe.verify.judge),
        (features.KV_CACHE, ("verify", "kv_cache"), recipe.verify.caches),
        (features.SYNTHESIS, ("synthesis",), recipe.synthesis),
        (features.FORCED_LENGTHS, ("bench", "workloads"), set(recipe.bench.workloads) != {"task"}),
        (features.ALL_POSITIONS, ("verify", "positions"), recipe.verify.positions == "all"),
    )


def _llama_cpp(recipe: Recipe) -> bool:
    """Whether llama.cpp runs a teacher that is not asked: then every task must have a use for it."""
    return recipe.teacher.backend == "llama.cpp" and recipe.teacher.ask is None


def schemes_of(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """Key and name of every file that is asked for."""
    for key, texts in ((("export",), recipe.export), (("verify", "teacher_schemes"), recipe.verify.teacher_schemes)):
        for index, text in enumerate(texts):
            yield (*key, index), text
