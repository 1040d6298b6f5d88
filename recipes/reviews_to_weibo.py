"""Meta-trains on the polarity of reviews of nine kinds of goods, then adapts to the polarity of Weibo posts.

    python recipes/reviews_to_weibo.py --data-dir DATA --encoder intfloat/multilingual-e5-small

DATA is a folder of JSON lines files with the fields text and label:
    zh/reviews       positive and negative reviews, with a field domain (github.com/SophonPlus/ChineseNlpCorpus)
    zh/weibo_senti   Weibo posts, positive or negative by their emoticons (weibo_senti_100k, same repository)

A set of emotions can serve as a set of polarity: happy becomes positive, and rows of other labels are left out:
    --target zh/weibo_emotion_usual --target-labels happy=positive angry=negative sad=negative fear=negative
"""

from metatext.cli.runner import run_recipe
from metatext.recipe import Recipe
from metatext.settings import EpisodeSettings, EvaluateSettings, LearnerSettings, Table, TrainConfig

REVIEWS = Recipe(
    source=("zh/reviews",),
    target=("zh/weibo_senti",),
    encoder="intfloat/multilingual-e5-small",
    data_dir="data",
    orders=("first-order",),
    table=Table(clean=("weibo",), by="domain"),
    # Every domain has the same two classes, so none can be held out for validation. The last weights are kept.
    episodes=EpisodeSettings(ways=2, shots=8, queries=8, valid_fraction=0),
    learner=LearnerSettings(inner_steps=0, text_prefix="query: ", max_length=64),
    config=TrainConfig(
        output="runs/reviews_to_weibo", meta_steps=150, meta_batch_size=2, outer_lr=1e-4, save_every=50,
        mixed_precision="bf16",
    ),
    evaluate=EvaluateSettings(
        shots=(1, 2, 5, 10, 20), precision="bf16",
        methods=(
            "majority", "names", "tfidf", "centroid", "frozen", "frozen+names", "finetune", "source", "joint",
            "no-meta-training", "maml",
        ),
    ),
)  # fmt: skip

if __name__ == "__main__":
    run_recipe(REVIEWS, __doc__)
