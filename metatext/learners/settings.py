"""Settings of a learner. Each field is an option of the command line, and its docstring is the --help text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from metatext.errors import InputError
from metatext.options import check_at_least, check_positive


@dataclass(frozen=True)
class LearnerSettings:
    """Settings of a learner, saved with its weights.

    Raises:
        InputError: a value is not allowed, or two settings contradict each other.

    Example:
        >>> LearnerSettings(inner_steps=3, second_order_steps=3).method
        'full MAML'
    """

    head: Literal["prototype", "linear"] = "prototype"
    """prototype: a classifier built from the support of each task; works for any classes.
    linear: a meta-learned classifier, for classes that all domains share."""
    scope: str = "all"
    """Parameters that the inner loop updates.
    all: encoder and head.
    head: the head only (ANIL).
    body: the encoder only (BOIL).
    top:L: the upper L layers and the head.
    lora: low-rank adapters and the head; the rest of the encoder is frozen."""
    lora_rank: int = 8
    """Rank of the adapters with scope=lora."""
    algorithm: Literal["maml", "imaml", "reptile"] = "maml"
    """Meta-gradient.
    maml: the gradient of the query loss through the inner loop (Finn 2017).
    imaml: the implicit gradient at the end of the inner loop (Rajeswaran 2019).
    reptile: the sum of the gradients of the inner steps (Nichol 2018)."""
    inner_steps: int = 5
    """Gradient steps of the inner loop.
    0 steps with a prototype head make a prototypical network (Snell 2017)."""
    inner_lr: float = 0.01
    """Initial inner learning rate of every layer and step."""
    inner_optimizer: Literal["sgd", "adam"] = "sgd"
    """Optimizer of the inner loop.
    adam: first-order meta-training only; use an inner_lr of about 1e-4."""
    learn_inner_lr: bool = True
    """--no-learn-inner-lr keeps the inner learning rates. By default, algorithm=maml meta-learns them."""
    inner_rates: Literal["layer", "parameter"] = "layer"
    """layer: one inner learning rate per layer and step (Antoniou 2019).
    parameter: one per parameter (Meta-SGD, Li 2017); needs as much memory as the updated parameters."""
    second_order_steps: int = 0
    """Number of last inner steps to differentiate through.
    0 is first-order MAML. The value of inner_steps is full MAML."""
    hvp: Literal["exact", "finite-difference", "one-sided"] = "exact"
    """Computation of the Hessian-vector products.
    exact: double backward.
    finite-difference: central difference of two gradients; less memory.
    one-sided: forward difference; one pass fewer per step, less exact.
    Both differences need full precision (float32)."""
    kept_graphs: int | Literal["auto"] = 0
    """Number of last inner steps whose graphs are kept with hvp=exact.
    More graphs are faster but need more memory.
    auto: as many as fit in half of the free memory."""
    proximal: float = 1.0
    """Strength lambda of the proximal term of imaml.
    A smaller value adapts more and needs more inner steps."""
    prototype_gradient: bool = True
    """--no-prototype-gradient treats the initial head as a constant.
    By default, the meta-gradient flows through the prototypes into the encoder."""
    pooling: Literal["mean", "cls"] = "mean"
    """Feature of a text: the mean over its tokens, or the output for the first token (cls)."""
    text_prefix: str = ""
    """Prefix of every text, for encoders that were trained with one.
    Example: "query: " for the E5 models."""
    max_length: int = 128
    """Maximum length of a text in meta-training, in tokens. Longer texts are truncated.
    Adaptation has a maximum length of its own, which is not shorter (--max-length of adapt and evaluate)."""
    batch_size: int = 64
    """Maximum number of texts in one pass of the encoder.
    A smaller value needs less memory."""
    classes: tuple[str, ...] = ()
    """Class names, with head=linear."""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("head", ("prototype", "linear")),
            ("algorithm", ("maml", "imaml", "reptile")),
            ("inner_optimizer", ("sgd", "adam")),
            ("inner_rates", ("layer", "parameter")),
            ("hvp", ("exact", "finite-difference", "one-sided")),
            ("pooling", ("mean", "cls")),
        ):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if not re.fullmatch(r"all|head|body|lora|top:[1-9]\d*", self.scope):
            raise InputError(f"scope must be all, head, body, lora or top:L such as top:2, got {self.scope!r}")
        fewest = 0 if self.head == "prototype" and self.algorithm == "maml" else 1
        for name, least in (("inner_steps", fewest), ("max_length", 8), ("lora_rank", 1), ("batch_size", 1)):
            check_at_least(self, least, name)
        check_positive(self, "inner_lr", "proximal")
        if not 0 <= self.second_order_steps <= self.inner_steps:
            raise InputError(
                f"second_order_steps must be from 0 to inner_steps ({self.inner_steps}), got {self.second_order_steps}"
            )
        if self.second_order_steps and (self.algorithm != "maml" or self.inner_optimizer == "adam"):
            what = "inner_optimizer='adam'" if self.algorithm == "maml" else f"algorithm={self.algorithm!r}"
            raise InputError(f"{what} is first-order: leave second_order_steps at 0")
        if self.algorithm == "imaml" and self.inner_optimizer == "adam":
            raise InputError("algorithm='imaml' takes plain gradient steps: leave inner_optimizer at 'sgd'")
        if self.algorithm == "reptile" and self.scope == "head" and self.head == "prototype":
            raise InputError("algorithm='reptile' with scope='head' and a prototype head has nothing to learn")
        if self.inner_rates == "parameter" and (self.algorithm != "maml" or self.inner_steps == 0):
            raise InputError("inner_rates='parameter' needs algorithm='maml' and inner steps, which learn the rates")
        if self.kept_graphs != "auto" and (isinstance(self.kept_graphs, str) or self.kept_graphs < 0):
            raise InputError(f"kept_graphs must be 'auto' or 0 or more, got {self.kept_graphs!r}")
        object.__setattr__(self, "classes", tuple(self.classes))

    @property
    def method(self) -> str:
        """Name of the method in tables and metadata."""
        if self.inner_steps == 0:
            return "prototypical network"
        if self.algorithm != "maml":
            return {"imaml": "iMAML", "reptile": "Reptile"}[self.algorithm]
        name = {"head": "ANIL", "body": "BOIL"}.get(self.scope, "MAML")
        if self.inner_rates == "parameter":
            name += " with Meta-SGD"
        name += {"lora": " with LoRA"}.get(self.scope, "") + (", Adam inside" if self.inner_optimizer == "adam" else "")
        order = {0: "first-order", self.inner_steps: "full"}.get(self.second_order_steps, "truncated")
        return f"{order} {name}"

    @property
    def rates_learned(self) -> bool:
        """Whether the inner learning rates are meta-learned."""
        return self.learn_inner_lr and self.algorithm == "maml" and self.inner_steps > 0
