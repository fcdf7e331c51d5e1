"""Commented recipes to start from: the text of one, from what was found out about the data."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from distill2edge.errors import RecipeErrors, UserError
from distill2edge.recipe.load import parse_recipe

Task = Literal["classification", "embedding", "chat", "causal-lm", "seq2seq"]
TASKS: tuple[Task, ...] = get_args(Task)


@dataclass(frozen=True)
class Data:
    """What a new recipe says of its rows.

    Attributes:
        about: comments for the section, a line each.
        splits: validation, calibration and test rows.
        train: rows that are left to train on.
        max_length: tokens.
        leaking: share of test rows that are in train too, where it is above the recipe's default.
        unlabelled: rows without a response, which the teacher labels; where they come from if not from the source.
    """

    source: str
    prompt: str
    response: str | None
    choices: tuple[str, ...] = ()
    filter: str | None = None
    about: tuple[str, ...] = ()
    splits: tuple[int, int, int] = (64, 64, 240)
    train: int = 1000
    take: int | None = None
    max_length: int = 256
    leaking: float | None = None
    unlabelled: str | None = None


OWN_ROWS = "{}"
"""The source's own rows without a response."""
LONGEST_ANSWER = 256
"""Tokens of an answer that the teacher is to write."""
_FIT_STEPS, _FIT_BATCH = 60, 16  # of the teacher's short fit: optimizer steps, and the rows of each
_REVIEWS = "film reviews that come with a package; give your own rows with --data FILE"
_EXAMPLES: dict[Task, Data] = {
    "classification": Data(
        source="bundled:movie-sentiment",
        filter="score >= 1 or score <= -1",
        prompt="{{ text }}",
        response="{{ 'positive' if score > 0 else 'negative' }}",
        choices=("negative", "positive"),
        about=(_REVIEWS,),
        take=1000,
        max_length=64,
    ),
    "embedding": Data(
        source="bundled:movie-sentiment",
        prompt="{{ text }}",
        response=None,
        about=(_REVIEWS,),
        take=1000,
        max_length=64,
    ),
    "causal-lm": Data(
        source="bundled:movie-sentiment",
        filter="score >= 1 or score <= -1",
        prompt="Review: {{ text }}\nSentiment:",
        response="{{ ' positive' if score > 0 else ' negative' }}",
        choices=(" negative", " positive"),
        about=(_REVIEWS,),
        take=1000,
        max_length=64,
    ),
    "chat": Data(
        source="rows.jsonl",
        prompt="{{ question }}",
        response="{{ answer }}",
        about=("write your own file here, or let --data FILE fill this section in",),
    ),
    "seq2seq": Data(
        source="rows.jsonl",
        prompt="{{ source }}",
        response="{{ target }}",
        about=("write your own file here, or let --data FILE fill this section in",),
    ),
}
_NAMES = {"chat": "causal-lm"}
"""What `task:` says, where it has another name there."""
_TEMPLATES = {"chat": "chat", "seq2seq": "plain"}

_TEACHERS: dict[Task, str] = {
    "classification": "bundled:all-minilm-l6-v2",
    "embedding": "bundled:all-minilm-l6-v2",
    "chat": "bundled:smollm2-135m-instruct",
    "causal-lm": "bundled:smollm2-135m-instruct",
    "seq2seq": "google/flan-t5-small",
}


@dataclass(frozen=True)
class Fitted:
    """A student that was chosen before, of a model that writes.

    Attributes:
        layers: of the teacher's.
        width: what `student.init.width` says; empty where layers stay as wide as they are.
        vocabulary: `keep` or `trim`.
        export: its file.
        cache: type of keys and values that the file is to be verified with too; empty for none.
        about: comments for the head of the recipe, a line each.
    """

    layers: int
    width: dict[str, int]
    vocabulary: str
    export: str
    cache: str = ""
    about: tuple[str, ...] = ()


