"""The models that a recipe names: whether they are here, and whether task, layers, lengths and formats fit them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path as Directory
from typing import Any

from distill2edge.data.reading import READINGS
from distill2edge.errors import Problem, UserError
from distill2edge.export import gguf_convert
from distill2edge.export.support import needs_converter, refusals
from distill2edge.gguf import kv_cache
from distill2edge.gguf.ggml_types import GgmlType, fitting
from distill2edge.intake import bundled
from distill2edge.intake.glance import Glance, glance, place_of
from distill2edge.intake.obtain import not_a_gguf, resolve
from distill2edge.models.kinds import kind_of
from distill2edge.models.shape import layers_field
from distill2edge.models.some_layers import fields_of_some
from distill2edge.models.widths import misfits, narrowed, settings, widths_of
from distill2edge.preflight.layers import kept
from distill2edge.preflight.layers import problems as layers
from distill2edge.preflight.places import said
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.recipe.coherence import unknown_schemes
from distill2edge.recipe.paths import is_astray
from distill2edge.recipe.schema import FromModel, FromTeacher, Recipe
from distill2edge.recipe.student import counted, wanted_widths
from distill2edge.recipe.verifiers import JudgeVerifier
from distill2edge.student.tensor_roles import refusals as width_refusals
from distill2edge.student.trimming import kind_of as kind_of_tokenizer
from distill2edge.tasks import TASKS, task_of
from distill2edge.util.progress import Progress, SilentProgress

Path = tuple[str | int, ...]
_TEACHER, _INIT = ("teacher", "model"), ("student", "init")
# Absolute positions: a table with an end. Rotary and relative ones go on, with less quality than before.
_TABLES = (
    *("albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "mpnet", "roberta"),
    *("xlm-roberta", "gpt2", "opt"),
)

_APART = {"full_attention", "sliding_attention", "chunked_attention"}  # layers that keep packed rows apart


def problems(recipe: Recipe, notes: list[str], *, converter: bool) -> Iterator[Problem]:
    """What the models that are here cannot do for this recipe."""
    wrong = [*names(recipe, notes)]
    yield from wrong
    bad = {problem.path for problem in wrong}
    found: dict[Path, Glance | None] = {}
    for path, model, revision in _named(recipe):
        if path in bad:
            continue
        try:
            found[path] = glance(model, revision)
        except UserError as error:
            yield Problem(path, f"{error.where}: {error.what}" if error.where else error.what, error.fix)
    teacher = found.get(_TEACHER)
    student = found.get((*_INIT, "model")) if isinstance(recipe.student.init, FromModel) else teacher
    for path, each in ((_TEACHER, teacher), ((*_INIT, "model"), found.get((*_INIT, "model")))):
        if each is not None:
            task = [*_task(recipe, path, each)]
            yield from task
            if task:
                return  # layers and formats of the wrong task say nothing
            yield from _reads(recipe, path, each, notes)
            yield from _packed(recipe, path, each)
    if teacher is not None and not recipe.teacher.dequantize and teacher.path.suffix.lower() != ".gguf":
        wrong_kind = not_a_gguf()
        yield Problem(("teacher", "dequantize"), wrong_kind.what, wrong_kind.fix)
    yield from layers(recipe, teacher, student)
    yield from _rounded(recipe)
    if student is not None:
        yield from _trimmed(recipe, student)
        yield from _narrower(recipe, student, notes)
        yield from _cached_in_bits(recipe, student)
        yield from _formats(recipe, student, ("export",), recipe.export, converter)
    if teacher is not None:
        path = ("verify", "teacher_schemes")
        yield from _formats(recipe, teacher, path, recipe.verify.teacher_schemes, converter)


def names(recipe: Recipe, notes: list[str]) -> Iterator[Problem]:
    """Names of models that are nowhere."""
    for path, model, _ in _named(recipe):
        if model.startswith("bundled:"):
            name = model.removeprefix("bundled:")
            yield from said(path, partial(bundled.lookup, name, kinds=bundled.MODELS, where=".".join(map(str, path))))
            continue
        yield from said(path, partial(resolve, model, SilentProgress(), ".".join(map(str, path))))
        if is_astray(model):
            where = ".".join(map(str, path))
            notes.append(
                f"{where}: {model} is in the current directory, not beside the recipe: write its path from there"
            )


def unseen(recipe: Recipe) -> list[str]:
    """Models that are not here yet, and the converter where their files need it."""
    found = [model for _, model, revision in _named(recipe) if place_of(model, revision) is None]
    return [*found, *([f"bundled:{gguf_convert.PACKAGE}"] if converts(recipe) and not gguf_convert.is_here() else [])]


def fetch_converter(recipe: Recipe, progress: Progress) -> None:
    """Fetch the converter, where a GGUF of the recipe needs it, and ask it.

    Raises:
        UserError: it does not know the model either.
        EnvironmentFault: it cannot be fetched.
    """
    if gguf_convert.is_here() or not converts(recipe):
        return
    gguf_convert.fetched(progress)
    for problem in problems(recipe, [], converter=False):
        raise UserError(problem.what, where=".".join(map(str, problem.path)), fix=problem.fix)


def converts(recipe: Recipe) -> bool:
    """Whether a GGUF of the recipe is llama.cpp's own converter's to write, as far as its models are here."""
    init = recipe.student.init
    named = init if isinstance(init, FromModel) else recipe.teacher
    for model, schemes in ((named, recipe.export), (recipe.teacher, recipe.verify.teacher_schemes)):
        if not any(text.startswith("gguf:") for text in schemes):
            continue
        with suppress(UserError):  # said by `problems`
            found = glance(model.model, model.revision)
            if found is not None and needs_converter(found.text, task_of(recipe).exported(found.facts.kind)):
                return True
    return False


def tokenizers_here(recipe: Recipe) -> list[Directory]:
    """Directories of teacher and student that are here and have a tokenizer which reads chats."""
    found: dict[Directory, None] = {}
    for path, model, revision in _named(recipe):
        if path in (_TEACHER, (*_INIT, "model")):
            with suppress(UserError):  # `problems` says what is wrong with it
                here = glance(model, revision)
                if here is not None and here.path.is_dir() and here.facts.has_chat_template:
                    found[here.path] = None
    return list(found)


def _named(recipe: Recipe) -> Iterator[tuple[Path, str, str | None]]:
    """Key, name and revision of every model that runs here."""
    if isinstance(recipe.teacher.model, str) and recipe.teacher.url is None:
        yield _TEACHER, recipe.teacher.model, recipe.teacher.revision
    init = recipe.student.init
    if isinstance(init, FromModel) and isinstance(init.model, str):
        yield (*_INIT, "model"), init.model, init.revision
    if (judge := recipe.verify.judge) is not None:
        yield ("verify", "judge", "model"), judge.model, judge.revision
    for index, spec in enumerate(recipe.signal.verify if recipe.signal.kind == "text" else ()):
        if isinstance(spec, JudgeVerifier) and spec.model is not None:
            yield ("signal", "verify", index, "model"), spec.model, spec.revision


def _task(recipe: Recipe, path: Path, model: Glance) -> Iterator[Problem]:
    """A model that does something else than the task asks."""
    task, kind = task_of(recipe), model.facts.kind
    fits = task.teaches(kind, recipe) if path == _TEACHER else task.learns(kind) if path[:2] == _INIT else kind.writes
    if fits:
        return
    named = model.facts.model_type or model.facts.architecture
    if path == _TEACHER and recipe.teacher.ask is not None:
        what = f"this model ({named}) {kind.does}, and teacher.ask is for a language model, which writes its answers"
        fix = "name a language model, such as bundled:smollm2-135m-instruct"
        yield Problem(path, what, f"take teacher.ask out, or {fix}" if task.learns(kind) else fix)
        return
    what = f"this model ({named}) {kind.does}, and the task is {task.name}"
    other = next(each.wanted for each in TASKS.values() if kind in each.kinds)
    yield Problem(path, what, f"set {other}; or name {task.example}")


def _reads(recipe: Recipe, path: Path, model: Glance, notes: list[str]) -> Iterator[Problem]:
    """Texts as long as the recipe's, in the form that its data has."""
    asked = recipe.teacher.ask if path == _TEACHER else None
    facts, length = model.facts, (asked or recipe.data).max_length
    template, section = (asked or recipe.data).template, "teacher.ask" if asked else "data"
    if facts.positions is not None and length > facts.positions:
        if facts.model_type in _TABLES:
            what = f"{section}.max_length is {length}"
            what += f", and this model ({facts.model_type}) has {facts.positions} positions"
            yield Problem((*section.split("."), "max_length"), what, f"write {facts.positions} or less")
        else:
            where = ".".join(map(str, path))
            notes.append(f"{section}.max_length is {length}, and {where} was made for {facts.positions} tokens")
    chats = template == "chat" and READINGS[facts.kind.name].chats
    if chats and facts.has_tokenizer and not facts.has_chat_template:
        what = f"the tokenizer of {'.'.join(map(str, path))} has no chat template"
        fix = f"set {section}.template: plain, or name an instruct model"
        yield Problem((*section.split("."), "template"), what, fix)


