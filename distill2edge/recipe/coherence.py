"""What the sections of a recipe ask of each other."""

from __future__ import annotations

from distill2edge.recipe.schema import FromTeacher, Recipe
from distill2edge.recipe.scratch import Scratch
from distill2edge.schemes import DYNAMIC, TRAINABLE, parse_scheme


def check(recipe: Recipe) -> None:
    """Refuse a recipe whose sections contradict each other.

    Raises:
        ValueError: what does not fit, and what to write in its place.
    """
    _check_loss(recipe)
    if recipe.task == "classification":
        _check_classification(recipe)
    elif recipe.student.vocabulary == "trim":
        raise ValueError("student.vocabulary: trim needs task: classification, for now; set vocabulary: keep")
    if recipe.student.pretrain is not None:
        _check_pretrain(recipe)
    if recipe.task == "seq2seq":
        _check_seq2seq(recipe)
    if recipe.rounds is not None:
        _check_rounds(recipe)
    _check_calibration(recipe)
    _check_mix(recipe)
    _check_on_policy(recipe)
    _check_quantization_aware(recipe)
    if recipe.verify.judge is not None:
        _check_judge(recipe)
    if recipe.teacher.url is not None:
        _check_endpoint(recipe)
    if recipe.synthesis is not None:
        _check_synthesis(recipe)
    for text in (*recipe.export, *recipe.verify.teacher_schemes):
        if str(parse_scheme(text)) == DYNAMIC and recipe.task != "classification":
            raise ValueError(f"{DYNAMIC} is for task classification: a decoder loses too much by it, use onnx:int8")
    if len({str(parse_scheme(text)) for text in recipe.export}) != len(recipe.export):
        raise ValueError("export names a scheme twice")


def _check_loss(recipe: Recipe) -> None:
    if recipe.signal.kind == "labels" and recipe.task != "classification":
        raise ValueError(f"signal.kind labels is for task: classification, not {recipe.task}: use kind: logits")
    loss, wanted = recipe.distill.loss, "labels" if recipe.task == "classification" else "logits"
    if loss.needs_logits and recipe.signal.kind != wanted:
        raise ValueError(
            f"distill.loss compares with the teacher's distribution, but signal.kind is {recipe.signal.kind!r}: "
            f"use signal: {{kind: {wanted}}}, or distill.loss: {{ce: 1}}"
        )
    if not loss.needs_logits and not loss.needs_layers and not loss.ce:
        raise ValueError("distill.loss: every weight is zero")
    if loss.needs_layers and recipe.task != "classification":
        raise ValueError("distill.loss: hidden and attention need task: classification")
    if loss.layer_map is not None and not loss.needs_layers:
        raise ValueError("distill.loss.layer_map is set, but neither hidden nor attention has a weight")


def _check_classification(recipe: Recipe) -> None:
    if recipe.data.choices is None:
        raise ValueError("task classification needs the label set: set data.choices")
    if len(set(recipe.data.choices)) != len(recipe.data.choices):
        raise ValueError("data.choices names a label twice")
    if recipe.data.template != "plain" or recipe.data.system is not None:
        raise ValueError("task classification reads the prompt as it is: set data.template: plain, and no data.system")
    if recipe.signal.kind not in ("labels", "gold"):
        raise ValueError(
            f"task classification learns from class logits, not from {recipe.signal.kind}: use signal: {{kind: labels}}"
        )
    if isinstance(recipe.teacher.model, Scratch) or isinstance(getattr(recipe.student.init, "model", None), Scratch):
        raise ValueError("task classification cannot start from a model made from nothing: name a pretrained one")
    if set(recipe.bench.workloads) != {"task"}:
        raise ValueError("task classification is measured on its own texts: set bench: {workloads: [task]}")
    if recipe.teacher.backend == "llama.cpp":
        raise ValueError("task classification runs its teacher in transformers: leave teacher.backend out")


def _check_pretrain(recipe: Recipe) -> None:
    spec = recipe.student.pretrain
    if recipe.task != "classification":
        raise ValueError(f"student.pretrain is for the encoders of task classification, not {recipe.task}")
    if not isinstance(recipe.student.init, FromTeacher) or recipe.student.init.select == "similarity":
        raise ValueError("student.pretrain: the student takes layers of the teacher: select even or first, or a list")
    assert spec is not None
    if not spec.soft and not spec.masked and not spec.cosine:
        raise ValueError("student.pretrain: every weight is zero")


def _check_seq2seq(recipe: Recipe) -> None:
    if recipe.data.template == "text":
        raise ValueError("task: seq2seq needs a source and a target: set data.template: plain")
    if recipe.verify.positions == "all":
        raise ValueError("an encoder predicts nothing: with task: seq2seq set verify.positions: supervised")


def _check_rounds(recipe: Recipe) -> None:
    if recipe.signal.kind != "text" or not recipe.signal.verify:
        raise ValueError("rounds train on verified text: set signal: {kind: text, verify: [...]}")
    if recipe.distill.on_policy is not None or recipe.distill.quantization_aware is not None:
        raise ValueError("rounds train on the student's text alone: leave on_policy and quantization_aware out")
    if recipe.distill.control or recipe.teacher.backend == "llama.cpp":
        raise ValueError("rounds have arms of their own: leave distill.control and a llama.cpp backend out")


