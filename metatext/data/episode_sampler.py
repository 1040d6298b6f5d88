"""Draws episodes from labelled domains, and splits classes into training and validation classes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import cast

import numpy as np

from metatext.data.domains import Domain, shared_classes
from metatext.data.episodes import Episode, Examples
from metatext.errors import InputError

logger = logging.getLogger(__name__)


class EpisodeSampler:
    """Draws balanced episodes by index; episode `i` depends only on the arguments and `i`, on every machine.

    An episode comes from one random domain. The sampler draws `ways` of its classes, then `shots` support texts and
    `queries` query texts per class, without replacement. Duplicate texts count once. A text that occurs in two classes
    of a domain is never drawn. Support and query therefore share no text.

    Args:
        domains: the source domains.
        ways: classes per episode; `None` for all classes with enough texts.
        shots: support texts per class.
        queries: query texts per class.
        seed: any non-negative integer.
        shared_labels: use the task distribution "same classes, new domain". The classes of an episode come from those
            that all domains share and are sorted, so that a learned head keeps its meaning from episode to episode. By
            default ("new classes"), classes are drawn anew for each episode, in random order.
        varied: draw the size of each episode at random, 2 to `ways` classes and 1 to `shots` support texts per class
            (after Triantafillou 2020, section 3.2). Domains may then have fewer classes than `ways`.
        temperature: T in the probability of a domain, which is proportional to rows^(1/T). 1 is proportional to size.
            By default all domains are equally likely.
        hard: share of hard episodes. The classes of a hard episode are a random class and those most similar to it by
            `class_similarity`. Must be 0 with `shared_labels`.

    Raises:
        InputError: a domain has fewer than `ways` classes with `shots + queries` distinct texts; `shared_labels` is set
            and the domains share fewer than two class names; an argument is out of range.

    Example:
        >>> news = Domain("news", [f"text {i}" for i in range(6)], ["sports", "tech"] * 3)
        >>> episode = EpisodeSampler([news], ways=2, shots=1, queries=2)[0]
        >>> len(episode.support), len(episode.query), sorted(episode.classes)
        (2, 4, ['sports', 'tech'])
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
        minima = (("ways", ways, 2), ("shots", shots, 1), ("queries", queries, 1), ("seed", seed, 0))
        for option, value, least in minima:
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
        allowed = shared_classes(self.domains) if shared_labels else None
        self._pools = [self._drawable_texts(domain, allowed) for domain in self.domains]
        self._similarity = [class_similarity(pool) if hard else None for pool in self._pools]
        self._domain_probabilities = None
        if temperature:
            weights = np.array([len(domain) for domain in self.domains]) ** (1 / temperature)
            self._domain_probabilities = weights / weights.sum()

    @property
    def classes(self) -> list[str]:
        """The class names that an episode can contain, sorted."""
        return sorted(set().union(*self._pools))

    def _drawable_texts(self, domain: Domain, allowed: list[str] | None) -> dict[str, list[str]]:
        """Returns class name -> distinct texts, for the classes of `domain` that have enough texts for an episode.

        Args:
            domain: the domain.
            allowed: the only classes to use; `None` for all.

        Raises:
            InputError: too few classes have enough texts.
        """
        pool = distinct_texts(domain)
        need = self.shots + self.queries
        enough = {c: texts for c, texts in pool.items() if len(texts) >= need and (allowed is None or c in allowed)}
        ways = (None if self.varied else self.ways) or (len(allowed) if allowed else 2)
        if len(enough) < ways:
            smallest = min(pool, key=lambda c: len(pool[c]))
            raise InputError(
                f"domain {domain.name!r} has {len(enough)} classes with {need} distinct texts (shots {self.shots} + "
                f"queries {self.queries}) but ways is {ways}; its classes: {len(pool)}, the smallest, {smallest!r}, "
                f"has {len(pool[smallest])} texts: lower --ways, --shots or --queries, add rows, or take --varied"
            )
        left_out = [name for name in pool if name not in enough and (allowed is None or name in allowed)]
        if left_out:
            logger.warning("%s: too few texts to draw %s from", domain.name, ", ".join(left_out))
        return enough

    def __getitem__(self, index: int) -> Episode:
        """Draws episode number `index`.

        Raises:
            IndexError: `index` is negative.
        """
        if index < 0:
            raise IndexError(f"episodes are numbered from 0, got {index}")
        rng = np.random.default_rng([self.seed, index])
        number, probabilities = len(self.domains), self._domain_probabilities
        which = int(rng.integers(number) if probabilities is None else rng.choice(number, p=probabilities))
        pool = self._pools[which]
        names = sorted(pool)
        ways, shots = min(self.ways or len(names), len(names)), self.shots
        if self.varied:
            ways, shots = int(rng.integers(2, ways + 1)), int(rng.integers(1, shots + 1))
        order = rng.permutation(len(names))
        similarity = self._similarity[which]
        if similarity is not None and rng.random() < self.hard:
            order = rng.permutation(np.argsort(-similarity[order[0]], kind="stable")[:ways])
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
        """Yields episodes 0, 1, 2, ... without end."""
        return (self[index] for index in count())


