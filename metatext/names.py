"""What labels are called: a label in words, or a name that was given for it; nothing where a label says nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from metatext.domains import Domain
from metatext.errors import InputError
from metatext.tables import choice


def check_names(class_names: Mapping[str, str], classes: Sequence[str]) -> None:
    """Refuses a name for a label that is not among `classes`, and one name for two labels.

    Raises:
        InputError: naming the label, and the one that may have been meant, or the two.
    """
    for label in sorted(set(class_names) - set(classes)):
        raise InputError(f"a name is given for label {label!r}; {choice(label, classes)}")
    labels = dict[str, str]()
    for label, name in class_names.items():
        if name and (other := labels.setdefault(name, label)) != label:
            raise InputError(f"labels {other!r} and {label!r} are both called {name!r}: names are to tell them apart")


def called(classes: Sequence[str], class_names: Mapping[str, str] | None) -> list[str]:
    """What each class is called: by `class_names`, else its label where that is readable."""
    own = dict(zip(classes, readable(classes), strict=True))
    return [(class_names or {}).get(label, own[label]) for label in classes]


def readable(labels: Sequence[str]) -> list[str]:
    """Labels as names; empty where one says nothing, a number or a letter, and for all that only their digits part."""
    names = list(map(in_words, labels))
    words = ["".join(c for c in name if not c.isdigit()).strip(" -.#") for name in names]
    if len(set(words)) < len(words):
        return [""] * len(names)
    return [name if len(word) > 1 or not word.isascii() else "" for name, word in zip(names, words, strict=True)]


def names_of(domains: Sequence[Domain], reads: Callable[[str], bool]) -> dict[str, str]:
    """What the classes of the domains are called, by label, where that says something and the encoder `reads` it."""
    pairs = [pair for domain in domains for pair in zip(domain.classes, readable(domain.classes), strict=True)]
    return {label: name for label, name in pairs if name and reads(name)}


def in_words(label: str) -> str:
    """A label without underscores and spaces about it."""
    return label.replace("_", " ").strip()
