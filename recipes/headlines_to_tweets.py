"""Meta-trains on English headlines, then adapts to tweets: to five subjects, and to four emotions.

    python recipes/headlines_to_tweets.py --data-dir DATA --encoder sentence-transformers/all-MiniLM-L6-v2

DATA is a folder of JSON lines files with the fields text and label:
    en/huffpost.train_classes, .val_classes   HuffPost headlines, 20 and 5 sections (see huffpost_fewshot.py)
    en/ag_news.test                           news, 4 sections (Hub: fancyzhx/ag_news)
    en/tweets_topic5.train, .test             tweets by the subject of five stance sets (Hub: cardiffnlp/tweet_eval)
    en/tweets_emotion.train, .test            tweets, 4 emotions (the same, configuration emotion)
"""

from metatext.cli.runner import run_recipe
from metatext.recipe import Recipe
from metatext.settings import EpisodeSettings, EvaluateSettings, LearnerSettings, Table, TrainConfig

TWEETS = Recipe(
    source=("en/huffpost.train_classes", "en/huffpost.val_classes", "en/ag_news.test"),
    target=("en/tweets_topic5", "en/tweets_emotion"),
    encoder="sentence-transformers/all-MiniLM-L6-v2",
    data_dir="data",
    orders=("first-order",),
    table=Table(),
    episodes=EpisodeSettings(
        ways=10, shots=5, queries=5, temperature=2.0, varied=True,
        valid_classes=("CRIME", "GREEN", "MEDIA", "WEIRD NEWS", "WORLDPOST"),
    ),
    learner=LearnerSettings(inner_steps=0, max_length=64),
    config=TrainConfig(
        output="runs/headlines_to_tweets", meta_steps=200, meta_batch_size=4, outer_lr=3e-5, eval_every=40,
        eval_episodes=60, save_every=40, mixed_precision="bf16",
    ),
    evaluate=EvaluateSettings(shots=(1, 2, 5, 10, 20), precision="bf16"),
)  # fmt: skip

if __name__ == "__main__":
    run_recipe(TWEETS, __doc__)
