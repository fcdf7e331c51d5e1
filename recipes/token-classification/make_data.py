"""Messages with personal data in them: data/train.jsonl and test.jsonl, marked; data/pool/texts.jsonl, not marked.

python recipes/token-classification/make_data.py [DIRECTORY]

Every run writes the same rows. No test row has a sentence, a name, a street, a city, a domain or a form of date or
phone number that another row has: what is scored is whether a model knows such things by how they stand, not by heart.
All names and addresses are put together by chance, domains are of the kind reserved for examples, and phone numbers
those that North America keeps for fiction (555-01xx).
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

TRAIN, POOL, TEST = 500, 1_500, 600
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December")  # fmt: skip


class Words(NamedTuple):
    """What one side is made of; the other has none of it."""

    first: Sequence[str]
    last: Sequence[str]
    city: Sequence[str]
    street: Sequence[str]
    domain: Sequence[str]
    date: Sequence[Callable[[random.Random], str]]
    phone: Sequence[Callable[[random.Random], str]]
    sentences: Sequence[str]


def _listed(text: str) -> list[str]:
    """Names with blanks between, or with bars where one has a blank."""
    return text.split("|") if "|" in text else text.split()


def _day(chance: random.Random) -> tuple[int, int, int]:
    return chance.randint(1, 28), chance.randint(1, 12), chance.randint(1950, 2025)


def _date(form: str) -> Callable[[random.Random], str]:
    def made(chance: random.Random) -> str:
        day, month, year = _day(chance)
        name = MONTHS[month - 1]
        parts = {"d": day, "dd": f"{day:02d}", "m": month, "mm": f"{month:02d}", "y": year, "yy": f"{year % 100:02d}"}
        return form.format(**parts, month=name, mon=name[:3])

    return made


def _phone(form: str) -> Callable[[random.Random], str]:
    return lambda chance: form.format(area=chance.randint(201, 989), end=f"{chance.randint(100, 199):04d}")


TRAINING = Words(
    first=_listed(
        "Anna Ben Clara David Emma Felix Grace Henry Isabel Jack Karen Liam Maria Noah Olivia Peter Rachel "
        "Samuel Teresa Victor Wendy Amir Bianca Carlos Daria Elif Farid Gita Hiro Ines Jamal Keiko Lars Mei "
        "Nadia Omar Priya Rosa Sven Tomas Uma Yusuf Zoe Abdul Chloe Dmitri Esther Fatima George Hannah Igor "
        "Julia Kofi Lucia Marco Nina Oscar Paula Quentin Ravi Sofia Tariq Vera Walter"
    ),
    last=_listed(
        "Smith Johnson Brown Miller Davis Wilson Moore Taylor Anderson Thomas Jackson White Harris Martin "
        "Thompson Garcia Martinez Robinson Clark Lewis Lee Walker Hall Allen Young King Wright Scott Green "
        "Baker Adams Nelson Hill Campbell Mitchell Roberts Carter Phillips Evans Turner Parker Collins "
        "Edwards Stewart Morris Murphy Cook Rogers Morgan Cooper Peterson Reed Bailey Bell Kelly Howard Ward "
        "Cox Diaz Kowalski Novak Ivanov Petrov Rossi Ferrari Schmidt Weber Fischer Tanaka Suzuki Chen Wang "
        "Kim Park Singh Kumar Khan Ali Haddad Okafor Mensah Silva Santos Nguyen"
    ),
    city=_listed(
        "London|Paris|Berlin|Madrid|Rome|Vienna|Prague|Warsaw|Oslo|Dublin|Lisbon|Athens|Boston|Chicago|"
        "Denver|Seattle|Austin|Houston|Miami|Toronto|Montreal|New York|San Diego|Los Angeles|Tokyo|Osaka|"
        "Seoul|Beijing|Delhi|Mumbai|Cairo|Lagos|Nairobi|Sydney|Perth|Hamburg|Lyon|Milan|Porto|Krakow"
    ),
    street=_listed(
        "Main Street|Oak Avenue|Park Road|Maple Drive|Church Lane|High Street|Mill Road|Station Road|"
        "Cedar Street|Lake View Drive|Elm Street|Washington Avenue|King Street|Green Lane|Hill Road|"
        "River Street"
    ),
    domain=_listed("example.com mail.example.org post.example.net example.org web.example.com"),
    date=[
        _date(form)
        for form in (
            "{month} {d}, {y}",
            "{d} {month} {y}",
            "{mm}/{dd}/{y}",
            "{y}-{mm}-{dd}",
            "{mon} {d}",
            "{d} {mon} {y}",
            "{dd}.{mm}.{y}",
        )
    ],
    phone=[_phone(form) for form in ("{area}-555-{end}", "({area}) 555-{end}", "+1 {area} 555 {end}")],
    sentences=(
        "My name is {PERSON} and I live in {CITY}.",
        "Please call {PERSON} at {PHONE} before {DATE}.",
        "{PERSON} was born on {DATE} in {CITY}.",
        "You can write to {EMAIL} or phone {PHONE}.",
        "The parcel for {PERSON} goes to {ADDRESS}, {CITY}.",
        "Dear {PERSON}, thank you for your order of {DATE}. It has left our store in {CITY}.",
        "We met {PERSON} and {PERSON} at the office on {DATE}.",
        "Customer {PERSON} ({EMAIL}) asked for a refund of 40 dollars.",
        "The invoice number 20391 was sent to {EMAIL} on {DATE}.",
        "{PERSON} moved from {CITY} to {CITY} last year.",
        "Contact: {PERSON}, {ADDRESS}, {CITY}, phone {PHONE}.",
        "I changed my address to {ADDRESS} on {DATE}, please update my file.",
        "The meeting with {PERSON} is at 3 pm in room 12.",
        "Order 48213 arrived broken and nobody answers the phone.",
        "How do I reset my password? The link from Monday does not work.",
        "The printer on the second floor is out of paper again.",
        "{PERSON} from {CITY} says the app crashes on page 5.",
        "Send the contract to {PERSON} <{EMAIL}> by {DATE}.",
        "Patient {PERSON}, date of birth {DATE}, was seen today.",
        "If you need help, ask {PERSON} or write to {EMAIL}.",
        "Our shop at {ADDRESS} opens on {DATE}.",
        "My new number is {PHONE}, the old one no longer works.",
        "A trip to {CITY} costs 300 dollars in May, said the agent.",
        "Version 2.14 was released with 36 fixes.",
        "The password of {PERSON} was reset after a call from {PHONE}.",
        "Regards, {PERSON}",
        "Mr. {PERSON} signed the lease for {ADDRESS} in {CITY}.",
        "Booking for {PERSON}: two nights in {CITY} from {DATE}.",
        "The train to {CITY} leaves at 7:45 from platform 3.",
        "Reply to {EMAIL} if {DATE} suits you.",
    ),
)
HELD_OUT = Words(
    first=_listed(
        "Adele Bruno Cecilia Dennis Eleanor Francis Gloria Hugo Irene Jonas Kirsten Leonard Miriam Norman "
        "Odette Philip Regina Stefan Tabitha Ulrich Viola Wesley Xenia Yolanda Zachary Anil Beatriz Chidi "
        "Deepa Emeka Freya Goran Haruto Ilse Jorge Katya Leila Minh Nkechi Olga Pablo Ramesh Sakura Thandi"
    ),
    last=_listed(
        "Abbott Barlow Chandler Dawson Ellison Fletcher Goodwin Hawkins Ingram Jennings Kendall Lambert "
        "Maddox Norton Osborne Prescott Quinn Randall Sheldon Thornton Underwood Vaughn Whitaker Yates "
        "Almeida Bergstrom Castellano Dubois Eriksson Fontaine Gupta Hashimoto Iyer Jankowski Kaya Lindqvist "
        "Moreau Nakamura Oyelaran Papadopoulos Reyes Sokolov Takahashi Vargas"
    ),
    city=_listed(
        "Bristol|Leeds|Marseille|Seville|Turin|Graz|Brno|Gdansk|Bergen|Cork|Utrecht|Ghent|Portland|Phoenix|"
        "Dallas|Tampa|Salt Lake City|Ottawa|Calgary|Kyoto|Busan|Chennai|Accra|Durban|Adelaide|Leipzig|Geneva|"
        "Valencia"
    ),
    street=_listed(
        "Birch Crescent|Victoria Street|Orchard Way|Meadow Close|Harbour Road|Chestnut Boulevard|"
        "Queen Street|Willow Court|Garden Terrace|North Parade"
    ),
    domain=_listed("inbox.example.edu example.co mailbox.example.info desk.example.net"),
    date=[
        _date(form)
        for form in ("the {d} of {month} {y}", "{m}/{d}/{yy}", "{month} {y}", "{dd}-{mm}-{y}", "{d} {month}")
    ],
    phone=[_phone(form) for form in ("{area}.555.{end}", "+1-{area}-555-{end}", "1 ({area}) 555 {end}")],
    sentences=(
        "This is {PERSON}, please ring me back on {PHONE}.",
        "{PERSON} will fly to {CITY} on {DATE} for the fair.",
        "We could not deliver to {ADDRESS} because nobody was home.",
        "The account of {PERSON} was opened on {DATE} with the address {EMAIL}.",
        "Hello, I am {PERSON} and my e-mail has changed to {EMAIL}.",
        "On {DATE} a visitor named {PERSON} left a bag in our {CITY} branch.",
        "Forward this to {EMAIL} and copy {PERSON}.",
        "Ticket 7731: the screen stays black after the update to 4.2.",
        "Since {DATE} the landlord, {PERSON}, does not answer {PHONE}.",
        "{CITY} was cold, so {PERSON} and {PERSON} went home early.",
        "Her lawyer {PERSON} has an office at {ADDRESS} in {CITY}.",
        "Could someone explain why 15 items are missing from the list?",
        "Text {PHONE} to confirm the appointment of {DATE}.",
        "The witness, {PERSON}, lives at {ADDRESS}.",
        "Best wishes from {CITY}, {PERSON}",
        "The bus was late and the ticket cost 12 euros.",
        "Emergency contact: {PERSON} ({PHONE}).",
        "I would like to cancel the subscription for {EMAIL} from {DATE}.",
    ),
)


def value(kind: str, words: Words, chance: random.Random) -> str:
    """A new value of one type."""
    first, last = chance.choice(words.first), chance.choice(words.last)
    if kind == "PERSON":
        return first if chance.random() < 0.15 else f"{first} {last}"
    if kind == "EMAIL":
        user = chance.choice(
            (f"{first}.{last}", f"{first[0]}{last}", f"{last}{chance.randint(1, 99)}", f"{first}_{last}")
        )
        return f"{user.lower()}@{chance.choice(words.domain)}"
    if kind == "ADDRESS":
        return f"{chance.randint(1, 250)} {chance.choice(words.street)}"
    made: Mapping[str, Sequence[Callable[[random.Random], str]]] = {"DATE": words.date, "PHONE": words.phone}
    return chance.choice(made[kind])(chance) if kind in made else chance.choice(words.city)


def message(words: Words, chance: random.Random) -> dict[str, object]:
    """One or two sentences, and where personal data is in them."""
    text, entities = "", []
    for sentence in chance.sample(list(words.sentences), chance.choice((1, 1, 2))):
        text += " " if text else ""
        while sentence:
            before, _, rest = sentence.partition("{")
            kind, _, sentence = rest.partition("}")
            text += before
            if kind:
                found = value(kind, words, chance)
                entities.append({"start": len(text), "end": len(text) + len(found), "label": kind})
                text += found
    if chance.random() < 0.1:
        text = text.lower()
    return {"text": text, "entities": entities}


def messages(words: Words, count: int, seed: int) -> list[dict[str, object]]:
    """So many different ones."""
    chance, made = random.Random(seed), dict[str, dict[str, object]]()
    while len(made) < count:
        row = message(words, chance)
        made.setdefault(str(row["text"]), row)
    return list(made.values())


def main(directory: Path) -> None:
    """Write the three files."""
    rows = messages(TRAINING, TRAIN + POOL, 1)
    pool = [{"text": row["text"]} for row in rows[TRAIN:]]
    files = {"train": rows[:TRAIN], "test": messages(HELD_OUT, TEST, 2), "pool/texts": pool}
    for name, found in files.items():
        path = directory / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data")