def _rounded(recipe: Recipe) -> Iterator[Problem]:
    """What rounds a teacher as it is loaded."""
    if recipe.teacher.placement.quantization is None:
        return
    import torch

    fix = "or name a GGUF as teacher.model, with teacher.backend: llama.cpp and teacher.dequantize: false"
    path = ("teacher", "load", "quantization")
    if not torch.cuda.is_available():
        what = f"bitsandbytes rounds on an NVIDIA GPU, and PyTorch {torch.__version__} finds none here"
        yield Problem(path, what, f"run it where there is one; {fix}")
    elif find_spec("bitsandbytes") is None:
        yield Problem(path, "bitsandbytes is not installed", f"pip install 'distill2edge[bitsandbytes]'; {fix}")


def _packed(recipe: Recipe, path: Path, model: Glance) -> Iterator[Problem]:
    """Layers that carry something from one packed row into the next; others are tried before training."""
    training = recipe.teacher.fit if path == _TEACHER else recipe.distill
    own = isinstance(recipe.student.init, FromTeacher)
    packs = getattr(training, "packing", False) or (own and recipe.distill.packing)
    others = {str(kind) for kind in model.text.get("layer_types") or ()} - _APART
    if packs and others:
        named = model.facts.model_type
        what = f"this model ({named}) has layers of the kind {min(others)}, and packed rows see each other"
        yield Problem(("distill", "packing"), what, "set packing: false")


