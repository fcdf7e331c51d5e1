"""What templates may use: methods of plain data by type, and what is known of filters."""

from __future__ import annotations

import datetime

# Filters of a text: other values become one first.
OF_TEXT = frozenset(
    {"capitalize", "center", "e", "escape", "forceescape", "format", "indent", "lower", "replace", "safe", "striptags",
     "title", "trim", "truncate", "upper", "urlencode", "wordcount", "wordwrap"}
)  # fmt: skip
# Filters that make no more of a text or number than it is.
PLAIN = frozenset({"abs", "capitalize", "float", "int", "length", "lower", "string", "title", "trim", "upper"})
OF_ITEMS = frozenset(
    {"batch", "first", "groupby", "last", "list", "map", "max", "min", "reject", "rejectattr", "reverse", "select",
     "selectattr", "slice", "sort", "sum", "unique"}
)  # fmt: skip
TEXT_METHODS = frozenset(
    {"capitalize", "casefold", "center", "count", "encode", "endswith", "expandtabs", "find", "format", "index",
     "isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric", "isprintable",
     "isspace", "istitle", "isupper", "join", "ljust", "lower", "lstrip", "partition", "removeprefix", "removesuffix",
     "replace", "rfind", "rindex", "rjust", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith",
     "strip", "swapcase", "title", "upper", "zfill"}
)  # fmt: skip
DATE_METHODS = frozenset({"date", "isoformat", "isoweekday", "strftime", "time", "timestamp", "weekday"})
METHODS: dict[type, frozenset[str]] = {
    str: TEXT_METHODS,
    bytes: frozenset({"decode"}),
    list: frozenset({"copy", "count", "index"}),
    tuple: frozenset({"count", "index"}),
    dict: frozenset({"copy", "get", "items", "keys", "values"}),
    int: frozenset({"bit_length"}),
    float: frozenset({"is_integer"}),
    datetime.date: DATE_METHODS,  # datetime too
    datetime.time: DATE_METHODS,
    datetime.timedelta: frozenset({"total_seconds"}),
}
DATA = tuple(METHODS)
