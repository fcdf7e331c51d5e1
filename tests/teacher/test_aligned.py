"""Logits across two tokenizers: matched where the text allows it, no probability lost or made, equal to a dense sum."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tiny import corpus, tiny_family, tiny_llama, tiny_tokenizer, tiny_wordpiece

from distill2edge.data.borders import Match, matches
from distill2edge.data.encode import encode_rows, unencodable
from distill2edge.data.examples import Encoded, Row, row_id
from distill2edge.data.spelling import END, Spelling, spelling_of
from distill2edge.distill.chunked import chunked_loss
from distill2edge.distill.logit_cache import SignalReader
from distill2edge.distill.losses import TopK, distillation_loss
from distill2edge.distill.objective import objective_of
from distill2edge.errors import UserError
from distill2edge.intake.vocabularies import check_same_vocabulary, vocabulary_hash
from distill2edge.recipe.schema import LogitsSignal, Loss
from distill2edge.teacher.aligned import Aligned, mapped
from distill2edge.teacher.logits import cache_logits
from distill2edge.teacher.vocabulary_map import VocabularyMap, vocabulary_map
from distill2edge.util.progress import SilentProgress

TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "naïve café 你好世界 🙂 end.",
    "foxes 1234, quickly; nothing in the corpus: zyxwv",
    "a",
    "  two  spaces\n\nand lines",
]
ANY_TEXT = st.one_of(
    st.text(min_size=1, max_size=40),
    st.lists(st.sampled_from(corpus()[0].split() + corpus()[7].split()), min_size=1).map(" ".join),
).filter(str.strip)
SPECIALS = ["<unk>", "<s>", "</s>"]


def unigram(directory: Path) -> None:
    """Save a SentencePiece Unigram tokenizer (a space before each text, no bytes)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False, max_piece_length=8
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(directory)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories of a teacher (400 tokens), a student of fewer (290), and a Unigram tokenizer."""
    root = tmp_path_factory.mktemp("models")
    tiny_llama(root / "teacher", seed=1)
    tiny_llama(root / "fewer", vocabulary=290, seed=2)
    unigram(root / "unigram")
    return {path.name: path for path in root.iterdir()}


@cache
def opened(directory: Path) -> tuple[Any, Spelling]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    return tokenizer, spelling_of(tokenizer, "plain")


def encoded(directory: Path, texts: list[str]) -> list[Encoded]:
    rows = [Row(row_id("Say:", " " + text), "Say:", " " + text) for text in texts]
    return encode_rows(rows, opened(directory)[0], "plain", None, 10_000)


def signal(k: int = 16, temperature: float = 2.0) -> LogitsSignal:
    return LogitsSignal(top_k=k, temperature=temperature)


# --- spelling and borders -------------------------------------------------------------


@pytest.mark.parametrize("name", ["teacher", "fewer", "unigram"])
def test_tokens_spell_the_text(places: dict[str, Path], name: str) -> None:
    tokenizer, spelling = opened(places[name])
    text = " the quick brown café 你好" if name != "unigram" else " the quick brown fox"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert spelling.text(ids) == text.encode()
    assert spelling.tokens[tokenizer.eos_token_id] == END


def test_a_tokenizer_that_hides_the_spaces_is_refused(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tiny_wordpiece(tmp_path)
    with pytest.raises(UserError, match="WordPiece tokenizer do not say where the spaces are") as caught:
        spelling_of(AutoTokenizer.from_pretrained(tmp_path), "plain")
    assert "kind: text" in caught.value.fix


@pytest.mark.parametrize(("ours", "theirs"), [("fewer", "teacher"), ("teacher", "fewer"), ("unigram", "teacher")])
@settings(max_examples=60, deadline=None)
@given(text=ANY_TEXT)
def test_matched_positions_go_on_with_the_same_text(places: dict[str, Path], ours: str, theirs: str, text: str) -> None:
    (a, mine), (b, its) = (opened(places[name]) for name in (ours, theirs))
    text += " the brown fox"
    assume(not unencodable(a, a(text)["input_ids"]))  # the Unigram tokenizer has characters of the corpus alone
    rows = [Row(row_id("Say:", text), "Say:", text)]
    student, teacher = (encode_rows(rows, each, "plain", None, 10_000)[0] for each in (a, b))
    found = matches(student, teacher, mine, its)
    said, told = ([i for i, on in zip(e.ids, e.mask, strict=True) if on] for e in (student, teacher))
    assert found, "the end token at least is matched"
    assert [match.position for match in found] == sorted({match.position for match in found})
    assert (found[-1].position, found[-1].first) == (len(said) - 1, len(told) - 1)
    for match in found:
        assert said[match.position] == match.token
        assert tuple(told[match.first : match.first + len(match.spelt)]) == match.spelt
        assert mine.text(said[match.position :]) == its.text(told[match.first :])
        assert its.text(list(match.spelt)).startswith(mine.tokens[match.token])


@settings(max_examples=40, deadline=None)
@given(text=ANY_TEXT)
def test_a_tokenizer_matches_itself_everywhere(places: dict[str, Path], text: str) -> None:
    tokenizer, spelling = opened(places["teacher"])
    (row,) = encode_rows([Row(row_id("Say:", text), "Say:", text)], tokenizer, "plain", None, 10_000)
    found = matches(row, row, spelling, spelling)
    assert [match.position for match in found] == list(range(row.supervised))
    assert all(match.spelt == (match.token,) for match in found)


def test_each_answer_is_laid_beside_its_own(places: dict[str, Path]) -> None:
    """Two answers in a row; the second of another length in each tokenizer, and the first cut in one of them."""
    ours, theirs = Spelling((b"ab", b"c", b"d", END)), Spelling((b"a", b"b", b"cd", END))
    student = Encoded("s", [1, 0, 3, 2, 1, 2, 3], [False, True, True, False, True, True, True])
    teacher = Encoded("t", [0, 0, 1, 3, 0, 2, 3], [False, True, True, True, False, True, True])
    assert matches(student, teacher, ours, theirs) == [
        Match(0, 0, 0, (0, 1)),  # ab = a + b
        Match(1, 3, 2, (3,)),
        Match(2, 1, 3, (2,)),  # c begins cd; d is inside
        Match(4, 3, 4, (3,)),
    ]


# --- the map --------------------------------------------------------------------------


def test_tokens_map_by_their_spelling_and_else_to_the_first_part(places: dict[str, Path]) -> None:
    (_, its), (tokenizer, mine) = opened(places["teacher"]), opened(places["fewer"])
    found = vocabulary_map(its, mine, tokenizer)
    assert found.size == 290
    assert (found.to >= 0).sum() >= 398  # the two special tokens that are no end may differ
    for index, (target, whole) in enumerate(zip(found.to, found.whole, strict=True)):
        if whole:
            assert mine.tokens[target] == its.tokens[index]
        elif target >= 0:
            assert its.tokens[index].startswith(mine.tokens[target])
    lacking = [index for index in range(400) if not found.whole[index] and found.to[index] >= 0]
    assert len(lacking) > 50
    texts = {index: its.tokens[index].decode(errors="replace") for index in lacking}
    for index, text in texts.items():
        if "\ufffd" not in text:
            assert tokenizer(text, add_special_tokens=False)["input_ids"][0] == found.to[index]


def test_a_tokenizer_with_added_tokens_keeps_the_others(places: dict[str, Path], tmp_path: Path) -> None:
    tokenizer, its = opened(places["teacher"])
    more = type(tokenizer).from_pretrained(places["teacher"])
    more.add_special_tokens({"additional_special_tokens": ["<tool>"]})
    more.add_tokens(["the quick"])
    found = vocabulary_map(its, spelling_of(more, "plain"), more)
    assert found.whole.all()
    assert (found.to == np.arange(400)).all()
    assert found.size == 402
    assert not found.identical
    with pytest.raises(UserError, match="2 of 402 tokens have another id") as caught:
        check_same_vocabulary(tokenizer, more)
    assert "signal.align: vocabulary" in caught.value.fix


# --- distributions --------------------------------------------------------------------


def by_definition(
    logits: torch.Tensor, found: list[Match], its: Spelling, mine: Spelling, vocabulary: VocabularyMap
) -> torch.Tensor:
    """[m, S + 1] probabilities in float64: every teacher's token to a student's, then what the text shows."""
    rows = []
    for match in found:
        p = torch.softmax(logits[match.first, : len(its.tokens)].double(), -1).tolist()
        q = [0.0] * (vocabulary.size + 1)
        for index, value in enumerate(p):
            q[vocabulary.to[index]] += value  # -1 is the last place
        joint = math.prod(
            float(torch.softmax(logits[match.first + n, : len(its.tokens)].double(), -1)[token])
            for n, token in enumerate(match.spelt)
        )
        q[vocabulary.to[match.spelt[0]]] -= joint
        q[match.token] += joint
        rows.append(q)
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(("ours", "theirs"), [("fewer", "teacher"), ("teacher", "fewer"), ("unigram", "teacher")])
@pytest.mark.parametrize("padding", [0, 24])
def test_no_probability_is_lost_or_invented(places: dict[str, Path], ours: str, theirs: str, padding: int) -> None:
    texts = TEXTS[:1] if ours == "unigram" else TEXTS
    (tokenizer, mine), (_, its) = opened(places[ours]), opened(places[theirs])
    vocabulary = vocabulary_map(its, mine, tokenizer)
    spans = set()
    for number, (student, teacher) in enumerate(
        zip(encoded(places[ours], texts), encoded(places[theirs], texts), strict=True)
    ):
        found = matches(student, teacher, mine, its)
        generator = torch.Generator().manual_seed(number)
        logits = 3 * torch.randn(teacher.supervised, len(its.tokens) + padding, generator=generator)
        logits[:, len(its.tokens) :] += 20  # rows of no token, and the likeliest
        z, sums = mapped(logits, found, vocabulary)
        torch.testing.assert_close(
            z.exp().double(), by_definition(logits, found, its, mine, vocabulary), rtol=1e-4, atol=1e-6
        )
        torch.testing.assert_close(z.exp().sum(-1), torch.ones(len(found)))
        assert 0 < sums["whole"] + sums["begun"] <= len(found) * 1.00001
        spans |= {len(match.spelt) for match in found}
    assert ours != "teacher" or max(spans) > 1, "a student's token of several of the teacher's is among them"


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_cache_gives_the_dense_losses(places: dict[str, Path], tmp_path: Path, temperature: float) -> None:
    """Every token kept: value and gradient of forward KL and JSD as of dense distributions at the matched positions."""
    from transformers import AutoModelForCausalLM

    theirs, ours = (encoded(places[name], TEXTS) for name in ("teacher", "fewer"))
    aligned = Aligned(places["teacher"], places["fewer"], "plain", theirs, ours)
    spec = signal(290, temperature)
    facts = cache_logits(places["teacher"], ours, spec, tmp_path, SilentProgress(), dtype="float32", tokens=aligned)
    reader = SignalReader(tmp_path)
    (tokenizer, mine), (_, its) = opened(places["fewer"]), opened(places["teacher"])
    assert reader.vocabulary == vocabulary_hash(tokenizer)
    vocabulary = vocabulary_map(its, mine, tokenizer)
    model = AutoModelForCausalLM.from_pretrained(places["teacher"], dtype=torch.float32).eval()
    objective = objective_of(Loss(ce=0.0, forward_kl=0.7, jsd=0.4))
    matched = 0
    for number, (student, teacher) in enumerate(zip(ours, theirs, strict=True)):
        found = matches(student, teacher, mine, its)
        matched += len(found)
        with torch.no_grad():
            logits = model(torch.tensor([teacher.ids])).logits[0][[t - 1 for t, on in enumerate(teacher.mask) if on]]
        events = by_definition(logits, found, its, mine, vocabulary)
        p = events[:, :-1] / events[:, :-1].sum(-1, keepdim=True)  # the student has no other tokens
        log_p = torch.log_softmax(p.clamp_min(1e-30).log() / temperature, -1).float()
        x = torch.randn(student.supervised, 290, generator=torch.Generator().manual_seed(number))
        dense, kept, blocks = (x.clone().requires_grad_() for _ in range(3))
        targets = torch.tensor([i for i, on in zip(student.ids, student.mask, strict=True) if on])
        at = torch.tensor([match.position for match in found])
        wanted = distillation_loss(dense[at], targets[at], log_p, objective, temperature)
        loss = distillation_loss(kept, targets, reader.get(student.id), objective, temperature)
        torch.testing.assert_close(loss[at], wanted, rtol=5e-3, atol=2e-3)
        others = torch.ones(len(loss), dtype=torch.bool).index_fill(0, at, False)
        assert not loss[others].any(), "what the teacher says nothing of costs nothing"
        (wanted_grad,) = torch.autograd.grad(wanted.sum(), dense)
        (grad,) = torch.autograd.grad(loss.sum(), kept)
        torch.testing.assert_close(grad, wanted_grad, rtol=1e-2, atol=2e-3)
        total, _ = chunked_loss(
            [(blocks, torch.eye(290))], targets, reader.get(student.id), objective, temperature=temperature, chunk=4
        )
        (in_blocks,) = torch.autograd.grad(total, blocks)
        torch.testing.assert_close(in_blocks, grad, rtol=1e-4, atol=1e-5)
    assert facts["matched_positions"] == matched < facts["positions"]
    assert facts["matched_share"] == round(matched / facts["positions"], 4) > 1 / 3
    assert 0.5 < facts["mass_on_shared_tokens"] < facts["mass_mapped"] <= 1
    assert facts["tokens_shared"] + facts["tokens_begun"] <= facts["tokens_of_teacher"] == 400


@pytest.mark.parametrize("k", [1, 16, 400])
def test_what_is_kept_adds_up_to_one(places: dict[str, Path], tmp_path: Path, k: int) -> None:
    theirs, ours = (encoded(places[name], TEXTS) for name in ("teacher", "fewer"))
    aligned = Aligned(places["teacher"], places["fewer"], "plain", theirs, ours)
    cache_logits(places["teacher"], ours, signal(k), tmp_path, SilentProgress(), tokens=aligned)
    reader = SignalReader(tmp_path)
    assert reader.top_k == min(k, 290)
    for row in ours:
        kept: TopK = reader.get(row.id)
        assert kept.tokens.shape[0] == row.supervised
        torch.testing.assert_close(kept.log_p.exp().sum(-1) + kept.log_tail.exp(), torch.ones(row.supervised))
        for tokens in kept.tokens:
            named = tokens[tokens < 290]
            assert len(set(named.tolist())) == len(named)


@pytest.mark.parametrize("rows", [400, 464])
def test_equal_tokenizers_give_todays_signal(places: dict[str, Path], tmp_path: Path, rows: int) -> None:
    """Also to a student whose embedding is padded beyond its tokens: those ids are nobody's."""
    from transformers import AutoTokenizer

    tiny_family(tmp_path / "student", "llama", vocab_size=rows)
    tiny_tokenizer(tmp_path / "student")
    check_same_vocabulary(*(AutoTokenizer.from_pretrained(p) for p in (places["teacher"], tmp_path / "student")))
    ours = encoded(places["teacher"], TEXTS)
    aligned = Aligned(places["teacher"], tmp_path / "student", "plain", ours, ours)
    found = []
    for name, tokens in (("plain", None), ("aligned", aligned)):
        facts = cache_logits(places["teacher"], ours, signal(), tmp_path / name, SilentProgress(), tokens=tokens)
        found.append((facts, load_file(tmp_path / name / "shard-00000.safetensors")))
    (plain, shard), (facts, other) = found
    for name in ("index", "logprob", "shift", "start"):
        np.testing.assert_array_equal(shard[name], other[name])
    assert facts["matched_share"] == facts["mass_mapped"] == 1
    assert facts["tail_mass"] == plain["tail_mass"]


