"""Vocabulary trimming: the same tokens and the same function on the corpus, with fewer rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill2edge.errors import UserError
from distill2edge.models.config import MAX_SIZE
from distill2edge.models.id_map import IdMap, read_map
from distill2edge.recipe.load import parse_recipe
from distill2edge.student.trimming import WordPiece
from distill2edge.student.vocabulary import trim_vocabulary, unseen
from distill2edge.tasks.work import beside_of
from distill2edge.util.progress import SilentProgress
from tests.tiny import WORDS, corpus, tiny_bert, tiny_llama

TEXTS = ("The quick brown fox jumps.", "a lazy dog and then it sleeps", "café 12345 good")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bert")
    tiny_bert(directory)
    return directory


@pytest.fixture(scope="module")
def trimmed(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("trim") / "model"
    trim_vocabulary(full, TEXTS, target, SilentProgress())
    return target


def _tokenizers(*paths: Path) -> list:
    from transformers import AutoTokenizer

    return [AutoTokenizer.from_pretrained(path, local_files_only=True) for path in paths]


def test_tokens_of_the_corpus_stay_and_rows_go(full: Path, trimmed: Path) -> None:
    before, after = _tokenizers(full, trimmed)
    assert len(after) < len(before)
    for text in TEXTS:
        assert after.convert_ids_to_tokens(after(text).input_ids) == before.convert_ids_to_tokens(
            before(text).input_ids
        )
    config = json.loads((trimmed / "config.json").read_text())
    assert config["vocab_size"] == len(after)
    assert config["pad_token_id"] == after.pad_token_id == after.convert_tokens_to_ids("[PAD]")
    for name in ("[CLS]", "[SEP]", "[MASK]", "[UNK]"):
        assert after.convert_tokens_to_ids(name) != after.unk_token_id or name == "[UNK]"


def test_single_characters_stay_in_both_forms(full: Path, trimmed: Path) -> None:
    before, after = (set(tokenizer.get_vocab()) for tokenizer in _tokenizers(full, trimmed))
    characters = {token for token in before if len(token.removeprefix("##")) == 1}
    assert characters
    assert characters <= after


def test_logits_are_the_original_models(full: Path, trimmed: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    before, after = _tokenizers(full, trimmed)
    old, new = (
        AutoModelForSequenceClassification.from_pretrained(path, local_files_only=True).eval()
        for path in (full, trimmed)
    )
    assert new.num_parameters() < old.num_parameters()
    with torch.no_grad():
        for text in TEXTS:
            a = old(**before(text, return_tensors="pt")).logits
            b = new(**after(text, return_tensors="pt")).logits
            assert torch.equal(a, b)


def test_the_map_leads_back(full: Path, trimmed: Path) -> None:
    before, after = _tokenizers(full, trimmed)
    ids = read_map(trimmed)
    assert ids is not None
    assert read_map(full) is None
    assert ids.to_old(after(TEXTS[0]).input_ids) == before(TEXTS[0]).input_ids
    assert ids.to_old([]) == []
    inverse = ids.old_to_new
    assert np.array_equal(inverse[ids.new_to_old], np.arange(len(after)))
    assert (inverse == -1).sum() == len(before) - len(after)


def test_unseen_counts_what_is_written_in_pieces(full: Path, trimmed: Path) -> None:
    before, after = _tokenizers(full, trimmed)
    ids = read_map(trimmed)
    assert ids is not None
    assert unseen(before, after, ids, TEXTS).rate == 0
    counts = unseen(before, after, ids, ["afternoon while we review films"])
    assert 0 < counts.unseen <= counts.tokens
    assert counts.changed == 1
    assert counts.unknown == 0  # the characters are there


def test_a_head_over_the_vocabulary_is_trimmed_too(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForMaskedLM

    tiny_bert(tmp_path / "full", masked=True)
    facts = trim_vocabulary(tmp_path / "full", TEXTS, tmp_path / "trimmed", SilentProgress())
    old, new = (
        AutoModelForMaskedLM.from_pretrained(tmp_path / name, local_files_only=True).eval()
        for name in ("full", "trimmed")
    )
    before, after = _tokenizers(tmp_path / "full", tmp_path / "trimmed")
    with torch.no_grad():
        a = old(**before(TEXTS[0], return_tensors="pt")).logits[..., facts["new_to_old"]]
        b = new(**after(TEXTS[0], return_tensors="pt")).logits
    torch.testing.assert_close(a, b)


def test_errors_say_what_is_supported(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "llama")
    with pytest.raises(UserError, match="no texts"):
        trim_vocabulary(tmp_path / "llama", (), tmp_path / "out", SilentProgress())
    path = tmp_path / "llama" / "tokenizer.json"
    spec = json.loads(path.read_text())
    spec["model"] = {"type": "WordLevel", "vocab": spec["model"]["vocab"], "unk_token": "<|endoftext|>"}
    path.write_text(json.dumps(spec))
    with pytest.raises(UserError, match="WordLevel vocabulary cannot be trimmed: supported: WordPiece, BPE, Unigram"):
        trim_vocabulary(tmp_path / "llama", TEXTS, tmp_path / "out", SilentProgress())
    assert not (tmp_path / "out").exists()


@settings(max_examples=40)
@given(st.lists(st.text(alphabet="abcxy 你é!", max_size=24), min_size=1, max_size=8), st.data())
def test_any_texts_keep_their_tokens(texts: list[str], data: st.DataObject) -> None:
    """Words that become unknown included: a vocabulary without some characters makes many of them."""
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers

    pieces = data.draw(
        st.lists(st.text(alphabet="abcxy", min_size=1, max_size=4), min_size=1, max_size=30, unique=True)
    )
    both = dict.fromkeys([*pieces, *(f"##{piece}" for piece in pieces)])
    vocabulary = {token: index for index, token in enumerate(["[UNK]", *both])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    spec = json.loads(backend.to_str())
    keep = sorted(WordPiece().keep(backend, spec, texts))
    ids = IdMap(np.asarray(keep), len(vocabulary))
    small = Tokenizer.from_str(json.dumps(WordPiece().rewrite(spec, {old: new for new, old in enumerate(keep)})))
    for text in texts:
        assert ids.to_old(small.encode(text).ids) == backend.encode(text).ids


@pytest.mark.parametrize("kind", ["WordPiece", "BPE"])
def test_rare_tokens_go_and_texts_without_them_stay(kind: str, full: Path, tmp_path: Path) -> None:
    if kind == "BPE":
        tiny_llama(tmp_path / "llama")
    source = tmp_path / "llama" if kind == "BPE" else full
    often, once = "the quick fox sleeps", WORDS.partition("!")[0]
    least = {
        number: trim_vocabulary(
            source, [often, often, once], tmp_path / str(number), SilentProgress(), least=number
        )
        for number in (1, 2)
    }  # fmt: skip
    assert least[2]["kind"] == kind
    assert least[2]["new_size"] < least[1]["new_size"]
    before, after = _tokenizers(source, tmp_path / "2")
    ids = read_map(tmp_path / "2")
    assert ids is not None
    assert ids.to_old(after(often).input_ids) == before(often).input_ids
    assert len(after(once).input_ids) > len(before(once).input_ids)
    assert after.decode(after(once).input_ids, skip_special_tokens=True).replace(" ", "") == once.replace(" ", "")
    assert after.unk_token_id is None or after.unk_token_id not in after(once).input_ids


def test_a_rare_token_may_be_too_rare_for_every_text(full: Path, tmp_path: Path) -> None:
    facts = trim_vocabulary(full, TEXTS, tmp_path / "few", SilentProgress(), least=1000)
    (after,) = _tokenizers(tmp_path / "few")
    assert facts["new_size"] == len(after)
    left = set(after.get_vocab()) - set(after.all_special_tokens)
    assert {len(token.removeprefix("##")) for token in left} == {1}
    (before,) = _tokenizers(full)
    assert "你" in before.get_vocab()
    assert "你" not in left  # no text has it
    assert after.decode(after("the dog").input_ids, skip_special_tokens=True) == "the dog"


def test_a_text_that_is_to_stay_does_so_however_rare(full: Path, tmp_path: Path) -> None:
    kept = "the warm afternoon"
    trim_vocabulary(full, TEXTS, tmp_path / "few", SilentProgress(), always=[kept], least=MAX_SIZE)
    before, after = _tokenizers(full, tmp_path / "few")
    assert after.tokenize(kept) == before.tokenize(kept)
    assert len(after.tokenize("jumps")) > len(before.tokenize("jumps"))


def test_corpus_of_the_tokenizer_is_lossless(full: Path, tmp_path: Path) -> None:
    facts = trim_vocabulary(full, corpus(), tmp_path / "all", SilentProgress())
    assert facts["new_size"] <= facts["old_size"]
    assert facts["kind"] == "WordPiece"


def test_the_tokenizers_own_truncation_and_padding_cut_nothing(full: Path, tmp_path: Path) -> None:
    """all-MiniLM-L6-v2 cuts at 128 pieces by its tokenizer.json, and pads to them."""
    import shutil

    from tokenizers import Tokenizer

    source = tmp_path / "cutting"
    shutil.copytree(full, source)
    cutting = Tokenizer.from_file(str(source / "tokenizer.json"))
    cutting.enable_truncation(8)
    cutting.enable_padding(length=8, pad_token="[PAD]", pad_id=0)
    cutting.save(str(source / "tokenizer.json"))
    text = "the quick brown fox jumps over a lazy dog " * 3 + "and then it sleeps"
    trim_vocabulary(source, [text], tmp_path / "model", SilentProgress())
    plain, trimmed = _tokenizers(full, tmp_path / "model")
    whole = plain(text).input_ids
    assert len(whole) > 25
    ids = read_map(tmp_path / "model")
    assert ids is not None
    assert ids.to_old(trimmed(text, truncation=True, max_length=100).input_ids) == whole
    (cut,) = _tokenizers(source)
    counts = unseen(cut, trimmed, ids, [text, "music"])
    assert counts.tokens > len(whole) - 2
    assert counts.changed == 1  # `music` alone


def test_a_trimmed_student_of_a_checkpoint_is_compared_with_the_teacher_s_layers(
    full: Path, trimmed: Path, tmp_path: Path
) -> None:
    """It has fewer tokens than the teacher: those that it has must be the teacher's."""
    (trimmed.parent / "student.json").write_text(json.dumps({"layers": [0]}))
    recipe = parse_recipe(
        "{name: x, task: classification, teacher: {model: a}, data: {source: b, choices: [c, d], template: plain}, "
        "signal: {kind: labels}, student: {init: {model: e}, vocabulary: trim, lora: null}, "
        "distill: {loss: {ce: 1, hidden: 1, layer_map: [1]}}, export: [onnx:int8], bench: {workloads: [task]}}",
        "r.yaml",
    )
    beside = beside_of(recipe, recipe.distill.loss, trimmed, full)
    assert beside is not None
    assert beside.layers == (1,)
    before, after = _tokenizers(full, trimmed)
    assert beside.to_teacher == before.convert_tokens_to_ids(after.convert_ids_to_tokens(range(len(after))))

    shutil.copytree(full, tmp_path / "other")
    path = tmp_path / "other" / "tokenizer.json"
    path.write_text(path.read_text().replace('"fox"', '"fax"'))
    with pytest.raises(UserError, match="compared token by token"):
        beside_of(recipe, recipe.distill.loss, trimmed, tmp_path / "other")
