"""How servers spell tokens: strings to ids and back, as far as a string stands for one token alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from distill2edge.data.spelling import SPECIAL, spelling_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NUMBERED = re.compile(r"token_id:(\d+)")


class TokenNames:
    """The spellings of one tokenizer's tokens.

    A token may come as its text, with the bytes that are no text left out or replaced; as the vocabulary writes it; or
    as `token_id:N`. Special tokens come as nothing too.

    Raises:
        UserError: a tokenizer whose tokens do not say where the spaces are.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.bos: int | None = tokenizer.bos_token_id
        vocabulary, added = tokenizer.get_vocab(), tokenizer.added_tokens_decoder
        self.size = max(vocabulary.values()) + 1
        spelling = spelling_of(tokenizer, "plain", "signal.kind").tokens
        self._names: dict[int, frozenset[str]] = {}
        spoken: dict[str, int | None] = {}
        pieces: dict[str, int | None] = {}
        for piece, index in vocabulary.items():
            raw = spelling[index]
            if len(raw) > 1 and raw.startswith(SPECIAL):  # it stands for no text
                names = {added[index].content if index in added else piece, ""}
            else:
                names = {raw.decode("utf-8", errors) for errors in ("replace", "ignore")}
            self._names[index] = frozenset((*names, piece))
            for name in names:
                spoken[name] = index if spoken.get(name, index) == index else None
            pieces[piece] = index
        # A piece of one token may be the text of another: the text counts.
        self._ids = pieces | spoken

    def id_of(self, name: str) -> int | None:
        """The token of a spelling; None where several have it, or none."""
        if (numbered := _NUMBERED.fullmatch(name)) is not None:
            return index if (index := int(numbered[1])) in self._names else None
        return self._ids.get(name)

    def fits(self, name: str, index: int) -> bool:
        """Whether a spelling can be that token's."""
        return name in self._names.get(index, ()) or name == f"token_id:{index}"

    def places(self, said: Sequence[str], ids: Sequence[int]) -> dict[int, int] | None:
        """Where in what a server says each token of a text is: token's place -> place in `said`.

        Some servers leave out the token that begins a text, everywhere or at the beginning; and name what they wrote
        after it, which changes nothing before.

        Returns:
            None where the server's tokens are others.
        """
        for order in self._orders(ids):
            if self._alike(said, ids, order) == len(order):
                return {at: number for number, at in enumerate(order)}
        return None

    def difference(self, said: Sequence[str], ids: Sequence[int]) -> str:
        """The first place where a server's tokens are others, for people."""
        order = max(self._orders(ids), key=lambda order: self._alike(said, ids, order))
        number = self._alike(said, ids, order)
        if number < min(len(said), len(order)):
            return self.unlike(order[number], said[number], ids[order[number]])
        return self.count(len(said), ids)

    def unlike(self, at: int, name: str, index: int) -> str:
        """That a token is another, for people."""
        own = max(self._names.get(index, {"?"}), key=len)
        return f"its token {at + 1} is {name!r}, and here it is {own!r}"

    def count(self, theirs: int, ids: Sequence[int]) -> str:
        """That a text has another count of tokens, for people."""
        return f"a text has {theirs:,} tokens there, and {len(ids):,} here"

    def _orders(self, ids: Sequence[int]) -> list[list[int]]:
        every = list(range(len(ids)))
        return [every, every[1:] if ids[0] == self.bos else every, [at for at in every if ids[at] != self.bos]]

    def _alike(self, said: Sequence[str], ids: Sequence[int], order: Sequence[int]) -> int:
        """How many tokens are the same from the beginning."""
        pairs = zip(said, order, strict=False)
        return next(
            (n for n, (name, at) in enumerate(pairs) if not self.fits(name, ids[at])), min(len(said), len(order))
        )
