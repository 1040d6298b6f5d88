"""Meta-trains on news headlines, then adapts to Weibo posts with a few labels.

    python recipes/news_to_weibo.py

This command uses the corpus and the small encoder in data/. It needs no network and takes a few minutes on two cores.
On real text:

    python recipes/news_to_weibo.py --data-dir DATA --encoder intfloat/multilingual-e5-small

DATA is a folder of JSON lines files with the fields text and label:
    zh/tnews_titles.train      Toutiao headlines, 15 classes (CLUE's TNEWS; Hub: clue/clue, configuration tnews)
    zh/thucnews_titles.train   Sina headlines, 10 classes (github.com/649453932/Chinese-Text-Classification-Pytorch)
    zh/weibo_topics            Weibo posts, 13 of these classes (github.com/TheKOG/Weibo-Classification)
    zh/weibo_hashtags          Weibo posts, 29 other topics (same repository);
                               add --target zh/weibo_hashtags --evaluate.ways 10
    zh/weibo_emotion_usual     Weibo posts, 6 emotions (SMP2020-EWECT); add --target zh/weibo_emotion_usual
"""

import sys
from pathlib import Path

from metatext.cli.runner import run_recipe
from metatext.recipe import Recipe
from metatext.settings import EpisodeSettings, EvaluateSettings, LearnerSettings, TrainConfig

DATA = Path(__file__).resolve().parents[1] / "data"

DEMO = Recipe(
    source=("news",),
    target=("weibo_topics", "weibo_new_topics"),
    encoder=str(DATA / "encoder"),
    data_dir=str(DATA),
    episodes=EpisodeSettings(ways=5, shots=5, queries=10, valid_classes=("military", "realty")),
    learner=LearnerSettings(inner_steps=3, max_length=64),
    config=TrainConfig(output="runs/news_to_weibo", meta_steps=20, meta_batch_size=2, outer_lr=3e-4, eval_every=10),
    evaluate=EvaluateSettings(
        fine_tune_steps=20, fine_tune_lr=3e-4, joint_epochs=5,
        methods=(
            "majority", "names", "tfidf", "centroid", "frozen", "frozen+names", "finetune", "source", "joint",
            "no-meta-training", "maml",
        ),
    ),
)  # fmt: skip

REAL_TEXT = Recipe(
    source=("zh/tnews_titles", "zh/thucnews_titles"),
    target=("zh/weibo_topics",),
    encoder="intfloat/multilingual-e5-small",
    data_dir="data",
    # The validation classes are news classes that no target has.
    episodes=EpisodeSettings(
        ways=8, shots=5, queries=5, valid_classes=("culture", "story", "stocks", "politics")
    ),
    learner=LearnerSettings(inner_steps=3, text_prefix="query: ", max_length=48),
    config=TrainConfig(
        output="runs/news_to_weibo_full", meta_steps=60, meta_batch_size=2, outer_lr=5e-5, eval_every=20,
        eval_episodes=12, save_every=20, mixed_precision="bf16",
    ),
    evaluate=EvaluateSettings(precision="bf16"),
)  # fmt: skip

if __name__ == "__main__":
    on_real_text = any(word.startswith(("--data-dir", "--data_dir")) for word in sys.argv)
    run_recipe(REAL_TEXT if on_real_text else DEMO, __doc__)
