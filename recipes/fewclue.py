"""Meta-trains on Sina headlines and reviews, then adapts to the tasks of FewCLUE on their official splits.

    python recipes/fewclue.py --data-dir DATA --encoder intfloat/multilingual-e5-small

DATA is a folder of JSON lines files with the fields text and label:
    zh/thucnews_titles.train   Sina headlines, 10 classes (github.com/649453932/Chinese-Text-Classification-Pytorch)
    zh/reviews                 positive and negative reviews (github.com/SophonPlus/ChineseNlpCorpus)
    zh/fewclue/TASK.train_0, .train_1, ..., .test_public
                               support sets and test texts of TASK (github.com/CLUEbenchmark/FewCLUE). The tasks are
                               eprstmt (polarity), tnews (headlines), csldcp (67 fields of science) and
                               iflytek (119 kinds of apps).

Each draw is one official support set. It has 16 texts per class in eprstmt and tnews, and 8 in csldcp and iflytek.
"""

from metatext.cli.runner import run_recipe
from metatext.recipe import Recipe
from metatext.settings import EpisodeSettings, EvaluateSettings, LearnerSettings, Table, TrainConfig

FEWCLUE = Recipe(
    source=("zh/thucnews_titles", "zh/reviews"),
    target=("zh/fewclue/eprstmt", "zh/fewclue/tnews", "zh/fewclue/csldcp", "zh/fewclue/iflytek"),
    encoder="intfloat/multilingual-e5-small",
    data_dir="data",
    orders=("first-order",),
    table=Table(),
    episodes=EpisodeSettings(
        ways=8, shots=5, queries=5, varied=True, temperature=2.0, valid_classes=("stocks", "politics")
    ),
    learner=LearnerSettings(inner_steps=0, text_prefix="query: ", max_length=64),
    config=TrainConfig(
        output="runs/fewclue", meta_steps=100, meta_batch_size=2, outer_lr=3e-5, eval_every=25, eval_episodes=24,
        save_every=50, mixed_precision="bf16",
    ),
    evaluate=EvaluateSettings(
        test_size=2010, precision="bf16",
        methods=(
            "majority", "names", "tfidf", "centroid", "frozen", "frozen+names", "finetune", "no-meta-training",
            "maml",
        ),
        fine_tune_steps=100,
    ),
)  # fmt: skip

if __name__ == "__main__":
    run_recipe(FEWCLUE, __doc__)
