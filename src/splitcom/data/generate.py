"""Deterministic data-to-text pairs over invented domains; knows `domains.toml`, nothing of rows or models.

Every pair is a meaning representation and one of many ways to say it:

    name: Alder House | kind: inn | area: harbour | price: low
    Alder House is a cheap inn in the harbour.

A pair is a function of (domain, seed, its index) alone, on every platform; a digest in the tests guards it.
"""

import random
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from splitcom.errors import DataError

HELD_OUT_DOMAIN = "planets"
"""The domain that the bundled model has not seen: what the demo fine-tunes on."""

MAX_ATTRIBUTES = 7  # of a meaning representation, `name` and `kind` included
MAX_REPEATS = 100  # pairs in a row that were made already, before a domain counts as exhausted
MAX_PAIRS = 100_000  # which take a minute to make

_SLOT = re.compile(r"\{(\w+|\d+-\d+)\}")
_CLOSE = ("of", "for", "about", "with")  # stand nearer to the noun than other phrases, in this order
_AN = re.compile(r"[aeio]|u(?!ni|s)", re.IGNORECASE)

# Sentence plans of all domains. np: "a cheap inn in the harbour"; bare_np: without its article;
# v: a predicate; front: an opening participle. A capitalised slot opens a sentence.
_OPENINGS = (
    "{Name} is {np}.",
    "{Name} is {np} that {v}.",
    "{Name} is {np}, and it {v}.",
    "{Name} is {np}; it {v}.",
    "{Np}, {name} {v}.",
    "{Name}, {np}, {v}.",
    "There is {np} called {bare_name}.",
    "There is {np} called {bare_name}, which {v}.",
    "{front}, {name} is {np}.",
    "{front}, {name} is {np} that {v}.",
    "{front}, the {noun} {bare_name} {v}.",
    "The {bare_np} called {bare_name} {v}.",
)
_CONTINUATIONS = {
    1: ("It {v}.", "It {v}.", "The {noun} {v}.", "{Name} {v}."),
    2: (
        "It {v} and {v}.",
        "It {v}, and it {v}.",
        "The {noun} {v} and {v}.",
        "{Name} {v} and {v}.",
        "Not only that: it {v} and {v}.",
    ),
    3: ("It {v}, {v} and {v}.", "The {noun} {v} and {v}. What is more, it {v}."),
}


@dataclass(frozen=True)
class Attribute:
    """What can be said of a thing: value pattern -> role ("pre", "post", "verb", "front") -> phrases with {v}."""

    name: str
    phrasings: Mapping[str, Mapping[str, Sequence[str]]]


@dataclass(frozen=True)
class Domain:
    """A kind of world: patterns of names, nouns, attributes, and sentence plans to open a text with."""

    names: Sequence[str]
    kinds: Sequence[str]
    attributes: Sequence[Attribute]
    openings: Sequence[str]
    article: str


@dataclass
class _Facts:
    """One meaning representation, and the phrases that are left to say."""

    name: str
    kind: str
    article: str
    roles: list[dict[str, str]] = field(default_factory=list)  # per attribute: role -> the phrase chosen

    def take(self, role: str) -> str:
        """Remove the first attribute that can play a role, and return its phrase."""
        index = next(i for i, roles in enumerate(self.roles) if role in roles)
        return self.roles.pop(index)[role]


def domains() -> list[str]:
    """Return the names of all domains, the held-out one last."""
    names = [name for name in _tables() if name != "words"]
    return sorted(names, key=lambda name: (name == HELD_OUT_DOMAIN, name))


def generate(domain: str, count: int, seed: int = 0) -> list[dict[str, str]]:
    """Generate distinct pairs of a domain as records with the columns `mr`, `text` and `domain`.

    A larger `count` only appends: the first records stay the same.

    Raises:
        DataError: no such domain, a `count` below one, or more pairs than the domain can give.

    >>> generate("planets", 1, seed=3)[0]["domain"]
    'planets'
    """
    if domain not in domains():
        raise DataError(f"no generated domain {domain!r}; choose one of: {', '.join(domains())}")
    if count < 1:
        raise DataError(f"count is {count} for generated domain {domain!r}; ask for at least one pair")
    if count > MAX_PAIRS:
        raise DataError(f"{count:,} pairs to generate; at most {MAX_PAIRS:,} are made: lower data.samples")
    rng = random.Random(f"splitcom/{domain}/{seed}")  # seeded from text: independent of PYTHONHASHSEED
    pairs: dict[tuple[str, str], None] = {}
    repeats = 0
    while len(pairs) < count:
        pair = draw_pair(load_domain(domain), rng)
        repeats = repeats + 1 if pair in pairs else 0
        if repeats == MAX_REPEATS:
            raise DataError(
                f"domain {domain!r} gives hardly more than {len(pairs)} pairs; ask for fewer than {count}"
            )
        pairs[pair] = None
    return [{"mr": mr, "text": text, "domain": domain} for mr, text in pairs]


