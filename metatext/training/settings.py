"""Settings of the outer loop and of further pre-training: each is a field here and an option of the command line."""

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
    """Outer steps (updates of the initialisation)."""
    meta_batch_size: int = 4
    """Episodes per outer step, shared between the processes."""
    outer_lr: float = 3e-5
    """Peak learning rate of the encoder (AdamW)."""
    head_lr: float = 1e-3
    """Peak learning rate of a learned (linear) head, and of the adversary."""
    rate_lr: float = 1e-2
    """Peak learning rate of the logarithms of the inner learning rates and of the prototype head's scale."""
    weight_decay: float = 0.01
    """Decoupled weight decay of the encoder's matrices."""
    warmup_fraction: float = 0.1
    """Share of the outer steps during which the learning rates rise to their peak; they fall to 0 linearly after."""
    max_grad_norm: float = 1.0
    """The encoder's meta-gradient is scaled down to this norm where it is larger."""
    multi_step_fraction: float = 0.0
    """Share of the outer steps with a query loss after each inner step, whose weights move to the last one's (MAML++,
    Antoniou 2019)."""
    first_order_fraction: float = 0.0
    """Share of the outer steps, from the first, that are first-order whatever second_order_steps says (MAML++)."""
    names: bool = True
    """Let what a class is called, its label in words, stand among its support texts, so that the encoder learns where
    names lie. So it is in episodes whose classes all have one: a label that says nothing, such as a number, or that the
    encoder cannot read, is none, nor are those of a domain of two classes. Not with a learned (linear) head."""
    adversarial: float = 0.0
    """Weight of domain-adversarial training: with unlabelled texts of the target, the encoder learns to give no sign of
    whether a text is the target's or a source's (DANN, Ganin 2016). Validation then stops and chooses nothing: it is of
    source classes, and the last weights are kept."""
    eval_every: int = 25
    """Outer steps between two validations."""
    eval_episodes: int = 24
    """Validation episodes, the same at each validation."""
    patience: int = 4
    """Stop after this many validations without a better one; 0: never."""
    save_every: int = 25
    """Outer steps between two checkpoints."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of the encoder's passes (weights and updates stay float32); fp16 is meant for GPUs."""
    output: str | None = None
    """Folder for the learner and the checkpoints (in Python, without one nothing is written)."""
    resume: bool = False
    """Go on from the last checkpoint in the output folder."""
    overwrite: bool = False
    """Replace a run that is in the output folder."""
    tracker: str | None = None
    """Experiment tracker, any that Accelerate knows: tensorboard, wandb, ..."""
    progress: bool = True
    """Whether a progress bar is shown; --no-progress: none."""

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
    """Refuses options that would do nothing, or harm, with the learner's method.

    Raises:
        InputError: naming the option and what it needs.
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
    """How an encoder is pre-trained further."""

    epochs: float = 1.0
    """Passes over the texts."""
    lr: float = 5e-5
    """Peak learning rate (AdamW, 10% warm-up, linear decay)."""
    batch_size: int = 32
    """Texts a step, on each GPU."""
    max_length: int = 128
    """Longest text, in tokens; longer ones are cut."""
    text_prefix: str = ""
    """Put before every text, for encoders that were trained with one; give it to train as well."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Precision of the passes; the weights stay float32."""
    seed: int = 0
    """Seed of the order of the texts, of what is masked, and of a new head."""
    progress: bool = True
    """Whether a progress bar is shown; --no-progress: none."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "batch_size")
        check_at_least(self, 8, "max_length")
        check_positive(self, "epochs", "lr")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed must be from 0 to 2**32 - 1, got {self.seed}")
        check_finite(self, "epochs")