def _check_calibration(recipe: Recipe) -> None:
    if recipe.quantize.compare and not recipe.calibrates:
        raise ValueError("quantize.compare: nothing is calibrated: set quantize.calibration: gptq, or imatrix")
    how = recipe.quantize.calibration
    if how not in ("imatrix", "gptq"):
        return
    if recipe.task != "causal-lm":
        raise ValueError(f"quantize.calibration: {how} is for task causal-lm, not {recipe.task}: use none")
    if not recipe.calibration_rows:
        raise ValueError(f"quantize.calibration: {how} needs rows: raise data.splits.calibration")


def _check_mix(recipe: Recipe) -> None:
    """A mix weighs its types by what the model does on the calibration rows."""
    mixes = [text for text in (*recipe.export, *recipe.verify.teacher_schemes) if parse_scheme(text).mix]
    if not mixes:
        return
    if recipe.task != "causal-lm":
        raise ValueError(f"{mixes[0]}: a mix of types is for task causal-lm, not {recipe.task}: name a stock scheme")
    if not recipe.calibration_rows:
        raise ValueError(f"{mixes[0]}: a mix of types needs calibration rows: raise data.splits.calibration")


def _check_on_policy(recipe: Recipe) -> None:
    if recipe.distill.on_policy is None:
        return
    if recipe.task != "causal-lm":
        raise ValueError(f"distill.on_policy is for task causal-lm, not {recipe.task}: leave it out")
    if recipe.signal.kind != "logits":
        raise ValueError("distill.on_policy: the teacher scores tokens: use signal: {kind: logits}")
    if recipe.teacher.backend == "llama.cpp":
        raise ValueError("distill.on_policy runs its teacher in transformers: leave teacher.backend out")
    if recipe.data.template == "text":
        raise ValueError("distill.on_policy needs prompts to answer: set data.template: chat or plain")


def _check_quantization_aware(recipe: Recipe) -> None:
    section = recipe.distill.quantization_aware
    if section is None:
        return
    where = "distill.quantization_aware"
    if recipe.task != "causal-lm":
        raise ValueError(f"{where} is for task causal-lm, not {recipe.task}: leave it out")
    if len(set(section.schemes)) != len(section.schemes):
        raise ValueError(f"{where} names a scheme twice")
    for text in section.schemes:
        scheme = parse_scheme(text)
        if not scheme.trainable:
            raise ValueError(f"{where}: {scheme} has no grid to train on: a mix, or one of {', '.join(TRAINABLE)}")
        if str(scheme) not in map(str, map(parse_scheme, recipe.export)):
            raise ValueError(f"{where}: {scheme} is trained for, but not exported: add it to export")
    loss = section.loss or recipe.distill.loss
    if loss.needs_logits and section.signal_from == "teacher" and recipe.signal.kind != "logits":
        raise ValueError(
            f"{where}.loss compares with the teacher: use signal: {{kind: logits}}, or {where}.signal_from: student"
        )
    if not loss.needs_logits and section.signal_from == "student":
        raise ValueError(f"{where}.signal_from: student has no term to serve: set {where}.loss: {{forward_kl: 1}}")
    if section.lora is not None and section.lora.dropout:
        raise ValueError(f"{where}.lora.dropout has no place on a grid: set it to 0")


def _check_judge(recipe: Recipe) -> None:
    """A judge reads answers in free text."""
    if recipe.task == "classification":
        raise ValueError("verify.judge compares written answers, and a classifier writes none: leave it out")
    if recipe.data.choices is not None:
        raise ValueError("verify.judge compares open answers: take data.choices out, or leave the judge out")
    if recipe.data.template == "text":
        raise ValueError("verify.judge needs prompts to answer: set data.template: chat or plain")


def _check_endpoint(recipe: Recipe) -> None:
    """An endpoint gives texts and nothing else: no weights, no distributions, no tokenizer."""
    writes = recipe.signal.kind == "text" or (recipe.signal.kind == "gold" and recipe.synthesis is not None)
    if not writes or recipe.task == "classification":
        raise ValueError("an endpoint gives texts alone: use signal: {kind: text} with distill.loss: {ce: 1}")
    init = recipe.student.init
    if isinstance(init, FromTeacher) or isinstance(init.model, Scratch):
        raise ValueError("an endpoint's layers and tokenizer are not here: give student.init a model of its own")
    if recipe.verify.teacher_schemes:
        raise ValueError("an endpoint's model cannot be exported: take verify.teacher_schemes out")
    if recipe.verify.min_retained is not None:
        raise ValueError(
            "verify.min_retained compares with a teacher that runs here: with an endpoint set max_kl or min_top1"
        )
    if recipe.signal.kind == "text":
        for spec in recipe.signal.verify:
            if spec.kind == "likelihood" or (spec.kind == "judge" and spec.model is None):
                raise ValueError(
                    f"signal.verify: {spec.kind} asks the teacher's weights, and an endpoint has none here"
                    + (": give the judge a model" if spec.kind == "judge" else "")
                )


def _check_synthesis(recipe: Recipe) -> None:
    if recipe.task != "causal-lm":
        raise ValueError(f"synthesis is for task causal-lm, not {recipe.task}: leave it out")
    if recipe.data.choices is not None:
        raise ValueError("synthesis writes open responses: take data.choices out")
    if recipe.rounds is not None or recipe.distill.on_policy is not None:
        raise ValueError("synthesis makes the rows once: leave rounds and distill.on_policy out")
