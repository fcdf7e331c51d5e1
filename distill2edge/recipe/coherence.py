"""What the sections of a recipe ask of each other: every contradiction, each with the key to change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from distill2edge.errors import Problem
from distill2edge.quantize.schemes import TRAINABLE, parse_scheme
from distill2edge.recipe.assistant import without_layers
from distill2edge.recipe.loss_terms import DISTRIBUTIONS
from distill2edge.recipe.scratch import Scratch
from distill2edge.recipe.used_features import schemes_of, used_features
from distill2edge.recipe.verifiers import JudgeVerifier, LikelihoodVerifier
from distill2edge.tasks import TASKS, task_of

if TYPE_CHECKING:
    from distill2edge.recipe.schema import Recipe


def problems(recipe: Recipe) -> Iterator[Problem]:
    """Every way in which the sections contradict each other, and what to write in its place."""
    if unknown := list(unknown_schemes(recipe)):
        yield from unknown  # the other checks read them
        return
    for check in (
        _task, _placed, _pairs, _aligned, _unlabelled, _loss, of_sample, _pretrain, _rounds, _calibration, _mix,
        _on_policy, _quantization_aware, _judge, _endpoint, _workers, _not_dense, _synthesis, _exports,
    ):  # fmt: skip
        yield from check(recipe)


def _task(recipe: Recipe) -> Iterator[Problem]:
    """What a recipe uses and its task does not support."""
    task = task_of(recipe)
    if recipe.signal.kind not in task.signals:
        what = f"task {task.name} learns from {_either(task.signals)}, not from signal.kind {recipe.signal.kind}"
        yield Problem(("signal", "kind"), what, f"use signal: {{kind: {task.signals[0]}}}")
    if recipe.data.template not in task.templates:
        what = f"task {task.name} reads data.template {_either(task.templates)}, not {recipe.data.template}"
        yield Problem(("data", "template"), what, f"set data.template: {task.templates[-1]}")
    for feature, path, label in used_features(recipe):
        if feature not in task.supports:
            others = [other.name for other in TASKS.values() if feature in other.supports]
            why = f": {feature.why}" if feature.why else ""
            what = f"{label or feature.label} is for task {_either(others)}, not for {task.name}{why}"
            yield Problem(path, what, feature.fix)
    if recipe.student.thresholds != "half":
        where = ("student", "thresholds")
        if not recipe.data.multi:
            yield Problem(where, "student.thresholds is of sets of labels, and data.multi is not set", "leave it out")
        elif not recipe.data.splits.validation:
            yield Problem(where, "thresholds are chosen on validation rows", "raise data.splits.validation")
    yield from task.problems(recipe)


def _either(names: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


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


def _placed(recipe: Recipe) -> Iterator[Problem]:
    """Who can run a teacher that is shared out or rounded: what trains it, or trains beside it, cannot."""
    if not recipe.teacher.placement:
        return
    where, fix = ("teacher", "load"), "take teacher.load out"
    for used, what in (
        (recipe.teacher.url is not None, "an endpoint loads its model itself"),
        (recipe.teacher.backend == "llama.cpp", "teacher.load is of PyTorch, and llama.cpp runs this teacher"),
        (isinstance(recipe.teacher.model, Scratch), "a randomly initialised teacher is trained, whole"),
        (recipe.teacher.fit is not None, "teacher.fit trains the teacher, whole and on one device"),
        (_beside_teacher(recipe), "a loss of hidden states runs the teacher beside the student, whole"),
        (recipe.student.pretrain is not None, "student.pretrain runs the teacher beside the student, whole"),
        (getattr(recipe.student.init, "is_table", False), "a table is made of a teacher that is whole"),
    ):
        if used:
            yield Problem(where, what, fix)


def _beside_teacher(recipe: Recipe) -> bool:
    return recipe.distill.loss.needs_layers and recipe.student.assistant is None


def _aligned(recipe: Recipe) -> Iterator[Problem]:
    """Two tokenizers, and texts that both have read."""
    if getattr(recipe.signal, "align", "none") == "none":
        return
    if isinstance(getattr(recipe.student.init, "model", None), str):
        if recipe.distill.on_policy is not None:
            what = "the teacher scores the tokens that the student writes, and with signal.align they are not its own"
            yield Problem(("distill", "on_policy"), what, "leave distill.on_policy out")
        return
    what = "the student has the teacher's own tokenizer"
    yield Problem(("signal", "align"), what, "leave signal.align out, or name a student: student.init: {model: ...}")


def _unlabelled(recipe: Recipe) -> Iterator[Problem]:
    """What rows without a response cannot serve."""
    data = recipe.data
    if data.response is not None and data.unlabelled is None:
        return
    where = ("data", "unlabelled" if data.unlabelled is not None else "response")
    if recipe.signal.kind not in ("labels", "text", "embeddings", "numbers"):
        what = f"signal.kind {recipe.signal.kind} learns from responses, and some rows have none"
        kind = "text" if task_of(recipe).predicts_tokens else "labels"
        yield Problem(where, what, f"use signal: {{kind: {kind}}}")
    for index, spec in enumerate(getattr(recipe.signal, "verify", ())):
        if spec.kind in ("exact", "numeric"):
            what = f"signal.verify: {spec.kind} compares with the response, and some rows have none"
            yield Problem(("signal", "verify", index), what, "leave it out, or take majority or a judge")
    if data.response is not None:
        return
    none, where = "no row has a response", ("data", "response")
    if recipe.without_references:
        for name, there in (
            ("synthesis", recipe.synthesis), ("rounds", recipe.rounds), ("data.choices", recipe.data.choices),
        ):  # fmt: skip
            if there is not None:
                yield Problem(
                    where, f"{none}, and {name} starts from responses", f"give data.response, or leave {name} out"
                )
    if recipe.teacher.fit is not None:
        yield Problem(
            ("teacher", "fit"), f"{none} to fit the teacher to", "take teacher.fit out, or give data.response"
        )
    if recipe.distill.control:
        yield Problem(("distill", "control"), f"{none} to train a control on", "set distill.control: false")
    for path, weighed in recipe.losses if recipe.signal.kind != "text" else ():
        for term, _ in weighed.weighed("gold"):
            key = (*path, term.name)
            yield Problem(key, f"{none} for {term.label} to read", f"set {'.'.join(key)}: 0")


def _pairs(recipe: Recipe) -> Iterator[Problem]:
    """Files that cannot read two texts; texts that no model ranks."""
    gate, data = ("verify", "min_ndcg_retained"), recipe.data
    if recipe.verify.min_ndcg_retained is not None:
        if data.pair is None:
            what = "verify.min_ndcg_retained ranks the second texts of pairs, and data.pair is not set"
            yield Problem(gate, what, "take it out, or set data.pair")
        elif data.choices is not None and (data.multi or (len(data.choices) > 2 and not data.ordered)):
            what = "verify.min_ndcg_retained ranks by classes that have an order"
            yield Problem(gate, what, "take it out, or set data.ordered")
    if data.pair is None:
        return
    asked = recipe.teacher.ask is not None  # such a teacher reads one prompt
    for path, text in schemes_of(recipe):
        if parse_scheme(text).format == "gguf" and not (asked and path[0] == "verify"):
            what = f"{text}: llama.cpp reads one text (every token gets the first one's segment), and data.pair is set"
            yield Problem(path, what, "use ONNX")


def _loss(recipe: Recipe) -> Iterator[Problem]:
    loss, wanted = recipe.distill.loss, task_of(recipe).signals[0]
    where = ("distill", "loss")
    if loss.needs_logits and recipe.signal.kind not in (wanted, "labels"):
        yield Problem(
            where,
            f"distill.loss compares with the teacher's distribution, but signal.kind is {recipe.signal.kind!r}",
            f"use signal: {{kind: {wanted}}}, or distill.loss: {{ce: 1}}",
        )
    if not any(loss.weighed()):
        yield Problem(where, "every weight of distill.loss is zero", "set distill.loss: {ce: 0.5, forward_kl: 0.5}")
    elif recipe.student.assistant is not None and not any(without_layers(loss).weighed()):
        what = "the assistant learns by the terms that compare no layers, and distill.loss has none"
        yield Problem(where, what, "weigh one: distill.loss: {forward_kl: 1, hidden: 1}")
    for path, each in recipe.losses:
        if each.layer_map is not None and not each.needs_layers:
            what = f"{'.'.join(path)}.layer_map is set, but neither hidden nor attention has a weight"
            yield Problem((*path, "layer_map"), what, "give one a weight, or take layer_map out")


def of_sample(recipe: Recipe) -> Iterator[Problem]:
    """What a random sample of the teacher's distribution cannot give."""
    if getattr(recipe.signal, "sample", None) is None:
        return
    if recipe.teacher.url is not None:
        what = "a server lists its likeliest tokens alone, and signal.sample draws from all"
        yield Problem(("signal", "sample"), what, "leave signal.sample out: signal.top_k keeps what is listed")
    policy = recipe.distill.on_policy
    rounds = () if policy is None else ((("distill", "on_policy"), policy),)
    for path, loss in (*recipe.losses, *rounds):
        for term, _ in loss.weighed(*DISTRIBUTIONS):
            if not term.sampled:
                what = f"{term.label} needs the teacher's whole distribution, and signal.sample keeps a random sample"
                fix = f"weigh forward_kl in place of {term.name}, or leave signal.sample out: signal.top_k serves it"
                yield Problem((*path, term.name), what, fix)


