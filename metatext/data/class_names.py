"""What labels are called: a label in words, or a name that was given for it; nothing where a label says nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from metatext.data.domains import Domain
from metatext.errors import InputError, suggest


def parse_class_names(pairs: Sequence[str], option: str = "class_names") -> dict[str, str]:
    """The names of `--class-names` or another option, each written label=name.

    Raises:
        InputError: a pair without "=" or without a name; a label that has two.
    """
    names: dict[str, str] = {}
    for pair in pairs:
        label, _, name = pair.partition("=")
        if not label or not name:
            raise InputError(f"{option} must be label=name, such as sports=体育, got {pair!r}")
        if label in names:
            raise InputError(f"{option} gives label {label!r} two names, {names[label]!r} and {name!r}")
        names[label] = name
    return names


def check_class_names(class_names: Mapping[str, str], classes: Sequence[str]) -> None:
    """Refuses a name for a label that is not among `classes`, and one name for two labels.

    Raises:
        InputError: naming the label, and the one that may have been meant, or the two.
    """
    for label in sorted(set(class_names) - set(classes)):
        raise InputError(f"class_names has a name for label {label!r}; {suggest(label, classes)}")
    labels = dict[str, str]()
    for label, name in zip(classes, class_names_for(classes, class_names), strict=True):
        other = labels.setdefault(fold_case(name), label) if name else label
        if other != label and class_names.keys() & {label, other}:
            raise InputError(
                f"labels {other!r} and {label!r} are both called {name!r}: class_names must tell them apart"
            )


def class_names_for(classes: Sequence[str], class_names: Mapping[str, str] | None) -> list[str]:
    """What each class is called: by `class_names`, else its label where that is readable."""
    own = dict(zip(classes, readable_names(classes), strict=True))
    return [(class_names or {}).get(label, own[label]) for label in classes]


def readable_names(labels: Sequence[str]) -> list[str]:
    """Labels as names; empty where one says nothing: a number, a letter, or what only its digits part from another."""
    names = list(map(label_in_words, labels))
    words = ["".join(c for c in name if not c.isdigit()).strip(" -.#") for name in names]
    times = Counter(words)
    says = [times[word] == 1 and (len(word) > 1 or not word.isascii()) for word in words]
    return [name if said else "" for name, said in zip(names, says, strict=True)]


def names_of_domains(domains: Sequence[Domain], reads: Callable[[str], bool]) -> dict[str, str]:
    """What the classes of the domains are called, by label, where that says something and the encoder `reads` it.

    Not those of a domain of two classes: its episodes would have the same two names every time, as a fixed classifier
    does, and teach nothing of names.
    """
    classes = dict[str, set[str]]()  # of a domain and of what was held out of it together
    for domain in domains:
        classes.setdefault(domain.name, set()).update(domain.classes)
    several = [sorted(labels) for labels in classes.values() if len(labels) > 2]
    pairs = [pair for labels in several for pair in zip(labels, readable_names(labels), strict=True)]
    return {label: name for label, name in pairs if name and reads(name)}


def near_duplicates(classes: Sequence[str]) -> list[str]:
    """The first classes that are the same but for case, underscores and spaces about them, or none."""
    spellings = dict[str, list[str]]()
    for label in classes:
        spellings.setdefault(fold_case(label), []).append(label)
    return next((same for same in spellings.values() if len(same) > 1), [])


def label_in_words(label: str) -> str:
    """A label without underscores and spaces about it."""
    return label.replace("_", " ").strip()


def fold_case(name: str) -> str:
    """What two names have in common that are the same but for case, underscores and spaces about them."""
    return label_in_words(name).casefold()
