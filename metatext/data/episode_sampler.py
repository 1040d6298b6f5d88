"""Draws episodes from labelled domains by a seed and an index, and holds classes out for validation."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import count

import numpy as np

from metatext.data.domains import Domain, shared_classes
from metatext.data.episodes import Episode, Examples
from metatext.errors import InputError

logger = logging.getLogger(__name__)


class EpisodeSampler:
    """Draws balanced episodes; episode `i` is a function of `(seed, i)` alone, on every machine.

    Each episode takes one domain at random, then `ways` of its classes, then `shots` support and `queries` query
    texts of each class, without replacement. Identical texts count once, and a text that stands under two classes of
    a domain is never drawn, so support and query share no text.

    Args:
        domains: the source domains.
        ways: classes per episode; `None` takes every class that can be drawn.
        shots: support texts per class.
        queries: query texts per class.
        seed: any non-negative integer.
        shared_labels: the second task distribution (same classes, new domain): classes are those that all domains
            share, in one fixed order, so a learned head keeps its meaning from episode to episode. By default
            (new classes) classes are drawn anew and in random order.
        varied: `ways` and `shots` are the most: each episode has 2 to `ways` classes and 1 to `shots` support texts a
            class (after Triantafillou 2020, section 3.2); domains may have fewer classes than `ways`.
        temperature: T: a domain is drawn with probability proportional to (its rows)^(1/T). 1 is by size; by default
            all domains are equally likely.
        hard: share of the episodes whose classes are hard to tell apart: one drawn at random, and those that are most
            like it in the words of their texts. Not with `shared_labels`.

    Raises:
        InputError: a domain has fewer than `ways` classes with `shots + queries` distinct texts; the domains share
            fewer than two class names while `shared_labels` is set.
    """

    def __init__(
        self,
        domains: Sequence[Domain],
        ways: int | None = 5,
        shots: int = 5,
        queries: int = 15,
        seed: int = 0,
        shared_labels: bool = False,
        varied: bool = False,
        temperature: float | None = None,
        hard: float = 0.0,
    ) -> None:
        smallest = (("ways", ways, 2), ("shots", shots, 1), ("queries", queries, 1), ("seed", seed, 0))
        for option, value, least in smallest:
            if value is not None and value < least:
                raise InputError(f"{option} must be at least {least}, got {value}")
        if temperature is not None and temperature <= 0:
            raise InputError(f"temperature must be above 0, got {temperature}")
        if not 0 <= hard <= 1 or (hard and shared_labels):
            raise InputError(f"hard must be from 0 to 1, and 0 where all episodes have the same classes, got {hard}")
        if not domains:
            raise InputError("an episode sampler needs at least one domain")
        self.domains = list(domains)
        self.ways, self.shots, self.queries, self.seed = ways, shots, queries, seed
        self.shared_labels, self.varied, self.temperature, self.hard = shared_labels, varied, temperature, hard
        wanted = shared_classes(self.domains) if shared_labels else None
        self._pools = [self._pool(domain, wanted) for domain in self.domains]
        self._alike = [class_similarity(pool) if hard else None for pool in self._pools]
        self._odds = None
        if temperature:
            weights = np.array([len(domain) for domain in self.domains]) ** (1 / temperature)
            self._odds = weights / weights.sum()

    @property
    def classes(self) -> list[str]:
        """Every class name that an episode may contain, sorted."""
        return sorted(set().union(*self._pools))

    def _pool(self, domain: Domain, wanted: list[str] | None) -> dict[str, list[str]]:
        """Distinct texts of each class of `domain` that has enough of them."""
        pool = distinct_texts(domain)
        need = self.shots + self.queries
        enough = {c: texts for c, texts in pool.items() if len(texts) >= need and (wanted is None or c in wanted)}
        ways = (None if self.varied else self.ways) or (len(wanted) if wanted else 2)
        if len(enough) < ways:
            small = min(pool, key=lambda c: len(pool[c]))
            raise InputError(
                f"domain {domain.name!r} has {len(enough)} classes with {need} distinct texts (shots {self.shots} + "
                f"queries {self.queries}) but ways is {ways}; its classes: {len(pool)}, the smallest, {small!r}, has "
                f"{len(pool[small])} texts: lower --ways, --shots or --queries, add rows, or take --varied"
            )
        left_out = [name for name in pool if name not in enough and (wanted is None or name in wanted)]
        if left_out:
            logger.warning("%s: too few texts to draw %s from", domain.name, ", ".join(left_out))
        return enough

    def __getitem__(self, index: int) -> Episode:
        """Episode number `index` (>= 0)."""
        if index < 0:
            raise IndexError(f"episodes are numbered from 0, got {index}")
        rng = np.random.default_rng([self.seed, index])
        domains = len(self.domains)
        which = int(rng.integers(domains) if self._odds is None else rng.choice(domains, p=self._odds))
        pool = self._pools[which]
        names = sorted(pool)
        ways, shots = min(self.ways or len(names), len(names)), self.shots
        if self.varied:
            ways, shots = int(rng.integers(2, ways + 1)), int(rng.integers(1, shots + 1))
        order = rng.permutation(len(names))
        alike = self._alike[which]
        if alike is not None and rng.random() < self.hard:
            order = rng.permutation(np.argsort(-alike[order[0]], kind="stable")[:ways])
        chosen = [names[i] for i in order[:ways]]
        if self.shared_labels:
            chosen.sort()
        support: list[tuple[str, int]] = []
        query: list[tuple[str, int]] = []
        for label, name in enumerate(chosen):
            rows = rng.choice(len(pool[name]), size=shots + self.queries, replace=False)
            drawn = [(pool[name][row], label) for row in rows]
            support += drawn[:shots]
            query += drawn[shots:]
        return Episode(self.domains[which].name, chosen, _examples(support), _examples(query))

    def __iter__(self) -> Iterator[Episode]:
        return (self[index] for index in count())


def _examples(pairs: list[tuple[str, int]]) -> Examples:
    return Examples([text for text, _ in pairs], [label for _, label in pairs])


def distinct_texts(domain: Domain) -> dict[str, list[str]]:
    """Class name -> its distinct texts in row order, leaving out texts that stand under several classes."""
    classes_of: dict[str, set[str]] = {}
    for text, label in zip(domain.texts, domain.labels, strict=True):
        classes_of.setdefault(text, set()).add(label)
    pool: dict[str, list[str]] = {name: [] for name in domain.classes}
    for text, classes in classes_of.items():
        if len(classes) == 1:
            pool[next(iter(classes))].append(text)
    ambiguous = sum(len(classes) > 1 for classes in classes_of.values())
    if ambiguous:
        logger.warning("%s: %d texts stand under more than one class and are not drawn", domain.name, ambiguous)
    return pool


def class_similarity(pool: Mapping[str, Sequence[str]]) -> np.ndarray:
    """Cosines of the classes' mean TF-IDF vectors of character 1- to 3-grams, (classes, classes), by name."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics.pairwise import cosine_similarity
    from sklearn.preprocessing import OneHotEncoder

    texts = [text for name in sorted(pool) for text in pool[name]]
    labels = OneHotEncoder().fit_transform([[name] for name in sorted(pool) for _ in pool[name]])  # (texts, classes)
    found = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True).fit_transform(texts)
    return cosine_similarity(labels.T @ found)  # sums have the cosines of means


