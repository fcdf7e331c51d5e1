"""Students made of a teacher's layers, or of a checkpoint."""

from __future__ import annotations

import json
import math
import random
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill2edge.data.examples import Encoded, example_id
from distill2edge.errors import UserError
from distill2edge.models.some_layers import fields_of_some
from distill2edge.recipe import schema
from distill2edge.student.chosen import evenly
from distill2edge.student.init import init_student
from distill2edge.student.layers import keep_layers
from distill2edge.util.progress import SilentProgress
from tests.tiny import tiny_family, tiny_llama

LAYERS = 6


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("teacher")
    tiny_llama(path, layers=LAYERS)
    return path


def rows(count: int = 5) -> list[Encoded]:
    draw = random.Random(0)
    made = []
    for _ in range(count):
        ids = [draw.randrange(3, 400) for _ in range(draw.randint(4, 20))]
        mask = [False] + [True] * (len(ids) - 1)
        made.append(Encoded(example_id(ids, mask), ids, mask))
    return made


def init(teacher, work, layers, select="even", calibration=()):
    student = schema.Student(init=schema.FromTeacher(layers=layers, select=select))
    return init_student(student, teacher, calibration, work, SilentProgress())


@given(st.integers(1, 80).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_evenly_spaced_layers(case):
    total, count = case
    kept = evenly(total, count)
    assert len(set(kept)) == count
    assert kept == sorted(kept)
    assert kept[0] == 0
    assert count == 1 or kept[-1] == total - 1
    gaps = [b - a for a, b in pairwise(kept)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_thirty_layers_to_twelve():
    assert evenly(30, 12) == [0, 3, 5, 8, 11, 13, 16, 18, 21, 24, 26, 29]


@pytest.mark.parametrize(
    ("layers", "select", "kept"),
    [(3, "even", [0, 3, 5]), (2, "first", [0, 1]), ((1, 2, 4), "even", [1, 2, 4]), (LAYERS, "even", list(range(6)))],
)
def test_the_student_has_the_teachers_own_layers(teacher, tmp_path, layers, select, kept):
    facts = init(teacher, tmp_path, layers, select)
    assert facts["layers"] == kept
    assert facts["of"] == LAYERS
    assert json.loads((tmp_path / "student.json").read_text()) == facts
    old, new = load_file(teacher / "model.safetensors"), load_file(tmp_path / "model" / "model.safetensors")
    for at, layer in enumerate(kept):
        names = [name for name in old if name.startswith(f"model.layers.{layer}.")]
        assert len(names) == 9
        assert all(torch.equal(old[n], new[n.replace(f".{layer}.", f".{at}.", 1)]) for n in names)
    assert "lm_head.weight" not in new  # tied, stored once
    assert facts["parameters"] == sum(tensor.numel() for tensor in new.values())
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["num_hidden_layers"] == len(kept)
    assert config["tie_word_embeddings"] is True


def test_the_tokenizer_comes_along(teacher, tmp_path):
    init(teacher, tmp_path, 2)
    own, copy = (AutoTokenizer.from_pretrained(path) for path in (teacher, tmp_path / "model"))
    text = "naïve café 12345\n\n 你好 🙂 def f(x):\n\treturn x"
    assert own(text).input_ids == copy(text).input_ids
    assert own.chat_template == copy.chat_template


def test_all_layers_are_the_teacher(teacher, tmp_path):
    init(teacher, tmp_path, LAYERS)
    ids = torch.tensor([[5, 6, 7, 8]])
    a, b = (AutoModelForCausalLM.from_pretrained(path)(ids).logits for path in (teacher, tmp_path / "model"))
    assert torch.equal(a, b)


GEMMA4 = {
    "layer_types": [*["sliding_attention"] * 2, "full_attention"] * 2,
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 16,
    "vocab_size_per_layer_input": 400,
    "global_head_dim": 32,
}
FAMILIES = {
    "qwen2": {},
    "qwen3": {},
    "llama": {},
    "gemma3_text": {"sliding_window_pattern": 3},
    "gemma4_text": GEMMA4,
    "smollm3": {},
    "qwen3_moe": {
        "mlp_only_layers": [0, 1, 5],
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
    },
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_keep_their_per_layer_settings(family, tmp_path):
    teacher = tiny_family(tmp_path / "teacher", family, num_hidden_layers=6, **FAMILIES[family])
    types = getattr(teacher.config, "layer_types", None)
    init(tmp_path / "teacher", tmp_path / "student", (0, 2, 5))
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "student" / "model")
    assert student.config.num_hidden_layers == 3
    if types:
        assert list(student.config.layer_types) == [types[i] for i in (0, 2, 5)]
    ids = torch.arange(5, 45)[None]  # longer than Gemma's window
    # The same as skipping the other layers in the teacher.

    def skip(module, args, kwargs, output):
        states = args[0] if args else kwargs["hidden_states"]
        return (states, *output[1:]) if isinstance(output, tuple) else states

    for layer in (1, 3, 4):
        teacher.model.layers[layer].register_forward_hook(skip, with_kwargs=True)
    with torch.no_grad():
        skipped, own = (model(ids, use_cache=False).logits for model in (teacher, student))
        cached = student(ids[:, :-1], use_cache=True)
        step = student(ids[:, -1:], past_key_values=cached.past_key_values).logits
    torch.testing.assert_close(own, skipped)
    torch.testing.assert_close(step[:, -1], own[:, -1], atol=1e-4, rtol=1e-4)  # the cache has one slot per layer


def test_similarity_drops_the_blocks_that_do_least(tmp_path):
    """Layers 1 and 4 are made to add almost nothing to the residual stream."""
    model = tiny_llama(tmp_path / "teacher", layers=LAYERS, scale=0.3)
    with torch.no_grad():
        for layer, factor in ((1, 1e-4), (4, 1e-2)):
            model.model.layers[layer].self_attn.o_proj.weight *= factor
            model.model.layers[layer].mlp.down_proj.weight *= factor
    model.save_pretrained(tmp_path / "teacher")
    facts = init(tmp_path / "teacher", tmp_path / "student", 4, "similarity", rows())
    assert facts["layers"] == [0, 2, 3, 5]
    assert [entry["layer"] for entry in facts["dropped"]] == [1, 4]
    first, second = (entry["distance"] for entry in facts["dropped"])
    assert 0 <= first < second < 0.05
    again = init(tmp_path / "teacher", tmp_path / "again", 4, "similarity", rows())
    assert again == facts


def test_similarity_is_measured_anew_after_each_drop(tmp_path):
    """The second drop is the one a brute force finds on the model without the first."""
    model = tiny_llama(tmp_path / "teacher", layers=4, scale=0.2, seed=3)
    facts = init(tmp_path / "teacher", tmp_path / "student", 2, "similarity", rows())
    kept = [0, 1, 2, 3]
    for entry in facts["dropped"]:
        clone = AutoModelForCausalLM.from_pretrained(tmp_path / "teacher").eval()
        keep_layers(clone, kept)
        states = [[] for _ in kept]
        for row in rows():
            with torch.no_grad():
                hidden = [clone.model.embed_tokens(torch.tensor([row.ids]))]
                position = clone.model.rotary_emb(hidden[0], torch.arange(len(row.ids))[None])
                mask = torch.full((len(row.ids),) * 2, -1e9).triu(1)[None, None]
                for layer in clone.model.layers:
                    hidden.append(layer(hidden[-1], attention_mask=mask, position_embeddings=position))
            for at in range(len(kept)):
                states[at].append(torch.cosine_similarity(hidden[at][0], hidden[at + 1][0], dim=-1).clamp(-1, 1))
        distances = [float((torch.arccos(torch.cat(s)) / torch.pi).mean()) for s in states]
        at = distances.index(min(distances))
        assert kept.pop(at) == entry["layer"]
        assert entry["distance"] == pytest.approx(min(distances), abs=1e-4)
    assert facts["layers"] == kept
    assert model.config.num_hidden_layers == 4


@pytest.mark.parametrize(
    ("layers", "message"),
    [(7, "7 layers"), ((0, 6), "layer 6 is out of range")],
)
def test_layers_that_are_not_there(teacher, tmp_path, layers, message):
    with pytest.raises(UserError, match=message) as caught:
        init(teacher, tmp_path, layers)
    assert caught.value.where == "student.init.layers"
    assert caught.value.fix
    assert not (tmp_path / "model").exists()


def test_layers_that_need_another_are_refused(tmp_path):
    """Layers 4 and 5 have no keys and values of their own."""
    tiny_family(tmp_path / "teacher", "gemma4_text", num_hidden_layers=6, **GEMMA4)
    with pytest.raises(UserError, match="layer 5 takes its keys and values from layer 2, which is left out") as caught:
        init(tmp_path / "teacher", tmp_path, (0, 1, 5))
    assert "with 2 among them, or none from 4 on" in caught.value.fix
    with pytest.raises(UserError, match="depend on one another"):
        init(tmp_path / "teacher", tmp_path, 3, "similarity", rows())


def test_a_list_as_long_as_the_layers_is_not_one_entry_each():
    config = {"time_step_limit": [0.0, math.inf], "eos_token_id": [1, 2], "layer_types": ["a", "b"],
              "no_rope_layers": [1, 0], "per_layer_config": {"01": {"head_dim": 32}}, "moe_layers": [1],
              "first_k_dense_replace": 1, "max_window_layers": 2, "intermediate_size": 128}  # fmt: skip
    assert fields_of_some(config, [1], 2) == {"layer_types": ["b"], "no_rope_layers": [0], "moe_layers": [0],
                                              "per_layer_config": {0: {"head_dim": 32}},
                                              "first_k_dense_replace": 0, "max_window_layers": 1}  # fmt: skip


def test_similarity_needs_rows(teacher, tmp_path):
    with pytest.raises(UserError, match="no rows"):
        init(teacher, tmp_path, 3, "similarity")


def test_from_a_checkpoint(teacher, tmp_path):
    student = schema.Student(init=schema.FromModel(model="somewhere"))
    tiny_llama(tmp_path / "checkpoint", layers=2, seed=9)
    facts = init_student(student, teacher, (), tmp_path / "work", SilentProgress(), tmp_path / "checkpoint")
    assert facts["layers"] is None
    assert facts["source"] == "somewhere"
    ids = torch.tensor([[5, 6, 7]])
    a, b = (
        AutoModelForCausalLM.from_pretrained(path)(ids).logits
        for path in (tmp_path / "checkpoint", tmp_path / "work" / "model")
    )
    assert torch.equal(a, b)


def test_another_vocabulary_is_refused_where_ids_are_the_signal(teacher, tmp_path):
    tiny_llama(tmp_path / "checkpoint", vocabulary=380)
    student = schema.Student(init=schema.FromModel(model="somewhere"))
    with pytest.raises(UserError, match="different vocabularies"):
        init_student(student, teacher, (), tmp_path / "work", SilentProgress(), tmp_path / "checkpoint")
    init_student(
        student, teacher, (), tmp_path / "work", SilentProgress(), tmp_path / "checkpoint", same_vocabulary=False
    )