def _pretrain(recipe: Recipe) -> Iterator[Problem]:
    spec = recipe.student.pretrain
    if spec is None:
        return
    where = ("student", "pretrain")
    init = recipe.student.init
    if getattr(init, "select", "similarity") == "similarity":
        what = "student.pretrain: the student takes layers of the teacher"
        yield Problem(where, what, "select even or first, or a list")
    if not spec.soft and not spec.masked and not spec.cosine:
        yield Problem(where, "student.pretrain: every weight is zero", "give one: {soft: 5, masked: 2, cosine: 1}")


def _rounds(recipe: Recipe) -> Iterator[Problem]:
    if recipe.rounds is None:
        return
    if recipe.signal.kind != "text" or not recipe.signal.verify:
        yield Problem(("signal",), "rounds train on verified text", "set signal: {kind: text, verify: [...]}")
    if recipe.student.assistant is not None:
        what = "the assistant learns from the teacher, and in rounds only the student writes"
        yield Problem(("student", "assistant"), what, "leave it out")
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
    if recipe.student.init.width is not None and not recipe.calibration_rows:
        what = "student.init.width compares what the parts of a layer do on calibration rows"
        yield Problem(("student", "init", "width"), what, "raise data.splits.calibration")
    if recipe.verify.caches and not any(text.startswith("gguf:") for text in recipe.export):
        what = "verify.kv_cache: llama.cpp keeps keys and values in fewer bits, ONNX Runtime and PyTorch do not"
        yield Problem(("verify", "kv_cache"), what, "export a GGUF, such as gguf:Q8_0, or leave it out")
    how = recipe.quantize.calibration
    if how not in ("imatrix", "gptq"):
        return
    where = ("quantize", "calibration")
    if not recipe.calibration_rows:
        yield Problem(where, f"quantize.calibration: {how} needs rows", "raise data.splits.calibration")


