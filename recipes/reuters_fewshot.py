"""Runs the Reuters benchmark of Bao 2020: meta-trains on some topics of newswire, evaluates on episodes of others.

    python recipes/reuters_fewshot.py --data-dir DATA --encoder sentence-transformers/all-MiniLM-L6-v2

The benchmark has 1,000 5-way test episodes at 1 shot and at 5 shots.

DATA is a folder of JSON lines files with the fields text and label:
    en/reuters.train_classes, .val_classes, .test_classes
                               15, 5 and 11 topics with 20 articles each, split by topic as in the paper
                               (github.com/YujiaBao/Distributional-Signatures)
"""

from _bao_protocol import bao_recipe

from metatext.cli.runner import run_recipe
from metatext.settings import EpisodeSettings, TrainConfig

REUTERS = bao_recipe(
    "en/reuters",
    EpisodeSettings(
        ways=5, shots=5, queries=5, valid_classes=("iron-steel", "jobs", "livestock", "money-fx", "money-supply")
    ),
    TrainConfig(
        output="runs/reuters_fewshot", meta_steps=40, meta_batch_size=4, outer_lr=3e-5, eval_every=10,
        eval_episodes=40, save_every=20, mixed_precision="bf16",
    ),
    max_length=128,
    test_size=75,
)  # fmt: skip

if __name__ == "__main__":
    run_recipe(REUTERS, __doc__)
