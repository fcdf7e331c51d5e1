"""How a server scores a text: found with one short row, before the others are paid for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.generation.endpoint.asking import Asking, Heard, Read, Request
from distill2edge.generation.endpoint.client import Unknown
from distill2edge.generation.endpoint.reply import Failure, counted, read_choice, read_reply
from distill2edge.generation.endpoint.scores import read_echo, read_prompt_logprobs
from distill2edge.teacher.served_rows import OTHER, SCORED, SILENT, left_out
from distill2edge.teacher.token_names import TokenNames

if TYPE_CHECKING:
    from distill2edge.data.examples import Encoded
    from distill2edge.recipe.endpoint import Endpoint
    from distill2edge.util.progress import Progress

FIX = (
    "use signal: {kind: text}; or serve the teacher with vLLM, or with llama-cpp-python's server and --logits_all true"
)
"""Where a server does not score texts."""
_LIMITS = (20, 5)  # log-probabilities that servers give at most: vLLM's default, OpenAI's older completions
_PROBED = 8  # rows that may show how a server scores
_WRITTEN = 4  # tokens that a server may write where it is asked for one: those of a character's bytes
_ALIKE = 0.5  # nats that the same distribution may differ by between two requests
_ASKED = ("echo", "logprobs", "prompt_logprobs")


@dataclass(frozen=True)
class Way:
    """How a server scores a text.

    Attributes:
        by_ids: it is sent token ids, and names tokens by them.
        listed: log-probabilities to ask for at each place.
        both: whether its requests name both forms.
        bare: whether it begins a text with BOS itself.
        late: places by which its list is behind: some give with each token the distribution of the next.
    """

    by_ids: bool
    listed: int
    both: bool = True
    bare: bool = False
    late: int = 0


class Texts:
    """Requests for the log-probabilities of rows.

    Args:
        tokenizer: of the student, which must be the teacher's too.
        top_k: log-probabilities that the recipe asks for.
    """

    def __init__(self, asking: Asking, endpoint: Endpoint, tokenizer: Any, top_k: int, progress: Progress) -> None:
        self._asking, self._endpoint, self._tokenizer = asking, endpoint, tokenizer
        self._top_k, self._progress = top_k, progress
        self.names = TokenNames(tokenizer)

    def way(self, examples: Sequence[Encoded]) -> Way:
        """Find how the server scores a text, with the shortest of the rows.

        Raises:
            UserError: it does not, or its tokens are others.
        """
        said = ""
        for example in sorted(examples, key=lambda each: (len(each.ids), each.id))[:_PROBED]:
            way, record = self._probe(example)
            if record["finish"] == SILENT:
                why = f": {record['said']}" if record.get("said") else ""
                what = f"the server gives no log-probabilities of a text that it is sent{why}"
                raise UserError(what, where="signal.kind", fix=FIX)
            if record["finish"] != SCORED:
                said = said or record.get("said", record["finish"])
                continue
            listed = min(record["listed"], self._top_k)
            if listed < self._top_k:
                self._progress.say(
                    f"the server lists {listed} log-probabilities of the {self._top_k} that signal.top_k asks for"
                )
            how = "the token ids (prompt_logprobs)" if way.by_ids else "its text (echo)"
            self._progress.say(f"the server scores a row by {how}")
            return way if way.by_ids else replace(way, late=self._late(example, way, record))
        raise other_tokens(said)

    def _probe(self, example: Encoded) -> tuple[Way, dict[str, Any]]:
        """What the server makes of one row: the first of the forms that it takes.

        Raises:
            UserError: it takes none.
        """
        limits = [self._top_k, *(limit for limit in _LIMITS if limit < self._top_k)]
        record: dict[str, Any] = {}
        for way in (Way(False, limit, both) for limit in limits for both in (True, False)):
            record = self._one(self.request(example, way, tag="probe"), partial(self._look, example))
            if not record["finish"].startswith("refused"):
                way = replace(way, by_ids=bool(record.get("by_ids")))
                return replace(way, bare=record.get("begun", False)), record
        raise UserError(
            f"the server takes no request for the log-probabilities of a text: {record['finish']}",
            where="signal.kind",
            fix=FIX,
        )

    def _one(self, request: Request, read: Read) -> dict[str, Any]:
        """One request of the probe. A server that fails at it and not without it has no log-probabilities."""
        try:
            return self._asking.ask([request], lambda _: read)[0]
        except Unknown as error:
            raise UserError(
                f"{error.what}: log-probabilities of a text come from {self._asking.url}",
                where="teacher.model",
                fix=f"check the address and teacher.endpoint.model; where they are right, {FIX}",
            ) from error
        except EnvironmentFault as fault:
            plain = {key: value for key, value in request.body.items() if key not in _ASKED}
            self._asking.ask([replace(request, body=plain)], lambda _: _plain)  # one that is down fails at this too
            return left_out(SILENT, fault.what)

    def _look(self, example: Encoded, content: bytes) -> Heard | Failure:
        """What a probe says: which form, how many are listed, and the lists around one supervised token."""
        found = read_choice(content)
        if isinstance(found, Failure):
            return found
        choice, usage = found
        prompt, tokens = counted(usage)
        named, echo = read_prompt_logprobs(choice), read_echo(choice)
        kept: dict[str, Any] = {"finish": SILENT}
        if named is not None and any(named):
            listed = max(len(place.logprobs) for place in named if place is not None)
            kept = {"finish": SCORED, "by_ids": True, "listed": listed}
        elif echo is not None and any(echo.top) and len(echo.tokens) > 2:
            more = 0 if prompt is None else prompt - len(example.ids)
            begun = more == 1 and example.ids[0] == self.names.bos  # the server begins a text with BOS itself
            places = self.names.places(echo.tokens, example.ids[:1] + example.ids if begun else example.ids)
            if places is None:
                kept = left_out(OTHER, self.names.difference(echo.tokens, example.ids))
            elif more and not begun:
                kept = left_out(OTHER, self.names.count(prompt, example.ids))
            else:
                at = _place(example) + begun
                near = [dict(echo.top[places[place]] or {}) if place in places else {} for place in (at, at - 1)]
                kept = {
                    "finish": SCORED,
                    "begun": begun,
                    "near": near,
                    "listed": max(len(each) for each in echo.top if each),
                }
        return Heard(kept, prompt, tokens if tokens is not None else 1)

    def _late(self, example: Encoded, way: Way, record: Mapping[str, Any]) -> int:
        """By how many places its list is behind: what it writes after a beginning shows what belongs where.

        Raises:
            UserError: the two agree nowhere.
        """
        at = _place(example)
        body = {key: value for key, value in self.request(example, way).body.items() if key not in _ASKED}
        body |= {"prompt": self._text(example.ids[:at], way), "logprobs": way.listed}
        (first,) = self._asking.ask([Request(body, at + 1, _WRITTEN, tag="probe")], lambda _: _plain)
        next_one = dict(first.get("first", ()))
        apart = [_apart(next_one, near) for near in record["near"]]
        if min(apart) > _ALIKE:
            raise UserError(
                "the server says one thing of the tokens of a text and another when it goes on from there: its "
                "log-probabilities cannot be placed",
                where="signal.kind",
                fix=FIX,
            )
        return 0 if apart[0] <= apart[1] else 1

    def request(self, example: Encoded, way: Way, tag: str = "") -> Request:
        listed = {"logprobs": way.listed, "echo": True} if not way.by_ids else {}
        listed |= {"prompt_logprobs": way.listed} if way.both or way.by_ids else {}
        prompt = example.ids if way.by_ids else self._text(example.ids, way)
        body = {"model": self._endpoint.model, "prompt": prompt, "max_tokens": 1, "temperature": 0.0, **listed}
        # The answer is kept at the supervised places alone: another mask of the same text is another request.
        tag = tag or f"{example.id} {way.late}"
        return Request({**body, **self._endpoint.extra}, len(example.ids) + 1, _WRITTEN, tag)

    def _text(self, ids: Sequence[int], way: Way) -> str:
        ids = ids[1:] if way.bare and ids[0] == self.names.bos else ids
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def other_tokens(said: str) -> UserError:
    """The error where a server's tokens are others than the student's."""
    return UserError(
        f"the server's tokens are not those of student.init.model: {said}",
        where="signal.kind",
        fix="log-probabilities need one tokenizer for both: serve a teacher that has the student's, with the same "
        "BOS and special tokens, or use signal: {kind: text} with distill.loss: {ce: 1}",
    )


def _plain(content: bytes) -> Heard | Failure:
    """A completion with the likeliest of its first token, where they were asked for."""
    reply = read_reply(content, 1)
    if isinstance(reply, Failure):
        return reply
    kept = {"finish": reply.finish, "first": reply.first}
    return Heard(kept, reply.prompt_tokens, reply.tokens if reply.tokens is not None else 1)


def _place(example: Encoded) -> int:
    """A supervised token with something before it: where the response begins, else the last."""
    return example.prompt_length if example.prompt_length > 2 else len(example.ids) - 1


def _apart(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """By how many nats two lists differ on average where both name a token; infinite where they share none."""
    shared = [abs(a[name] - b[name]) for name in a.keys() & b.keys() if name]
    return sum(shared) / len(shared) if 2 * len(shared) >= min(len(a), len(b)) - 1 and shared else float("inf")
