"""`likelihood`: the teacher's own mean log-probability of a response."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.models.placement import WHOLE, Placement
from distill2edge.verifiers.verifier import Group, Verdict, accepted, rejected

if TYPE_CHECKING:
    from distill2edge.recipe.verifiers import LikelihoodVerifier


class Likelihood:
    """Accepts a response whose tokens, its end token included, have a mean log-probability of at least a threshold.

    Args:
        model_dir: the teacher.
        template, system: as the recipe's data has them.
        placement: of the teacher's weights.
    """

    def __init__(
        self,
        spec: LikelihoodVerifier,
        model_dir: Path,
        template: str,
        system: str | None,
        placement: Placement = WHOLE,
    ) -> None:
        from distill2edge.generation.backends import TransformersBackend

        self.name: str = spec.kind
        self._spec = spec
        self._form = (template, system)
        self._tokenizer = load_tokenizer(model_dir)
        self._backend = TransformersBackend(model_dir, placement=placement)

    def verify(self, groups: Sequence[Group]) -> list[list[Verdict]]:
        """As `base.Verifier.verify`."""
        from distill2edge.data.encode import encode_rows
        from distill2edge.data.examples import Row, row_id

        pairs = dict.fromkeys((group.asked, response) for group in groups for response in group.responses)
        rows = {row_id(*pair): Row(row_id(*pair), *pair) for pair in pairs}
        examples = encode_rows(list(rows.values()), self._tokenizer, *self._form, 1 << 30, supervise="answer")
        found: dict[str, Verdict] = {}
        for number, logits in self._backend.supervised_logits(examples):
            example = examples[number]
            targets = [token for token, on in zip(example.ids, example.mask, strict=True) if on]
            chosen = logits.float().log_softmax(-1)[range(len(targets)), targets]
            found[example.row] = self._judge(float(chosen.mean()))
        return [[found[row_id(group.asked, response)] for response in group.responses] for group in groups]

    def close(self) -> None:
        """Free the model."""
        self._backend.close()

    def _judge(self, mean: float) -> Verdict:
        said = f"mean log-probability {mean:.3f}, asked {self._spec.min_mean_logprob:g}"
        return accepted(said) if mean >= self._spec.min_mean_logprob else rejected(said)
