"""Draws: the few-shot problems of a target domain on which all methods are judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metatext.data.domains import Domain
from metatext.data.episode_sampler import distinct_texts
from metatext.errors import InputError, suggest


@dataclass(frozen=True)
class Draw:
    """One few-shot problem: labelled support texts of some classes, and the texts it is judged on."""

    number: int
    shots: int
    support: list[tuple[str, str]]  # (text, label)
    test: list[tuple[str, str]]

    @property
    def texts(self) -> list[str]:
        """All its texts."""
        return [text for text, _ in self.support + self.test]


def make_draws(
    target: Domain,
    shots: Sequence[int],
    draws: int = 10,
    seed: int = 0,
    test: Domain | None = None,
    ways: int | None = None,
    test_size: int = 1000,
) -> list[Draw]:
    """The draws on which every method is judged; a function of the arguments alone.

    Within a draw the support of fewer shots is part of that of more, and the test texts are the same for all shots.
    Without `test`, a fixed random `test_size` of the target's rows are set aside where enough remain for the support;
    in a smaller target each draw is judged on all rows that are not in its support.

    Args:
        target: where the support comes from.
        shots: labelled texts per class.
        draws: problems per number of shots.
        seed: of the draws.
        test: another split of the target to be judged on, as it is or `test_size` rows of it.
        ways: classes of each draw; by default all.
        test_size: most rows that a draw is judged on.

    Raises:
        InputError: a class has too few distinct texts for the largest number of shots.
    """
    if draws < 2:
        raise InputError(f"draws must be at least 2 for a confidence interval, got {draws}")
    if not shots or min(shots) < 1:
        raise InputError(f"shots must be numbers of labelled texts per class, at least 1, got {list(shots)}")
    pool = distinct_texts(target)
    _check_classes(pool, target, test, ways)
    most, rng = max(shots), np.random.default_rng([seed, draws])
    size = round(test_size * len(pool) / ways) if ways else test_size  # so that a draw's classes have test_size of them
    held = _test_rows(distinct_texts(test) if test else pool, None if test else most, size, rng)
    if held:
        kept = {text for text, _ in held}
        pool = {name: [text for text in texts if text not in kept] for name, texts in pool.items()}
    _check_sizes(pool, target, most, bool(held))
    result = []
    for number in range(draws):
        names = sorted(rng.choice(sorted(pool), size=ways, replace=False)) if ways else sorted(pool)
        chosen = {name: [pool[name][i] for i in rng.permutation(len(pool[name]))] for name in names}
        rest = [(text, name) for name in names for text in chosen[name][most:]]
        judged = [(text, name) for text, name in held or rest if name in chosen]
        if len(judged) > test_size:
            judged = [judged[i] for i in rng.permutation(len(judged))[:test_size]]
        for k in sorted(set(shots)):
            support = [(text, name) for name in names for text in chosen[name][:k]]
            result.append(Draw(number, k, support, judged))
    return result


def _check_classes(pool: Mapping[str, Sequence[str]], target: Domain, test: Domain | None, ways: int | None) -> None:
    """Refuses a target whose classes do not serve the draws."""
    if len(pool) < 2:
        raise InputError(f"{target.name!r} has only one class, {target.classes[0]!r}: there is nothing to tell apart")
    if ways and not 2 <= ways <= len(pool):
        raise InputError(f"ways must be from 2 to the {len(pool)} classes of {target.name!r}, got {ways}")
    if test:
        for label in sorted(set(test.classes) - set(pool)):
            raise InputError(
                f"{test.name!r} has texts of class {label!r}, which {target.name!r} has not; "
                f"{suggest(label, sorted(pool))}"
            )


def _check_sizes(pool: Mapping[str, Sequence[str]], target: Domain, most: int, test_apart: bool) -> None:
    """Refuses a target with a class of too few distinct texts for `most` shots."""
    need = most if test_apart else most + 1
    for name, texts in pool.items():
        if len(texts) < need:
            raise InputError(
                f"class {name!r} of {target.name!r} has too few distinct texts, {len(texts)}: {most} shots need {need} "
                "to draw from; lower --shots, or take the class's rows out of the file"
            )


def official_draws(supports: Sequence[Domain], test: Domain, test_size: int = 1000) -> list[Draw]:
    """A draw for each support of an official few-shot split, all judged on the same texts.

    Its number of shots is the median over the classes of all supports, which need not have equally many.

    Args:
        supports: the labelled texts of each draw.
        test: what they are judged on: all its rows, or a fixed random `test_size` of them.
        test_size: most rows that a draw is judged on.

    Raises:
        InputError: fewer than two supports, or the test has a class that a support has not.
    """
    if len(supports) < 2:
        raise InputError(f"draws must be at least 2 for a confidence interval, got {len(supports)} official supports")
    rows = list(zip(test.texts, test.labels, strict=True))
    if len(rows) > test_size:
        rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:test_size]]
    for support in supports:
        for label in sorted(set(test.classes) - set(support.classes)):
            raise InputError(f"{test.name!r} has texts of class {label!r}, which {support.name!r} has not")
    shots = int(np.median([len(some) for support in supports for some in support.rows_of.values()]))
    pairs = [list(zip(support.texts, support.labels, strict=True)) for support in supports]
    return [Draw(number, shots, support, rows) for number, support in enumerate(pairs)]


def unlabelled_texts(target: Domain, classes: Sequence[str], taken: set[str], most: int = 1000) -> list[str]:
    """The texts of the target's rows of these classes without those that are `taken`, or a fixed random `most` of them.

    Raises:
        InputError: there are none.
    """
    texts = list(dict.fromkeys(text for text in target.restrict(classes).texts if text not in taken))
    if not texts:
        raise InputError(
            f"{target.name!r} has no rows left to be given unlabelled: a draw takes all that it has of its classes, "
            f"{len(target.restrict(classes))}, to be labelled or judged on; lower --test-size, or leave unlabelled out"
        )
    return [texts[i] for i in np.random.default_rng(0).permutation(len(texts))[:most]]


def _test_rows(
    pool: dict[str, list[str]], most: int | None, size: int, rng: np.random.Generator
) -> list[tuple[str, str]]:
    """A fixed random test set; none where the classes would keep too few texts for `most` shots."""
    rows = [(text, name) for name, texts in pool.items() for text in texts]
    if most is None and len(rows) <= size:
        return rows
    held = [rows[i] for i in rng.permutation(len(rows))[:size]]
    taken = Counter(name for _, name in held)
    if most is not None and (len(rows) < 1.5 * size or any(len(pool[n]) - taken[n] < most for n in pool)):
        return []
    return held
