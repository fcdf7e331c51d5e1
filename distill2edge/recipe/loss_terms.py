"""The terms of a loss, one entry each: its key in a recipe, what it needs, what computes it, what people call it.

The keys of `distill.loss` and of `distill.on_policy`, what they need of the teacher, the functions that training sums
and the words of the report all follow from this table. A term of the user's own (`register_loss`) is an entry as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, ConfigDict, Field, create_model
from pydantic_core import PydanticKnownError

from distill2edge.errors import UserError
from distill2edge.recipe.ranges import Beta, Weight
from distill2edge.recipe.section import LATER, Section
from distill2edge.util.nearest import nearest
from distill2edge.util.plugins import Source, check_new, source_of

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

Needs = Literal[
    "gold",
    "distribution",
    "steps",
    "numbers",
    "teacher_numbers",
    "embeddings",
    "similarities",
    "hidden_states",
    "attentions",
]
"""What a term is computed from, and how its function is called. P positions, V vocabulary, C events, B texts, L tokens,
D width, H heads:

    gold            f(logits [P, V], targets [P]) -> [P]            the tokens or labels of the data
    distribution    f(log_p [P, C], log_q [P, C]) -> [P]            teacher and student, log-probabilities of the same
                                                                    events at the temperature
    steps           f(log_p [B, C], log_q [B, C]) -> [B]            the same, of classes that are steps of a scale
    numbers         f(gold [B], student [B]) -> [B]                 of the texts, in standard deviations of the data's
    teacher_numbers f(teacher [B], student [B]) -> [B]              likewise
    embeddings      f(teacher [B, D], student [B, D]) -> [B]        vectors of the texts, of unit length
    similarities    f(teacher [B, B-1], student [B, B-1]) -> [B]    cosines of each text and the others of its batch
    hidden_states   f(student, teacher, mask [B, L]) -> [B]         for each pair of layers [B, L, D]
    attentions      f(student, teacher, mask [B, L]) -> [B]         for each pair of layers [B, H, L, L]

