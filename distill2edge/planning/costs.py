"""What a stage costs: seconds, peak memory and disk, by arithmetic on counts.

FLOPs are 2 per weight and token forward, 2 more to the inputs backward, 2 more to the weights where they are trained
(Kaplan 2020, section 2.1), over the speed of a matrix product. The shares of that speed, and the seconds that are not
FLOPs, were fitted to recorded runs; benchmarks/plan_estimates.py holds them to what runs take.
"""

from __future__ import annotations

from dataclasses import dataclass

from distill2edge.models.placement import WHOLE
from distill2edge.models.widths import MEASURED_TOKENS
from distill2edge.planning.sizes import Model, Sizes
from distill2edge.planning.steps import evaluations, per_token_of, steps_of
from distill2edge.quantize.schemes import Scheme
from distill2edge.recipe.schema import FromTeacher, Recipe, Signal
from distill2edge.recipe.training import Lora, Training
from distill2edge.tasks import task_of
from distill2edge.util.threads import available_threads

_TRAINING, _FORWARD = 0.38, 0.8  # shares of a product's speed: small batches, and much between the products
_STEP_S, _ROW_S = 4.5e-3, 2.5e-4  # of a layer's small operations in a training step, and in asking a row
_BASE, _LIGHT = 0.62e9, 0.26e9  # bytes of a process with PyTorch and transformers; without them
_BANDWIDTH = 1.2e10  # weights per second that writing reads, over a batch of rows
_TOKEN = 4.2  # characters of one, in words that a model knows
_START_S = 2.5  # of a process that opens a model's file
_RAY_S = 12.0  # of a cluster and its workers, until they read the first row
_MIXED = 1.1  # bytes of a weight, at most, in a mix of types


@dataclass(frozen=True)
class Cost:
    """An estimate; None is unknown."""

    seconds: float | None = None
    memory: float | None = None
    disk: float | None = None


JOINED = Cost(1.0, _LIGHT, 1e6)
"""Documents joined into a report."""
RECORDED = Cost(1.0, _LIGHT, 1e4)
"""A teacher behind an endpoint: who it is is written down."""


def rows_read(sizes: Sizes) -> Cost:
    """The rows of a source, in splits."""
    rows = sum(sizes.rows.values())
    return Cost(0.8 + 4e-5 * rows, _LIGHT + 1500 * rows, 200 * rows + 4 * sizes.tokens * rows * 0.5)


def asked_for(sizes: Sizes) -> Cost:
    """Answers of an endpoint: how long it takes is the server's matter."""
    return Cost(None, _LIGHT, 4000 * sizes.train)


def worker_weights(recipe: Recipe, body: int, embedding: int) -> int:
    """Bytes that each of a recipe's workers holds of the teacher's weights, at the least: bfloat16 on a GPU."""
    workers = recipe.teacher.workers
    assert workers is not None
    return round(recipe.teacher.placement.held(body, embedding, 2 if workers.gpus else 4))


