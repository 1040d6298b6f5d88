"""HuffPost headlines, new sections: the episodes of Bao 2020 ("Few-shot text classification with distributional
signatures"), 5-way 1- and 5-shot over 1,000 test episodes.

    python recipes/huffpost_fewshot.py --data-dir DATA --encoder sentence-transformers/all-MiniLM-L6-v2

where DATA holds, as JSON lines with text and label,
    en/huffpost.train_classes, .val_classes, .test_classes
                               headlines of 20, 5 and 16 sections, split by section as in the paper
                               (github.com/YujiaBao/Distributional-Signatures)
Fine-tuning 2,000 times takes most of a day on two cores, so its rows are made on fewer episodes:
    --evaluate.draws 50 --evaluate.methods tfidf centroid frozen finetune probe maml --output runs/huffpost_50
"""

from _bao_protocol import bao

from metatext.cli.runner import run_recipe
from metatext.settings import EpisodeSettings, TrainConfig

HUFFPOST = bao(
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
