"""Episodes: small classification tasks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examples:
    """Labelled texts of one episode; `labels[i]` is the index of the class of `texts[i]`."""

    texts: list[str]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Episode:
    """One task: adapt on `support`, be judged on `query`; labels are indices into `classes`."""

    domain: str
    classes: list[str]
    support: Examples
    query: Examples


def with_names(episode: Episode, names: Mapping[str, str]) -> Episode:
    """The episode with what its classes are called, by label, among their support texts.

    As it is where one has no name, which would be told from the others by that, or where one is a text of the episode.
    """
    said = [names.get(label, "") for label in episode.classes]
    if not all(said) or not {*said}.isdisjoint(episode.support.texts + episode.query.texts):
        return episode
    support = Examples(episode.support.texts + said, episode.support.labels + list(range(len(said))))
    return replace(episode, support=support)
