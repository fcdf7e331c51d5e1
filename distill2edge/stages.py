"""The graph of one recipe: which stages, on which part of the recipe each depends, and what it reads."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from distill2edge import export_steps, steps
from distill2edge.declared import FILES
from distill2edge.errors import UserError
from distill2edge.judging import add_judge
from distill2edge.on_policy import WARM, add_on_policy
from distill2edge.pipeline import Stage
from distill2edge.progress import Progress
from distill2edge.recipe.canonical import canonical
from distill2edge.recipe.schema import Distill, FromTeacher, GoldSignal, Loss, Recipe
from distill2edge.recipe.scratch import Scratch
from distill2edge.rounds import add_rounds
from distill2edge.schemes import UNTRAINED_SUFFIX, Scheme, parse_scheme
from distill2edge.store import sha256_of

# Raised when the code of a stage makes another artifact of the same inputs.
VERSIONS = {
    "data": 2,
    "teacher": 2,
    "fit": 1,
    "synthesis": 2,
    "signal": 1,
    "pretrain": 2,
    "student": 1,
    "distill": 1,
    "merge": 2,
    "quantization-aware": 2,
    "calibration": 1,
    "sensitivity": 4,
    "export": 3,
    "verify": 4,
    "judge": 2,
    "bench": 2,
    "report": 8,
    "rounds": 2,
}


# How a text becomes what a model reads: written into every file that ships.
_INPUT = ("template", "system", "prompt", "choices", "max_length")


def build_stages(recipe: Recipe, progress: Progress, converter: Path | None = None) -> list[Stage]:
    """Every stage of a recipe, each after those it reads.

    Args:
        converter: convert_hf_to_gguf.py of a llama.cpp checkout, for GGUF in place of the built-in writers. It is an
            argument and no part of the recipe: a recipe from elsewhere must not name code to run.

    Raises:
        UserError: a model or data source that does not exist.
        EnvironmentFault: a hub or bundled source that cannot be reached.
    """
    from distill2edge.cost.places import check_places, watts_of
    from distill2edge.data.sources import fingerprint as data_fingerprint
    from distill2edge.teacher.load import fingerprint as model_fingerprint
    from distill2edge.teacher.open import text_backend
    from distill2edge.verifiers.registry import contents, require_walls

    require_walls(recipe)
    check_places(recipe.cost)  # a misspelt machine must not wait for hours of training
    watts_of(recipe.bench, recipe.cost)
    exporter = _exporter(converter)
    stages: list[Stage] = []

    def add(name: str, section: Any, parents: tuple[str, ...], write: Any) -> str:
        kind = name.split(" ")[0]
        stages.append(Stage(name, kind, VERSIONS[kind], section, parents, write, FILES[kind]))
        return name

    rows = {"template": recipe.data.template, "system": recipe.data.system, "max_length": recipe.data.max_length}
    if recipe.task != "causal-lm":
        rows["task"] = recipe.task
    own_layers = isinstance(recipe.student.init, FromTeacher)

    data = add(
        "data",
        {**canonical(recipe.data), "content": data_fingerprint(recipe.data.source, recipe.data.revision)},
        (),
        partial(steps.write_data, recipe),
    )
    teacher_section = canonical(recipe.teacher, {"fit", "backend", "endpoint"})
    endpoint = recipe.teacher.endpoint  # its budget may be raised between two tries: no part of any key
    teacher_section |= {
        "content": endpoint.asked
        if endpoint is not None
        else model_fingerprint(recipe.teacher.model, recipe.teacher.revision, progress),
        "derivative": own_layers,
    }
    if isinstance(recipe.teacher.model, Scratch):
        teacher_section["context"] = recipe.data.max_length
    made = isinstance(recipe.teacher.model, Scratch)  # its tokenizer is trained on the data
    base = add("teacher", teacher_section, (data,) if made else (), partial(steps.write_teacher, recipe))
    teacher = base
    if recipe.teacher.fit is not None:
        section = {"fit": canonical(recipe.teacher.fit), "rows": rows}
        teacher = add("fit", section, (data, base), partial(steps.write_fit, recipe))

    read_from: tuple[str, ...] = (data,)  # whose rows later stages read (`steps.rows_dir`)
    if recipe.synthesis is not None:
        section = {"synthesis": canonical(recipe.synthesis), "backend": text_backend(recipe, progress), "rows": rows}
        parents = tuple(dict.fromkeys((data, base, teacher)))
        read_from = (data, add("synthesis", section, parents, partial(steps.write_synthesis, recipe)))

    policy = recipe.distill.on_policy
    scored = {} if policy is None or policy.warm_rows is None else {"scored_rows": policy.warm_rows}
    signal = ()
    if recipe.signal.kind != "gold" and recipe.rounds is None:
        section = {"signal": canonical(recipe.signal), "backend": recipe.teacher.backend, "rows": rows, **scored}
        if recipe.signal.kind == "text":
            section["ledger"] = 4  # what is dropped, and what is written of it
            if (backend := text_backend(recipe, progress)) == "llama.cpp":
                section |= {"backend": backend, "writer": 2}  # raised when other text is written
            if read := contents(recipe.signal.verify, progress):
                section["read"] = read
        parents = (*read_from, teacher)
        if recipe.signal.kind == "text":
            parents = tuple(dict.fromkeys((*read_from, base, teacher)))
        signal = (add("signal", section, parents, partial(steps.write_signal, recipe)),)

    pretrained = ()
    if recipe.student.pretrain is not None:
        section = {"pretrain": canonical(recipe.student.pretrain), "init": canonical(recipe.student.init), "rows": rows}
        pretrained = (add("pretrain", section, (data, base), partial(steps.write_pretrain, recipe)),)

    begun = {"init": canonical(recipe.student.init)}
    if recipe.task != "causal-lm":
        begun |= {"vocabulary": recipe.student.vocabulary, "rows": rows}
    if not own_layers:
        begun["content"] = model_fingerprint(recipe.student.init.model, recipe.student.init.revision, progress)  # type: ignore[union-attr]
    student = add("student", begun, (*read_from, teacher, *pretrained), partial(steps.write_student, recipe))

    first = "" if policy is None else WARM
    arms = [(first, recipe.distill, recipe.signal.kind, signal)]
    if recipe.distill.control:
        arms.append((" control", control_of(recipe.distill), GoldSignal().kind, ()))
    merged: list[str] = []
    if recipe.rounds is not None:
        arms = []
        assert recipe.signal.kind == "text"
        read = contents(recipe.signal.verify, progress)
        final, _ = add_rounds(add, recipe, rows, read, data, base, teacher, student)
        merged.append(final)
    for suffix, training, kind, read in arms:
        section = {
            "distill": canonical(training, {"control", "on_policy", "quantization_aware"}),
            "lora": canonical(recipe.student.lora),
            "rows": rows,
            **scored,
        }
        trained = add(
            f"distill{suffix}",
            {**section, "signal": kind},
            (*read_from, student, *((teacher,) if training.loss.needs_layers else ()), *read),
            partial(steps.write_distill, recipe, training, kind, student, read[0] if read else None),
        )
        merged.append(
            add(
                f"merge{suffix}",
                {"rows": rows},
                (*read_from, student, trained),
                partial(steps.write_merge, recipe, student, trained),
            )
        )
    if policy is not None:
        merged[0] = add_on_policy(add, recipe, rows, data, teacher, merged[0])

    exports = []
    for role, source, schemes in (
        ("student", merged[0], recipe.schemes),
        ("teacher", teacher, tuple(map(parse_scheme, recipe.verify.teacher_schemes))),
    ):
        calibration = None
        if any(map(recipe.calibrated, schemes)):
            section = {"max_tokens": recipe.quantize.max_tokens, "rows": rows}
            if recipe.gptq:
                section["grams"] = 2  # raised when files are rounded by them in another way
            name = f"calibration {role}"
            calibration = add(
                name, section, (*read_from, source), partial(export_steps.write_calibration, recipe, source)
            )
        sensitivity = None
        if formats := tuple(sorted({scheme.format for scheme in schemes if scheme.mix})):
            section = {"max_tokens": recipe.quantize.max_tokens, "rows": rows}
            if formats != ("gguf",):
                section["formats"] = formats
            name = f"sensitivity {role}"
            weigh = partial(export_steps.write_sensitivity, recipe, source, formats)
            sensitivity = add(name, section, (*read_from, source), weigh)
        on_grid = set(map(str, recipe.trained_schemes)) if role == "student" else set()
        compared = signal  # whose distributions training on a grid compares with
        trained_more = recipe.distill.quantization_aware
        if on_grid and trained_more is not None and trained_more.signal_from == "student":
            own = {"signal": canonical(recipe.student_signal), "kind": recipe.signal.kind, "rows": rows, **scored}
            write_own = partial(export_steps.write_student_signal, recipe, source)
            compared = (*signal, add("signal student", own, (*read_from, source, *signal), write_own))
        # The file that training starts from is written first.
        for scheme in sorted(schemes, key=lambda scheme, own=on_grid: str(scheme) in own):
            model, untrained = source, f"export {role}/{scheme}{UNTRAINED_SUFFIX}"
            if str(scheme) in on_grid:
                # What its untrained file was rounded by: training starts from the weights that such a file stores.
                inputs = sensitivity if scheme.mix else calibration if recipe.gptq else None
                rounded_by = () if inputs is None else (inputs,)
                model = add(
                    f"quantization-aware {scheme}",
                    {
                        "training": canonical(recipe.distill.quantization_aware, {"schemes"}),
                        "loss": canonical(recipe.distill.loss),
                        "chunk": recipe.distill.chunk,
                        "signal": recipe.signal.kind,
                        "rows": rows,
                    },
                    (*read_from, source, untrained, *rounded_by, *compared),
                    partial(export_steps.write_quantization_aware, recipe, scheme, source, untrained, rounded_by),
                )
            if scheme.mix and model is not source:  # its types are those of the untrained file
                section, parents, write = _export(recipe, scheme, base, model, role, exporter, untrained)
            elif scheme.mix:
                section, parents, write = _export(recipe, scheme, base, model, role, exporter, sensitivity)
                if scheme.mix.max_kl is not None:  # it is measured on rows, as verify will
                    measure = {"positions": recipe.verify.positions, "max_tokens": recipe.verify.max_tokens}
                    section |= {"rows": rows, "measure": measure}
                parents = (*parents, *read_from)
            else:
                section, parents, write = _export(recipe, scheme, base, model, role, exporter, calibration)
            parts = (section, tuple(dict.fromkeys((*parents, *read_from[1:]))), write)  # the rows' summary goes with it
            exports.append(add(f"export {role}/{scheme}", *parts))
    measured = (*read_from, base, teacher, student, *merged, *exports)
    measured = tuple(dict.fromkeys(measured))
    add(
        "verify",
        {"verify": canonical(recipe.verify, {"judge"}), "choices": recipe.data.choices, "rows": rows},
        measured,
        partial(steps.write_verify, recipe, teacher),
    )
    if recipe.verify.judge is not None:
        contents = {"teacher": teacher_section["content"], "student": begun.get("content")}
        parents = (*read_from, base, teacher, student, merged[0])
        add_judge(add, recipe, progress, rows, contents, parents, exports, teacher)
    add(
        "bench",
        {"bench": canonical(recipe.bench), "cost": canonical(recipe.cost), "rows": rows},
        measured,
        partial(steps.write_bench, recipe, teacher),
    )
    everything = tuple(stage.name for stage in stages)
    add("report", {"recipe": canonical(recipe)}, everything, partial(steps.write_report, recipe))
    return stages


def control_of(distill: Distill) -> Distill:
    """The same training without the teacher: cross-entropy on the data's own responses."""
    return distill.model_copy(update={"loss": Loss(ce=1.0), "control": False, "on_policy": None})


def _export(
    recipe: Recipe,
    scheme: Scheme,
    base: str,
    source: str,
    role: str,
    exporter: tuple[Path, str] | None,
    statistics: str | None,
) -> tuple[Any, tuple[str, ...], Any]:
    section = {"scheme": str(scheme), "name": recipe.name, "description": recipe.description, "role": role}
    section["input"] = canonical(recipe.data, {*type(recipe.data).model_fields} - {*_INPUT})
    converter = None
    if exporter is not None and scheme.format == "gguf":
        converter, section["converter"] = exporter
    used = (statistics,) if statistics is not None and (recipe.calibrated(scheme) or scheme.mix) else ()
    write = partial(export_steps.write_export, recipe, scheme, source, role, converter, used)
    return section, tuple(dict.fromkeys((base, source, *used))), write


def _exporter(converter: Path | None) -> tuple[Path, str] | None:
    """The converter and its content, for the key of the exports."""
    if converter is None:
        return None
    if not converter.is_file():
        raise UserError(
            "no such file", where=f"--converter {converter}", fix="convert_hf_to_gguf.py of a llama.cpp checkout"
        )
    return converter, sha256_of(converter)