@dataclass(frozen=True)
class New:
    """A recipe to write.

    Attributes:
        teacher: its model; null takes one that fits the task.
        layers: how many the teacher has, where that is known.
        asks: whether the teacher of a classifier is a language model, which is asked.
        formats: files to write of an encoder.
        plain: of a causal-lm: prompt and response as they are, or the response alone (`text`).
        fitted: the student, where it was chosen before.
    """

    name: str
    task: Task = "causal-lm"
    data: Data | None = None
    teacher: str | None = None
    layers: int | None = None
    asks: bool = False
    formats: tuple[str, ...] = ("onnx:int8", "gguf:Q8_0")
    plain: Literal["plain", "text"] = "plain"
    comments: tuple[str, ...] = field(default=())
    fitted: Fitted | None = None


def teacher_of(task: Task) -> str:
    """The model that a new recipe of this task starts from."""
    return _TEACHERS[task]


def new_recipe(new: New) -> str:
    """The text of a complete recipe; it parses without an error.

    Raises:
        RecipeErrors: the name cannot be a recipe's name.
    """
    data = new.data or _EXAMPLES[new.task]
    if new.asks and new.data is None:
        data = replace(data, unlabelled="{source: bundled:movie-sentiment}", take=400)
    body = (_asked if new.asks else {"classification": _classifier, "embedding": _embedder}.get(new.task, _writer))(
        new, data
    )
    text = f"{_head(new)}\n{body}\n{_TAIL}"
    parse_recipe(text, "new recipe")
    return text


def check_name(name: str) -> None:
    """Refuse a name that no run can have.

    Raises:
        UserError: with one that it can.
    """
    text = "teacher: {model: a}\ndata: {source: a}\nstudent: {init: {model: a}}\n"
    try:
        parse_recipe(f"{text}name: {json.dumps(name)}\n", "new recipe")
    except RecipeErrors as errors:
        error = errors.errors[0]
        fix = error.fix.replace("write name: ", "write --name ")
        raise UserError(error.what, where="--name", fix=fix) from None


def _head(new: New) -> str:
    lines = [
        f"# {new.name}: what it does in one line.",
        f"# Check:  distill2edge recipe check {new.name}.yaml     Every key: distill2edge recipe show {new.name}.yaml",
        f"# Plan:   distill2edge plan {new.name}.yaml             Run: distill2edge run {new.name}.yaml",
        *(f"# {line}" for line in (*new.comments, *(new.fitted.about if new.fitted else ()))),
        "",
        f"name: {new.name}",
        f"task: {_NAMES.get(new.task, new.task)}",
        "seed: 0",
        "",
    ]
    return "\n".join(lines)


def _rows(data: Data, template: str) -> str:
    lines = ["data:", *(f"  # {line}" for line in data.about), f"  source: {_quoted(data.source)}"]
    if data.filter:
        lines.append(f"  filter: {_quoted(data.filter)}")
    lines.append(f"  template: {template:<20} # chat: the tokenizer's own form; plain: as it is; text: no prompt")
    if template != "text" and data.prompt:
        lines.append(f"  prompt: {_quoted(data.prompt)}")
    if data.response != "":  # conversations have neither: they are read as they are
        lines.append(f"  response: {'null' if data.response is None else _quoted(data.response)}")
    if data.unlabelled is not None:
        lines.append(f"  unlabelled: {data.unlabelled:<18} # rows without a response: the teacher labels them")
    if data.choices:
        lines.append("  choices:" + "".join(f"\n    - {_quoted(choice)}" for choice in data.choices))
    lines.append(f"  max_length: {data.max_length:<18} # tokens; longer rows are dropped and counted")
    train = f"train: {data.take}, " if data.take else ""
    validation, calibration, test = data.splits
    lines.append(f"  splits: {{{train}validation: {validation}, calibration: {calibration}, test: {test}}}")
    if data.leaking is not None:
        lines.append(
            f"  leakage: {{max_fraction: {data.leaking:g}}}  # that many test rows are nearly in train: those leave it"
        )
    return "\n".join(lines) + "\n"


