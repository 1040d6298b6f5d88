"""Class names: the words that say what a label means, given by the user or taken from the label itself.

A label without meaning, such as a number, has the empty string as its name.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from metatext.data.domains import Domain
from metatext.data.readers import SUFFIXES
from metatext.errors import InputError, suggest


def parse_class_names(words: Sequence[str], option: str = "class_names") -> dict[str, str]:
    """Parses the words of `--class-names`, or of another `option` of the same form, each written label=name.

    An empty name (`label=`) says that a label has no meaning. Only `class_names` may have one. A word of `class_names`
    may also be a file with the columns label and name. Several rows of a label are several descriptions of it.

    Args:
        words: the words.
        option: the name of the option, for the error message.

    Returns:
        Label -> name; several descriptions are lines of the name (see `descriptions`).

    Raises:
        InputError: a word lacks the "=", the label or (in another option) the name; a label has two names; or a file
            cannot be read.

    Example:
        >>> parse_class_names(["sports=体育", "tech=科技", "other="])
        {'sports': '体育', 'tech': '科技', 'other': ''}
    """
    names: dict[str, str] = {}
    for word in words:
        for label, name in _named_labels(word, option):
            if label in names:
                raise InputError(f"{option} gives label {label!r} two names, {names[label]!r} and {name!r}")
            names[label] = name
    return names


def _named_labels(word: str, option: str) -> list[tuple[str, str]]:
    """The labels that a word of `parse_class_names` names, each with its name."""
    if option == "class_names" and Path(word).is_file():
        rows = Domain.from_file(word, text="name", label="label")
        if wrong := next((label for label in rows.classes if "=" in label), None):
            raise InputError(f"{word} has a label with an equals sign, {wrong!r}: labels with names cannot have one")
        return [(label, "\n".join(rows.texts[row] for row in rows.rows_of[label])) for label in rows.classes]
    label, equals, name = word.partition("=")
    if option == "class_names" and not equals and Path(word).suffix in SUFFIXES:
        raise InputError(f"class_names names the file {word}, which does not exist")
    if label and equals and (name or option == "class_names"):
        return [(label, name)]
    file = ", or a file with the columns label and name" if option == "class_names" else ""
    raise InputError(f"{option} must be label=name, such as sports=体育{file}, got {word!r}")


def descriptions(name: str) -> list[str]:
    """The descriptions that a name consists of, one a line; they count as their mean.

    Example:
        >>> descriptions("体育\\n足球和篮球"), descriptions("")
        (['体育', '足球和篮球'], [])
    """
    return [line for line in map(str.strip, name.splitlines()) if line]


def check_class_names(class_names: Mapping[str, str], classes: Sequence[str]) -> None:
    """Checks that the keys of `class_names` are among the labels `classes` and that no two labels get the same name.

    Case, underscores and surrounding spaces do not make two names different.

    Raises:
        InputError: a label is unknown (the message suggests the nearest), or two labels get the same name.
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
    """Returns the name of each class: the one in `class_names`, else the one that `readable_names` gives."""
    default = dict(zip(classes, readable_names(classes), strict=True))
    return [(class_names or {}).get(label, default[label]) for label in classes]


def readable_names(labels: Sequence[str]) -> list[str]:
    """Returns a name for each label; the name is empty if the label has no meaning.

    A label has no meaning if, apart from digits and punctuation, it is empty, is a single ASCII character, or equals
    another label.

    Example:
        >>> readable_names(["world_news", "3", "a", "class_1", "class_2", "体"])
        ['world news', '', '', '', '', '体']
    """
    names = list(map(label_in_words, labels))
    words = ["".join(c for c in name if not c.isdigit()).strip(" -.#") for name in names]
    count = Counter(words)
    meaningful = [count[word] == 1 and (len(word) > 1 or not word.isascii()) for word in words]
    return [name if has_meaning else "" for name, has_meaning in zip(names, meaningful, strict=True)]


_ENGLISH_NEGATIONS = frozenset(["not", "no", "non", "none", "un", "anti", "without"])
_NEGATIONS = _ENGLISH_NEGATIONS | frozenset(["不", "不是", "非", "没", "没有", "无", "無", "未"])


