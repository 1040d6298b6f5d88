"""The options of a meta-training job."""

from __future__ import annotations

from dataclasses import dataclass, field

from tyro.conf import OmitArgPrefixes

from metatext.data.settings import EpisodeSettings, Table
from metatext.learners.settings import LearnerSettings
from metatext.training.settings import TrainConfig


@dataclass(frozen=True)
class Job:
    """The sources, the encoder and all settings of a meta-training; a search varies some of them in each trial."""

    source: tuple[str, ...]
    """Labelled files, each a source domain. Data sets on the Hub are written hub:ID[:CONFIG[:SPLIT]]."""
    encoder: str
    """Pretrained encoder, as a Hub id or a folder. A saved learner continues its training."""
    unlabelled: tuple[str, ...] = ()
    """Files of unlabelled target texts for --adversarial: tables, or .txt files with a text per line."""
    table: OmitArgPrefixes[Table] = field(default_factory=Table)
    episodes: OmitArgPrefixes[EpisodeSettings] = field(default_factory=EpisodeSettings)
    learner: OmitArgPrefixes[LearnerSettings] = field(default_factory=LearnerSettings)
    config: OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)
