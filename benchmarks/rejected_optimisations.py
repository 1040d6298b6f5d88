"""Measures two optimisations that metatext does not use: torch.compile, and several tasks at once by vmap."""

from __future__ import annotations

import torch
from measured_methods import INNER_LR, SHAPES, Floor, make_episode, make_learner, tokenised
from timing import Gradients, Options, Tables, relative_distance, rounds, rows
from torch import Tensor
from torch.func import functional_call, grad, vmap

from metatext import Episode, Learner

TASKS = 4


def compile_and_vmap(name: str, options: Options) -> Tables:
    """Compares the floor with the same passes under torch.compile, and tasks in turn with tasks at once.

    Raises:
        AssertionError: the two meta-gradients differ by more than 1e-4.
    """
    shape, (length, steps) = SHAPES[name], {"tiny": (64, 5), "minilm": (32, 5), "base": (32, 1)}[name]
    learner, episode = make_learner(shape, inner_steps=steps), make_episode(shape.vocabulary, length)
    tables = Tables()
    for what, methods in (
        ("torch.compile", {"floor": Floor(learner, steps), "compiled": _CompiledFloor(learner, steps)}),
        (f"{TASKS} tasks", {"in turn": _TasksInTurn(learner, steps), "at once, vmap": _TasksByVmap(learner, steps)}),
    ):
        gradients = []
        for method in methods.values():
            method.prepare(episode)
            gradients.append(method.run())  # the first run compiles, before the timing
            method.restore()
        distance = relative_distance(gradients[1], gradients[0])
        if not distance <= 1e-4:
            raise AssertionError(f"{what}: the meta-gradients are {distance:.1e} apart")
        table = rows(rounds(methods, [episode], options.repeats, options.seconds), next(iter(methods)))
        table[1]["agreement"] = distance
        tables[f"{shape.title}, {length} tokens, {steps} inner step{'s' * (steps > 1)}: {what}"] = table
    return tables


class _CompiledFloor(Floor):
    """The floor with its model compiled by torch.compile."""

    def __init__(self, learner: Learner, steps: int) -> None:
        super().__init__(learner, steps)
        self.model.compile()


class _TasksInTurn(Floor):
    """The floor's passes for `TASKS` tasks, one after another. The meta-gradients are summed."""

    def prepare(self, episode: Episode) -> None:
        length = len(self.tokenizer(episode.support.texts[0])["input_ids"])
        self.episodes = [make_episode(len(self.tokenizer), length, seed) for seed in range(TASKS)]
        self.batches = [[tokenised(self.tokenizer, e) for e in (one.support, one.query)] for one in self.episodes]

    def run(self) -> Gradients:
        total: Gradients = {}
        for support, query in self.batches:
            self.support, self.query = support, query
            for name, gradient in super().run().items():
                total[name] = total[name] + gradient if name in total else gradient
            self.restore()
        return total


class _TasksByVmap(_TasksInTurn):
    """The same tasks at once: vmap gives each parameter a first dimension of tasks, (TASKS, *shape)."""

    def run(self) -> Gradients:
        # transformers reads the values of the mask in Python, which vmap forbids. The texts here have equal length, so
        # one mask serves all tasks.
        mask = {"attention_mask": self.batches[0][0]["attention_mask"]}

        def loss(parameters: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
            value: Tensor = functional_call(self.model, parameters, kwargs=batch | mask)
            return value

        gradients = vmap(grad(loss))
        support, query = (
            {name: torch.stack([batch[i][name] for batch in self.batches]) for name in ("input_ids", "labels")}
            for i in (0, 1)
        )
        theta = {name: p.detach().expand(TASKS, *p.shape) for name, p in zip(self.names, self.parameters, strict=True)}
        for _ in range(self.steps):
            g = gradients(theta, support)
            theta = {name: value - INNER_LR * g[name] for name, value in theta.items()}
        return {name: g.sum(0) for name, g in gradients(theta, query).items()}
