"""What a recipe may ask for beside training and measuring, and not every task supports. Each once, with its words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Feature:
    """One of them.

    Attributes:
        label: what the user wrote, as the beginning of a sentence.
        fix: what to write where the task does not support it.
        why: the reason, where there is one to give.
    """

    label: str
    fix: str
    why: str = ""


ALIGNED = Feature("signal.align", "leave signal.align out, and use signal: {kind: text} where the tokenizers differ")
EMBEDDINGS = Feature("a loss on embeddings", "take embedding and similarity out of distill.loss")
NUMBERS = Feature("a loss on numbers", "take mse and teacher_mse out of distill.loss")
DIMENSIONS = Feature("student.dimensions", "leave it out")
TOKEN_TABLE = Feature("0 layers make no model; a table of token vectors", "keep at least one")
POOLING = Feature("teacher.pooling", "leave it out")
FIT = Feature("teacher.fit", "leave teacher.fit out", "an embedder has no labels to be fitted to")
HIDDEN_STATES = Feature("a loss on hidden states or attention", "take hidden and attention out of distill.loss")
TRIMMED_VOCABULARY = Feature("student.vocabulary: trim", "set vocabulary: keep")
RARE_TOKENS = Feature(
    "student.vocabulary.min_frequency", "leave it out", "its rows are to keep the tokens that the teacher's are in"
)
PRETRAINING = Feature("student.pretrain", "leave it out")
RANDOM_MODELS = Feature("a randomly initialised model", "name a pretrained one")
LLAMA_CPP_TEACHER = Feature("teacher.backend: llama.cpp", "leave teacher.backend out")
SERVED_LOGITS = Feature(
    "signal.kind: logits of an endpoint", "use signal: {kind: text}", "a server scores one text from its beginning"
)
ASKED_TEACHER = Feature("teacher.ask", "leave it out", "a student that writes learns from what its teacher writes")
CLASS_WEIGHTS = Feature("distill.loss.class_weights", "take it out")
SETS = Feature("data.multi", "leave it out")
ORDER = Feature("data.ordered", "leave it out", "a set of labels has no order")
ORDERED_LOSS = Feature("a loss on steps of a scale", "take emd out of distill.loss")
CALIBRATION = Feature("quantize.calibration", "use none")
PACKING = Feature("packing", "leave it out", "its rows are not one sequence after another")
MIXES = Feature("a mix of types", "name a stock scheme")
KL_MIXES = Feature("a mix under a KL", "give it a budget", "a number or a vector is no distribution")
ON_POLICY = Feature("distill.on_policy", "leave it out", "an encoder writes no text that a teacher could score")
QUANTIZATION_AWARE = Feature("distill.quantization_aware", "leave it out")
GOLD_PAIRS = Feature("verify.pairs", "leave it out", "it compares the vectors of two texts")
JUDGE = Feature("verify.judge", "leave it out", "it compares written answers")
SYNTHESIS = Feature("synthesis", "leave it out")
KV_CACHE = Feature("verify.kv_cache", "leave it out", "llama.cpp keeps its keys and values in 32 bits, or has none")
FORCED_LENGTHS = Feature("a workload with a forced output length", "set bench: {workloads: [task]}")
DYNAMIC_INT8 = Feature("onnx:int8-dynamic", "use onnx:int8", "a decoder loses too much by it")
ALL_POSITIONS = Feature("verify.positions: all", "set verify.positions: supervised", "an encoder predicts nothing")
ENTITIES = Feature("data.entities", "leave it out")
PAIRS = Feature("data.pair", "leave it out", "its model reads one text")
SYSTEM_MESSAGE = Feature("data.system", "leave it out", "a text is read as it is")
