"""The texts on which a pack proves itself.

They are the package's own, never rows of a data set: a pack goes to devices, and a reference must not carry what people
wrote. Prose has many likely words at each place, so a fault in the arithmetic shows at once.
"""

from __future__ import annotations

from distill2edge.gguf.corpus import TEXTS

PROSE = (
    "The lighthouse keeper climbed the narrow stairs every evening, carrying a lamp and a small brass key.",
    "In 1969 a small team of engineers measured how quickly the river rose after heavy rain.",
    "To make the soup, cut two onions and three carrots, fry them gently in butter, and add a litre of water.",
    "The committee will meet again on Thursday to decide whether the bridge should be repaired this year.",
    "She liked the film's quiet opening, but found the second half slow and its ending hard to believe.",
    "A parcel that was sent on Monday has not arrived, and nobody at the office can say where it is now.",
    "Most of the island's birds leave in October and come back, thinner and louder, in the last week of March.",
    "If the price falls by a tenth while the cost of transport stays the same, the smaller shops gain the most.",
)

LONG = " ".join(PROSE)
"""One text that is longer than the others: what depends on the distance between tokens shows there."""

TOKENIZED = (*TEXTS, *PROSE)
"""Whose tokens must be those of the verified file."""
