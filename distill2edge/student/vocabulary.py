"""Vocabulary trimming: a Hugging Face directory that keeps only the tokens some texts use, with its ids remapped.

The rows of the embedding (and of the output head) that no text asks for are dropped; on those texts the tokens, and
what the model computes of them, stay the very same. What a kind of tokenizer must keep for that is its own matter
(`student/trimming.py`, `student/subwords.py`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distill2edge.errors import UserError
from distill2edge.intake.vocabularies import vocabulary_hash
from distill2edge.models.checkpoint import load_checkpoint, load_tokenizer
from distill2edge.models.id_map import MAP_FILE, IdMap
from distill2edge.models.kinds import kind_of_directory, kind_of_model
from distill2edge.student.tokenizer_spec import used_ids
from distill2edge.student.trimming import kind_of
from distill2edge.util.files import read_json, write_json
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PROBE_TEXTS, _PROBE_TOKENS = 4, 64
_BATCH = 1000
_IDS = ("_token_id", "_token_ids")


@dataclass(frozen=True)
class Unseen:
    """How the trimmed vocabulary meets new texts.

    Attributes:
        tokens: tokens of the texts in the full vocabulary, specials left out.
        unseen: those of them that the trimmed vocabulary does not have: it writes them in shorter pieces.
        unknown: tokens that became the unknown token and were not before.
        texts: number of texts.
        changed: texts whose tokens changed.
    """

    tokens: int
    unseen: int
    unknown: int
    texts: int
    changed: int

    @property
    def rate(self) -> float:
        """Unseen share of the tokens."""
        return self.unseen / self.tokens if self.tokens else 0.0


def trim_vocabulary(
    model_dir: Path,
    texts: Sequence[str],
    target: Path,
    progress: Progress,
    used: Sequence[Sequence[int]] | None = None,
    *,
    always: Sequence[str] = (),
    least: int = 1,
) -> dict[str, Any]:
    """Write `target`: the model with a vocabulary of the tokens of `texts`, and `vocabulary.json` (the map of ids).

    Kept are the tokens of the texts, single characters or bytes, and the tokenizer's special and added tokens. The
    order of the ids stays. Tokens on `texts` are compared with the original's, and the trimmed model's output with the
    original's on some of them.

    Args:
        model_dir: Hugging Face directory with a fast tokenizer and safetensors.
        texts: every text whose tokens must stay, as it is given to the tokenizer (prompts, both of a pair, ...).
        target: directory to write; replaced.
        progress: where to report.
        used: of a model that predicts tokens: rows in its tokens, which stay too; `texts` may be empty then.
        always: further texts whose tokens stay, however rare.
        least: how often the texts use a token that stays; words with rarer ones are written in smaller pieces.

    Returns:
        {schema_version, kind, old_size, new_size, parameters: {before, after}, new_to_old}; with `used` also `full`, a
        hash of the full vocabulary's token -> id.

    Raises:
        UserError: no texts, a kind of tokenizer that cannot be trimmed yet, or texts whose tokens would change.
    """
    model_dir, target = Path(model_dir), Path(target)
    if not texts and not used:
        raise UserError("there are no texts to keep the tokens of", where="student.vocabulary",
                        fix="give data.splits.train some rows, or set vocabulary: keep")  # fmt: skip
    tokenizer = whole_texts(load_tokenizer(model_dir))
    spec = _spec(tokenizer, model_dir)
    kind, texts = kind_of(spec), [*texts, *always]
    model = _load_model(model_dir)
    ends = {index for row in used or () for index in row} | (_token_ids(model, model_dir) if used else set())
    ends |= used_ids(tokenizer.backend_tokenizer, always)
    keep = sorted(kind.keep(tokenizer.backend_tokenizer, spec, texts, ends, least))
    old_size = model.get_input_embeddings().weight.shape[0]
    if keep[-1] >= old_size:
        raise UserError(f"the tokenizer has ids up to {keep[-1]}, the embedding {old_size} rows", where=str(model_dir),
                        fix="use the tokenizer the model was trained with")  # fmt: skip
    ids = IdMap(np.asarray(keep, dtype=np.int64), old_size)

    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    write_tokenizer(model_dir, target, kind.rewrite(spec, {old: new for new, old in enumerate(keep)}), ids)
    trimmed = whole_texts(load_tokenizer(target))
    _check_tokens(tokenizer, trimmed, texts, ids, least)
    before = model.num_parameters()
    probes = [*_encoded(tokenizer, texts[:_PROBE_TEXTS]), *(row[:_PROBE_TOKENS] for row in (used or ())[:_PROBE_TEXTS])]
    known = ids.old_to_new
    probes = [[index for index in line if known[index] >= 0] for line in probes]
    after = _write_model(model, target, ids, [line for line in probes if line])
    facts: dict[str, Any] = {
        "schema_version": 1,
        "kind": kind.name,
        "old_size": old_size,
        "new_size": len(keep),
        "parameters": {"before": before, "after": after},
        "new_to_old": keep,
    }
    if used is not None:
        facts["full"] = vocabulary_hash(tokenizer)
    write_json(target / MAP_FILE, facts)
    progress.say(f"  vocabulary: {len(keep):,} of {old_size:,} tokens kept, {before:,} -> {after:,} parameters")
    return facts


def unseen(full: PreTrainedTokenizerBase, trimmed: PreTrainedTokenizerBase, ids: IdMap, texts: Sequence[str]) -> Unseen:
    """Count what the trimmed vocabulary lost on texts that it was not made of."""
    known = ids.old_to_new
    tokens = lost = unknown = changed = 0
    full, trimmed = whole_texts(full), whole_texts(trimmed)
    for start in range(0, len(texts), _BATCH):
        part = list(texts[start : start + _BATCH])
        before = full(part, add_special_tokens=False).input_ids
        after = trimmed(part, add_special_tokens=False).input_ids
        for old, new in zip(before, after, strict=True):
            missing = int((known[np.asarray(old, dtype=np.int64)] < 0).sum()) if old else 0
            tokens += len(old)
            lost += missing
            unknown += max(0, new.count(trimmed.unk_token_id) - old.count(full.unk_token_id))
            changed += ids.to_old(new) != list(old)
    return Unseen(tokens, lost, unknown, len(texts), changed)


def unseen_facts(counts: Unseen) -> dict[str, Any]:
    """`Unseen` as JSON."""
    return {**asdict(counts), "rate": counts.rate}


def whole_texts(tokenizer: Any) -> Any:
    """The tokenizer without the truncation and padding that its own tokenizer.json asks for (MiniLM: 128 pieces)."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()
    return tokenizer