def draw_pair(domain: Domain, rng: random.Random) -> tuple[str, str]:
    """Draw a meaning representation and put it into words."""
    name, kind = _fill(rng.choice(domain.names), rng), rng.choice(domain.kinds)
    number = rng.randint(1, min(MAX_ATTRIBUTES - 2, len(domain.attributes)))
    chosen = sorted(rng.sample(range(len(domain.attributes)), number))
    facts = _Facts(name, kind, domain.article)
    mr = [f"name: {name}", f"kind: {kind}"]
    for attribute in (domain.attributes[index] for index in chosen):
        pattern = rng.choice(list(attribute.phrasings))
        value = _fill(pattern, rng)
        mr.append(f"{attribute.name}: {value}")
        phrasings = attribute.phrasings[pattern]
        facts.roles.append(
            {role: rng.choice(phrases).replace("{v}", value) for role, phrases in phrasings.items()}
        )
    rng.shuffle(facts.roles)  # the text does not follow the order of the representation
    return " | ".join(mr), _text(facts, domain.openings, rng)


def _text(facts: _Facts, openings: Sequence[str], rng: random.Random) -> str:
    can_front = any("front" in roles for roles in facts.roles)
    feasible = [
        opening
        for opening in openings
        if (can_front or "{front}" not in opening)
        and opening.count("{v}") + opening.count("{front}") <= len(facts.roles)
    ]
    sentences = [_say(rng.choice(feasible), facts, rng)]
    while facts.roles:
        size = rng.randint(1, min(3, len(facts.roles)))
        sentences.append(_say(rng.choice(_CONTINUATIONS[size]), facts, rng))
    return " ".join(sentences)


def _say(plan: str, facts: _Facts, rng: random.Random) -> str:
    """Fill a sentence plan, using up the facts that it says."""
    name = f"{facts.article} {facts.name}".strip()
    slots = {"name": name, "Name": _capitalised(name), "bare_name": facts.name, "noun": facts.kind}
    if "{front}" in plan:
        slots["front"] = facts.take("front")
    predicates = [facts.take("verb") for _ in range(plan.count("{v}"))]
    if re.search(r"\{(bare_)?np\}", plan, re.IGNORECASE):
        phrase = _noun_phrase(facts, rng)
        article = "an" if _AN.match(phrase) else "a"
        slots |= {"bare_np": phrase, "np": f"{article} {phrase}", "Np": f"{article.capitalize()} {phrase}"}
    for predicate in predicates:
        plan = plan.replace("{v}", predicate, 1)
    return plan.format_map(slots)


def _noun_phrase(facts: _Facts, rng: random.Random) -> str:
    """Put some of the facts before and after the noun; the rest are left for later sentences."""
    before: list[str] = []
    after: list[str] = []
    for roles in list(facts.roles):
        if "pre" in roles and not before and rng.random() < 0.7:
            before.append(roles["pre"])
        elif "post" in roles and len(after) < 2 and rng.random() < 0.6:
            after.append(roles["post"])
        else:
            continue
        facts.roles.remove(roles)
    after.sort(key=_binding)
    if len(after) == 2 and all(phrase.startswith("with ") for phrase in after):
        after = [f"{after[0]} and {after[1].removeprefix('with ')}"]
    return " ".join([*before, facts.kind, *after])


def _binding(phrase: str) -> int:
    """Order what follows a noun: "a play *of 90 pages* *set in Oru*", not the other way round."""
    first = phrase.split(" ", 1)[0]
    return _CLOSE.index(first) if first in _CLOSE else len(_CLOSE)


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _fill(pattern: str, rng: random.Random) -> str:
    """Replace the slots of a pattern, never with the same word twice."""
    used: set[str] = set()

    def draw(match: re.Match[str]) -> str:
        slot = match.group(1)
        if "-" in slot:
            low, high = slot.split("-")
            return str(rng.randint(int(low), int(high)))
        word = _fill(rng.choice(_words()[slot]), rng)
        while word in used:
            word = _fill(rng.choice(_words()[slot]), rng)
        used.add(word)
        return word

    return _SLOT.sub(draw, pattern)


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads(files("splitcom.data").joinpath("domains.toml").read_text("utf-8"))


@cache
def _words() -> dict[str, list[str]]:
    """All word lists: the shared ones and those that a domain adds beside its own keys."""
    words = dict(_tables()["words"])
    for name in domains():
        words |= {key: value for key, value in _tables()[name].items() if isinstance(value, list)}
    return words


@cache
def load_domain(name: str) -> Domain:
    """Return the domain of that name from `domains.toml`."""
    table = _tables()[name]
    attributes = []
    for key, entry in table["attributes"].items():
        roles = {role: entry[role] for role in ("pre", "post", "verb", "front") if role in entry}
        attributes.append(Attribute(key, entry.get("cases") or dict.fromkeys(entry["values"], roles)))
    openings = (*_OPENINGS, *table["frames"])
    return Domain(table["names"], table["kind"], attributes, openings, table.get("article", ""))