def _classifier(new: New, data: Data) -> str:
    epochs = min(max(round(250 * 16 / max(data.train, 1)), 3), 12)
    layers = new.layers or 6
    kept = list(range(1, layers, 2)) or [0]
    return f"""\
teacher:
  model: {_quoted(new.teacher or _TEACHERS[new.task])}    # an encoder: hub id | local directory | bundled:NAME
  # licence: apache-2.0                # where the model itself does not say it
  fit: {{epochs: {epochs}, learning_rate: 1e-4, batch_size: 16, lora: null}}     # it learns the labels first

{_rows(data, "plain")}
signal: {{kind: labels, temperature: 2.0}}         # the teacher's class logits

student:
  init: {{from: teacher, layers: {kept}}}        # the teacher's own layers, 0 is the first
  lora: null                           # every weight is trained

distill:
  loss: {{ce: 0.3, forward_kl: 0.7}}     # labels, and the teacher's distribution
  epochs: {epochs}
  learning_rate: 2e-4
  batch_size: 16
  control: true                        # the same student without the teacher, to show what it brings

export: [{", ".join(new.formats)}]

verify: {{rows: {data.splits[2]}, min_retained: 0.95}}   # of the teacher's accuracy; a failed gate is exit code 3

bench: {{workloads: [task], rounds: 2}}
"""


def _asked(new: New, data: Data) -> str:
    passes = min(max(round(_FIT_STEPS * _FIT_BATCH / max(data.train, 1)), 1), 8)
    named = ", ".join(data.choices)
    return f"""\
teacher:
  model: {_quoted(new.teacher or _TEACHERS["chat"])}   # a language model: hub id | local directory | bundled:NAME
  # licence: apache-2.0                # where the model itself does not say it
  fit: {{epochs: {passes}, learning_rate: 5e-4, lora: {{rank: 16, alpha: 32}}}}   # to the labels that there are
  ask:                                 # an answer's likelihood is the soft label of its class
    template: plain                    # chat: in the form of the tokenizer's chat template
    prompt: {_quoted(f"Text: {{{{ prompt }}}}{chr(10)}One of {named}:")}
    answers: [{", ".join(_quoted(f" {choice}") for choice in data.choices)}]

{_rows(data, "plain")}
signal: {{kind: labels, temperature: 2.0}}

student:
  init: {{model: bundled:all-minilm-l6-v2, layers: [1, 3, 5]}}   # any encoder; it shares no token with the teacher
  vocabulary: trim                     # only the tokens that the training rows use
  lora: null                           # every weight is trained

distill:
  loss: {{forward_kl: 1}}                # the teacher's labels; ce adds those of the rows that have one
  epochs: 5
  learning_rate: 3e-4
  batch_size: 32
  control: true                        # the same student without the teacher, to show what it brings

export: [onnx:int8-dynamic, gguf:Q8_0]

verify: {{rows: {data.splits[2]}, min_retained: 0.95}}   # of the teacher's accuracy; a failed gate is exit code 3

bench: {{workloads: [task], rounds: 2}}
"""


def _embedder(new: New, data: Data) -> str:
    layers = new.layers or 6
    kept = list(range(1, layers, 2)) or [0]
    return f"""\
teacher:
  model: {_quoted(new.teacher or _TEACHERS[new.task])}    # an encoder: hub id | local directory | bundled:NAME
  # licence: apache-2.0                # where the model itself does not say it

{_rows(data, "plain")}
signal: {{kind: embeddings}}             # the teacher's vector of each text; rows need no label

student:
  init: {{from: teacher, layers: {kept}}}        # the teacher's own layers, 0 is the first
  # dimensions: [384, 128]             # with distill.loss.similarity: the first 128 numbers serve alone too
  lora: null                           # every weight is trained

distill:
  loss: {{embedding: 1}}                 # the distance of the vectors
  dropout: 0.0
  epochs: 4
  learning_rate: 2e-4
  batch_size: 32

export: [{", ".join(new.formats)}]

verify: {{rows: {data.splits[2]}, min_retained: 0.7}}    # of the teacher's neighbours; a failed gate is exit code 3

bench: {{workloads: [task], rounds: 2}}
"""


