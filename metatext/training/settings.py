"""Settings of the outer loop and of continued pre-training. Each field is an option of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metatext.errors import InputError
from metatext.learners.settings import LearnerSettings
from metatext.options import check_at_least, check_finite, check_positive


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the outer loop."""

    meta_steps: int = 150
    """Outer steps, each an update of the initialisation."""
    meta_batch_size: int = 4
    """Episodes per outer step, shared between the processes."""
    outer_lr: float = 3e-5
    """Peak learning rate of the encoder, with AdamW."""
    head_lr: float = 1e-3
    """Peak learning rate of a learned (linear) head, and of the adversary."""
    rate_lr: float = 1e-2
    """Peak learning rate of the logarithms of the inner learning rates and of the prototype head's scale."""
    weight_decay: float = 0.01
    """Decoupled weight decay of the encoder's matrices."""
    warmup_fraction: float = 0.1
    """Share of the outer steps with rising learning rates. They fall to 0 linearly after."""
    max_grad_norm: float = 1.0
    """Largest norm of the encoder's meta-gradient. A longer one is scaled down."""
    multi_step_fraction: float = 0.0
    """Share of the outer steps with a query loss after every inner step (MAML++, Antoniou 2019).
    Its weights move to the last inner step."""
    first_order_fraction: float = 0.0
    """Share of the outer steps, from the first, that are first-order despite second_order_steps (MAML++)."""
    names: bool = True
    """--no-names leaves class names out of meta-training.
    By default, the name of each class, its label in words, joins its support texts, if all classes have one.
    The encoder then learns where names lie. Numbers, and words that it cannot read, are no names.
    Domains of two classes and linear heads never use names."""
    adversarial: float = 0.0
    """Weight of domain-adversarial training with unlabelled target texts (DANN, Ganin 2016).
    The encoder learns features that source and target share.
    Validation then neither stops the run nor chooses the weights. The last weights are kept."""
    eval_every: int = 25
    """Outer steps between two validations."""
    eval_episodes: int = 24
    """Validation episodes, the same at each validation."""
    patience: int = 4
    """Stop after this many validations without progress. 0: never."""
    save_every: int = 25
    """Outer steps between two checkpoints."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of the encoder's passes. Weights and updates stay float32. fp16 is meant for GPUs."""
    output: str | None = None
    """Folder for the learner and the checkpoints. In Python, nothing is written without one."""
    resume: bool = False
    """Continue from the last checkpoint in the output folder."""
    overwrite: bool = False
    """Replace the run in the output folder."""
    tracker: str | None = None
    """Experiment tracker that Accelerate supports: tensorboard, wandb, ..."""
    progress: bool = True
    """--no-progress hides the progress bar."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "meta_steps", "meta_batch_size", "eval_every", "eval_episodes", "save_every")
        check_at_least(self, 0, "patience", "weight_decay", "adversarial")
        check_positive(self, "outer_lr", "head_lr", "rate_lr", "max_grad_norm")
        for name in ("multi_step_fraction", "first_order_fraction", "warmup_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be from 0 to 1, got {getattr(self, name)}")
        if self.resume and self.overwrite:
            raise InputError("--resume and --overwrite contradict each other: choose one")


def check_method(config: TrainConfig, settings: LearnerSettings, precision: str) -> None:
    """Refuses options that have no effect, or do harm, with the learner's method.

    Raises:
        InputError: names the option and what it needs.
    """
    if config.multi_step_fraction and (settings.algorithm != "maml" or settings.inner_steps < 2):
        raise InputError("multi_step_fraction needs algorithm='maml' and at least two inner_steps")
    if config.first_order_fraction and settings.second_order_steps == 0:
        raise InputError("first_order_fraction needs second_order_steps above 0: all steps are first-order already")
    differences = settings.hvp != "exact" and (settings.second_order_steps or settings.algorithm == "imaml")
    if differences and precision != "no":
        raise InputError(
            f"hvp={settings.hvp!r} needs full precision, and {precision} would round the difference away: "
            "take hvp='exact', or mixed_precision='no'"
        )


@dataclass(frozen=True)
class PretrainSettings:
    """Settings of continued pre-training."""

    epochs: float = 1.0
    """Passes over the texts."""
    lr: float = 5e-5
    """Peak learning rate (AdamW, 10% warm-up, linear decay)."""
    batch_size: int = 32
    """Texts per step, on each GPU."""
    max_length: int = 128
    """Longest text in tokens. Longer texts are cut."""
    text_prefix: str = ""
    """Prefix of every text, for encoders that were trained with one. Give it to train as well."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Precision of the passes. Weights stay float32."""
    seed: int = 0
    """Seed of the order of the texts, the masked tokens, and a new head."""
    progress: bool = True
    """--no-progress hides the progress bar."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "batch_size")
        check_at_least(self, 8, "max_length")
        check_positive(self, "epochs", "lr")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed must be from 0 to 2**32 - 1, got {self.seed}")
        check_finite(self, "epochs")
