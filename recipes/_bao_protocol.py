"""What the recipes on the episodes of Bao 2020 share: encoder, split by classes, and protocol."""

from metatext.recipe import Recipe
from metatext.settings import EpisodeSettings, EvaluateSettings, LearnerSettings, Table, TrainConfig


def bao(name: str, episodes: EpisodeSettings, config: TrainConfig, max_length: int, test_size: int) -> Recipe:
    """5-way 1- and 5-shot over 1,000 episodes of the test classes, by a prototypical network on the others.

    Args:
        name: of the data, split by classes into NAME.train_classes, .val_classes and .test_classes.
        episodes: of meta-training; its validation classes are those of NAME.val_classes.
        config: of the outer loop.
        max_length: of texts, in tokens.
        test_size: texts that an episode is judged on.
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
            methods=("tfidf", "centroid", "frozen", "maml"),
        ),
    )  # fmt: skip
