"""Texts on which two tokenizers are compared: whitespace runs, digits, newlines, code, emoji, other scripts."""

from __future__ import annotations

TEXTS = (
    "Hello world",
    " leading and trailing ",
    "a  b   c    d     e",
    "tabs\t\tand\t spaces \t mixed",
    "line\nbreaks\n\nand\n\n\nmore\r\nwindows\r\n\r\n",
    "   \n  indented\n    deeper\n",
    "1234567890 3.14159 1,000,000 2024-01-31 v2.0.1 0x1F",
    "12345\n67890 42\n\n7",
    "year1999and2001 x1y22z333",
    "don't won't I'LL we've they're it's 'quoted' \"double\"",
    "def add(a, b):\n    return a + b  # sum\n\nclass A(B):\n\tpass\n",
    "for (int i = 0; i < n; ++i) { x[i] *= y->z; } /* done */",
    '{"key": [1, 2.5, null], "nested": {"a-b": "c_d"}}',
    "<div class='x'>&amp; text</div> https://example.org/a?b=c&d=%20#e",
    "naïve café über straße coração œuvre Ångström",
    "Привет мир, как дела? Ελληνικά γράμματα",
    "你好，世界！今天是2024年。東京へ行きます。한국어 텍스트",  # noqa: RUF001 - full-width marks are the point
    "مرحبا بالعالم שלום עולם हिन्दी पाठ",
    "emoji 🙂🙂 👍🏽 👨‍👩‍👧‍👦 🇩🇪 ✅ →",
    "punctuation!!! ... --- ___ *** ~~~ @#$%^&*()",
    "mixedCASE WordsTogether snake_case kebab-case",
    "zero\u200bwidth non\u00a0breaking em\u2014dash ellipsis…",
    "x" * 40 + " " * 20 + "=" * 30,
    "Review: a gripping, well-acted film.\nSentiment: positive",
)


def around_token(token: str) -> list[str]:
    """An added token in every kind of place: alone, doubled, beside spaces and line ends, inside words, in the other
    case."""
    places = ("{}", "a{}b", "a {}b", "a{} b", "a {} b", "a  {}  b", " {}", "{} ", "a\t{}\tb", "a\n{}\nb",
              "a \n {} \n b", "{}{}", "a {} {} b", "a{}{}b", "1{}2", "({}).", "é{}é", "{}.", "-{}-")  # fmt: skip
    texts = [place.replace("{}", token) for place in places]
    return texts + [f"a {other} b" for other in dict.fromkeys((token.upper(), token.lower())) if other != token]
