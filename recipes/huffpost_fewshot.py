"""Runs the HuffPost benchmark of Bao 2020: meta-trains on some sections of headlines, evaluates on episodes of others.

    python recipes/huffpost_fewshot.py --data-dir DATA --encoder sentence-transformers/all-MiniLM-L6-v2

The benchmark is from "Few-shot text classification with distributional signatures" (Bao 2020). It has 1,000 5-way test
episodes at 1 shot and at 5 shots.

DATA is a folder of JSON lines files with the fields text and label:
    en/huffpost.train_classes, .val_classes, .test_classes
                               headlines of 20, 5 and 16 sections, split by section as in the paper
                               (github.com/YujiaBao/Distributional-Signatures)

Fine-tuning is off by default, because its 2,000 fits take most of a day on two cores. To add it on fewer episodes:
    --evaluate.draws 50 --evaluate.methods tfidf centroid frozen finetune probe maml --output runs/huffpost_50
"""

from _bao_protocol import bao_recipe

from metatext.cli.runner import run_recipe
from metatext.settings import EpisodeSettings, TrainConfig

HUFFPOST = bao_recipe(
    "en/huffpost",
    EpisodeSettings(
        ways=10, shots=5, queries=5, valid_classes=("CRIME", "GREEN", "MEDIA", "WEIRD NEWS", "WORLDPOST")
    ),
    TrainConfig(
        output="runs/huffpost_fewshot", meta_steps=200, meta_batch_size=4, outer_lr=3e-5, eval_every=40,
        eval_episodes=60, save_every=40, mixed_precision="bf16",
    ),
    max_length=48,
    test_size=125,
)  # fmt: skip

if __name__ == "__main__":
    run_recipe(HUFFPOST, __doc__)