def _examples(pairs: list[tuple[str, int]]) -> Examples:
    return Examples([text for text, _ in pairs], [label for _, label in pairs])


def distinct_texts(domain: Domain) -> dict[str, list[str]]:
    """Returns class name -> distinct texts in row order, without the texts that occur in several classes."""
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
    """Returns the cosine similarities between the mean TF-IDF vectors of classes, over character 1- to 3-grams.

    Args:
        pool: class name -> texts.

    Returns:
        Float64 array (classes, classes); rows and columns are in the order of the sorted class names.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics.pairwise import cosine_similarity
    from sklearn.preprocessing import OneHotEncoder

    texts = [text for name in sorted(pool) for text in pool[name]]
    labels = OneHotEncoder().fit_transform([[name] for name in sorted(pool) for _ in pool[name]])  # (texts, classes)
    features = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True).fit_transform(texts)
    # Sums of vectors have the same cosine similarities as their means.
    return cast(np.ndarray, cosine_similarity(labels.T @ features))  # (classes, classes)


def split_classes(
    domains: Sequence[Domain], ways: int, fraction: float = 0.2, seed: int = 0, names: Sequence[str] = ()
) -> tuple[list[Domain], list[Domain]]:
    """Splits the classes of all domains into disjoint meta-training and meta-validation classes.

    A held-out class name is removed from the training part of every domain that has it, so that no domain trains on a
    class on which another is validated. Each domain keeps at least `ways` classes for training. The exception is a
    domain whose classes are all in `names`: it is used for validation only. A domain with fewer than two held-out
    classes is not used for validation.

    Args:
        domains: the source domains.
        ways: classes per training episode.
        fraction: share of the class names to hold out, at least two names; 0 for none.
        seed: seed of the draw, any non-negative integer.
        names: the class names to hold out, instead of a random draw.

    Returns:
        (training domains, validation domains). Without classes to hold out, the training domains are `domains`, and
        there are no validation domains.

    Raises:
        InputError: no domain has a class of `names`, or holding out `names` leaves too few classes.

    Example:
        >>> news = Domain("news", list("abcdef"), ["sports", "tech", "food", "cars", "music", "health"])
        >>> training, validation = split_classes([news], ways=4, names=["cars", "music"])
        >>> training[0].classes, validation[0].classes
        (['food', 'health', 'sports', 'tech'], ['cars', 'music'])
    """
    known = sorted(set().union(*(domain.classes for domain in domains)))
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise InputError(f"validation class {unknown[0]!r} is in no source; their classes are {', '.join(known)}")
    for domain in domains:
        remaining = set(domain.classes) - set(names)
        if names and 0 < len(remaining) < ways:
            raise InputError(
                f"holding out {', '.join(names)} for validation leaves domain {domain.name!r} {len(remaining)} "
                f"classes, but ways is {ways}: name fewer in --valid-classes, or lower --ways"
            )
    held_out = set(names) or _draw_validation_classes(domains, ways, known, fraction, seed)
    valid_parts = [(domain, held_out & set(domain.classes)) for domain in domains]
    valid = [domain.restrict(classes) for domain, classes in valid_parts if len(classes) >= 2]
    if names and not valid:
        raise InputError(f"no domain has two of the validation classes {', '.join(names)}: name at least two of one")
    if not valid:
        return list(domains), []
    train_parts = [(domain, set(domain.classes) - held_out) for domain in domains]
    if not any(classes for _, classes in train_parts):
        raise InputError("every class of every domain is held out for validation: name fewer in --valid-classes")
    return [domain.restrict(classes) for domain, classes in train_parts if classes], valid


def _draw_validation_classes(
    domains: Sequence[Domain], ways: int, known: list[str], fraction: float, seed: int
) -> set[str]:
    """Draws class names to hold out such that each domain keeps at least `ways` classes.

    The draw goes on until `fraction` of the names, and at least two names of one domain, are held out, or until no name
    is left. `known` is the sorted class names of all domains.
    """
    held_out: set[str] = set()
    for i in np.random.default_rng([seed, len(known)]).permutation(len(known)):
        name, most = known[i], max(len(held_out & set(domain.classes)) for domain in domains)
        if fraction <= 0 or (len(held_out) >= max(2, round(fraction * len(known))) and most >= 2):
            break
        if all(len(set(domain.classes) - held_out - {name}) >= ways for domain in domains if name in domain.classes):
            held_out.add(name)
    return held_out
