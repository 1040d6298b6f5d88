"""Episodes: small classification tasks, each with a support set and a query set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Examples:
    """The labelled texts of a support or query set; `labels[i]` is the class index of `texts[i]`."""

    texts: list[str]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Episode:
    """One task: a learner adapts on `support` and is evaluated on `query`; labels are indices into `classes`."""

    domain: str
    classes: list[str]
    support: Examples
    query: Examples


def with_names(episode: Episode, names: Mapping[str, str]) -> Episode:
    """Returns the episode with the name of each class added to its support texts.

    The episode is returned unchanged in two cases. If a class has no name, it would be recognised by that. If a name
    equals a text of the episode, support and query could share a text.

    Args:
        episode: the episode.
        names: class label -> class name.

    Example:
        >>> episode = Episode("d", ["pos", "neg"], Examples(["good", "bad"], [0, 1]), Examples(["great"], [0]))
        >>> with_names(episode, {"pos": "positive", "neg": "negative"}).support
        Examples(texts=['good', 'bad', 'positive', 'negative'], labels=[0, 1, 0, 1])
    """
    class_names = [names.get(label, "") for label in episode.classes]
    if not all(class_names) or not {*class_names}.isdisjoint(episode.support.texts + episode.query.texts):
        return episode
    support = Examples(episode.support.texts + class_names, episode.support.labels + list(range(len(class_names))))
    return replace(episode, support=support)
