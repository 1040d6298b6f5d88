"""Draws: few-shot problems of a target domain, the same for all methods."""

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
    """A few-shot problem: labelled support texts, none at 0 shots, and labelled test texts of the same classes."""

    number: int
    """Number of the draw among those with as many shots."""
    shots: int
    """Support texts per class."""
    classes: list[str]
    """The labels, sorted; at 0 shots the support does not tell them."""
    support: list[tuple[str, str]]
    """Support texts, (text, label)."""
    test: list[tuple[str, str]]
    """Test texts, (text, label)."""

    @property
    def texts(self) -> list[str]:
        """Support and test texts."""
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
    """Makes random draws of a target; they depend on the arguments alone.

    Supports are nested: the support of fewer shots is part of that of more shots in the same draw. All shots of a draw
    have the same test texts. Without `test`, `test_size` random rows of the target are set aside for all draws. If
    these would leave too few rows for the supports, each draw is tested on rows outside its own support instead.

    Args:
        target: domain of the support.
        shots: numbers of labelled texts per class, 0 or more.
        draws: draws per number of shots, at least 2.
        seed: random seed.
        test: another split of the target, for the test texts.
        ways: classes per draw; None takes all.
        test_size: maximum number of test texts of a draw.

    Raises:
        InputError: a class has too few distinct texts for the largest number of shots, or an argument is out of range.

    Example:
        >>> target = Domain.from_records(["a1", "a2", "a3", "b1", "b2", "b3"], list("aaabbb"), name="letters")
        >>> problems = make_draws(target, shots=[1, 2], draws=2)
        >>> [(draw.number, draw.shots, len(draw.support), len(draw.test)) for draw in problems]
        [(0, 1, 2, 2), (0, 2, 4, 2), (1, 1, 2, 2), (1, 2, 4, 2)]
    """
    if draws < 2:
        raise InputError(f"draws must be at least 2 for a confidence interval, got {draws}")
    if not shots or min(shots) < 0:
        raise InputError(f"shots must be numbers of labelled texts per class, 0 or more, got {list(shots)}")
    pool = distinct_texts(target)
    _check_classes(pool, target, test, ways)
    max_shots, rng = max(shots), np.random.default_rng([seed, draws])
    # with `ways`, enough test rows of all classes that the classes of a draw have about test_size of them
    size = round(test_size * len(pool) / ways) if ways else test_size
    fixed_test = _fixed_test_rows(distinct_texts(test) if test else pool, None if test else max_shots, size, rng)
    if fixed_test:
        test_texts = {text for text, _ in fixed_test}
        pool = {name: [text for text in texts if text not in test_texts] for name, texts in pool.items()}
    _check_sizes(pool, target, max_shots, bool(fixed_test))
    result = []
    for number in range(draws):
        names = sorted(rng.choice(sorted(pool), size=ways, replace=False)) if ways else sorted(pool)
        shuffled = {name: [pool[name][i] for i in rng.permutation(len(pool[name]))] for name in names}
        rest = [(text, name) for name in names for text in shuffled[name][max_shots:]]
        test_rows = [(text, name) for text, name in fixed_test or rest if name in shuffled]
        if len(test_rows) > test_size:
            test_rows = [test_rows[i] for i in rng.permutation(len(test_rows))[:test_size]]
        for k in sorted(set(shots)):
            support = [(text, name) for name in names for text in shuffled[name][:k]]
            result.append(Draw(number, k, list(map(str, names)), support, test_rows))
    return result


def _check_classes(pool: Mapping[str, Sequence[str]], target: Domain, test: Domain | None, ways: int | None) -> None:
    """Rejects a target with too few classes, `ways` out of range, and test classes that the target lacks."""
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