@dataclass(frozen=True)
class Work:
    """The cost of each kind of stage on one model.

    Attributes:
        speed: FLOPs per second of a matrix product on all threads.
    """

    recipe: Recipe
    sizes: Sizes
    speed: float
    model: Model

    # --- training -----------------------------------------------------------------

    def trained(
        self, training: Training | None, lora: Lora | None, *, beside: bool = False, labelled: bool = False
    ) -> Cost:
        """A training.

        Args:
            labelled: on the rows that have a response alone.
            beside: the teacher, or the assistant, runs beside the student.
        """
        assert training is not None
        sizes, model = self.sizes, self.model
        steps, batch = steps_of(training, sizes.labelled if labelled else sizes.train)
        per_token = per_token_of(lora)
        flops = steps * batch * (per_token * model.body * sizes.tokens + 6 * self._head() * self._supervised())
        # After each part the validation rows are asked, and the best checkpoint is kept.
        flops += evaluations(training, steps) * sizes.rows["validation"] * 2 * model.body * sizes.tokens
        micro = steps * training.gradient_accumulation
        seconds = flops / (self.speed * _TRAINING) + micro * model.layers * _STEP_S
        other = sizes.assistant or sizes.teacher
        if beside and other is not None:
            seconds += steps * batch * 2 * other.body * sizes.tokens / (self.speed * _FORWARD)
        trained = _adapter(lora, model) if lora is not None else model.parameters
        width = 2 if self._narrow(training) else 4
        # A trained weight is held in float32 with its gradient and two moments; the products run in the narrow type.
        memory = _BASE + (width if lora is not None or width == 2 else 0) * model.parameters + 16 * trained
        memory += self._activations(training, lora is not None, width)
        if beside and other is not None:
            memory += other.parameters * width
        disk = 4 * trained if lora is not None else model.stored * model.parameters
        return Cost(seconds + _START_S, memory, disk)

    def pretrained(self) -> Cost:
        """Masked tokens: the whole vocabulary at every position, and the teacher's own head first where it has none."""
        spec, model = self.recipe.student.pretrain, self.model
        assert spec is not None
        plain = self.trained(spec, None, beside=True)
        assert plain.seconds is not None
        assert plain.memory is not None
        seen = self.sizes.train * self.sizes.tokens * spec.epochs
        head = 6 * model.vocabulary * model.hidden * seen / (self.speed * _TRAINING)
        longest = min(self.recipe.data.max_length, 2 * self.sizes.tokens)
        logits = 16 * spec.batch_size * longest * model.vocabulary
        times = 2 if spec.teacher is not None else 1
        return Cost(times * (plain.seconds + head), plain.memory + logits, model.stored * model.parameters)

    def fitted(self) -> Cost:
        """A training, and the merge into the teacher."""
        fit, count = self.recipe.teacher.fit, self.model.parameters
        assert fit is not None
        trained = self.trained(fit, fit.lora, labelled=True)
        assert trained.seconds is not None
        assert trained.memory is not None
        merged = 8 * count if fit.lora is not None else 0  # what the training freed stays in the process
        return Cost(trained.seconds + 1.5 + 2.2e-8 * count, trained.memory + merged, self.model.stored * count)

    def _supervised(self) -> float:
        return self.sizes.tokens if self.recipe.data.template == "text" else self.sizes.answer

    @property
    def _tokens(self) -> int:
        """Logits of a position; a classifier has next to none."""
        return self.model.vocabulary if task_of(self.recipe).predicts_tokens else 0

    def _head(self) -> int:
        """Weights that a supervised position meets at the end; a classifier has nearly none."""
        return self._tokens * self.model.hidden

    def _narrow(self, training: Training) -> bool:
        return training.dtype == "bfloat16" or (training.dtype == "auto" and self.speed > 0)

    def _activations(self, training: Training, adapters: bool, width: int) -> float:
        """What the backward pass needs of the largest batch, and the logits of a chunk."""
        recipe, model = self.recipe, self.model
        longest = min(recipe.data.max_length, 2 * self.sizes.tokens)
        tokens = training.batch_size * longest
        per_token = (60 if adapters else 50) * model.hidden * width * model.layers
        if training.gradient_checkpointing:
            per_token = model.hidden * width * model.layers + 60 * model.hidden * width
        chunk = min(getattr(training, "chunk", 256), training.batch_size * max(self._supervised(), 1))
        logits = 4 * 4 * chunk * self._tokens
        return tokens * per_token + logits

    def on_grid(self) -> Cost:
        """Training on the grid of a file: every step rounds the weights as well."""
        section = self.recipe.distill.quantization_aware
        assert section is not None
        plain = self.trained(section, section.lora, beside=self.recipe.distill.on_grid.loss.needs_layers)
        assert plain.seconds is not None
        return Cost(1.3 * plain.seconds, (plain.memory or 0) + 8 * self.model.parameters, 4 * self.model.parameters)

    def shared_out(self, alone: Cost) -> Cost:
        """A pass that workers share, from what it costs one process: by their cores, as if they were this machine's.

        How fast a GPU elsewhere is, is not known. Of a cluster elsewhere this process's memory is small.
        """
        workers = self.recipe.teacher.workers
        if workers is None or alone.seconds is None or alone.memory is None:
            return alone
        memory = alone.memory * workers.replicas if workers.endpoint is None else _LIGHT
        if workers.gpus:
            return Cost(None, memory, alone.disk)
        share = available_threads() / (workers.cpus * workers.replicas)
        return Cost(_START_S + _RAY_S + max(alone.seconds - _START_S, 0.0) * share, memory, alone.disk)

    # --- asking and writing -------------------------------------------------------

    def fetched(self) -> Cost:
        """A teacher as safetensors: dequantized, or copied and looked through."""
        count = self.model.parameters
        return Cost(1.0 + 4.5e-8 * count, _BASE + 4 * count + 0.35e9 * min(1.0, count / 1e8), self.model.stored * count)

    def scored(self) -> Cost:
        """The teacher's logits or class logits on the training and validation rows, or the text that it writes."""
        signal, sizes = self.recipe.signal, self.sizes
        if signal.kind == "text":
            return self._written(sizes.train * signal.samples, min(signal.max_new_tokens, 1.3 * sizes.answer))
        if self.recipe.teacher.ask is not None:
            return self._answers_scored(sizes.train + sizes.rows["validation"])
        return self.said(signal)

    def said(self, signal: Signal) -> Cost:
        """What the model itself says of the training and validation rows, as a signal keeps it."""
        sizes = self.sizes
        rows = sizes.train + sizes.rows["validation"]
        flops = rows * (2 * self.model.body * sizes.tokens + 2 * self._head() * self._supervised())
        kept = getattr(signal, "bytes_per_position", 12) * self._supervised()
        seconds = _START_S + flops / (self.speed * _FORWARD) + rows * self.model.layers * _ROW_S
        return Cost(seconds, self._asked(), rows * kept)

    def _answers_scored(self, rows: float) -> Cost:
        """The likelihood of each answer: a prompt, with its shots, is read once for each beginning of the answers."""
        ask, sizes, model = self.recipe.teacher.ask, self.sizes, self.model
        assert ask is not None
        around = (len(ask.prompt) + len(ask.system or "")) / _TOKEN
        read = min(sizes.tokens * (1 + ask.shots) + around, ask.max_length)
        head = 2 * model.vocabulary * model.hidden  # at the last token of the prompt, and at most a few more
        one = (2 * model.body * read + head) / (self.speed * _FORWARD) + model.layers * _ROW_S
        answers = len(self.recipe.data.choices or ())
        memory = _BASE + self._held(model, 4) + 64 * model.vocabulary + 16 * read * 400 * model.hidden
        return Cost(_START_S + rows * sizes.readings * one, memory, 4.0 * rows * answers)

    def _asked(self) -> float:
        """Memory of a model that reads rows in PyTorch."""
        logits = 4 * 16 * self.sizes.tokens * self._tokens
        held = self._held(self.model, 4)
        return _BASE + held + min(logits, 1.5e9) + 16 * self.sizes.tokens * 400 * self.model.hidden

    def _held(self, model: Model, width: float) -> float:
        """Bytes of a model's weights as it runs: the teacher's lie as the recipe says."""
        placement = self.recipe.teacher.placement if model is self.sizes.teacher else WHOLE
        return placement.held(model.body, model.embedding, width)

    def _written(self, rows: float, tokens: float) -> Cost:
        seconds = _START_S + rows * tokens * self.model.parameters / _BANDWIDTH
        return Cost(seconds, self._asked(), rows * tokens * 8)

    def answered(self) -> Cost:
        """The teacher's answers to the held-out rows."""
        signal, rows = self.recipe.signal, self.sizes.rows
        assert signal.kind == "text"
        held_out = sum(rows[name] for name in ("validation", "calibration", "test"))
        return self._written(held_out, min(signal.max_new_tokens, 1.3 * self.sizes.answer))

    def synthesised(self) -> Cost:
        """Instructions and their responses."""
        section = self.recipe.synthesis
        assert section is not None
        tokens = 0.0
        for method in section.methods:
            wanted = getattr(method, "instructions", None) or getattr(method, "texts", 0)
            tokens += 1.4 * wanted * method.writing.max_new_tokens
            tokens += 0.8 * wanted * section.responses.max_new_tokens * (method.kind != "reverse")
        return self._written(tokens, 1.0)

    def judged(self) -> Cost:
        """A judge reads both orders of each pair, and each file writes its answers first."""
        judge = self.recipe.verify.judge
        assert judge is not None
        return self._written(judge.rows * (len(self.recipe.export) + 2), judge.answer_tokens)

    def wrote_and_trained(self) -> Cost:
        """A round: the student writes, and is trained on it."""
        trained = self.trained(self.recipe.distill, self.recipe.student.lora)
        return Cost(None, trained.memory, trained.disk)

    # --- files --------------------------------------------------------------------

    def begun(self) -> Cost:
        """The student's first weights."""
        teacher = self.sizes.teacher if isinstance(self.recipe.student.init, FromTeacher) else None
        count = self.model.parameters
        read = teacher.parameters if teacher is not None else count
        seconds = 0.6 + 5e-9 * read
        if getattr(self.recipe.student.init, "select", "") == "similarity":
            seconds += 64 * 2 * read * self.sizes.tokens / (self.speed * _FORWARD)
        if self.recipe.student.init.width is not None:
            tokens = min(self.sizes.rows["calibration"] * self.sizes.tokens, MEASURED_TOKENS)
            seconds += 2 * read * tokens / (self.speed * _FORWARD)
        return Cost(seconds, _BASE + 4 * read + count, self.model.stored * count)

    def merged(self) -> Cost:
        """The adapter in the weights, checked on rows."""
        count = self.model.parameters
        return Cost(1.5 + 2.2e-8 * count, _BASE + 16 * count, self.model.stored * count)

    def calibrated(self, *, grams: bool) -> Cost:
        """Inputs of every product on the calibration rows; with `grams` also their products."""
        flops = 2 * self.model.body * self.recipe.quantize.max_tokens
        count = self.model.parameters
        factor = 1.3 if grams else 1
        return Cost(factor * flops / (self.speed * _FORWARD), _BASE + 12 * count, 4 * count if grams else 1e7)

    def weighed(self) -> Cost:
        """What each type costs each tensor, forward and backward."""
        flops = 6 * self.model.body * self.recipe.quantize.max_tokens / 4  # one token of four
        return Cost(19 * flops / (self.speed * _FORWARD), _BASE + 16 * self.model.parameters, 1e6)

    def exported(self, scheme: Scheme) -> Cost:
        """One file: a graph or a GGUF, rounded."""
        count = self.model.parameters
        seconds = (1.6 + 2.6e-8 * count) if scheme.format == "onnx" else (1.0 + 1.6e-8 * count)
        if scheme.mix is not None:
            seconds += 6e-7 * count * (2 if scheme.mix.max_kl is not None else 1)
        elif str(scheme) in map(str, self.recipe.trained_schemes):
            seconds *= 2  # the levels are those that it was trained on
        elif self.recipe.gptq and self.recipe.calibrated(scheme):
            seconds += 3.2e-7 * count
        elif self.recipe.calibrated(scheme):
            seconds += 2.5e-8 * count
        return Cost(seconds, _BASE + (14 if scheme.format == "onnx" else 6) * count, count * _bytes_of(scheme))

    def _models(self) -> list[tuple[Model, bool]]:
        """Every model that verify and bench open, and whether PyTorch runs it."""
        teacher, student, recipe = self.sizes.teacher, self.sizes.student, self.recipe
        found: list[tuple[Model, bool]] = []
        if student is not None:
            found += [(student, True)] * (2 if recipe.distill.control else 1)
            found += [(student, False)] * len(recipe.schemes)
            ggufs = sum(text.startswith("gguf:") for text in recipe.export)
            found += [(student, False)] * ggufs * len(recipe.verify.caches)
        if teacher is not None:
            found += [(teacher, True), *[(teacher, False)] * len(recipe.verify.teacher_schemes)]
        return found

    def verified(self) -> Cost:
        """Every file on the held-out rows, each in a process of its own."""
        recipe, sizes = self.recipe, self.sizes
        rows = min(recipe.verify.rows, sizes.rows["test"])
        texts = rows * ((len(recipe.data.choices or ()) if self._tokens else 0) or 1)
        written = 0.0 if recipe.data.choices or recipe.data.template == "text" else rows * 1.2 * sizes.answer
        seconds = memory = 0.0
        for model, dense in self._models():
            flops = texts * (2 * model.body * sizes.tokens + 2 * self._head() * self._supervised())
            flops *= sizes.readings if model is sizes.teacher else 1
            seconds += (2 * _START_S if dense else _START_S) + flops / (self.speed * _FORWARD * 0.6)
            seconds += written * (model.parameters / (_BANDWIDTH / 4) + model.layers * _ROW_S)
            memory = max(memory, _BASE + self._held(model, 2.6))
        return Cost(seconds, memory, 2000 * texts)

    def benched(self) -> Cost:
        """Every cell in fresh processes."""
        bench, sizes = self.recipe.bench, self.sizes
        seconds = memory = 0.0
        for model, dense in self._models():
            if dense and not bench.torch:
                continue
            seconds += bench.rounds * (2 * _START_S if dense else _START_S / 2)
            for name in bench.workloads:
                read, wrote = (sizes.tokens, sizes.answer) if name == "task" else _lengths(name)
                one = 2 * model.body * read / (self.speed * _FORWARD) + wrote * model.parameters / (_BANDWIDTH / 2)
                seconds += bench.rounds * (bench.requests + bench.warmup) * one
            memory = max(memory, _BASE + self._held(model, 4))
        return Cost(seconds * len(bench.devices), memory, 1e6)


def _adapter(lora: Lora, model: Model) -> float:
    """Weights of the adapters: rank times the inputs and outputs of a layer's products, some 18 widths."""
    return 18.0 * model.hidden * lora.rank * model.layers


def _bytes_of(scheme: Scheme) -> float:
    """Bytes of a weight in a file, scales included: of the type that most have."""
    return _MIXED if scheme.type is None else scheme.type.weight_bits / 8


def _lengths(workload: str) -> tuple[float, float]:
    _, read, wrote = workload.split("-")
    return float(read), float(wrote)