def _mix(recipe: Recipe) -> Iterator[Problem]:
    """A mix weighs its types by what the model does on the calibration rows."""
    for path, text in schemes_of(recipe):
        if parse_scheme(text).mix and not recipe.calibration_rows:
            yield Problem(path, f"{text}: a mix of types needs calibration rows", "raise data.splits.calibration")


def _on_policy(recipe: Recipe) -> Iterator[Problem]:
    if recipe.distill.on_policy is None:
        return
    where = ("distill", "on_policy")
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
    loss, said = section.loss or recipe.distill.loss, task_of(recipe).signals[0]
    if loss.needs_signal and section.signal_from == "teacher" and recipe.signal.kind != said:
        fix = f"use signal: {{kind: {said}}}, or {where}.signal_from: student"
        yield Problem((*path, "loss"), f"{where}.loss compares with the teacher", fix)
    if not loss.needs_signal and section.signal_from == "student":
        what = f"{where}.signal_from: student has no term to serve"
        yield Problem((*path, "signal_from"), what, f"weigh a term in {where}.loss that compares with the teacher")
    if section.lora is not None and section.lora.dropout:
        yield Problem((*path, "lora", "dropout"), f"{where}.lora.dropout has no place on a grid", "set it to 0")


def _judge(recipe: Recipe) -> Iterator[Problem]:
    """A judge reads answers in free text."""
    if recipe.verify.judge is None:
        return
    where = ("verify", "judge")
    if recipe.data.choices is not None:
        what = "verify.judge compares open answers"
        yield Problem(where, what, "take data.choices out, or leave the judge out")
    if recipe.data.template == "text":
        yield Problem(where, "verify.judge needs prompts to answer", "set data.template: chat or plain")


