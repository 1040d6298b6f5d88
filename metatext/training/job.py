"""A meta-training job as the command line gives it."""

from __future__ import annotations

from dataclasses import dataclass, field

from tyro.conf import OmitArgPrefixes

from metatext.data.settings import EpisodeSettings, Table
from metatext.learners.settings import LearnerSettings
from metatext.training.settings import TrainConfig


@dataclass(frozen=True)
class Job:
    """What is meta-trained, on what, and how; a search trains it with other values in each trial."""

    source: tuple[str, ...]
    """One or more labelled files, each a source domain; or data sets on the Hub, as hub:ID[:CONFIG[:SPLIT]]."""
    encoder: str
    """Pretrained encoder: a Hub id or a folder; or a saved learner to go on from."""
    unlabelled: tuple[str, ...] = ()
    """Files of unlabelled texts of the target, for --adversarial: tables, or a .txt's lines; labels are not read."""
    table: OmitArgPrefixes[Table] = field(default_factory=Table)
    episodes: OmitArgPrefixes[EpisodeSettings] = field(default_factory=EpisodeSettings)
    learner: OmitArgPrefixes[LearnerSettings] = field(default_factory=LearnerSettings)
    config: OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)
