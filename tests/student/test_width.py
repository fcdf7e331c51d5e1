"""Students of narrower layers: which parts stay, and that nothing else changes."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny import tiny_bert, tiny_family, tiny_llama
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from distill2edge.data.examples import Encoded, example_id
from distill2edge.errors import UserError
from distill2edge.models.loading import load_model
from distill2edge.models.widths import misfits, narrowed, problems, widths_of
from distill2edge.recipe import schema
from distill2edge.recipe.student import Width
from distill2edge.student.importance import Importance, measure
from distill2edge.student.init import init_student
from distill2edge.student.narrow import narrow
from distill2edge.student.pruning import choose, prune
from distill2edge.student.tensor_roles import refusals, roles_of
from distill2edge.util.progress import SilentProgress

IDS = list(range(5, 25))


def rows(count: int = 6, vocabulary: int = 400) -> list[Encoded]:
    draw = random.Random(0)
    made = []
    for _ in range(count):
        ids = [draw.randrange(3, vocabulary) for _ in range(draw.randint(4, 20))]
        made.append(Encoded(example_id(ids, [True] * len(ids)), ids, [True] * len(ids)))
    return made


def said(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits


def family(directory: Path, name: str, **changes: Any) -> Any:
    directory.mkdir(exist_ok=True)
    return tiny_family(directory, name, tokenizer=False, **changes)


def made(teacher: Path, work: Path, **width: float) -> dict[str, Any]:
    init = schema.FromTeacher(layers=2, width=Width(**width))  # type: ignore[arg-type]
    return init_student(schema.Student(init=init), teacher, rows(), work, SilentProgress())


def test_keeping_everything_is_the_identity(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path)
    roles, whole = roles_of(model), widths_of(model.config.to_dict())
    assert whole is not None
    found = measure(model, roles, whole, [row.ids for row in rows()], SilentProgress())
    small = prune(copy.deepcopy(model), roles, whole, whole, choose(found, whole, whole))
    assert torch.equal(said(small), said(model))
    assert small.config.to_dict() == model.config.to_dict()
    shares = {"kv_groups": 1.0, "feed_forward": 1.0, "hidden": 1.0}
    assert narrow(model, shares, (), "the teacher", SilentProgress())[0] is model


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("gemma3_text", {}),
        ("nemotron", {"tie_word_embeddings": False}),
        ("phi", {"partial_rotary_factor": 0.5, "tie_word_embeddings": False}),
    ],
    ids=["llama", "untied with biases", "biased queries", "normed heads", "sandwiched norms", "not gated", "fc1"],
)
def test_parts_that_do_nothing_go_and_nothing_changes(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """A group whose values are zero, and channels that are: the logits stay what they were."""
    family(tmp_path, name, **changes)
    model: Any = load_model(tmp_path).eval()
    silence(model, hidden=name in ("llama", "qwen2", "qwen3"))
    before = said(model)
    wanted = {"kv_groups": 1, "feed_forward": 96} | ({"hidden": 32} if name in ("llama", "qwen2", "qwen3") else {})
    small, facts = narrow(model, wanted, rows(), "the teacher", SilentProgress())
    torch.testing.assert_close(said(small), before, atol=2e-4, rtol=1e-3)
    assert facts["kv_groups"] == {"kept": 1, "of": 2}
    assert small.config.intermediate_size == 96
    assert small.num_parameters() < model.num_parameters()


def silence(model: Any, *, hidden: bool) -> None:
    """Let the first group, every fourth channel of each block, and odd hidden channels be zero."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            odd = slice(1, None, 2)
            if "v_proj" in name:
                weight[:16] = 0
            if any(part in name for part in ("up_proj", "fc1")):
                weight[::4] = 0
            if not hidden:
                continue
            if any(part in name for part in ("o_proj.weight", "down_proj.weight", "o_proj.bias", "down_proj.bias")):
                weight[odd] = 0
            if "embed_tokens" in name:
                weight[:, odd] = 0


