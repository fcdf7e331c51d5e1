"""Templates from elsewhere end: in time, in memory, and without a way out of the sandbox."""

from __future__ import annotations

import resource
import time

import pytest
from jinja2 import TemplateError

from distill2edge.data.templates import Filter, Template
from distill2edge.errors import UserError
from distill2edge.templating.bounded import COMPILE_FAULTS, FAULTS, BoundedEnvironment
from distill2edge.templating.chat_template import render_chat_template

BOMBS = [
    "{{ 'x' * 10**10 }}",
    "{{ [1] * 10**10 }}",
    "{% for i in range(10**12) %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    "{{ 'x' | center(10**9) }}",
    "{{ 'x'.center(10**9) }}",
    "{{ 'x'.zfill(10**10) }}",
    "{{ '\t'.expandtabs(10**10) }}",
    "{{ '\t'.expandtabs(tabsize=10**10) }}",
    "{{ 10**(10**9) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (10**9, 1) }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 10**9) }}",
    "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{{ [1] | slice(10**9) | list }}",
    "{{ [1] | batch(10**9, 1) | list }}",
    "{{ ('a\n' * 1000) | indent('b' * 1000000) | length }}",
    "{{ 1 | tojson(indent=10**9) }}",
    "{{ 1.5 | round(10**9, 'ceil') }}",
    "{{ ('a' * 1000000).replace('a', 'b' * 1000000) | length }}",
    "{{ ('a' * 1000000) | replace('a', 'b' * 1000000) | length }}",
    "{{ ('b' * 1000000).join(('a,' * 10000).split(',')) | length }}",
    "{{ ('a,' * 10000).split(',') | join('b' * 1000000) | length }}",
    "{{ ('x' * 60000000) | list | length }}",
    "{{ ('x' * 60000000).split('x') | length }}",
    "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{% if (s ~ i) in s %}{% endif %}{% endfor %}",
    "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{% if s == s[1:] %}{% endif %}{% endfor %}",
    "{{ ('<a' * 500000) | striptags }}",
    "{{ ('a ' * 500000) | wordwrap(1, wrapstring='b' * 10000) }}",
    "{{ range(99999) | map('string') | map('list') | sum(start=[]) }}",
    "{{ range(99999) | map('center', 9999) | join }}",
    "{% filter center(10**9) %}x{% endfilter %}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{% for a in [1] %}" * 40 + "{% endfor %}" * 40,
    "{{ 1 }}" * 100_000,
]
ESCAPES = [
    "{{ ''.__class__.__mro__ }}",
    "{{ ''|attr('__class__') }}",
    "{{ '{0.__class__}'.format('') }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ dict.fromkeys([1]) }}",
    "{{ (1).to_bytes(8, 'big') }}",
    "{{ [].append(1) }}",
    "{{ {}.update(a=1) }}",
    "{{ 'a'.translate({97: 'b'}) }}",
    "{% include '/etc/passwd' %}",
    "{% import '/etc/passwd' as x %}",
    "{{ self.__init__ }}",
    "{{ (0.5).hex() }}",
    "{{ lipsum() }}",
]


def _rendered(environment: BoundedEnvironment, source: str) -> str:
    template = environment.compiled(source)
    with environment.rendering():
        return str(template.render())


@pytest.mark.parametrize("source", BOMBS, ids=lambda source: source[:40])
def test_a_template_ends_in_time_and_memory(source: str) -> None:
    environment = BoundedEnvironment()
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.thread_time()
    with pytest.raises((*COMPILE_FAULTS, *FAULTS)):
        _rendered(environment, source)
    assert time.thread_time() - start < 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KB


@pytest.mark.parametrize("source", ESCAPES)
def test_a_template_of_a_recipe_reaches_nothing(source: str) -> None:
    with pytest.raises(UserError):
        Template(source, "data.prompt").render({}, 1)


def test_a_recipe_names_the_row_at_which_a_template_goes_too_far() -> None:
    template = Template("{{ a * n }}", "data.prompt")
    assert template.render({"a": "ab", "n": 3}, 1) == "ababab"
    with pytest.raises(UserError, match="row 2: the template goes beyond its limits") as caught:
        template.render({"a": "ab", "n": 10**10}, 2)
    assert caught.value.where == "data.prompt"
    with pytest.raises(UserError, match="row 3: the template goes beyond its limits"):
        Filter("'a' * n > 'b'", "data.filter").takes({"n": 10**10}, 3)


