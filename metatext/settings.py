"""The settings of files, learners, training, evaluation and search. Each field is an option of the command line."""

from metatext.data.settings import EpisodeSettings as EpisodeSettings
from metatext.data.settings import Table as Table
from metatext.evaluation.settings import EvaluateSettings as EvaluateSettings
from metatext.learners.settings import LearnerSettings as LearnerSettings
from metatext.search.settings import SearchSettings as SearchSettings
from metatext.training.settings import PretrainSettings as PretrainSettings
from metatext.training.settings import TrainConfig as TrainConfig
