"""What a file is compared on: inputs chosen to reach every position that matters, and PyTorch's outputs for them.

A probe from the start begins with an empty cache. A far probe reads a few tokens after a synthetic cache, put together
from the model's own keys and values. So the end of a window of 100,000 positions costs as little as a few tokens, and
the places where a sliding window or a rotary scaling begins to matter are crossed whatever the model's size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill2edge.export.support import window_of
from distill2edge.models.config import knows_segments, usable_positions
from distill2edge.models.kinds import (
    CLASSIFIER,
    DECODER,
    EMBEDDER,
    ENCODER_DECODER,
    MULTI_LABEL,
    REGRESSOR,
    TAGGER,
    logits_of,
)
from distill2edge.models.loading import load_model

START = 320
"""Tokens of the probe from the start: more than a runtime takes at a time."""
WORK = 1.5e11
"""Weights times tokens that a long probe may cost: some seconds on two cores."""
CACHE_BYTES = 3 << 27
"""Of a synthetic cache. A window that needs more is compared up to where the cache is full; `export.json` says so."""
_WHOLE, _LONGEST = 640, 4096  # tokens of a text from the start: unless there is a reason for more, and at most
_NEW, _BEFORE, _SHOWN = 16, 8, 48
_BANK = 64
_LOUD = 4.0  # how much longer the keys are that stand where a window ends: queries must not pass over them


@dataclass(frozen=True)
class Cache:
    """A synthetic cache.

    Attributes:
        bank: [layers, 2, heads, 64, width], keys and values of a text, from which it is drawn.
        length: its positions.
        loud: positions whose keys are made longer.
    """

    bank: np.ndarray
    length: int
    loud: tuple[int, ...]

    def layers(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Keys and values [1, heads, length, width] float32, layer by layer."""
        picked = np.random.default_rng(self.length).integers(0, self.bank.shape[3], self.length)
        for keys, values in self.bank:
            keys, values = keys[None, :, picked], values[None, :, picked]
            keys[:, :, list(self.loud)] *= _LOUD
            yield keys, values


@dataclass(frozen=True)
class Probe:
    """One input and PyTorch's logits.

    Attributes:
        name: for people.
        ids: tokens; of an encoder-decoder the source and the target.
        positions: those compared; of an encoder none.
        expected: [len(positions), V] float32, or what an encoder says of the text.
        prompt: count of source tokens of an encoder-decoder.
        cache: what comes before `ids`.
        types: segment ids, of two texts that an encoder reads.
    """

    name: str
    ids: list[int]
    positions: list[int]
    expected: np.ndarray
    prompt: int = 0
    cache: Cache | None = None
    types: list[int] | None = None


@dataclass(frozen=True)
class Reach:
    """How far probes go.

    Attributes:
        window: positions of the model; None without a limit.
        places: positions from which on a sliding window or a rotary scaling matters.
        compared: the last position that a probe reaches.
    """

    window: int | None
    places: tuple[int, ...]
    compared: int


def make_probes(
    model_dir: Path, kind: str, *, caches: bool, stored: str = "float32", pairs: bool = False
) -> tuple[list[Probe], Reach]:
    """PyTorch's side of a comparison. The model is loaded in float32, and freed again.

    Args:
        model_dir: Hugging Face directory.
        kind: of model, by its name.
        caches: whether the runtime can start from a given cache; if not, a longer text from the start is used.
        stored: `float32`, or the type that a file stores matrices in, to which they are rounded first.
        pairs: whether an encoder reads two texts: then the second one's segment is compared too.
    """
    import torch

    model: Any = load_model(model_dir, dtype=torch.float32).eval()
    with torch.no_grad():
        if stored != "float32":
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.copy_(weight.to(getattr(torch, stored)))
        probes, reach = _PROBES[kind](model, caches)
        return [*probes, *(_two_texts(model) if pairs else ())], reach