def _workers(recipe: Recipe) -> Iterator[Problem]:
    """Something for workers to do."""
    if recipe.teacher.workers is None or recipe.signal.kind != "gold":
        return
    if recipe.distill.on_policy is None and recipe.rounds is None:
        what = "no stage of this recipe runs the teacher over the rows"
        yield Problem(("teacher", "workers"), what, "leave it out")


def _endpoint(recipe: Recipe) -> Iterator[Problem]:
    """An endpoint gives texts, and scores them: it has no weights here, and no tokenizer."""
    if recipe.teacher.url is None:
        return
    writes = (
        recipe.scored_elsewhere
        or recipe.signal.kind == "text"
        or (recipe.signal.kind == "gold" and recipe.synthesis is not None)
    )
    if recipe.teacher.ask is not None:
        writes = recipe.signal.kind == "labels"
    if not writes:
        fix = "use signal: {kind: text} with distill.loss: {ce: 1}"
        yield Problem(("signal",), "an endpoint gives texts alone", fix)  # or a classifier's teacher is asked
    if recipe.scored_elsewhere and recipe.signal.temperature != 1:  # type: ignore[union-attr]
        what = "an endpoint lists few log-probabilities, and what is beside them is not known at another temperature"
        yield Problem(("signal", "temperature"), what, "set signal.temperature: 1")
    if recipe.scored_elsewhere and recipe.signal.align != "none":  # type: ignore[union-attr]
        what = "an endpoint's log-probabilities are read in the student's own tokens"
        yield Problem(("signal", "align"), what, "leave signal.align out; the server's tokenizer must be the student's")
    init = recipe.student.init
    if not hasattr(init, "model") or isinstance(init.model, Scratch):
        what = "an endpoint's layers and tokenizer are not here"
        yield Problem(("student", "init"), what, "give student.init a model of its own")


def _not_dense(recipe: Recipe) -> Iterator[Problem]:
    """What asks for a teacher's weights, where PyTorch has none."""
    if recipe.has_dense_teacher:
        return
    remote = recipe.teacher.url is not None
    who, other = ("an endpoint's model", "") if remote else ("a GGUF", ", or set teacher.dequantize: true")
    if not remote and not hasattr(recipe.student.init, "model"):
        what = "a GGUF that is not dequantized gives no layers"
        yield Problem(
            ("student", "init"), what, "give student.init a model of its own, or set teacher.dequantize: true"
        )
    if not remote and recipe.teacher.ask is not None:
        what = "teacher.ask reads a GGUF that is dequantized"
        yield Problem(("teacher", "dequantize"), what, "set it to true")
    if recipe.distill.on_policy is not None:
        what = "distill.on_policy runs its teacher in PyTorch"
        yield Problem(("distill", "on_policy"), what, "leave it out, or name a teacher that is here as a directory")
    if recipe.verify.teacher_schemes:
        what = f"{who} cannot be exported"
        yield Problem(("verify", "teacher_schemes"), what, "take verify.teacher_schemes out")
    if recipe.verify.min_retained is not None and recipe.teacher.ask is None:
        what = "verify.min_retained compares with a teacher that runs here in PyTorch"
        yield Problem(("verify", "min_retained"), what, f"set max_kl or min_top1 in its place{other}")
    for index, spec in enumerate(recipe.signal.verify if recipe.signal.kind == "text" else ()):
        if isinstance(spec, LikelihoodVerifier) or (isinstance(spec, JudgeVerifier) and spec.model is None):
            what = f"signal.verify: {spec.kind} asks the teacher's weights, and {who} has none here"
            fix = "give the judge a model" if spec.kind == "judge" else "leave it out"
            yield Problem(("signal", "verify", index), what, fix)


def _synthesis(recipe: Recipe) -> Iterator[Problem]:
    if recipe.synthesis is None:
        return
    if recipe.data.choices is not None:
        yield Problem(("data", "choices"), "synthesis writes open responses", "take data.choices out")
    if recipe.rounds is not None or recipe.distill.on_policy is not None:
        what = "synthesis makes the rows once"
        yield Problem(("synthesis",), what, "leave rounds and distill.on_policy out")


def _exports(recipe: Recipe) -> Iterator[Problem]:
    for path, texts in ((("export",), recipe.export), (("verify", "teacher_schemes"), recipe.verify.teacher_schemes)):
        names = [str(parse_scheme(text)) for text in texts]
        for index, name in enumerate(names):
            if name in names[:index]:
                yield Problem((*path, index), f"{path[-1]} names a scheme twice ({name})", "name each once")


def _twice(names: tuple[str, ...]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)