def split_classes(
    domains: Sequence[Domain], ways: int, fraction: float = 0.2, seed: int = 0, names: Sequence[str] = ()
) -> tuple[list[Domain], list[Domain]]:
    """Splits the class names of all domains into meta-training and meta-validation classes, none in both.

    A name held out is held out of every domain, so that no domain teaches what another is validated on. Every
    domain keeps at least `ways` classes for training, but one whose classes are all among `names`, which serves for
    validation alone; a domain with fewer than two held-out classes takes no part in the validation.

    Args:
        domains: the source domains.
        ways: classes per training episode.
        fraction: share of the names to hold out, at least two names; drawn with `seed`.
        seed: any non-negative integer.
        names: the names to hold out, instead of drawing them.

    Returns:
        (training domains, validation domains); the second is empty where no class can be spared.

    Raises:
        InputError: a class of `names` is in no domain, or the split they make leaves too few classes.
    """
    known = sorted(set().union(*(domain.classes for domain in domains)))
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise InputError(f"validation class {unknown[0]!r} is in no source; their classes are {', '.join(known)}")
    for domain in domains:
        left = set(domain.classes) - set(names)
        if names and 0 < len(left) < ways:
            raise InputError(
                f"holding out {', '.join(names)} for validation leaves domain {domain.name!r} {len(left)} classes, but "
                f"ways is {ways}: name fewer in --valid-classes, or lower --ways"
            )
    held = set(names) or _spared(domains, ways, known, fraction, seed)
    spare = [(domain, held & set(domain.classes)) for domain in domains]
    valid = [domain.restrict(classes) for domain, classes in spare if len(classes) >= 2]
    if names and not valid:
        raise InputError(f"no domain has two of the validation classes {', '.join(names)}: name at least two of one")
    if not valid:
        return list(domains), []
    kept = [(domain, set(domain.classes) - held) for domain in domains]
    if not any(classes for _, classes in kept):
        raise InputError("every class of every domain is held out for validation: name fewer in --valid-classes")
    return [domain.restrict(classes) for domain, classes in kept if classes], valid


def _spared(domains: Sequence[Domain], ways: int, known: list[str], fraction: float, seed: int) -> set[str]:
    """Class names drawn so that every domain keeps at least `ways` classes, and some domain has two of them."""
    held: set[str] = set()
    for i in np.random.default_rng([seed, len(known)]).permutation(len(known)):
        name, most = known[i], max(len(held & set(domain.classes)) for domain in domains)
        if fraction <= 0 or (len(held) >= max(2, round(fraction * len(known))) and most >= 2):
            break
        if all(len(set(domain.classes) - held - {name}) >= ways for domain in domains if name in domain.classes):
            held.add(name)
    return held