def _writer(new: New, data: Data) -> str:
    template = _TEMPLATES.get(new.task, new.plain)
    if new.layers:
        kept = str(max(1, round(new.layers * (0.55 if data.choices else 0.9))))
    else:
        kept = {"chat": "27", "causal-lm": "16" if data.choices else "27", "seq2seq": "4"}[new.task]
    select = ", select: first" if data.choices else ""
    gates = "{rows: %d, min_retained: 0.95}" if data.choices else "{rows: %d, max_kl: 0.1}"
    said = "of the teacher's score" if data.choices else "nats per token that a file may lose of the student"
    workloads = {"chat": "[task, chat-64-32]", "causal-lm": "[task]", "seq2seq": "[task]"}[new.task]
    # Of few rows the fit needs several passes: after 13 steps a teacher had not learnt the form of the answers.
    passes = min(max(round(_FIT_STEPS * _FIT_BATCH / max(data.train, 1)), 1), 8)
    fit = f"  fit: {{epochs: {passes}, learning_rate: 5e-4, lora: {{rank: 16, alpha: 32}}}}   "
    fit += "# a short fit to the task first\n"
    signal = "{kind: logits, temperature: 2.0}   # or {kind: text}: the teacher writes the responses"
    loss = "{ce: 0.5, forward_kl: 0.5}     # also reverse_kl, jsd"
    if data.response is None:  # there is nothing to fit a teacher to, and no word to compare logits on
        fit, loss = "", "{ce: 1}                        # on the teacher's words"
        signal = f"{{kind: text, max_new_tokens: {LONGEST_ANSWER}}}   # the teacher writes the responses"
    init = f"{{from: teacher, layers: {kept}{select}}}     # the teacher's own layers; or {{model: owner/name}}"
    vocabulary, export = "", "onnx:int8, gguf:Q8_0"
    if (chosen := new.fitted) is not None:
        init, vocabulary, export = _fitted(chosen, select)
        gates = gates.replace("}", f", kv_cache: [{chosen.cache}]}}") if chosen.cache else gates
    return f"""\
teacher:
  model: {_quoted(new.teacher or _TEACHERS[new.task])}   # hub id | local directory | file.gguf | bundled:NAME
  # licence: apache-2.0                # where the model itself does not say it
{fit}
{_rows(data, template)}
signal: {signal}

student:
  init: {init}
{vocabulary}  lora: {{rank: 32, alpha: 64}}          # null trains every weight

distill:
  loss: {loss}
  epochs: 2
  learning_rate: 1e-3
  batch_size: 8
  control: false                       # true: also the same student without the teacher, to show what it brings

export: [{export}]

verify: {gates % data.splits[2]}   # {said}; a failed gate is exit code 3

bench: {{workloads: {workloads}, rounds: 2, requests: 2}}
"""


def _fitted(chosen: Fitted, select: str) -> tuple[str, str, str]:
    """What `student.init`, the line of `student.vocabulary` and `export` say of a student that was chosen before."""
    sizes = ", ".join(f"{name}: {size}" for name, size in chosen.width.items())
    init = f"{{from: teacher, layers: {chosen.layers}{select}{f', width: {{{sizes}}}' if sizes else ''}}}"
    trim = "  vocabulary: trim                     # only the tokens that the training rows use\n"
    return init, trim if chosen.vocabulary == "trim" else "", chosen.export


_TAIL = """\
cost:
  teacher: {rented: cpu-2-vcpu}        # or {api: NAME}; `cost.prices: FILE` adds prices of your own
  student: {rented: cpu-2-vcpu}        # or {device: raspberry-pi-5}
"""


def _quoted(text: str) -> str:
    """A YAML scalar: bare where that is safe, else in double quotes, whose escapes are JSON's."""
    plain = text.replace("/", "").replace("-", "").replace("_", "").replace(".", "").replace(":", "")
    bare = plain.isascii() and plain.isalnum() and not plain.isdigit() and text[0].isalpha() and not text.endswith(":")
    reserved = text.lower() in ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
    return text if bare and not reserved else json.dumps(text, ensure_ascii=False)
