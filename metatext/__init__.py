"""Meta-learn an initialisation for a transformer text classifier, then adapt it with a handful of labels."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from metatext._version import __version__ as __version__

if TYPE_CHECKING:
    from metatext import maml as maml
    from metatext.domains import Domain as Domain
    from metatext.errors import InputError as InputError
    from metatext.estimator import FewShotClassifier as FewShotClassifier
    from metatext.learner import Learner as Learner
    from metatext.settings import TrainConfig as TrainConfig
    from metatext.tasks import Episode as Episode
    from metatext.tasks import EpisodeSampler as EpisodeSampler
    from metatext.trainer import MetaTrainer as MetaTrainer

# Names are imported at first use, so that `import metatext` and `metatext --help` need no torch.
_HOME = {
    "Domain": "metatext.domains",
    "Episode": "metatext.tasks",
    "EpisodeSampler": "metatext.tasks",
    "FewShotClassifier": "metatext.estimator",
    "InputError": "metatext.errors",
    "Learner": "metatext.learner",
    "MetaTrainer": "metatext.trainer",
    "TrainConfig": "metatext.settings",
}
__all__ = [*_HOME, "maml"]


def __getattr__(name: str) -> Any:
    if name == "maml":
        return import_module("metatext.maml")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'metatext' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