def test_a_padded_teacher_names_no_padding(tmp_path: Path) -> None:
    model = tiny_family(tmp_path / "teacher", "qwen2", vocab_size=464, tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight[400:] *= 40  # the likeliest, were they tokens
    model.save_pretrained(tmp_path / "teacher")
    tiny_llama(tmp_path / "student", vocabulary=290)
    theirs, ours = (encoded(tmp_path / name, TEXTS) for name in ("teacher", "student"))
    aligned = Aligned(tmp_path / "teacher", tmp_path / "student", "plain", theirs, ours)
    facts = cache_logits(tmp_path / "teacher", ours, signal(290), tmp_path / "out", SilentProgress(), tokens=aligned)
    assert facts["mass_mapped"] > 0.9


def test_a_shard_of_another_student_is_not_kept(places: dict[str, Path], tmp_path: Path) -> None:
    theirs, ours = (encoded(places[name], TEXTS) for name in ("teacher", "fewer"))
    aligned = Aligned(places["teacher"], places["fewer"], "plain", theirs, ours)
    first = cache_logits(places["teacher"], ours, signal(), tmp_path, SilentProgress(), tokens=aligned)
    again = cache_logits(places["teacher"], ours, signal(), tmp_path, SilentProgress(), tokens=aligned)
    assert first["backend"] == "transformers"
    assert again["backend"] is None, "resumed"
    assert {k: v for k, v in again.items() if k.startswith(("mass", "match"))} == {
        k: v for k, v in first.items() if k.startswith(("mass", "match"))
    }
    anew = cache_logits(places["teacher"], theirs, signal(), tmp_path, SilentProgress())
    assert anew["backend"] == "transformers"


def test_rows_that_the_teacher_did_not_read_have_no_signal(places: dict[str, Path], tmp_path: Path) -> None:
    theirs, ours = (encoded(places[name], TEXTS) for name in ("teacher", "fewer"))
    aligned = Aligned(places["teacher"], places["fewer"], "plain", theirs[:-1], ours)
    cache_logits(places["teacher"], ours, signal(), tmp_path, SilentProgress(), tokens=aligned)
    lost = SignalReader(tmp_path).get(ours[-1].id)
    assert (lost.tokens >= 290).all()
    assert not lost.log_tail.any()


def test_too_little_that_can_be_matched_is_refused(places: dict[str, Path]) -> None:
    theirs, ours = (encoded(places[name], TEXTS) for name in ("teacher", "fewer"))
    with pytest.raises(UserError, match=r"0 of [\d,]+ of the student's supervised tokens can be matched") as caught:
        Aligned(places["teacher"], places["fewer"], "plain", [], ours)
    assert caught.value.where == "signal.align"
    assert "kind: text" in caught.value.fix
    json.dumps(Aligned(places["teacher"], places["fewer"], "plain", theirs, ours).facts({"whole": 1.0, "begun": 0.0}))
