"""Shared settings of the two benchmarks of Bao 2020 (huffpost_fewshot.py and reuters_fewshot.py)."""

from metatext.recipe import Recipe
from metatext.settings import EpisodeSettings, EvaluateSettings, LearnerSettings, Table, TrainConfig


def bao_recipe(name: str, episodes: EpisodeSettings, config: TrainConfig, max_length: int, test_size: int) -> Recipe:
    """Returns a recipe that meta-trains a prototypical network and evaluates it on 1,000 5-way test episodes.

    The test episodes have 1 and 5 shots. The learner takes no inner steps.

    Args:
        name: name of the data in the data folder. NAME.train_classes and NAME.val_classes are the sources;
            NAME.test_classes is the target. The three have no class in common.
        episodes: episodes of meta-training; `valid_classes` must be the classes of NAME.val_classes.
        config: settings of the outer loop.
        max_length: maximal length of a text in tokens.
        test_size: number of test texts of an episode, over all classes.
    """
    return Recipe(
        source=(f"{name}.train_classes", f"{name}.val_classes"),
        target=(f"{name}.test_classes",),
        encoder="sentence-transformers/all-MiniLM-L6-v2",
        data_dir="data",
        orders=("first-order",),
        table=Table(),
        episodes=episodes,
        learner=LearnerSettings(inner_steps=0, max_length=max_length),
        config=config,
        evaluate=EvaluateSettings(
            shots=(1, 5), draws=1000, ways=5, test_size=test_size, precision="bf16",
            methods=("names", "tfidf", "centroid", "frozen", "frozen+names", "no-meta-training", "maml"),
        ),
    )  # fmt: skip
