"""Other implementations of MAML, on the same classifier. Each library is optional."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from measured_methods import INNER_LR, Floor
from timing import Gradients
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from metatext import Learner

PACKAGES = ("torch", "transformers", "metatext", "higher", "torchopt", "learn2learn", "setfit")


def versions() -> dict[str, str]:
    """Returns the installed versions of the compared packages."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def double_backward() -> Any:
    """Returns a context in which attention is not fused, because fused attention has no double backward."""
    return sdpa_kernel(SDPBackend.MATH)


class Peer(Floor):
    """Base class of the other implementations. They use a copy of the learner's weights and ready batches."""

    def __init__(self, learner: Learner, steps: int, second_order: bool) -> None:
        super().__init__(learner, steps)
        self.second_order = second_order

    def support_loss(self, model: Any = None) -> Tensor:
        """Returns the support loss, 0-d, of `model`; by default of the copy."""
        loss: Tensor = (model or self.model)(**self.support)
        return loss

    def named(self, gradients: Any) -> Gradients:
        """Returns gradients by parameter name."""
        return dict(zip(self.names, gradients, strict=True))

    def run(self) -> Gradients:
        if not self.second_order:
            return self.meta_gradient()
        with double_backward():
            return self.meta_gradient()

    def meta_gradient(self) -> Gradients:
        """Runs the inner loop and returns the meta-gradient."""
        raise NotImplementedError

    def restore(self) -> None: ...


class FunctionalCall(Peer):
    """The loop that is usual in code of papers: torch.func.functional_call and torch.autograd.grad, no library."""

    def meta_gradient(self) -> Gradients:
        start: Gradients = dict(self.model.named_parameters())
        theta = start if self.second_order else {n: p.detach().requires_grad_() for n, p in start.items()}
        for _ in range(self.steps):
            loss = functional_call(self.model, theta, kwargs=self.support)
            gradients = torch.autograd.grad(loss, list(theta.values()), create_graph=self.second_order)
            theta = {n: p - INNER_LR * g for (n, p), g in zip(theta.items(), gradients, strict=True)}
            if not self.second_order:
                theta = {n: p.detach().requires_grad_() for n, p in theta.items()}
        loss = functional_call(self.model, theta, kwargs=self.query)
        return self.named(torch.autograd.grad(loss, list((start if self.second_order else theta).values())))


class Higher(Peer):
    """facebookresearch/higher.

    For first-order MAML, higher gradients are off and the gradient is taken at the adapted weights.
    """

    def __init__(self, learner: Learner, steps: int, second_order: bool) -> None:
        super().__init__(learner, steps, second_order)
        self.higher = importlib.import_module("higher")

    def meta_gradient(self) -> Gradients:
        optimizer = torch.optim.SGD(self.model.parameters(), lr=INNER_LR)
        with self.higher.innerloop_ctx(
            self.model, optimizer, copy_initial_weights=False, track_higher_grads=self.second_order
        ) as (model, inner):
            for _ in range(self.steps):
                inner.step(self.support_loss(model))
            loss = model(**self.query)
            wanted = model.parameters(time=0) if self.second_order else model.parameters()
            return self.named(torch.autograd.grad(loss, list(wanted)))


class TorchOpt(Peer):
    """Differentiable SGD of metaopt/torchopt. It is second-order only: its `step` has no first-order option."""

    def __init__(self, learner: Learner, steps: int, second_order: bool) -> None:
        super().__init__(learner, steps, second_order)
        self.torchopt = importlib.import_module("torchopt")
        self.start = self.torchopt.extract_state_dict(self.model, by="reference")

    def meta_gradient(self) -> Gradients:
        inner = self.torchopt.MetaSGD(self.model, lr=INNER_LR)
        for _ in range(self.steps):
            inner.step(self.support_loss())
        return self.named(torch.autograd.grad(self.model(**self.query), self.parameters))

    def restore(self) -> None:
        self.torchopt.recover_state_dict(self.model, self.start)


class Learn2Learn(Peer):
    """The MAML wrapper of learnables/learn2learn."""

    def __init__(self, learner: Learner, steps: int, second_order: bool) -> None:
        super().__init__(learner, steps, second_order)
        self.maml = learn2learn_maml()(self.model, lr=INNER_LR, first_order=not second_order)

    def meta_gradient(self) -> Gradients:
        clone = self.maml.clone()
        for _ in range(self.steps):
            clone.adapt(self.support_loss(clone))
        return self.named(torch.autograd.grad(clone(**self.query), self.parameters))


@cache
def learn2learn_maml() -> Any:
    """Returns the class MAML without running the package's `__init__`.

    That file imports C extensions, gym, torchvision and lightning, none of which MAML needs.
    """
    spec = importlib.util.find_spec("learn2learn")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("learn2learn is not installed")
    for name in ("learn2learn", "learn2learn.algorithms"):
        if name not in sys.modules:
            package = types.ModuleType(name)
            package.__path__ = [
                f"{folder}/{'/'.join(name.split('.')[1:])}" for folder in spec.submodule_search_locations
            ]
            sys.modules[name] = package
    return importlib.import_module("learn2learn.algorithms.maml").MAML


PEERS: dict[str, tuple[type[Peer], bool]] = {
    "functional_call, first order": (FunctionalCall, False),
    "higher, first order": (Higher, False),
    "learn2learn, first order": (Learn2Learn, False),
    "functional_call, unrolled": (FunctionalCall, True),
    "higher, second order": (Higher, True),
    "TorchOpt, second order": (TorchOpt, True),
    "learn2learn, second order": (Learn2Learn, True),
}
"""Row name -> class, and whether the row is second-order."""


def make_peers(learner: Learner, steps: int) -> tuple[dict[str, Peer], dict[str, str]]:
    """Returns the installed implementations by row name, and the reason for each one that is missing."""
    made, missing = dict[str, Peer](), dict[str, str]()
    for name, (kind, second_order) in PEERS.items():
        try:
            made[name] = kind(learner, steps, second_order)
        except ImportError as error:
            missing[name] = f"not installed ({str(error).splitlines()[0]})"
    return made, missing