def _trimmed(recipe: Recipe, student: Glance) -> Iterator[Problem]:
    """A vocabulary that can be trimmed."""
    if recipe.student.trim is not None and (spec := student.tokenizer) is not None:
        yield from said(("student", "vocabulary"), partial(kind_of_tokenizer, spec))


def _narrower(recipe: Recipe, student: Glance, notes: list[str]) -> Iterator[Problem]:
    """Widths that the student's model has, and that files can store in their own types."""
    init, config = recipe.student.init, student.text
    wanted, owner = wanted_widths(init), "the teacher" if isinstance(init, FromTeacher) else "the checkpoint"
    if not wanted:
        return
    found = [*width_refusals(config, student.tensors, wanted, owner)]
    for name, what, fix in found:
        yield Problem((*_INIT, "width", *filter(None, (name,))), what, fix)
    whole = widths_of(config)
    if found or whole is None:
        return
    replaced: dict[str, list[str]] = {}
    for scheme in map(parse_scheme, () if [*unknown_schemes(recipe)] else recipe.export):
        if not isinstance(scheme.type, GgmlType):
            continue
        for name, columns, fits in misfits(whole, wanted, scheme.type.block):
            other = fitting(scheme.type.name, columns)
            near = f"{' or '.join(map(str, fits))} would fit" if fits else "no smaller number fits"
            said = (
                f"{name}: llama.cpp has no {scheme.type.name} for rows of {columns} weights, and takes {other}; {near}"
            )
            replaced.setdefault(said, []).append(str(scheme))
    notes += [f"student.init.width.{said} ({', '.join(schemes)})" for said, schemes in replaced.items()]


def _cached_in_bits(recipe: Recipe, student: Glance) -> Iterator[Problem]:
    """Keys and values whose heads are whole blocks."""
    widths = widths_of(student.text)
    for cache in recipe.verify.caches if widths is not None else ():
        if widths is not None and widths.head % kv_cache.block(cache):
            what = (
                f"{cache} stores blocks of {kv_cache.block(cache)} numbers, and a head of this model has {widths.head}"
            )
            yield Problem(("verify", "kv_cache"), what, f"leave {cache} out")


def _formats(recipe: Recipe, model: Glance, path: Path, texts: tuple[str, ...], converter: bool) -> Iterator[Problem]:
    """Formats that carry the model."""
    config = _as_exported(recipe, model, path)
    if not config:
        return
    asked = recipe.teacher.ask is not None and path != ("export",)
    kind = task_of(recipe).exported(kind_of(config), asked=asked)
    known = None if converter else gguf_convert.known_here(config, kind)
    unknown = {problem.path for problem in unknown_schemes(recipe)}  # said already
    for index, text in enumerate(texts):
        if (*path, index) in unknown:
            continue
        length = recipe.data.max_length if path == ("export",) else None
        for refusal in refusals(config, kind, [parse_scheme(text)], length=length, known=known):
            yield Problem((*path, index), f"{refusal.scheme}: {refusal.reason}", refusal.fix)


def _as_exported(recipe: Recipe, model: Glance, path: Path) -> dict[str, Any]:
    """The configuration that an export will see: that of the layers that are taken, as wide."""
    config, init = dict(model.text), recipe.student.init
    if path != ("export",) or not config:
        return config
    whole = widths_of(config)
    if whole is not None:
        config |= settings(whole, narrowed(whole, wanted_widths(init)))
    own, total = kept(recipe, model), model.facts.layers
    if init.layers is None or (own is None and config.get("layer_types")):
        return config  # which kinds stay depends on the layers that are chosen
    if own is not None and total is not None:
        with suppress(UserError):  # said by `layers`
            config |= fields_of_some(config, own, total)
    config[layers_field(config)] = counted(init.layers)
    if isinstance(init, FromTeacher) and "num_decoder_layers" in config:
        config["num_decoder_layers"] = counted(init.decoder_layers if init.decoder_layers is not None else init.layers)
    return config
