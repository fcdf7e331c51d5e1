"""Texts from a teacher, whatever runs it: messages in, answers out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from distill2edge.data.conversation import plain_prompt
from distill2edge.data.reading import READINGS
from distill2edge.data.tokens import stop_token_ids
from distill2edge.errors import UserError
from distill2edge.generation.thinking import UNCLOSED, split_tokens
from distill2edge.generation.writers import Sampling, Writer, open_writer
from distill2edge.models.checkpoint import load_config, load_tokenizer
from distill2edge.models.config import usable_positions
from distill2edge.models.kinds import kind_of_directory
from distill2edge.models.placement import WHOLE, Placement
from distill2edge.models.precision import default_device

if TYPE_CHECKING:
    from distill2edge.recipe.schema import TextSignal

Message = tuple[str, str]
"""(role, content); role is system, user or assistant."""
SHARD_ROWS = {"cpu": 64, "cuda": 512}
"""Answers of a model that runs here are written to the disk so many at a time: minutes on two cores, seconds on a
GPU."""


@dataclass(frozen=True)
class Ask:
    """One text to write.

    Attributes:
        messages: the conversation that the text continues; the last is the user's, or a row's prompt that is a
            conversation itself (`data.conversation`).
        tag: distinguishes two asks with the same messages (the number of a sample), so that each keeps its answer.
        logprobs: whether the log-probabilities of the first token are asked for too; of an endpoint.
    """

    messages: tuple[Message, ...]
    tag: str = ""
    logprobs: bool = False


@dataclass(frozen=True)
class Answer:
    """What the teacher wrote.

    Attributes:
        text: the answer alone.
        finish: `stop`; `length` where it was cut; else why there is no answer (`filtered`, `refused: reason`, ...).
        prompt_tokens, tokens: of the conversation and of the answer, counted by the teacher's tokenizer.
        cost_usd: of an endpoint.
        thinking: its reasoning before the answer; no part of the text.
        first: (token, log-probability) of the likeliest first tokens, where asked for and given.
    """

    text: str
    finish: str
    prompt_tokens: int
    tokens: int
    cost_usd: float = 0.0
    thinking: str = ""
    first: tuple[tuple[str, float], ...] = ()


class Generator(Protocol):
    """A teacher that writes."""

    name: str
    shard_rows: int
    """Asks that a stage gives at once, and writes as one shard."""
    reads: Sequence[Path]
    """The files and directories of its model, where it runs here."""

    def generate(
        self,
        asks: Sequence[Ask],
        sampling: Sampling | TextSignal,
        seed: int,
        done: Callable[..., None] | None = None,
    ) -> list[Answer]:
        """One answer for each ask, in order.

        Args:
            sampling: length, temperature and top_p.
            done: called with the number of newly finished asks, and a note.

        Raises:
            UserError: a conversation that does not fit the teacher, or one that its chat template refuses.
        """

    def fits(self, asks: Sequence[Ask], new: int) -> list[bool]:
        """Whether each conversation and `new` tokens fit the teacher, as far as that is known before it is asked."""

    @property
    def facts(self) -> dict[str, Any]:
        """What writing has cost, and what went wrong; empty where there is nothing to say."""

    def close(self) -> None:
        """Free what it holds."""


def drop_reason(finish: str) -> str:
    """Why an answer is dropped, from how it ended: `truncated`, `filtered`, `refused: ...`; empty if it is complete."""
    return {"stop": "", "length": "truncated"}.get(finish, finish)


class LocalGenerator:
    """A model that runs here. It is loaded at the first ask, so a stage that finds its shards never loads it; and it is
    pickled without its weights.

    Args:
        model_dir: Hugging Face directory; of a GGUF the one that it was converted to.
        template: of the recipe's `data.template`.
        backend: `transformers`, or `llama.cpp` with its file.
        where: the recipe's key of the length, for errors.
        placement: of the weights in transformers.
    """

    def __init__(
        self,
        model_dir: Path,
        *,
        template: str,
        backend: str = "auto",
        gguf_path: Path | None = None,
        where: str = "signal.max_new_tokens",
        placement: Placement = WHOLE,
    ) -> None:
        self._tokenizer: Any = load_tokenizer(model_dir)
        self._stop = stop_token_ids(self._tokenizer, template)
        self._context = _context(model_dir)
        self._reading = READINGS[kind_of_directory(model_dir).name]
        self._model_dir, self._template, self._gguf, self._where = model_dir, template, gguf_path, where
        self._placement = placement
        self.name = backend
        self.reads = (model_dir, *([] if gguf_path is None else [gguf_path]))
        self.shard_rows = SHARD_ROWS[default_device()]
        self._writer: Writer | None = None

    def generate(
        self,
        asks: Sequence[Ask],
        sampling: Sampling | TextSignal,
        seed: int,
        done: Callable[..., None] | None = None,
    ) -> list[Answer]:
        """As `Generator.generate`."""
        prompts = self._encode(asks)
        self._check_room(prompts, asks, sampling.max_new_tokens)
        if self._writer is None:
            self._writer = open_writer(
                self._model_dir,
                self._tokenizer,
                sampling,
                self._stop,
                self.name,
                self._gguf,
                placement=self._placement,
            )
        written = self._writer(prompts, seed, sampling)
        if done:
            done(len(asks))
        return [self._answer(prompt, ids) for prompt, ids in zip(prompts, written, strict=True)]

    @property
    def has_chat_template(self) -> bool:
        """Whether the model's tokenizer knows how a conversation is written."""
        return bool(getattr(self._tokenizer, "chat_template", None))

    def fits(self, asks: Sequence[Ask], new: int) -> list[bool]:
        """As `Generator.fits`."""
        return [len(prompt) + new <= self._context for prompt in self._encode(asks)]

    @property
    def facts(self) -> dict[str, Any]:
        """Nothing: a model that runs here charges nothing."""
        return {}

    def close(self) -> None:
        """Free the weights."""
        close = getattr(self._writer, "close", None)
        if close is not None:
            close()
        self._writer = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_writer": None}

    def _encode(self, asks: Sequence[Ask]) -> list[list[int]]:
        return self._reading.messages([ask.messages for ask in asks], self._tokenizer, self._template)

    def _answer(self, prompt: Sequence[int], ids: list[int]) -> Answer:
        ended = bool(ids) and ids[-1] in self._stop
        text, thinking, unclosed = split_tokens(ids[:-1] if ended else ids, self._tokenizer)
        finish = "length" if not ended else UNCLOSED if unclosed else "stop"
        return Answer(text, finish, len(prompt), len(ids), thinking=thinking)

    def _check_room(self, prompts: Sequence[Sequence[int]], asks: Sequence[Ask], new: int) -> None:
        for prompt, ask in zip(prompts, asks, strict=True):
            if len(prompt) + new > self._context:
                raise UserError(
                    f"a prompt of {len(prompt)} tokens and {new} new ones do not fit the model's "
                    f"context of {self._context}: {plain_prompt(ask.messages[-1][1])[:80]!r}",
                    where=self._where,
                    fix="lower it, or leave such rows out with data.filter",
                )


def _context(model_dir: Path) -> int:
    """Tokens that the model can read."""
    return usable_positions(load_config(model_dir).get_text_config()) or 1 << 30