A distribution's value is multiplied by T^2. Every value is at least 0, in float32, and has a gradient for the student.
"""

DISTRIBUTIONS: tuple[Needs, ...] = ("distribution", "steps")
"""The needs that compare two distributions over the same events, at the temperature."""
SAID: tuple[Needs, ...] = (*DISTRIBUTIONS, "teacher_numbers", "embeddings", "similarities")
"""The needs that compare with what is kept of what a teacher says."""
LAYERS: tuple[Needs, ...] = ("hidden_states", "attentions")
"""The needs for which the teacher runs beside the student."""


@dataclass(frozen=True)
class Option:
    """A further key of a term: `<term>_<keyword>`.

    Attributes:
        keyword: of the term's function.
        type: of the recipe's field.
    """

    keyword: str
    type: Any
    default: Any
    help: str


@dataclass(frozen=True)
class Term:
    """One term.

    Attributes:
        name: its key, whose value is its weight.
        label: what charts and tables call it.
        help: of the key.
        function: `module:name` within `distill2edge.distill`, or the user's own.
        later: whether it came after the first stores (see `LATER`).
        source: of the user's own.
        sampled: whether a random sample of the teacher's distribution gives it without bias: what is linear in the
            teacher's probabilities, but for what does not depend on the student.
    """

    name: str
    needs: Needs
    label: str
    help: str
    function: str | Callable[..., Tensor]
    options: tuple[Option, ...] = ()
    later: bool = False
    source: Source | None = None
    sampled: bool = False


_HIDDEN_KIND = Annotated[Literal["cosine", "mse"], LATER]
_SIMILARITY_KIND = Annotated[Literal["kl", "mse"], LATER]
TERMS: Mapping[str, Term] = {
    term.name: term
    for term in (
        Term("ce", "gold", "cross-entropy", "cross-entropy on the response tokens", "losses:cross_entropy"),
        Term("forward_kl", "distribution", "forward KL", "KL(teacher || student)", "losses:forward_kl", sampled=True),
        Term("reverse_kl", "distribution", "reverse KL", "KL(student || teacher)", "losses:reverse_kl"),
        Term(
            "jsd", "distribution", "Jensen-Shannon", "generalised Jensen-Shannon divergence", "losses:jensen_shannon",
            (Option("beta", Beta, 0.5, "weight of the teacher in the mixture"),),
        ),
        Term(
            "emd", "steps", "earth mover's distance",
            "steps by which the teacher's distribution over ordered choices would have to be moved (data.ordered)",
            "losses:earth_movers_distance", later=True,
        ),
        Term(
            "mse", "numbers", "squared error", "square of the distance to the data's number, in units of its variance",
            "regression_losses:squared_error", later=True,
        ),
        Term(
            "teacher_mse", "teacher_numbers", "squared error to teacher",
            "square of the distance to the teacher's number, likewise", "regression_losses:squared_error", later=True,
        ),
        Term(
            "hidden", "hidden_states", "hidden states",
            "distance of hidden states, layer by layer; the teacher, or student.assistant, runs beside the student",
            "intermediate_layers:hidden_distance",
            (Option("kind", _HIDDEN_KIND, "cosine", "1 - cosine, or mean square"),), later=True,
        ),
        Term(
            "attention", "attentions", "attention", "KL(teacher || student) of the attention maps, layer by layer",
            "intermediate_layers:attention_divergence", later=True,
        ),
        Term(
            "embedding", "embeddings", "embedding", "distance of the student's vector of a text to the teacher's",
            "embedding_losses:embedding_distance",
            (Option("kind", _HIDDEN_KIND, "cosine", "1 - cosine, or square of the distance"),), later=True,
        ),
        Term(
            "similarity", "similarities", "similarity structure",
            "how alike the texts of a batch are to the student and to the teacher; at each of student.dimensions",
            "embedding_losses:similarity_divergence",
            (Option("kind", _SIMILARITY_KIND, "kl", "KL of the shares of likeness (softmax of 20 cosines), or mean "
                    "square difference of the cosines"),), later=True,
        ),
    )
}  # fmt: skip
CE = TERMS["ce"].label

_registered: dict[str, Term] = {}


def register_loss(name: str, *, needs: Needs, function: Callable[..., Tensor], help: str = "") -> None:
    """Let recipes weigh a loss of one's own: `distill: {loss: {ce: 0.5, NAME: 0.5}}`.

    Call it in a file that is named by `--plugin`. The SHA-256 of that file is part of the key of every stage that
    trains with the loss, so a changed file trains anew. The same file may register a name again.

    Args:
        name: of its key.
        needs: what it is computed from, which also says how `function` is called: see `Needs`.
        help: one line.

    Raises:
        UserError: a name that is no identifier or is taken, a need that there is not, or a function without a file.
    """
    where = f"register_loss({name!r})"
    if needs not in get_args(Needs):
        hint = nearest(str(needs), list(get_args(Needs))) or f"one of {', '.join(get_args(Needs))}"
        raise UserError(f"nothing is called {needs!r} here", where=where, fix=f"write needs={hint!r}")
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
        raise UserError("a loss is named as a variable is", where=where, fix="use letters, digits and _")
    if not callable(function):
        raise UserError(f"{function!r} is no function", where=where, fix="give function=...")
    if name in _taken(WeightedTerms):
        raise UserError(f"{name!r} is a key of recipes already", where=where, fix="choose another name")
    source, known = source_of(function, name), _registered.get(name)
    check_new(name, None if known is None else known.source, source)
    _registered[name] = Term(name, needs, name, help, function, source=source)


def unregister_loss(name: str) -> None:
    """Forget a loss of one's own."""
    del _registered[name]


