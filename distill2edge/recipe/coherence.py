"""What the sections of a recipe ask of each other: every contradiction, each with the key to change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from distill2edge.quantize.schemes import DYNAMIC, TRAINABLE, parse_scheme
from distill2edge.recipe.loss_terms import LAYERS
from distill2edge.recipe.schema import FromTeacher, Recipe
from distill2edge.recipe.scratch import Scratch
from distill2edge.recipe.section import Problem
from distill2edge.recipe.verifiers import JudgeVerifier, LikelihoodVerifier


def problems(recipe: Recipe) -> Iterator[Problem]:
    """Every way in which the sections contradict each other, and what to write in its place."""
    if unknown := list(unknown_schemes(recipe)):
        yield from unknown  # the other checks read them
        return
    for check in (
        _loss, _classification, _pretrain, _seq2seq, _rounds, _calibration, _mix, _on_policy, _quantization_aware,
        _judge, _endpoint, _synthesis, _exports,
    ):  # fmt: skip
        yield from check(recipe)


def unknown_schemes(recipe: Recipe) -> Iterator[Problem]:
    """Names of schemes that there are not."""
    trained = recipe.distill.quantization_aware
    for path, texts in (
        (("export",), recipe.export),
        (("verify", "teacher_schemes"), recipe.verify.teacher_schemes),
        (("distill", "quantization_aware", "schemes"), () if trained is None else trained.schemes),
    ):
        for index, text in enumerate(texts):
            try:
                parse_scheme(text)
            except ValueError as error:
                yield Problem((*path, index), str(error))


def _loss(recipe: Recipe) -> Iterator[Problem]:
    if recipe.signal.kind == "labels" and recipe.task != "classification":
        what = f"signal.kind labels is for task: classification, not {recipe.task}"
        yield Problem(("signal", "kind"), what, "use kind: logits")
    loss, wanted = recipe.distill.loss, "labels" if recipe.task == "classification" else "logits"
    where = ("distill", "loss")
    if loss.needs_logits and recipe.signal.kind not in (wanted, "labels"):
        yield Problem(
            where,
            f"distill.loss compares with the teacher's distribution, but signal.kind is {recipe.signal.kind!r}",
            f"use signal: {{kind: {wanted}}}, or distill.loss: {{ce: 1}}",
        )
    if not any(loss.weighed()):
        yield Problem(where, "every weight of distill.loss is zero", "set distill.loss: {ce: 0.5, forward_kl: 0.5}")
    if recipe.task != "classification" and (names := [term.name for term, _ in loss.weighed(*LAYERS)]):
        need = "need" if len(names) > 1 else "needs"
        yield Problem(where, f"distill.loss: {' and '.join(names)} {need} task: classification", "take them out")
    if loss.layer_map is not None and not loss.needs_layers:
        what = "distill.loss.layer_map is set, but neither hidden nor attention has a weight"
        yield Problem((*where, "layer_map"), what, "give one a weight, or take layer_map out")


def _classification(recipe: Recipe) -> Iterator[Problem]:
    if recipe.task != "classification":
        if recipe.student.vocabulary == "trim":
            what = "student.vocabulary: trim needs task: classification, for now"
            yield Problem(("student", "vocabulary"), what, "set vocabulary: keep")
        return
    if recipe.data.choices is None:
        yield Problem(("data",), "task classification needs the label set", "set data.choices")
    if recipe.data.template != "plain" or recipe.data.system is not None:
        yield Problem(
            ("data", "template" if recipe.data.template != "plain" else "system"),
            "task classification reads the prompt as it is",
            "set data.template: plain, and no data.system",
        )
    if recipe.signal.kind not in ("labels", "gold"):
        what = f"task classification learns from class logits, not from {recipe.signal.kind}"
        yield Problem(("signal", "kind"), what, "use signal: {kind: labels}")
    for path, model in (
        (("teacher", "model"), recipe.teacher.model),
        (("student", "init", "model"), getattr(recipe.student.init, "model", None)),
    ):
        if isinstance(model, Scratch):
            what = "task classification cannot start from a randomly initialised model"
            yield Problem(path, what, "name a pretrained one")
    if set(recipe.bench.workloads) != {"task"}:
        what = "task classification is measured on its own texts"
        yield Problem(("bench", "workloads"), what, "set bench: {workloads: [task]}")
    if recipe.teacher.backend == "llama.cpp":
        what = "task classification runs its teacher in transformers"
        yield Problem(("teacher", "backend"), what, "leave teacher.backend out")


def _pretrain(recipe: Recipe) -> Iterator[Problem]:
    spec = recipe.student.pretrain
    if spec is None:
        return
    where = ("student", "pretrain")
    if recipe.task != "classification":
        what = f"student.pretrain is for the encoders of task classification, not {recipe.task}"
        yield Problem(where, what, "leave it out")
    if not isinstance(recipe.student.init, FromTeacher) or recipe.student.init.select == "similarity":
        what = "student.pretrain: the student takes layers of the teacher"
        yield Problem(where, what, "select even or first, or a list")
    if not spec.soft and not spec.masked and not spec.cosine:
        yield Problem(where, "student.pretrain: every weight is zero", "give one: {soft: 5, masked: 2, cosine: 1}")


def _seq2seq(recipe: Recipe) -> Iterator[Problem]:
    if recipe.task != "seq2seq":
        return
    if recipe.data.template == "text":
        what = "task: seq2seq needs a source and a target"
        yield Problem(("data", "template"), what, "set data.template: plain")
    if recipe.verify.positions == "all":
        what = "an encoder predicts nothing"
        yield Problem(("verify", "positions"), what, "with task: seq2seq set verify.positions: supervised")


def _rounds(recipe: Recipe) -> Iterator[Problem]:
    if recipe.rounds is None:
        return
    if recipe.signal.kind != "text" or not recipe.signal.verify:
        yield Problem(("signal",), "rounds train on verified text", "set signal: {kind: text, verify: [...]}")
    what = "rounds train on the student's text alone"
    for name in ("on_policy", "quantization_aware"):
        if getattr(recipe.distill, name) is not None:
            yield Problem(("distill", name), what, "leave on_policy and quantization_aware out")
    what, fix = "rounds have arms of their own", "leave distill.control and a llama.cpp backend out"
    if recipe.distill.control:
        yield Problem(("distill", "control"), what, fix)
    if recipe.teacher.backend == "llama.cpp":
        yield Problem(("teacher", "backend"), what, fix)


def _calibration(recipe: Recipe) -> Iterator[Problem]:
    if recipe.quantize.compare and not recipe.calibrates:
        fix = "set quantize.calibration: gptq, or imatrix"
        yield Problem(("quantize", "compare"), "quantize.compare: nothing is calibrated", fix)
    how = recipe.quantize.calibration
    if how not in ("imatrix", "gptq"):
        return
    where = ("quantize", "calibration")
    if recipe.task != "causal-lm":
        what = f"quantize.calibration: {how} is for task causal-lm, not {recipe.task}"
        yield Problem(where, what, "use none")
    if not recipe.calibration_rows:
        yield Problem(where, f"quantize.calibration: {how} needs rows", "raise data.splits.calibration")


def _mix(recipe: Recipe) -> Iterator[Problem]:
    """A mix weighs its types by what the model does on the calibration rows."""
    for path, texts in ((("export",), recipe.export), (("verify", "teacher_schemes"), recipe.verify.teacher_schemes)):
        for index, text in enumerate(texts):
            if not parse_scheme(text).mix:
                continue
            if recipe.task != "causal-lm":
                what = f"{text}: a mix of types is for task causal-lm, not {recipe.task}"
                yield Problem((*path, index), what, "name a stock scheme")
            elif not recipe.calibration_rows:
                what = f"{text}: a mix of types needs calibration rows"
                yield Problem((*path, index), what, "raise data.splits.calibration")


def _on_policy(recipe: Recipe) -> Iterator[Problem]:
    if recipe.distill.on_policy is None:
        return
    where = ("distill", "on_policy")
    if recipe.task != "causal-lm":
        yield Problem(where, f"distill.on_policy is for task causal-lm, not {recipe.task}", "leave it out")
    if recipe.signal.kind != "logits":
        yield Problem(where, "distill.on_policy: the teacher scores tokens", "use signal: {kind: logits}")
    if recipe.teacher.backend == "llama.cpp":
        yield Problem(where, "distill.on_policy runs its teacher in transformers", "leave teacher.backend out")
    if recipe.data.template == "text":
        what = "distill.on_policy needs prompts to answer"
        yield Problem(where, what, "set data.template: chat or plain")


def _quantization_aware(recipe: Recipe) -> Iterator[Problem]:
    section = recipe.distill.quantization_aware
    if section is None:
        return
    path, where = ("distill", "quantization_aware"), "distill.quantization_aware"
    if recipe.task != "causal-lm":
        yield Problem(path, f"{where} is for task causal-lm, not {recipe.task}", "leave it out")
    if twice := _twice(section.schemes):
        yield Problem((*path, "schemes"), f"{where} names a scheme twice ({twice})", "name each once")
    for index, text in enumerate(section.schemes):
        scheme = parse_scheme(text)
        if not scheme.trainable:
            what = f"{where}: {scheme} has no grid to train on"
            yield Problem((*path, "schemes", index), what, f"a mix, or one of {', '.join(TRAINABLE)}")
        elif str(scheme) not in map(str, map(parse_scheme, recipe.export)):
            what = f"{where}: {scheme} is trained for, but not exported"
            yield Problem((*path, "schemes", index), what, "add it to export")
    loss = section.loss or recipe.distill.loss
    if loss.needs_logits and section.signal_from == "teacher" and recipe.signal.kind != "logits":
        fix = f"use signal: {{kind: logits}}, or {where}.signal_from: student"
        yield Problem((*path, "loss"), f"{where}.loss compares with the teacher", fix)
    if not loss.needs_logits and section.signal_from == "student":
        what = f"{where}.signal_from: student has no term to serve"
        yield Problem((*path, "signal_from"), what, f"set {where}.loss: {{forward_kl: 1}}")
    if section.lora is not None and section.lora.dropout:
        yield Problem((*path, "lora", "dropout"), f"{where}.lora.dropout has no place on a grid", "set it to 0")


def _judge(recipe: Recipe) -> Iterator[Problem]:
    """A judge reads answers in free text."""
    if recipe.verify.judge is None:
        return
    where = ("verify", "judge")
    if recipe.task == "classification":
        what = "verify.judge compares written answers, and a classifier writes none"
        yield Problem(where, what, "leave it out")
    elif recipe.data.choices is not None:
        what = "verify.judge compares open answers"
        yield Problem(where, what, "take data.choices out, or leave the judge out")
    if recipe.data.template == "text":
        yield Problem(where, "verify.judge needs prompts to answer", "set data.template: chat or plain")


def _endpoint(recipe: Recipe) -> Iterator[Problem]:
    """An endpoint gives texts and nothing else: no weights, no distributions, no tokenizer."""
    if recipe.teacher.url is None:
        return
    writes = recipe.signal.kind == "text" or (recipe.signal.kind == "gold" and recipe.synthesis is not None)
    if not writes or recipe.task == "classification":
        fix = "use signal: {kind: text} with distill.loss: {ce: 1}"
        yield Problem(("signal",), "an endpoint gives texts alone", fix)
    init = recipe.student.init
    if isinstance(init, FromTeacher) or isinstance(init.model, Scratch):
        what = "an endpoint's layers and tokenizer are not here"
        yield Problem(("student", "init"), what, "give student.init a model of its own")
    if recipe.verify.teacher_schemes:
        what = "an endpoint's model cannot be exported"
        yield Problem(("verify", "teacher_schemes"), what, "take verify.teacher_schemes out")
    if recipe.verify.min_retained is not None:
        what = "verify.min_retained compares with a teacher that runs here"
        yield Problem(("verify", "min_retained"), what, "with an endpoint set max_kl or min_top1")
    for index, spec in enumerate(recipe.signal.verify if recipe.signal.kind == "text" else ()):
        if isinstance(spec, LikelihoodVerifier) or (isinstance(spec, JudgeVerifier) and spec.model is None):
            what = f"signal.verify: {spec.kind} asks the teacher's weights, and an endpoint has none here"
            fix = "give the judge a model" if spec.kind == "judge" else "leave it out"
            yield Problem(("signal", "verify", index), what, fix)


def _synthesis(recipe: Recipe) -> Iterator[Problem]:
    if recipe.synthesis is None:
        return
    if recipe.task != "causal-lm":
        yield Problem(("synthesis",), f"synthesis is for task causal-lm, not {recipe.task}", "leave it out")
    if recipe.data.choices is not None:
        yield Problem(("data", "choices"), "synthesis writes open responses", "take data.choices out")
    if recipe.rounds is not None or recipe.distill.on_policy is not None:
        what = "synthesis makes the rows once"
        yield Problem(("synthesis",), what, "leave rounds and distill.on_policy out")


def _exports(recipe: Recipe) -> Iterator[Problem]:
    for path, texts in ((("export",), recipe.export), (("verify", "teacher_schemes"), recipe.verify.teacher_schemes)):
        names = [str(parse_scheme(text)) for text in texts]
        for index, name in enumerate(names):
            if name == DYNAMIC and recipe.task != "classification":
                what = f"{DYNAMIC} is for task classification: a decoder loses too much by it"
                yield Problem((*path, index), what, "use onnx:int8")
            if name in names[:index]:
                yield Problem((*path, index), f"{path[-1]} names a scheme twice ({name})", "name each once")


def _twice(names: tuple[str, ...]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)
