"""Files to follow docs/tutorial.md with, for readers who have none of their own at hand: reviews.csv and chats.jsonl.

python docs/tutorial/make_files.py [DIRECTORY]

The reviews are real: sentences of film reviews that came out clearly good or bad when people rated them. The chats are
made up: a bicycle workshop answers its customers. Every run writes the same rows.
"""

from __future__ import annotations

import csv
import json
import random
import sys
from pathlib import Path

from distill2edge.intake.bundled import rows
from distill2edge.util.progress import SilentProgress

REVIEWS, CHATS = 1600, 320
BIKES = ("city bike", "racing bike", "mountain bike", "e-bike", "cargo bike", "folding bike", "child's bike", "tandem")
PARTS = {
    "chain": (25, 1), "brakes": (30, 1), "gears": (35, 2), "front wheel": (45, 3), "rear wheel": (55, 3),
    "saddle": (15, 1), "lights": (20, 1), "tyre": (18, 1), "pedals": (22, 1), "battery": (90, 5),
}  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
OPENERS = ("", "Hi, ", "Hello! ", "Good morning, ", "Quick question: ", "Hi there, ")
CLOSERS = ("", " Thanks!", " Thank you.", " I live nearby.", " It is for my daughter.", " I need it for work.")
PRICE = (
    "what does it cost to fix the {part} of my {bike}?",
    "how much is a new {part} for a {bike}?",
    "my {bike} needs its {part} done. What will I pay?",
    "price for the {part} on a {bike}, please?",
)
TIME = (
    "how long does a repair of the {part} take on a {bike}?",
    "when can I have my {bike} back if you do the {part}?",
    "the {part} of my {bike} is broken. How many days do you need?",
)
VISIT = (
    "can I bring my {bike} in on {day}?",
    "are you open on {day}? My {bike} makes a noise.",
    "is {day} good for a check of my {bike}?",
)


def reviews() -> list[tuple[str, str]]:
    """Texts and labels."""
    found = [
        (str(row["text"]).strip(), "positive" if row["score"] > 0 else "negative")
        for row in rows("movie-sentiment", SilentProgress())
        if abs(row["score"]) >= 1
    ]
    random.Random(1).shuffle(found)
    return found[:REVIEWS]


def exchange(draw: random.Random) -> tuple[str, str]:
    """A question and its answer."""
    bike, part, day = draw.choice(BIKES), draw.choice(list(PARTS)), draw.choice(DAYS)
    (price, days), kind = PARTS[part], draw.randrange(3)
    price += 10 if bike in ("e-bike", "cargo bike") else 0
    form = draw.choice((PRICE, TIME, VISIT)[kind])
    if kind == 0:
        answer = f"For the {part} of a {bike} we charge {price} euros, work included. No appointment is needed."
    elif kind == 1:
        answer = f"For the {part} we need {days} working day{'s' * (days > 1)}. We text you when your {bike} is ready."
    elif day == "Saturday":
        answer = f"On Saturday we are open from 10 to 14. Bring your {bike} in before 13 and we look at it at once."
    else:
        answer = f"Yes, on {day} we are open from 9 to 18. Bring your {bike} in, a check is free."
    question = form.format(bike=bike, part=part, day=day)
    opener = draw.choice(OPENERS)
    if not opener or opener.endswith("! "):
        question = question[0].upper() + question[1:]
    return opener + question + draw.choice(CLOSERS), answer


def chats() -> list[dict[str, list[dict[str, str]]]]:
    """Conversations as chat programs keep them; one in eight has two exchanges."""
    draw, seen, found = random.Random(2), set(), []
    while len(found) < CHATS:
        turns = [exchange(draw) for _ in range(2 if draw.random() < 0.125 else 1)]
        if turns[-1][0] in seen:
            continue
        seen.add(turns[-1][0])
        messages = [
            {"role": role, "content": text}
            for turn in turns
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        found.append({"messages": messages})
    return found


def main(directory: Path) -> None:
    """Write both files."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "reviews.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["text", "label"])
        table.writerows(reviews())
    lines = (json.dumps(chat) + "\n" for chat in chats())
    (directory / "chats.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path.cwd())