def label_of(key: str) -> str | None:
    """What charts call the term of a key of `distill.loss`; None of a key that is no term's weight."""
    if key in TERMS:
        return TERMS[key].label
    return None if key in (*_KEYS, "layer_map") else key  # a term of the user's own, whose file need not be here


def _registered_name(name: str) -> str:
    if name not in _registered:
        raise PydanticKnownError("extra_forbidden")
    return name


class WeightedTerms(Section):
    """Weights of the terms of a loss, as keys of a section; also of those that the user has registered."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": False})
    __pydantic_extra__: dict[Annotated[str, AfterValidator(_registered_name)], Weight] = Field(init=False)

    hint: ClassVar[str] = "a loss of your own comes from a file: --plugin FILE"

    @classmethod
    def known_keys(cls) -> list[str]:
        """As `Section.known_keys`."""
        return [*super().known_keys(), *_registered]

    @classmethod
    def numeric_keys(cls) -> set[str]:
        """As `Section.numeric_keys`."""
        return {*super().numeric_keys(), *_registered}

    def own_code(self) -> dict[str, Any]:
        """As `Section.own_code`."""
        own = [(term, weight) for term, weight in self.weighed() if term.source is not None]
        return {term.name: {"weight": weight, "sha256": term.source.sha256} for term, weight in own}  # type: ignore[union-attr]

    def own_files(self) -> tuple[Path, ...]:
        """As `Section.own_files`."""
        return tuple(term.source.path for term, _ in self.weighed() if term.source is not None)

    def weighed(self, *needs: Needs) -> Iterator[tuple[Term, float]]:
        """The terms that weigh something, in the order of the table.

        Args:
            needs: only those that need one of these; none means all.
        """
        given = {name: getattr(self, name) for name in TERMS if name in type(self).model_fields}
        for name, weight in {**given, **self.__pydantic_extra__}.items():
            term = TERMS.get(name) or _registered[name]
            if weight and (not needs or term.needs in needs):
                yield term, weight

    def options(self, term: Term) -> dict[str, Any]:
        """Keyword arguments of a term's function."""
        return {option.keyword: getattr(self, f"{term.name}_{option.keyword}") for option in term.options}

    def weights(self) -> dict[str, Any]:
        """The keys of its terms and of their options, as `Loss` takes them."""
        built_in = {name: getattr(self, name) for name in _KEYS if name in type(self).model_fields}
        return built_in | self.__pydantic_extra__

    @property
    def needs_logits(self) -> bool:
        """Whether a term compares with the teacher's distribution."""
        return any(self.weighed(*DISTRIBUTIONS))

    @property
    def needs_signal(self) -> bool:
        """Whether a term compares with what a teacher says: its distribution, its number, its vector."""
        return any(self.weighed(*SAID))

    @property
    def needs_layers(self) -> bool:
        """Whether a term compares intermediate layers, for which the teacher runs beside the student."""
        return any(self.weighed(*LAYERS))


def with_terms(base: type[Section], *needs: Needs, **defaults: float) -> Any:
    """A section with a key for each term of the table, and for its options.

    Args:
        base: whose keys come first.
        needs: only terms that need one of these; none means all.
        defaults: weights of the terms whose default is not 0.
    """
    fields: dict[str, Any] = {}
    for term in TERMS.values():
        if not needs or term.needs in needs:
            kind = Annotated[Weight, LATER] if term.later else Weight
            fields[term.name] = (kind, Field(defaults.get(term.name, 0.0), description=term.help))
            for option in term.options:
                fields[f"{term.name}_{option.keyword}"] = (option.type, Field(option.default, description=option.help))
    return create_model(f"{base.__name__}Terms", __base__=base, **fields)


_KEYS = [key for term in TERMS.values() for key in (term.name, *(f"{term.name}_{o.keyword}" for o in term.options))]


def _taken(section: type[WeightedTerms]) -> set[str]:
    """Names that a key of the section, or of one made of it, has."""
    return {*dir(section), *section.model_fields}.union(*map(_taken, section.__subclasses__()))