def test_the_largest_activations_stay(tmp_path: Path) -> None:
    """What is kept is what a plain pass over each row says, padding or not."""
    model = tiny_llama(tmp_path)
    seen: dict[str, torch.Tensor] = {}

    def hook(name: str) -> Any:
        def add(module: Any, args: Any) -> None:
            seen[name] = seen.get(name, 0) + args[0][0].abs().sum(0).double()

        return add

    for at, layer in enumerate(model.model.layers):
        layer.mlp.down_proj.register_forward_pre_hook(hook(f"{at}"))
    for row in rows():
        with torch.no_grad():
            model(torch.tensor([row.ids]))
    small, _ = narrow(load_model(tmp_path).eval(), {"feed_forward": 32}, rows(), "the teacher", SilentProgress())
    for at, layer in enumerate(model.model.layers):
        best = seen[f"{at}"].topk(32).indices.sort().values
        assert torch.equal(small.model.layers[at].mlp.up_proj.weight, layer.mlp.up_proj.weight[best])


def test_shapes_and_config_agree_and_the_model_loads_again(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "teacher")
    facts = made(tmp_path / "teacher", tmp_path, kv_groups=1, feed_forward=0.5, hidden=32)
    assert facts["width"]["feed_forward"] == {"kept": 64, "of": 128}
    state = load_file(tmp_path / "model" / "model.safetensors")
    layer = {name.removeprefix("model.layers.1."): tuple(value.shape) for name, value in state.items()}
    assert layer["self_attn.q_proj.weight"] == (32, 32)  # two heads of 16
    assert layer["self_attn.k_proj.weight"] == layer["self_attn.v_proj.weight"] == (16, 32)
    assert layer["self_attn.o_proj.weight"] == (32, 32)
    assert layer["mlp.down_proj.weight"] == (32, 64)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    names = ("num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size", "hidden_size")
    assert [config[name] for name in names] == [2, 1, 16, 64, 32]
    assert facts["parameters"] == sum(value.numel() for value in state.values())
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.isfinite(said(model)).all()


def test_a_checkpoint_becomes_narrower_and_shorter(tmp_path: Path) -> None:
    """How pruning and distilling go on from an earlier student."""
    tiny_llama(tmp_path / "earlier", layers=3)
    init = schema.FromModel(model="x", layers=2, width=Width(feed_forward=64))  # type: ignore[call-arg]
    student = schema.Student(init=init)
    facts = init_student(student, tmp_path / "earlier", rows(), tmp_path, SilentProgress(), tmp_path / "earlier")
    assert facts["layers"] == [0, 2]
    assert facts["width"]["feed_forward"]["kept"] == 64


def test_an_encoder_loses_channels(tmp_path: Path) -> None:
    tiny_bert(tmp_path / "teacher")
    facts = made(tmp_path / "teacher", tmp_path, feed_forward=64)
    assert facts["width"]["feed_forward"] == {"kept": 64, "of": 128}
    assert load_model(tmp_path / "model").config.intermediate_size == 64
    with pytest.raises(UserError, match="heads of this encoder fill its hidden size"):
        made(tmp_path / "teacher", tmp_path, kv_groups=2)


@pytest.mark.parametrize(
    ("name", "changes", "width", "why"),
    [
        ("phi3", {"original_max_position_embeddings": 512}, {"kv_groups": 1}, "no query matrix by a name"),
        ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
         {"feed_forward": 64}, "no first feed-forward matrix"),
        ("olmo2", {"tie_word_embeddings": False}, {"kv_groups": 1}, "q_norm"),
        ("olmo", {}, {"hidden": 32}, "no norm with weights"),
        ("phi", {"tie_word_embeddings": False}, {"hidden": 32}, "a mean over all channels"),
        ("gemma3_text", {}, {"hidden": 32}, "computes something else"),
    ],
)  # fmt: skip
def test_families_that_cannot_be_pruned_say_why(
    name: str, changes: dict[str, Any], width: dict[str, int], why: str, tmp_path: Path
) -> None:
    model = family(tmp_path, name, **changes)
    with pytest.raises(UserError, match=why) as caught:
        narrow(model, width, rows(), "the teacher", SilentProgress())
    assert caught.value.where.startswith("student.init.width")
    assert caught.value.fix


