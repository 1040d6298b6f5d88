"""Meta-trains one learner for any later English target, on sources of many kinds; evaluates it on tweets.

    python recipes/general_english.py --data-dir DATA --encoder sentence-transformers/all-MiniLM-L6-v2

DATA is a folder of JSON lines files with the fields text and label:
    en/huffpost.train_classes, .val_classes   HuffPost headlines, 20 and 5 sections (see huffpost_fewshot.py)
    en/ag_news.test                           news, 4 sections (Hub: fancyzhx/ag_news)
    en/clinc150.train                         questions to an assistant, 150 intents (Hub: clinc/clinc_oos)
    en/banking77.train                        customers' questions to a bank, 77 intents (Hub: PolyAI/banking77)
    en/reviews_fdu_mtl.train                  positive and negative reviews of 14 kinds of goods
    en/vader_snippets                         sentences of reviews, news and tweets by polarity (cjhutto/vaderSentiment)
    en/tweets_topic5.train, .test             tweets by the subject of five stance sets (Hub: cardiffnlp/tweet_eval)
    en/tweets_emotion.train, .test            tweets, 4 emotions (the same, configuration emotion)

To adapt the learner to your own texts: metatext adapt runs/general_english/first-order my.csv --output my-model
"""

from metatext.cli.runner import run_recipe
from metatext.recipe import Recipe
from metatext.settings import EpisodeSettings, EvaluateSettings, LearnerSettings, Table, TrainConfig

ENGLISH = Recipe(
    source=(
        "en/huffpost.train_classes", "en/huffpost.val_classes", "en/ag_news.test", "en/clinc150.train",
        "en/banking77.train", "en/reviews_fdu_mtl.train", "en/vader_snippets",
    ),
    target=("en/tweets_topic5", "en/tweets_emotion"),
    encoder="sentence-transformers/all-MiniLM-L6-v2",
    data_dir="data",
    orders=("first-order",),
    table=Table(),
    # temperature=2: a source is drawn in proportion to the square root of its rows. varied: the number of ways varies,
    # because some sources have two classes and others 150.
    episodes=EpisodeSettings(ways=10, shots=5, queries=5, temperature=2.0, varied=True, valid_fraction=0.1),
    learner=LearnerSettings(inner_steps=0, max_length=64),
    config=TrainConfig(
        output="runs/general_english", meta_steps=300, meta_batch_size=4, outer_lr=3e-5, eval_every=50,
        eval_episodes=60, save_every=50, mixed_precision="bf16",
    ),
    evaluate=EvaluateSettings(
        shots=(1, 2, 5, 10, 20), precision="bf16",
        methods=(
            "names", "tfidf", "centroid", "frozen", "frozen+names", "finetune", "no-meta-training", "maml",
        ),
    ),
)  # fmt: skip

if __name__ == "__main__":
    run_recipe(ENGLISH, __doc__)
