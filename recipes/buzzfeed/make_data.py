"""Dates written in many ways, and the same dates in ISO 8601: train.jsonl and test.jsonl.

python recipes/buzzfeed/make_data.py [DIRECTORY]

Every day from 1930 to 2029 goes to one file only, so no test date was trained on in any form, and every run writes the
same rows. Each form has one reading: two digits of a year stand for 1930 to 2029, and the month is always a word or a
Roman figure, since 05/03/98 has two.
"""

from __future__ import annotations

import datetime
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

TRAIN_DAYS, TEST_DAYS, FORMS_OF_A_TRAIN_DAY = 12_000, 400, 2
FIRST, LAST = datetime.date(1930, 1, 1), datetime.date(2029, 12, 31)

ENGLISH = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
           "November", "December")  # fmt: skip
SHORT = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sept", "Oct", "Nov", "Dec")
SPANISH = ("enero", "febrero", "marzo", "abril", "mayo", "junio", "julio", "agosto", "septiembre", "octubre",
           "noviembre", "diciembre")  # fmt: skip
FRENCH = ("janvier", "février", "mars", "avril", "mai", "juin", "juillet", "août", "septembre", "octobre",
          "novembre", "décembre")  # fmt: skip
GERMAN = ("Januar", "Februar", "März", "April", "Mai", "Juni", "Juli", "August", "September", "Oktober",
          "November", "Dezember")  # fmt: skip
ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII")
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
ONES = ("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
        "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")  # fmt: skip
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
ORDINALS = ("", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
            "eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth", "eighteenth",
            "nineteenth", "twentieth")  # fmt: skip


def nth(day: int) -> str:
    """3 -> 3rd."""
    ending = "th" if 11 <= day <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"


def ordinal(day: int) -> str:
    """21 -> twenty-first."""
    if day <= 20:
        return ORDINALS[day]
    return "thirtieth" if day == 30 else f"{TENS[day // 10]}-{ORDINALS[day % 10]}"


def tens(number: int) -> str:
    """98 -> ninety-eight."""
    if number < 20:
        return ONES[number]
    return TENS[number // 10] + (f"-{ONES[number % 10]}" if number % 10 else "")


def spoken(year: int) -> str:
    """1998 -> nineteen ninety-eight; 1905 -> nineteen oh five; 2005 -> two thousand five."""
    if 2000 <= year < 2010:
        return f"two thousand {ONES[year - 2000]}".strip()
    rest = year % 100
    return f"{tens(year // 100)} {'hundred' if rest == 0 else f'oh {ONES[rest]}' if rest < 10 else tens(rest)}"


FORMS: tuple[Callable[[datetime.date], str], ...] = (
    lambda d: f"{ENGLISH[d.month - 1]} {d.day}, {d.year}",
    lambda d: f"{d.day} {ENGLISH[d.month - 1]} {d.year}",
    lambda d: f"{WEEKDAYS[d.weekday()]}, {nth(d.day)} {ENGLISH[d.month - 1]} {d.year}",
    lambda d: f"{ENGLISH[d.month - 1]} {nth(d.day)}, '{d.year % 100:02d}",
    lambda d: f"{d.day}-{SHORT[d.month - 1].upper()}-{d.year % 100:02d}",
    lambda d: f"{nth(d.day)} of {SHORT[d.month - 1]}. {d.year}",
    lambda d: f"the {ordinal(d.day)} of {ENGLISH[d.month - 1]} {d.year}",
    lambda d: f"{ENGLISH[d.month - 1]} the {ordinal(d.day)}, {spoken(d.year)}",
    lambda d: f"the {ordinal(d.day)} of {ENGLISH[d.month - 1].lower()}, {spoken(d.year)}",
    lambda d: f"{d.day} {ROMAN[d.month - 1]} {d.year}",
    lambda d: f"{d.day} de {SPANISH[d.month - 1]} de {d.year}",
    lambda d: f"le {'1er' if d.day == 1 else d.day} {FRENCH[d.month - 1]} {d.year}",
    lambda d: f"{d.day}. {GERMAN[d.month - 1]} {d.year}",
)


def rows(days: list[datetime.date], forms: int, random_: random.Random) -> list[dict[str, str]]:
    """`forms` different ways to write each day, with what they mean."""
    return [{"prompt": form(day), "response": day.isoformat()} for day in days for form in random_.sample(FORMS, forms)]


def main(directory: Path) -> None:
    """Write both files."""
    random_ = random.Random(1998)
    days = [FIRST + datetime.timedelta(number) for number in range((LAST - FIRST).days + 1)]
    random_.shuffle(days)
    test, train = days[:TEST_DAYS], days[TEST_DAYS : TEST_DAYS + TRAIN_DAYS]
    directory.mkdir(parents=True, exist_ok=True)
    for name, found in (("test", rows(test, 1, random_)), ("train", rows(train, FORMS_OF_A_TRAIN_DAY, random_))):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
        (directory / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data")
