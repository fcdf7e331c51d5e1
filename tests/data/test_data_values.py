"""What reaches the training text: no NaN, null, list, object or method; refused with row, field and the way out."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import pytest

from distill2edge.data.templates import Filter, Template
from distill2edge.data.values import MISSING
from distill2edge.errors import UserError

NAN = float("nan")


def refused(source: str, row: dict[str, Any], **options: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        Template(source, "data.prompt", **options).render(row, 7)
    assert caught.value.where == "data.prompt"
    assert "row 7" in caught.value.what
    return caught.value


@pytest.mark.parametrize(
    "source",
    ["{{ a }}", "x {{ a }}", "{{ a | upper }}", "{{ a ~ 'x' }}", "{{ '%s' % a }}", "{{ 'x {}'.format(a) }}",
     "{{ [a] | join(',') }}", "{{ ','.join([a]) }}", "{{ 'x' | replace('x', a) }}", "{{ '%s' | format(a) }}",
     "{% set b = a %}{{ b }}", "{{ a if true }}", "{% for i in [a] %}{{ i }}{% endfor %}", "{{ row['a'] }}"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("value", "what"),
    [(None, "a is null"), (NAN, "a is NaN"), (float("inf"), "a is infinite"), ([1, 2], "a is a list of 2"),
     ({"x": 1}, r"a is an object \(x\)"), (b"x", "a is bytes"), (decimal.Decimal("NaN"), "a is NaN")],
)  # fmt: skip
def test_what_is_no_text_is_refused_on_every_way_to_it(source: str, value: Any, what: str) -> None:
    error = refused(source, {"a": value})
    assert error.fix
    if "{% " not in source:
        import re

        assert re.search(what.replace("a is", r"\w+(\['a'\])? is"), error.what), error.what


def test_a_comparison_with_nan_chooses_no_label() -> None:
    for source in ("{{ 'good' if score > 0 else 'bad' }}", "{{ score or 1 }}", "{{ score | int }}"):
        assert "score is " in refused(source, {"score": NAN}).what
    for source in (
        "{{ 'a' if row['x'] > 0 else 'b' }}",
        "{{ 'a' if m.x > 0 else 'b' }}",
        "{{ 'a' if m['x'] else 'b' }}",
    ):
        assert " is NaN" in refused(source, {"x": NAN, "m": {"x": NAN}}).what
    row = {"s": "t", "score": NAN, "m": [NAN, 1.0], "o": {"a": NAN}, "text": "nan"}
    for source in (
        "{{ 'a' if score + 1 > 0 else 'b' }}",
        "{{ 'a' if -score > 0 else 'b' }}",
        "{% for x in m %}{{ 'a' if x > 1 else 'b' }}{% endfor %}",
        "{% for k, x in o.items() %}{{ 'a' if x > 1 else 'b' }}{% endfor %}",
        "{% for k, x in row['o'].items() %}{{ 'a' if x > 1 else 'b' }}{% endfor %}",
        "{{ m | select('gt', 1) | list | length }}",
        "{{ s }}{{ m | sum > 0 }}",
        "{{ score | filesizeformat }}",
        "{{ 'pos' if text | float > 0 else 'neg' }}",
        "{{ 'pos' if text | float(0) > 0 else 'neg' }}",
    ):
        assert "NaN" in refused(source, row).what, source
    assert Template("{{ score | float(3) }}{{ m | length }}", "x").render(row, 1) == "32"
    assert Filter("text | float != text | float and m | max", "data.filter").takes({"text": "nan", "m": [1.0, NAN]}, 1)
    assert not Filter("m.x > 0", "data.filter").takes({"m": {"x": NAN}}, 1)
    assert not Filter("score == score", "data.filter").takes({"score": NAN}, 1)
    assert not Filter("score > 0.5", "data.filter").takes({"score": NAN}, 1)


def test_texts_that_stand_for_a_missing_value() -> None:
    for source in ("{{ a }}", "{{ a }} {{ b }}", " {{ a | trim }}"):
        error = refused(source, {"a": "NaN", "b": ""}, missing=MISSING)
        assert "a is the text 'NaN'" in error.what.replace(" | trim", "")
        assert "data.filter" in error.fix
    assert Template("{{ a }}", "x").render({"a": "NaN"}, 1) == "NaN"


def test_numbers_that_are_none() -> None:
    assert Template("{{ a | int }} {{ b | float }}", "x").render({"a": "4", "b": "2.5"}, 1) == "4 2.5"
    assert Template("{{ a | int(0) }}", "x").render({"a": "n/a"}, 1) == "0"
    assert "'n/a', which is not a number" in refused("{{ a | int }}", {"a": "n/a"}).what
    with pytest.raises(UserError, match="row 2: score is '', which is not a number"):
        Filter("score | float > 0", "data.filter").takes({"score": ""}, 2)


def test_asking_for_the_text_of_a_list_or_object() -> None:
    row = {"a": ["x", "y"], "b": {"k": "é"}}
    assert Template("{{ a | join(', ') }}", "x").render(row, 1) == "x, y"
    assert Template("{{ b | tojson }}", "x").render(row, 1) == '{"k": "é"}'
    assert Template("{{ a | string }}", "x").render(row, 1) == "['x', 'y']"
    assert "NaN" in refused("{{ a | tojson }}", {"a": [{"b": NAN}]}).what


def test_plain_values_print_as_they_did() -> None:
    row = {"a": "x", "b": 3, "c": 2.5, "d": True, "e": datetime.date(2026, 1, 2), "f": decimal.Decimal("1.20")}
    assert Template("{{ a }} {{ b }} {{ c }} {{ d }} {{ e }} {{ f }}", "x").render(row, 1) == (
        "x 3 2.5 True 2026-01-02 1.20"
    )


def test_a_method_is_no_text_and_a_field_of_its_name_is() -> None:
    assert "a.items is a method (items)" in refused("{{ a.items }}", {"a": {"x": 1}}).what
    assert "text.title is a method" in refused("{{ text.title }}", {"text": "x"}).what
    assert Template("{{ a.items }} {{ a.count }}", "x").render({"a": {"items": "i", "count": 2}}, 1) == "i 2"


def test_names_that_jinja_cannot_spell() -> None:
    row = {"my col": "x", "a.b": "y", "c-d": "z"}
    template = Template("{{ row['my col'] }}{{ row['a.b'] }}{{ row['c-d'] }}", "data.prompt")
    assert template.render(row, 1) == "xyz"
    assert template.fields == {"my col", "a.b", "c-d"}
    assert template.render_with_content(row, 1)[1] == "y\nz\nx"
    assert "row['a.b']" in refused("{{ a.b }}", row).fix
    with pytest.raises(UserError, match="not valid Jinja") as caught:
        Template("{{ my col }}", "data.prompt")
    assert "row['my column']" in caught.value.fix
    assert "did you mean text?" in refused("{{ txet }}", {"text": "x"}).fix


CHAT = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "a"},
]


def test_chat_data_is_refused_with_what_to_write() -> None:
    wanted = 'data.prompt: "{{ messages[1].content }}" and data.response: "{{ messages[2].content }}"'
    for source in ("{{ messages }}", "{{ prompt }}", "{{ messages[0].text }}", "{{ messages[7].content }}"):
        assert wanted in refused(source, {"messages": CHAT}).fix
    gpt = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    assert "{{ conversations[1].value }}" in refused("{{ prompt }}", {"conversations": gpt}).fix
    parts = [{"role": role, "content": [{"type": "text", "text": "x"}]} for role in ("user", "assistant")]
    error = refused("{{ messages[0].content }}", {"messages": parts})
    assert "messages[0].content is a list of 1" in error.what
    assert "{{ messages[0].content[0].text }}" in error.fix


def test_turns_that_are_null_or_missing_are_named() -> None:
    error = refused("{{ messages[1].content }}", {"messages": [CHAT[1], {"role": "assistant", "content": None}]})
    assert error.what.startswith("row 7: messages[1].content is null")
    assert 'data.filter: "messages[1].content is not none"' in error.fix
    error = refused("{{ messages[1].content }}", {"messages": [CHAT[1]]})
    assert "messages[1].content" in error.what
    assert 'data.filter: "messages | length > 1"' in error.fix


def test_errors_print_nothing_that_a_terminal_obeys() -> None:
    error = refused("{{ a }}", {"b\x1b[2J\ud800": 1, "x" * 500: 2})
    assert error.what.isprintable()
    assert len(error.what) < 400
