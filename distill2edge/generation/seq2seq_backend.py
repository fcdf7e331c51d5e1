"""An encoder-decoder teacher for the logits signal: its distributions over the target's tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from distill2edge.data.examples import Encoded
from distill2edge.generation.backends import BATCH_TOKENS, LOGIT_BYTES, TransformersBackend, batches
from distill2edge.models.kinds import start_token_id

if TYPE_CHECKING:
    import torch


class Seq2SeqBackend(TransformersBackend):
    """As `TransformersBackend`, for an encoder-decoder: its decoder reads the start token and the target (teacher
    forcing)."""

    def supervised_logits(self, examples: Sequence[Encoded]) -> Iterator[tuple[int, torch.Tensor]]:
        """As `Backend.supervised_logits`."""
        import torch

        start = start_token_id(self._model.config)
        positions = max(1, LOGIT_BYTES[self.device] // (4 * self.vocab_size))
        for batch in batches(examples, BATCH_TOKENS[self.device], positions):
            chosen = [examples[number] for number in batch]
            source = torch.zeros(len(batch), max(e.prompt_length for e in chosen), dtype=torch.long)
            attended = torch.zeros_like(source)
            target = torch.full((len(batch), max(e.supervised for e in chosen)), start, dtype=torch.long)
            select = torch.zeros(target.shape, dtype=torch.bool)
            for row, example in enumerate(chosen):
                prompt, count = example.prompt_length, example.supervised
                source[row, :prompt] = torch.tensor(example.ids[:prompt])
                attended[row, :prompt] = 1
                # The last target token predicts nothing.
                target[row, 1:count] = torch.tensor(example.ids[prompt:-1])
                select[row, :count] = True
            self._select = select.to(self.device)
            with torch.inference_mode():
                out = self._model(
                    input_ids=source.to(self.device),
                    attention_mask=attended.to(self.device),
                    decoder_input_ids=target.to(self.device),
                    use_cache=False,
                ).logits[0]
            yield from zip(batch, out.float().split([e.supervised for e in chosen]), strict=True)
