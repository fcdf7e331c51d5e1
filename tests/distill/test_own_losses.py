"""A loss of the user's own: registered by a file, weighed in a recipe, part of the keys of what it trains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from objectives import objective
from safetensors.torch import load_file
from tiny import tiny_recipe
from torch import Tensor

from distill2edge.distill import losses
from distill2edge.distill.chunked import chunked_loss
from distill2edge.distill.losses import distillation_loss, top_k_of
from distill2edge.errors import RecipeErrors, UserError
from distill2edge.recipe import loss_terms
from distill2edge.recipe.canonical import canonical
from distill2edge.recipe.kept import run_command
from distill2edge.recipe.load import dump_recipe, parse_recipe
from distill2edge.recipe.loss_terms import TERMS, register_loss
from distill2edge.recipe.schema import Loss
from distill2edge.report.curves import loss_name
from distill2edge.running.run_recipe import run
from distill2edge.util.plugins import load_plugin

KL = """\
from distill2edge.recipe.loss_terms import register_loss

def teacher_to_student(log_p, log_q):
    log_p, log_q = log_p.clamp_min(-1e4), log_q.clamp_min(-1e4)
    return (log_p.exp() * (log_p - log_q)).sum(-1)

register_loss("my_kl", needs="distribution", function=teacher_to_student, help="KL(teacher || student), once more")
"""
GOLD = """\
import torch
from distill2edge.recipe.loss_terms import register_loss

def focal(logits, targets):
    log_q = torch.log_softmax(logits, -1).gather(-1, targets[:, None]).squeeze(-1)
    return -((1 - log_q.exp()) ** 2) * log_q

