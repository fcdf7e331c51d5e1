"""The licence gate: permit, conditions, deny and unknown; where the licence was found; the override on record."""

from __future__ import annotations

import datetime

import pytest

from distill2edge.errors import UserError
from distill2edge.intake.licence import Declared, check, from_card, from_front_matter, lookup, table

CARD = Declared("apache-2.0", "model card")


def test_permitted_terms_pass_without_conditions() -> None:
    for name in ("apache-2.0", "Apache 2.0", "APACHE_2.0", "mit", "BSD-3-Clause", "cc0-1.0"):
        record = check("m", [Declared(name, "model card")])
        assert record.verdict == "permit"
        assert record.conditions == ()
        assert record.accepted is None
    assert check("m", [CARD]).to_json()["found_in"] == "model card"


@pytest.mark.parametrize(
    "name", ["llama2", "llama3", "cc-by-nc-4.0", "mrl", "openai", "anthropic", "gemini", "qwen-research"]
)
def test_terms_that_deny_stop_with_the_clause_and_its_source(name: str) -> None:
    with pytest.raises(UserError, match="does not permit") as caught:
        check("some/model", [Declared(name, "model card")])
    assert caught.value.exit_code == 2
    assert "https://" in str(caught.value)
    assert "accept_licence" in caught.value.fix


def test_no_licence_and_an_unknown_one_stop() -> None:
    with pytest.raises(UserError, match="declares no licence") as caught:
        check("some/model")
    assert "teacher.licence" in caught.value.fix
    with pytest.raises(UserError, match=r"'house-rules' \(model card\), gives no answer"):
        check("some/model", [Declared("house-rules", "model card")])
    with pytest.raises(UserError, match="was not read"):
        check("some/model", [Declared("nvidia-open-model-license", "model card")])


def test_an_override_needs_a_reason_and_is_recorded() -> None:
    record = check("m", [Declared("cc-by-nc-4.0", "model card")], accept="a course at a public school")
    assert record.verdict == "deny"
    assert record.accepted == "a course at a public school"
    # No override was needed, so none is on record.
    assert check("m", [CARD], accept="a course at a public school").accepted is None


def test_the_order_of_places() -> None:
    gguf = Declared("mit", "GGUF metadata general.license")
    record = check("m", [CARD, gguf])
    assert (record.licence, record.found_in) == ("apache-2.0", "model card")
    assert record.others == ("GGUF metadata general.license: mit",)
    assert check("m", [Declared(" ", "model card"), gguf]).licence == "mit"
    filled = check("m", [], recipe="mit")
    assert (filled.licence, filled.found_in) == ("mit", "recipe")


def test_a_recipe_does_not_overrule_the_model() -> None:
    with pytest.raises(UserError, match="Llama 2"):
        check("m", [Declared("llama2", "model card")], recipe="mit")
    assert check("m", [CARD], recipe="llama3.1").licence == "llama3.1"


def test_naming_rules_are_carried() -> None:
    record = check("m", [Declared("llama3.2", "model card")])
    assert record.verdict == "conditional"
    assert record.name_prefix == "Llama"
    assert record.notice == "Built with Llama"
    assert any("Llama" in condition for condition in record.conditions)
    assert check("m", [Declared("qwen", "model card")]).notice == "Improved using Qwen"


def test_a_student_of_the_teachers_own_layers_is_a_derivative() -> None:
    with pytest.raises(UserError, match="does not permit") as caught:
        check("m", [Declared("llama3", "model card")])
    assert "student.init" in caught.value.fix
    record = check("m", [Declared("llama3", "model card")], derivative=True)
    assert (record.verdict, record.name_prefix) == ("conditional", "Llama 3")
    with pytest.raises(UserError, match="does not permit"):
        check("m", [Declared("cc-by-nc-4.0", "model card")], derivative=True)


def test_model_cards() -> None:
    assert from_card("---\nlicense: mit\n---\n# hello") == [Declared("mit", "model card")]
    assert from_card("---\r\nlicense: mit\r\n---\r\n") == [Declared("mit", "model card")]
    assert from_card("# no front matter\nlicense: mit") == []
    assert from_card("---\nlicense: mit\ndate: 2026-13-45\n---\n") == [Declared("mit", "model card")]
    assert from_card("---\nlicense: null\n---\n") == []
    assert from_card("---\nlicense: mit\na: " + "[" * 30_000 + "\n---\n") == []
    bomb = "\n".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 60))
    assert from_card(f"---\nlicense: mit\na0: &a0 {{x: 1}}\n{bomb}\n---\n") == [Declared("mit", "model card")]
    assert from_card("---\nlicense: [unclosed\n---\n") == []
    assert from_card("---\n- a list\n---\n") == []
    named = from_front_matter({"license": "other", "license_name": "qwen-research"})
    assert [entry.text for entry in named] == ["qwen-research"]
    assert lookup(named[0].text).id == "qwen-research"
    assert [entry.text for entry in from_front_matter({"license": ["mit", "apache-2.0"]})] == ["mit", "apache-2.0"]
    assert from_front_matter({"license": "other"}) == [Declared("other", "model card")]
    assert lookup("other").id == "unknown"
    assert from_front_matter({}) == []


def test_every_entry_says_how_it_is_known() -> None:
    entries = {entry.id: entry for entry in table()}
    for wanted in ("apache-2.0", "mit", "bsd", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4",
                   "gemma", "qwen", "mrl", "deepseek", "openai-api", "anthropic-api", "google-gemini-api", "cc-by",
                   "cc-by-sa", "cc-by-nc", "openrail", "unknown"):  # fmt: skip
        assert wanted in entries
    for entry in entries.values():
        assert entry.verdict in ("permit", "conditional", "deny", "unknown")
        assert entry.clause
        assert entry.basis in ("text", "quoted", "known", "none")
        assert (entry.read is not None) == (entry.basis in ("text", "quoted")), entry.id
        if entry.read:
            datetime.date.fromisoformat(entry.read)
        if entry.id not in ("unknown", "undeclared"):
            assert entry.source
            assert entry.source.startswith("https://")
        assert (entry.verdict == "unknown") == (entry.basis == "none"), entry.id
        assert entry.verdict != "conditional" or entry.conditions
