"""Meta-learn an initialisation for a transformer text classifier, then adapt it with a handful of labels."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from metatext._version import __version__ as __version__

if TYPE_CHECKING:
    from metatext import maml as maml
    from metatext.adaptation.estimator import FewShotClassifier as FewShotClassifier
    from metatext.data.domains import Domain as Domain
    from metatext.data.episode_sampler import EpisodeSampler as EpisodeSampler
    from metatext.data.episodes import Episode as Episode
    from metatext.errors import InputError as InputError
    from metatext.learners.learner import Learner as Learner
    from metatext.training.settings import TrainConfig as TrainConfig
    from metatext.training.trainer import MetaTrainer as MetaTrainer

# Each public name is imported at its first use, so that `import metatext` and `metatext --help` load no torch.
_MODULE_OF = {
    "Domain": "metatext.data.domains",
    "Episode": "metatext.data.episodes",
    "EpisodeSampler": "metatext.data.episode_sampler",
    "FewShotClassifier": "metatext.adaptation.estimator",
    "InputError": "metatext.errors",
    "Learner": "metatext.learners.learner",
    "MetaTrainer": "metatext.training.trainer",
    "TrainConfig": "metatext.training.settings",
}
__all__ = [*_MODULE_OF, "maml"]


def __getattr__(name: str) -> Any:
    if name == "maml":
        return import_module("metatext.maml")
    if name in _MODULE_OF:
        return getattr(import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'metatext' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
