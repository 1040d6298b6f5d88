"""Meta-trains one learner for any later Chinese target, on sources of many kinds; evaluates it on Weibo posts.

    python recipes/general_chinese.py --data-dir DATA --encoder intfloat/multilingual-e5-small

DATA is a folder of JSON lines files with the fields text and label:
    zh/tnews_titles.train        Toutiao headlines, 15 classes (CLUE's TNEWS; Hub: clue/clue, configuration tnews)
    zh/thucnews_titles.train     Sina headlines, 10 classes (github.com/649453932/Chinese-Text-Classification-Pytorch)
    zh/reviews                   positive and negative reviews (github.com/SophonPlus/ChineseNlpCorpus)
    zh/weibo_clue_emotion.train  Weibo posts, 7 emotions (github.com/CLUEbenchmark/CLUEmotionAnalysis2020)
    zh/weibo_topics              Weibo posts, 13 of the news categories (github.com/TheKOG/Weibo-Classification)
    zh/weibo_hashtags            Weibo posts, 29 other topics (same repository);
                                 add --target zh/weibo_hashtags --evaluate.ways 10
    zh/weibo_emotion_usual       Weibo posts, 6 emotions (SMP2020-EWECT)
    zh/weibo_covid7              Weibo posts, 7 emotions (COVID-19-sentiment-analysis-dataset-Weibo)
    zh/weibo_senti               Weibo posts, positive or negative by their emoticons (weibo_senti_100k)

To adapt the learner to your own texts: metatext adapt runs/general_chinese/first-order my.csv --output my-model
"""

from metatext.cli.runner import run_recipe
from metatext.recipe import Recipe
from metatext.settings import EpisodeSettings, EvaluateSettings, LearnerSettings, Table, TrainConfig

CHINESE = Recipe(
    source=("zh/tnews_titles.train", "zh/thucnews_titles.train", "zh/reviews", "zh/weibo_clue_emotion.train"),
    target=("zh/weibo_topics", "zh/weibo_emotion_usual", "zh/weibo_covid7", "zh/weibo_senti"),
    encoder="intfloat/multilingual-e5-small",
    data_dir="data",
    orders=("first-order",),
    table=Table(clean=("weibo",)),
    # temperature=2: a source is drawn in proportion to the square root of its rows. varied: the number of ways varies,
    # because some sources have two classes and others 15. valid_fraction=0: held-out classes would be mostly headlines,
    # which the encoder learns early, and would stop training before it has learned emotions. The last weights are kept.
    episodes=EpisodeSettings(ways=10, shots=5, queries=5, temperature=2.0, varied=True, valid_fraction=0),
    learner=LearnerSettings(inner_steps=0, text_prefix="query: ", max_length=64),
    config=TrainConfig(
        output="runs/general_chinese", meta_steps=200, meta_batch_size=4, outer_lr=1e-4, save_every=40,
        mixed_precision="bf16",
    ),
    evaluate=EvaluateSettings(
        shots=(1, 2, 5, 10, 20), precision="bf16",
        methods=(
            "names", "tfidf", "centroid", "frozen", "frozen+names", "finetune", "no-meta-training", "maml",
        ),
    ),
)  # fmt: skip

if __name__ == "__main__":
    run_recipe(CHINESE, __doc__)