def _decoder(model: Any, caches: bool) -> tuple[list[Probe], Reach]:
    config = model.config
    window, places = window_of(config.to_dict()), _places(config)
    length = START
    if not caches:
        length = min(_affordable(model), max(_WHOLE, *(place + _NEW for place in places), 0))
    length = min(length, window or length)
    ids = _ids(config, length)
    shown = [*_evenly(length, _SHOWN)]
    probes = [Probe("from the start", ids, shown, logits_of(model, ids, 0)[shown].float().numpy())]
    reached = length
    if caches:
        bank = _bank(model, ids[:_BANK])
        most = int(CACHE_BYTES // (bank.nbytes // bank.shape[3]))
        for place in sorted({*places, *([window] if window else [])}):
            # The last of the window, or across a place inside it.
            end = min(place + _NEW - _BEFORE, window or place + _NEW, most)
            if end - _NEW <= length - _NEW // 2:
                continue
            sliding = [place_ for place_ in places if place_ < end]
            loud = {each for w in (*sliding, end) for each in range(end - _NEW - w, end - w + _NEW)}
            cache = Cache(bank, end - _NEW, tuple(sorted(each for each in loud if 0 <= each < end - _NEW)))
            new = _ids(config, _NEW, seed=end)
            probes.append(Probe(f"positions {end - _NEW} to {end}", new, list(range(_NEW)), _after(model, cache, new),
                                cache=cache))  # fmt: skip
            reached = max(reached, end)
    return probes, Reach(window, places, reached)


def _after(model: Any, cache: Cache, ids: Sequence[int]) -> np.ndarray:
    """Logits [len(ids), V] of tokens after a cache."""
    import torch
    from transformers import DynamicCache

    past = DynamicCache()
    for layer, (keys, values) in enumerate(cache.layers()):
        past.update(torch.from_numpy(keys), torch.from_numpy(values), layer)
    logits = model(torch.tensor([list(ids)]), past_key_values=past, use_cache=True).logits[0]
    return np.asarray(logits.float().numpy())


def _bank(model: Any, ids: Sequence[int]) -> np.ndarray:
    import torch
    from transformers import DynamicCache

    past = DynamicCache()  # without a configuration it keeps what lies before a sliding window
    model(torch.tensor([list(ids)]), past_key_values=past, use_cache=True)
    layers = [torch.stack((layer.keys[0], layer.values[0])) for layer in past.layers]
    return np.asarray(torch.stack(layers).float().numpy())


def _text(model: Any, caches: bool) -> tuple[list[Probe], Reach]:
    window = encoder_positions(model.config)
    lengths = sorted({min(length, window) for length in (3, 40, _affordable(model), _WHOLE)})
    probes = []
    for length in lengths:
        ids = _ids(model.config, length, seed=length)
        expected = logits_of(model, ids, 0).float().numpy()
        probes.append(Probe(f"{length} tokens", ids, [], expected))
    return probes, Reach(window, (), lengths[-1])


def _two_texts(model: Any) -> Iterator[Probe]:
    """Two texts of 20 tokens, of a model that knows segments; another is given none, and reads one sequence."""
    if knows_segments(model.config):
        ids, types = _ids(model.config, 40, seed=1), [0] * 20 + [1] * 20
        expected = logits_of(model, ids, 0, types).float().numpy()
        yield Probe("two texts of 20 tokens", ids, [], expected, types=types)


def _seq2seq(model: Any, caches: bool) -> tuple[list[Probe], Reach]:
    window = window_of(model.config.to_dict())
    longest = min(window or _WHOLE, _WHOLE, _affordable(model))
    probes = []
    for source, target in ((5, 20), (longest, min(40, longest - 1))):
        ids = _ids(model.config, source + target, seed=source)
        positions = list(range(source - 1, len(ids)))
        expected = logits_of(model, ids, source).float().numpy()
        probes.append(Probe(f"{source} tokens to {target}", ids, positions, expected, prompt=source))
    return probes, Reach(window, (), longest)


_PROBES: Mapping[str, Callable[[Any, bool], tuple[list[Probe], Reach]]] = {
    DECODER.name: _decoder,
    CLASSIFIER.name: _text,
    MULTI_LABEL.name: _text,
    REGRESSOR.name: _text,
    TAGGER.name: _text,
    EMBEDDER.name: _text,
    ENCODER_DECODER.name: _seq2seq,
}
"""Kind of model -> what its files are compared on."""


def encoder_positions(config: Any) -> int:
    """Tokens that an encoder can read: RoBERTa's count begins after its padding token's id."""
    return min(usable_positions(config) or _LONGEST, _LONGEST)


def _places(config: Any) -> tuple[int, ...]:
    """Positions from which on something changes: sliding windows, and the length before a rotary scaling."""
    found = {getattr(config, "sliding_window", None)} if _slides(config) else set()
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in (ropes, *(each for each in ropes.values() if isinstance(each, dict))):
        found.add(rope.get("original_max_position_embeddings"))
    return tuple(sorted(each for each in found if isinstance(each, int) and each > 0))


def _slides(config: Any) -> bool:
    kinds = getattr(config, "layer_types", None)
    return config.model_type in ("mistral", "phi3") if kinds is None else "sliding_attention" in kinds


def _affordable(model: Any) -> int:
    """Tokens of the longest text that may be read."""
    return max(START, min(_LONGEST, int(WORK / model.num_parameters())))


def _ids(config: Any, count: int, *, seed: int = 0) -> list[int]:
    """Ids of the whole vocabulary but the padding's, which some models count positions by."""
    random = np.random.default_rng([seed, count])
    found = random.integers(0, config.vocab_size, count)
    pad = config.pad_token_id
    return [int(each) if each != pad else (int(each) + 1) % config.vocab_size for each in found]


def _evenly(count: int, most: int) -> Iterator[int]:
    taken = min(count, most)
    return ((index + 1) * count // taken - 1 for index in range(taken))