def without_negations(names: Sequence[str]) -> list[str]:
    """Replaces a name and its negation by empty names.

    An encoder hardly tells a name from its negation (`ironic`, `not ironic`), so neither says in which direction its
    class lies. The same holds for the only two names if one contains the other.

    Example:
        >>> without_negations(["ironic", "not ironic"]), without_negations(["谣言", "非谣言", "其他"])
        (['', ''], ['', '', '其他'])
        >>> without_negations(["bank card", "credit card"])
        ['bank card', 'credit card']
    """
    words = [
        (row, fold_case(line).replace("-", " ").split())
        for row, name in enumerate(names)
        for line in descriptions(name)
    ]
    two = sum(map(bool, names)) == 2 == len(words)
    empty = set[int]()
    for (i, longer), (j, shorter) in itertools.permutations(words, 2):
        rest = _rest(longer, shorter) if i != j else None
        if rest is not None and (two or rest in _NEGATIONS):
            empty |= {i, j}
    return ["" if row in empty else name for row, name in enumerate(names)]


def _rest(longer: Sequence[str], shorter: Sequence[str]) -> str | None:
    """What is left of the words `longer` without the words `shorter`; None if they do not contain these."""
    if set(shorter) <= set(longer):
        return " ".join(word for word in longer if word not in shorter)
    whole, part = " ".join(longer), " ".join(shorter)
    if not whole.isascii() and part in whole:  # Chinese has no spaces between words
        return whole.replace(part, "", 1).strip()
    prefix, found, end = whole.rpartition(part)
    return prefix if found and not end and prefix in _ENGLISH_NEGATIONS else None


def names_in_another_script(names: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Returns the names of which no letter is in the script that most letters of the texts are in.

    Example:
        >>> names_in_another_script(["sports", "科技"], ["中国队赢了 3:0 NBA"])
        ['sports']
    """
    scripts = Counter(_script(c) for text in texts for c in text if c.isalpha())
    if not scripts:
        return []
    (main, _), *_ = scripts.most_common(1)
    return [name for name in names if name and main not in {_script(c) for c in name if c.isalpha()}]


def _script(letter: str) -> str:
    """Returns the first word of a letter's name in Unicode, such as LATIN, CJK or CYRILLIC."""
    return unicodedata.name(letter, "").partition(" ")[0]


def names_of_domains(domains: Sequence[Domain], reads: Callable[[str], bool]) -> dict[str, str]:
    """Returns the names with which meta-training can teach the encoder what class names mean.

    Domains with two classes are left out: all their episodes would have the same two names, so the learner could
    memorise the classes instead of reading the names.

    Args:
        domains: the source domains; parts of one domain (training and validation) have the same `Domain.name`.
        reads: whether the encoder's vocabulary covers a name.

    Returns:
        Label -> name, for each label with a non-empty name that the encoder reads.
    """
    classes = dict[str, set[str]]()  # domain name -> classes of all its parts
    for domain in domains:
        classes.setdefault(domain.name, set()).update(domain.classes)
    multiclass = [sorted(labels) for labels in classes.values() if len(labels) > 2]
    pairs = [pair for labels in multiclass for pair in zip(labels, readable_names(labels), strict=True)]
    return {label: name for label, name in pairs if name and reads(name)}


def near_duplicates(classes: Sequence[str]) -> list[str]:
    """Returns the first group of classes that differ only in case, underscores and surrounding spaces, or []."""
    spellings = dict[str, list[str]]()
    for label in classes:
        spellings.setdefault(fold_case(label), []).append(label)
    return next((same for same in spellings.values() if len(same) > 1), [])


def label_in_words(label: str) -> str:
    """Returns a label with spaces for underscores and no surrounding spaces."""
    return label.replace("_", " ").strip()


def fold_case(name: str) -> str:
    """Returns a key that is equal for names that differ only in case, underscores and surrounding spaces.

    Example:
        >>> fold_case("World_News ")
        'world news'
    """
    return label_in_words(name).casefold()
