"""Reuters newswire, new topics: the episodes of Bao 2020, 5-way 1- and 5-shot over 1,000 test episodes.

    python recipes/reuters_fewshot.py --data-dir DATA --encoder sentence-transformers/all-MiniLM-L6-v2

where DATA holds, as JSON lines with text and label,
    en/reuters.train_classes, .val_classes, .test_classes
                               20 articles each of 15, 5 and 11 topics, split by topic as in the paper
                               (github.com/YujiaBao/Distributional-Signatures)
"""

from _bao_protocol import bao

from metatext.cli.runner import run_recipe
from metatext.settings import EpisodeSettings, TrainConfig

REUTERS = bao(
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