WHOLE = widths_of({"hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536})


@pytest.mark.parametrize(
    ("wanted", "what", "fix"),
    [
        ({"feed_forward": 1000}, "1000 is no multiple of 32", "992 or 1024"),
        ({"feed_forward": 2048}, "2048: the teacher has 1536", "1 to 1536"),
        ({"kv_groups": 4}, "4: the teacher has 3", "1 to 3"),
        ({"hidden": 512}, "512 is no multiple of 9 heads", "288 or 576"),
        ({"kv_groups": 2, "hidden": 512}, "512 is no multiple of 6 heads", "480 or 576"),
        ({"kv_groups": 2, "hidden": 450}, "450 is no multiple of 32", "384 or 480"),
    ],
)
def test_widths_that_cannot_be_had(wanted: dict[str, int], what: str, fix: str) -> None:
    assert WHOLE is not None
    ((_, said_what, said_fix),) = problems(WHOLE, wanted)
    assert what in said_what
    assert fix in said_fix


def test_shares_and_the_blocks_of_k_quants() -> None:
    assert WHOLE is not None
    assert narrowed(WHOLE, {"kv_groups": 0.6, "feed_forward": 0.5, "hidden": 0.8})[:3] == (2, 768, 480)
    assert list(misfits(WHOLE, {"feed_forward": 0.5}, 256)) == []
    assert list(misfits(WHOLE, {"feed_forward": 800}, 256)) == [("feed_forward", 800, [768, 1024])]
    assert list(misfits(WHOLE, {"kv_groups": 2, "hidden": 480}, 256)) == [
        ("kv_groups", 384, []),
        ("hidden", 480, []),  # no multiple of 256 is one of six heads
    ]


@settings(max_examples=12)
@given(st.data())
def test_any_shape_prunes_to_a_model_that_its_config_describes(data: st.DataObject) -> None:
    """What is kept computes what the whole computes with the rest at zero: `prune` compares that each time."""
    groups, queries = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    head, heads = data.draw(st.sampled_from([8, 16])), groups * queries
    hidden, channels = heads * 32, 32 * data.draw(st.integers(1, 4))
    config = LlamaConfig(
        vocab_size=40, hidden_size=hidden, intermediate_size=channels, num_hidden_layers=2, head_dim=head,
        num_attention_heads=heads, num_key_value_heads=groups, tie_word_embeddings=data.draw(st.booleans()),
        attention_bias=data.draw(st.booleans()), bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(config).eval()
    whole = widths_of(config.to_dict())
    assert whole is not None
    kept = data.draw(st.integers(1, groups))
    wanted = {
        "kv_groups": kept,
        "feed_forward": 32 * data.draw(st.integers(1, channels // 32)),
        "hidden": data.draw(st.sampled_from([0.3, 0.5, 0.8, 1.0])),
    }
    target = narrowed(whole, wanted)
    if list(problems(whole, wanted)):  # the whole hidden size may be no multiple of fewer heads
        return
    small, facts = narrow(model, wanted, rows(vocabulary=40), "the teacher", SilentProgress())
    assert widths_of(small.config.to_dict()) == target
    assert {name: facts[name]["kept"] for name in wanted} == dict(zip(wanted, target[:3], strict=True))
    attention, mlp = small.model.layers[1].self_attn, small.model.layers[1].mlp
    assert attention.q_proj.weight.shape == (kept * queries * head, target.hidden)
    assert attention.k_proj.weight.shape == attention.v_proj.weight.shape == (kept * head, target.hidden)
    assert attention.o_proj.weight.shape == (target.hidden, kept * queries * head)
    assert mlp.up_proj.weight.shape == (target.feed_forward, target.hidden)


def test_an_encoder_decoder_is_refused_before_it_is_loaded() -> None:
    config = AutoConfig.for_model("t5", d_model=64, num_heads=4, d_ff=128).to_dict()
    ((_, what, _),) = refusals(config, (), {"feed_forward": 0.5}, "the teacher")
    assert "cannot be made narrower" in what


def test_importance_counts_tokens_and_no_padding(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path)
    whole = widths_of(model.config.to_dict())
    assert whole is not None
    found: list[Importance] = [
        measure(model, roles_of(model), whole, [row.ids for row in some], SilentProgress())
        for some in (rows(1), [*rows(1), *rows(1)])
    ]
    assert found[1].tokens == 2 * found[0].tokens
    for name, values in found[0].groups.items():
        torch.testing.assert_close(values, found[1].groups[name])