def test_a_template_that_is_near_its_limit_in_every_row_ends_too() -> None:
    template, start = Template("{% for i in range(n) %}{{ i }}{% endfor %}", "data.prompt"), time.thread_time()
    with pytest.raises(UserError, match=r"row \d+: the template goes beyond its limits"):
        list(map(template.render, [{"n": 60_000}] * 1000, range(1, 1001)))
    assert time.thread_time() - start < 4
    for number in range(1, 3000):
        template.render({"n": 100}, number)


def test_what_templates_do_in_earnest_goes_through() -> None:
    row = {"text": "A long review. " * 2000, "tags": [{"name": "x"}, {"name": "y"}], "n": 7, "kind": {"items": "b"}}
    cases = {
        "{{ text | trim | upper | length }}": "29999",
        "{% for tag in tags %}{{ loop.index }}/{{ loop.length }} {{ tag.name }}{{ ', ' if not loop.last }}{% endfor %}":
            "1/2 x, 2/2 y",
        "{{ tags | map(attribute='name') | join(' ') }}": "x y",
        "{{ tags | selectattr('name', 'equalto', 'y') | map(attribute='name') | first }}": "y",
        "{{ tags[::-1] | map(attribute='name') | list | join }}": "yx",
        "{{ '%03d' % n }} {{ '{:>4}'.format(n) }}": "007    7",
        "{% set s = namespace(x='') %}{% for tag in tags %}{% set s.x = s.x ~ tag.name %}{% endfor %}{{ s.x }}": "xy",
        "{% macro bold(x) %}*{{ x }}*{% endmacro %}{{ bold('a') }}": "*a*",
        "{{ 'a, b'.split(', ') | join('|') }}": "a|b",
        "{{ kind.items }}": "b",
        "{% for key, value in kind.items() %}{{ key }}{% endfor %}": "items",
        "{{ tags | tojson }}": '[{"name": "x"}, {"name": "y"}]',
    }  # fmt: skip
    for source, expected in cases.items():
        row_of = {**row, "kind": {"a": 1}} if ".items()" in source else row
        expected = "a" if ".items()" in source else expected
        assert Template(source, "data.prompt").render(row_of, 1) == expected, source


CHAT = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'assistant' %}{% generation %}"
    "{{ message['content'].strip() }}{% endgeneration %}{% continue %}{% endif %}<{{ message['role'] }}>"
    "{{ message['content'] | trim }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_chat_templates_have_what_transformers_gives_them() -> None:
    messages = [{"role": "user", "content": " hi "}, {"role": "assistant", "content": " yo "}]
    text = render_chat_template(CHAT, messages=messages, add_generation_prompt=True, bos_token="<s>")
    assert text == "<s><user>hiyo<assistant>"
    assert len(render_chat_template("{{ strftime_now('%Y-%m-%d') }}")) == 10
    assert render_chat_template("{{ x | tojson }}", x={"b": "<é>", "a": 1}) == '{"b": "<é>", "a": 1}'
    with pytest.raises(TemplateError, match="roles must alternate"):
        render_chat_template("{{ raise_exception('roles must alternate') }}")


def test_chat_templates_agree_with_transformers() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "  hi\n"}]
    for source in (
        "{% for m in messages %}\n  {% if loop.first and m.role == 'system' %}\n[{{ m.content }}]\n  {% endif %}\n"
        "{{ m['role'] + ':' + m['content'] | trim + '\\n' }}\n{%- endfor %}\n{{ tools is defined }}{{ nothing }}",
        "{{ messages | tojson(indent=2) }}{% set ns = namespace(n=0) %}{% for m in messages[1:] %}"
        "{% set ns.n = ns.n + loop.index0 %}{% endfor %}{{ ns.n }}{{ messages[-1].content.split()[0] }}",
    ):
        theirs = render_jinja_template([messages], chat_template=source, add_generation_prompt=True)[0][0]
        assert render_chat_template(source, messages=messages, add_generation_prompt=True) == theirs


@pytest.mark.parametrize("source", [*BOMBS[:12], "{{ unbalanced", "{{ messages.x.y }}"], ids=lambda source: source[:30])
def test_a_hostile_chat_template_is_refused(source: str) -> None:
    start = time.thread_time()
    with pytest.raises(TemplateError):
        render_chat_template(source, messages=[])
    assert time.thread_time() - start < 4