register_loss("focal", needs="gold", function=focal)
"""
MINIMAL = "name: x\nteacher: {model: a/b}\ndata: {source: r.jsonl}\nstudent: {init: {from: teacher, layers: 1}}\n"


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    loss_terms._registered.clear()


def plugin(folder: Path, text: str, name: str = "my_losses.py") -> Path:
    path = folder / name
    path.write_text(text)
    load_plugin(path)
    return path


def test_the_command_of_a_run_names_its_plugins(tmp_path: Path) -> None:
    recipe = parse_recipe(MINIMAL, "x.yaml")
    assert run_command(recipe) == "distill2edge run recipe.yaml"
    plugin(tmp_path, KL)
    plugin(tmp_path, GOLD, "mine too.py")
    recipe = parse_recipe(MINIMAL, "x.yaml", ["distill.loss={my_kl: 1, focal: 0.5}"])
    assert run_command(recipe, (0, 1)) == (
        "distill2edge --plugin my_losses.py --plugin 'mine too.py' run recipe.yaml --seeds 0,1"
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("own")
    tiny_recipe(root)
    return root


def trained(place: Path, *overrides: str, kind: str = "merge") -> dict[str, Tensor]:
    """Every weight of every model that stages of a kind make of the recipe."""
    done = run(place / "tiny.yaml", overrides, upto=kind, store=place / "store", quiet=True)
    return {
        f"{stage} {name}": weight
        for stage, artifact in done.of(kind).items()
        for name, weight in load_file(artifact.path / "model" / "model.safetensors").items()
    }


def test_a_copy_of_a_built_in_loss_trains_the_same_student(place: Path) -> None:
    built_in = trained(place, "distill.loss={ce: 0.5, forward_kl: 0.5}")
    plugin(place, KL)
    own = trained(place, "distill.loss={ce: 0.5, my_kl: 0.5}")
    without = trained(place, "distill.loss={ce: 0.5}")
    assert all(torch.equal(own[name], built_in[name]) for name in built_in)
    assert not all(torch.equal(own[name], without[name]) for name in built_in)


@pytest.mark.parametrize("kind", ["merge", "quantization-aware"])
def test_on_policy_rounds_and_training_on_a_grid_take_it_too(place: Path, kind: str) -> None:
    plugin(place, KL)
    made = []
    for name in ("forward_kl", "my_kl"):
        policy = f"distill.on_policy={{rounds: 1, rows: 8, max_new_tokens: 4, reverse_kl: 0, {name}: 1}}"
        aware = f"distill.quantization_aware={{schemes: ['gguf:Q4_0'], loss: {{{name}: 1}}}}"
        made.append(trained(place, policy, aware, "export=['gguf:Q4_0']", kind=kind))
    built_in, own = made
    assert any(name.startswith("merge warm-start" if kind == "merge" else kind) for name in own)
    assert own.keys() == built_in.keys()
    assert all(torch.equal(own[name], built_in[name]) for name in own)


def test_the_file_is_part_of_the_key(tmp_path: Path) -> None:
    plugin(tmp_path, KL)
    loss = Loss(ce=0.5, my_kl=0.5)  # type: ignore[call-arg]
    key = canonical(loss)
    assert key["my_kl"]["weight"] == 0.5
    plugin(tmp_path, KL + "\n# another comment\n")
    assert canonical(loss)["my_kl"]["sha256"] != key["my_kl"]["sha256"]
    assert canonical(Loss(ce=0.5, my_kl=0)) == canonical(Loss(ce=0.5))  # type: ignore[call-arg]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", ["none", "top-k", "dense"])
def test_the_chunked_loss_equals_the_reference(tmp_path: Path, temperature: float, kind: str) -> None:
    plugin(tmp_path, GOLD, "a.py")
    plugin(tmp_path, KL, "b.py")
    generator = torch.Generator().manual_seed(3)
    x, w = (torch.randn(n, 8, generator=generator).requires_grad_() for n in (11, 37))
    log_p = torch.log_softmax(torch.randn(11, 37, generator=generator), -1)
    targets = torch.randint(37, (11,), generator=generator)
    signal: Any = {"none": None, "top-k": top_k_of(log_p, 5), "dense": log_p}[kind]
    terms = objective(ce=0.3, focal=0.7, **({} if signal is None else {"jsd": 0.2, "my_kl": 0.4}))
    reference = distillation_loss(x @ w.T, targets, signal, terms, temperature).sum()
    wanted = torch.autograd.grad(reference, (x, w))
    loss, _ = chunked_loss([(x, w)], targets, signal, terms, temperature=temperature, chunk=4)
    torch.testing.assert_close(loss, reference, rtol=1e-5, atol=1e-5)
    for ours, other in zip(torch.autograd.grad(loss, (x, w)), wanted, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-5)


def test_a_recipe_names_it_only_where_its_file_was_given(tmp_path: Path) -> None:
    more = "distill: {loss: {my_kl: 1}}\n"
    with pytest.raises(RecipeErrors, match=r"(?s)unknown key 'my_kl'.*--plugin"):
        parse_recipe(MINIMAL + more, "r")
    plugin(tmp_path, KL)
    recipe = parse_recipe(MINIMAL + more, "r")
    assert recipe.distill.loss.needs_logits
    assert parse_recipe(dump_recipe(recipe), "shown") == recipe
    with pytest.raises(RecipeErrors, match=r"signal: \{kind: logits\}"):
        parse_recipe(MINIMAL + more + "signal: {kind: gold}\n", "r")
    with pytest.raises(RecipeErrors, match="did you mean my_kl"):
        parse_recipe(MINIMAL + "distill: {loss: {my_kll: 1}}\n", "r")
    for wrong in ("-1", "true", "much"):
        with pytest.raises(RecipeErrors, match=r"distill\.loss\.my_kl"):
            parse_recipe(MINIMAL + f"distill: {{loss: {{my_kl: {wrong}}}}}\n", "r")


def test_what_reads_the_datas_tokens_has_no_place_in_on_policy_rounds(tmp_path: Path) -> None:
    plugin(tmp_path, GOLD)
    with pytest.raises(RecipeErrors, match=r"(?s)on_policy\.focal.*does not compare distributions"):
        parse_recipe(MINIMAL + "distill: {on_policy: {focal: 1}}\n", "r")
    assert not parse_recipe(
        MINIMAL + "signal: {kind: gold}\ndistill: {loss: {focal: 1}}\n", "r"
    ).distill.loss.needs_logits


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (KL.partition("register_loss(")[0], "registers nothing"),
        (KL + "1 / 0\n", r"ZeroDivisionError: division by zero, line 8 of my_losses\.py"),
        (KL + "def\n", "not Python"),
        (KL.replace('"my_kl"', '"my kl"'), "named as a variable"),
        (KL.replace('"my_kl"', '"ce"'), "a key of recipes already"),
        (KL.replace('"my_kl"', '"layer_map"'), "a key of recipes already"),
        (KL.replace('"my_kl"', '"rounds"'), "a key of recipes already"),
        (KL.replace('"distribution"', '"distributions"'), "needs='distribution'"),
        (KL.replace("function=teacher_to_student", "function=3"), "is no function"),
    ],
)
def test_a_wrong_file_is_refused_with_the_fix(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        plugin(tmp_path, text)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return (log_p - log_q).sum()", r"(?s)a tensor of shape \[\].*number for each position: \[3\]"),
        ("return 3.0", "a float"),
        ("return log_p.sum(-1)", "gives the student no gradient"),
        ("return (log_q * 0).log().sum(-1)", "not finite"),
        ("return log_p @ log_q", "(?s)RuntimeError.*line 4 of my_losses.py"),
    ],
)
def test_a_wrong_function_is_refused_before_anything_runs(place: Path, body: str, said: str) -> None:
    head, _, tail = KL.partition("    log_p, log_q =")
    plugin(place, f"{head}    {body}\n\n{tail.partition('sum(-1)')[2]}")
    with pytest.raises(UserError, match=said):
        run(place / "tiny.yaml", ["distill.loss={my_kl: 1}"], upto="data", store=place / "empty", quiet=True)
    assert not (place / "empty" / "data").exists()


def test_a_function_without_a_file_and_a_name_of_another_file_are_refused(tmp_path: Path) -> None:
    typed: dict[str, Any] = {}
    exec("def typed(log_p, log_q): return (log_p - log_q).abs().sum(-1)", typed)
    with pytest.raises(UserError, match="put the function into a file"):
        register_loss("typed", needs="distribution", function=typed["typed"])
    plugin(tmp_path, KL, "one.py")
    with pytest.raises(UserError, match="rename one"):
        plugin(tmp_path, KL, "other.py")


def test_every_entry_of_the_table_has_a_function_and_charts_name_it() -> None:
    loss = Loss(**{"ce": 2, **{name: 1 for name in TERMS if name != "ce"}})
    terms = objective(**loss.weights())
    assert terms.ce == 2
    assert [term.reads for term in terms.layers] == ["hidden_states", "attentions"]
    assert [getattr(term.function, "func", term.function) for term in terms.compared] == [
        losses.forward_kl, losses.reverse_kl, losses.jensen_shannon, losses.earth_movers_distance,
    ]  # fmt: skip
    named = loss_name({**loss.model_dump(), "my_kl": 0.5, "layer_map": [1]})
    assert named.startswith("2 cross-entropy + 1 forward KL + 1 reverse KL + 1 Jensen-Shannon")
    assert named.endswith(" + 1 attention + 1 embedding + 1 similarity structure + 0.5 my_kl")


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ("{ce: 0}", "every weight is zero"),
        ("{forward_kl: 1, hidden: 1}", "a loss on hidden states or attention is for"),
    ],
)
def test_training_on_a_grid_refuses_a_loss_that_has_nothing_to_learn_from(loss: str, said: str) -> None:
    with pytest.raises(RecipeErrors, match=rf"quantization_aware\.loss.*{said}"):
        parse_recipe(MINIMAL + f"distill: {{quantization_aware: {{schemes: ['gguf:Q8_0'], loss: {loss}}}}}\n", "r")


@pytest.mark.parametrize("what", ["missing", "folder", "bytes", "null", "recursion", "exit"])
def test_a_file_that_is_no_plugin_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "p.py"
    if what == "folder":
        path.mkdir()
    elif what != "missing":
        path.write_bytes(
            {"bytes": b"\xff\xfe\x00", "null": b"a\0b", "recursion": b"def f(): f()\nf()\n", "exit": b"exit(7)"}[what]
        )
    with pytest.raises(UserError, match=r"p\.py"):
        load_plugin(path)