# --- inside -------------------------------------------------------------------


def _spec(tokenizer: Any, model_dir: Path) -> dict[str, Any]:
    # Without the file transformers makes an empty tokenizer of the config, and says nothing.
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not any((model_dir / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise UserError("only fast tokenizers (tokenizer.json) can be trimmed", where=str(model_dir),
                        fix="save the tokenizer as a fast one, or set vocabulary: keep")  # fmt: skip
    spec: dict[str, Any] = json.loads(backend.to_str())
    return spec


def _load_model(model_dir: Path) -> Any:
    """The model in the class that it was saved as, so that its head is kept too."""
    import transformers

    config = read_json(model_dir / "config.json")
    architectures = config.get("architectures") or []
    cls = getattr(transformers, architectures[0], None) if architectures else transformers.AutoModel
    if cls is None:
        raise UserError(f"transformers has no class {architectures[0]}", where=str(model_dir / "config.json"),
                        fix="save the model with transformers, or set vocabulary: keep")  # fmt: skip
    return load_checkpoint(cls, model_dir, **kind_of_directory(model_dir).options(config), dtype="auto").eval()


def write_tokenizer(model_dir: Path, target: Path, spec: dict[str, Any], ids: IdMap) -> None:
    """The files of a tokenizer with fewer tokens.

    Args:
        model_dir: of the whole one.
        spec: its tokenizer.json with the kept tokens alone.
    """
    (target / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    # Files that hold ids or the list of tokens are written again or left out; the others are copied as they are.
    for name in ("special_tokens_map.json", "chat_template.jinja"):
        if (model_dir / name).is_file():
            shutil.copyfile(model_dir / name, target / name)
    source = model_dir / "tokenizer_config.json"
    if source.is_file():
        config = read_json(source)
        decoder = config.get("added_tokens_decoder")
        if decoder:
            new = ids.old_to_new
            config["added_tokens_decoder"] = {str(int(new[int(old)])): token for old, token in decoder.items()}
        write_json(target / "tokenizer_config.json", config)
    if (model_dir / "vocab.txt").is_file():
        by_id = sorted((index, token) for token, index in spec["model"]["vocab"].items())
        (target / "vocab.txt").write_text("".join(f"{token}\n" for _, token in by_id), encoding="utf-8")
    generation = model_dir / "generation_config.json"
    if generation.is_file():
        write_json(target / generation.name, _remap_ids(read_json(generation), ids))


def _remap_ids(value: Any, ids: IdMap) -> Any:
    """A configuration with every `*_token_id` (a number or a list) in new ids; None for a token that was dropped."""
    new = ids.old_to_new

    def one(index: Any) -> Any:
        if not isinstance(index, int) or not 0 <= index < ids.old_size:
            return index
        return int(new[index]) if new[index] >= 0 else None

    if isinstance(value, dict):
        return {
            key: ([one(item) for item in entry] if isinstance(entry, list) else one(entry))
            if str(key).endswith(_IDS)
            else _remap_ids(entry, ids)
            for key, entry in value.items()
        }
    return value


def _check_tokens(full: Any, trimmed: Any, texts: Sequence[str], ids: IdMap, least: int) -> None:
    """Raise for a text in other tokens that has no token too rare to stay."""
    known = ids.old_to_new
    for start in range(0, len(texts), _BATCH):
        part = list(texts[start : start + _BATCH])
        before, after = full(part).input_ids, trimmed(part).input_ids
        for text, old, new in zip(part, before, after, strict=True):
            rare = least > 1 and (known[np.asarray(old, dtype=np.int64)] < 0).any()
            if not rare and list(old) != ids.to_old(new):
                raise UserError(
                    f"trimmed, {text[:80]!r} becomes {trimmed.convert_ids_to_tokens(new)[:12]}, "
                    f"it was {full.convert_ids_to_tokens(old)[:12]}",
                    where="student.vocabulary",
                    fix="set vocabulary: keep; this tokenizer cannot be trimmed faithfully",
                )


def _token_ids(model: Any, model_dir: Path) -> set[int]:
    """The ids that the model's settings name: where an answer begins and ends, what fills a batch."""
    found: set[int] = set()
    generation = model_dir / "generation_config.json"
    for settings in (model.config.to_dict(), read_json(generation) if generation.is_file() else {}):
        for key, value in [*settings.items(), *(settings.get("text_config") or {}).items()]:
            if str(key).endswith(_IDS):
                found |= {index for index in (value if isinstance(value, list) else [value]) if type(index) is int}
    return {index for index in found if 0 <= index < model.get_input_embeddings().weight.shape[0]}


def _encoded(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The first tokens of each text."""
    found = [list(tokenizer(text, truncation=True, max_length=_PROBE_TOKENS).input_ids) for text in texts]
    whole_texts(tokenizer)  # the library keeps the truncation of the last call
    return found


def _write_model(model: PreTrainedModel, target: Path, ids: IdMap, probes: Sequence[Sequence[int]]) -> int:
    """Save the model with fewer rows; returns its parameters. `probes`: what it must still compute alike."""
    import torch

    rows = torch.from_numpy(ids.new_to_old)
    before = [_output(model, line) for line in probes]
    names = _row_names(model, ids.old_size)
    state = {
        name: (value[rows] if name in names else value).clone().contiguous()
        for name, value in model.state_dict().items()
    }
    settings = _remap_ids(model.config.to_dict(), ids)
    (settings.get("text_config") or settings)["vocab_size"] = len(rows)
    config = type(model.config).from_dict(settings)
    config.architectures = [type(model).__name__]
    options = kind_of_model(model).options(config.to_dict())
    small: Any = type(model)(config, **options).to(model.dtype).eval()
    small.load_state_dict(state)
    small.tie_weights()
    small.save_pretrained(target)
    saved: Any = load_checkpoint(type(model), target, **options, dtype="auto").eval()
    new = ids.old_to_new
    for line, was in zip(probes, before, strict=True):
        _check_same(was, _output(saved, new[list(line)].tolist()), rows)
    return int(saved.num_parameters())


def _output(model: Any, line: Sequence[int]) -> Any:
    """What a model computes of one text's tokens; an encoder-decoder reads them on both sides."""
    import torch

    given = {"input_ids": torch.tensor([list(line)])}
    if kind_of_model(model).pairs:
        given["decoder_input_ids"] = given["input_ids"]
    with torch.no_grad():
        return model(**given)[0]


def _row_names(model: Any, size: int) -> set[str]:
    """Names of the state's tensors with one row per token: the embedding, an output head and its bias."""
    wanted = [model.get_input_embeddings().weight]
    head = model.get_output_embeddings()
    if head is not None:
        wanted += [part for part in (head.weight, getattr(head, "bias", None)) if part is not None]
    # A masked-language head keeps its bias in the parent too (the same parameter under two names).
    pointers = {part.data_ptr() for part in wanted}
    names = {name for name, value in model.state_dict().items() if value.data_ptr() in pointers}
    return names | {name for name in model.state_dict() if name.endswith("predictions.bias")}


def _check_same(was: Any, now: Any, rows: Any) -> None:
    import torch

    if was.shape[-1] != now.shape[-1]:
        was = was[..., rows]  # a language model's logits lose the dropped tokens
    # The head's product may be blocked in another way for another number of rows: same values, other rounding.
    if not torch.allclose(was.float(), now.float(), rtol=1e-4, atol=1e-4):
        gap = float((was.float() - now.float()).abs().max())
        raise UserError(f"the trimmed model computes other values (by up to {gap:.2g})", where="student.vocabulary",
                        fix="set vocabulary: keep; this architecture cannot be trimmed here")  # fmt: skip