def _check_sizes(pool: Mapping[str, Sequence[str]], target: Domain, max_shots: int, has_fixed_test: bool) -> None:
    """Rejects a target with a class of too few distinct texts for `max_shots` shots (and a test text)."""
    need = max_shots if has_fixed_test else max_shots + 1
    for name, texts in pool.items():
        if len(texts) < need:
            raise InputError(
                f"class {name!r} of {target.name!r} has too few distinct texts, {len(texts)}: {max_shots} shots need "
                f"{need} to draw from; lower --shots, or take the class's rows out of the file"
            )


def official_draws(supports: Sequence[Domain], test: Domain, test_size: int = 1000) -> list[Draw]:
    """Makes one draw per support of an official few-shot split, all with the same test texts.

    The classes of a support may differ in size. The shots of all draws are the median size over the classes of all
    supports.

    Args:
        supports: the labelled texts of each draw, at least two supports.
        test: the test texts.
        test_size: maximum number of test texts; a larger test is reduced to a fixed random part.

    Raises:
        InputError: there are fewer than two supports, or a support lacks a class of the test texts.
    """
    if len(supports) < 2:
        raise InputError(f"draws must be at least 2 for a confidence interval, got {len(supports)} official supports")
    rows = list(zip(test.texts, test.labels, strict=True))
    if len(rows) > test_size:
        rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:test_size]]
    for support in supports:
        for label in sorted(set(test.classes) - set(support.classes)):
            raise InputError(f"{test.name!r} has texts of class {label!r}, which {support.name!r} has not")
    shots = int(np.median([len(rows_of) for support in supports for rows_of in support.rows_of.values()]))
    return [
        Draw(number, shots, support.classes, list(zip(support.texts, support.labels, strict=True)), rows)
        for number, support in enumerate(supports)
    ]


def number_test_texts(draws: Sequence[Draw]) -> list[list[int]]:
    """Numbers the test texts of all draws: a list per draw, by draw number, in the order of its test texts.

    A text that several draws share has one number. Copies of a text within a draw have numbers of their own.

    Example:
        >>> tests = [[("x", "a"), ("y", "b")], [("y", "b"), ("z", "a"), ("z", "a")]]
        >>> number_test_texts([Draw(number, 0, ["a", "b"], [], test) for number, test in enumerate(tests)])
        [[0, 1], [1, 2, 3]]
    """
    numbers: dict[tuple[str, int], int] = {}
    result = []
    for _, test in sorted({draw.number: draw.test for draw in draws}.items()):
        copies: Counter[str] = Counter()
        result.append(list[int]())
        for text, _ in test:
            result[-1].append(numbers.setdefault((text, copies[text]), len(numbers)))
            copies[text] += 1
    return result


def unlabelled_texts(target: Domain, classes: Sequence[str], taken: set[str], most: int = 1000) -> list[str]:
    """Returns distinct texts of the given classes that are not `taken`, at most a fixed random `most` of them.

    Raises:
        InputError: all texts of the classes are taken.
    """
    texts = list(dict.fromkeys(text for text in target.restrict(classes).texts if text not in taken))
    if not texts:
        raise InputError(
            f"{target.name!r} has no rows left to be given unlabelled: a draw takes all that it has of its classes, "
            f"{len(target.restrict(classes))}, to be labelled or judged on; lower --test-size, or leave unlabelled out"
        )
    return [texts[i] for i in np.random.default_rng(0).permutation(len(texts))[:most]]


def _fixed_test_rows(
    pool: dict[str, list[str]], max_shots: int | None, size: int, rng: np.random.Generator
) -> list[tuple[str, str]]:
    """Draws `size` test rows for all draws.

    With `max_shots` the rows are taken from the pool of the supports. There are none if the pool is smaller than 1.5
    times `size` or a class would keep fewer than `max_shots` texts.
    """
    rows = [(text, name) for name, texts in pool.items() for text in texts]
    if max_shots is None and len(rows) <= size:
        return rows
    test_rows = [rows[i] for i in rng.permutation(len(rows))[:size]]
    taken = Counter(name for _, name in test_rows)
    if max_shots is not None and (len(rows) < 1.5 * size or any(len(pool[n]) - taken[n] < max_shots for n in pool)):
        return []
    return test_rows
