"""Three outer steps in one process, or in several: `torchrun train_together.py ENCODER OUTPUT`, tests/ on the path."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch
from conftest import make_domain
from safetensors.torch import save_file
from torch import Tensor

from metatext import Episode, EpisodeSampler, Learner, MetaTrainer, TrainConfig
from metatext.learners.meta_gradient import EpisodeResult, run_episode
from metatext.training import trainer

CASES = ["2 episodes", "3 episodes", "3 episodes, one bad", "3 episodes, adversarial"]


def train(encoder: str | Path, case: str) -> tuple[MetaTrainer, dict[str, Tensor]]:
    """The meta-gradient of each outer step, and the weights after the last."""
    sampler = EpisodeSampler([make_domain(0), make_domain(1, name="b")], ways=3, shots=2, queries=2, seed=3)
    bad = [sampler[4].query.texts] if case.endswith("bad") else []  # the second episode of the second step

    def run(learner: Learner, episode: Episode, *how: Any) -> EpisodeResult:
        result = run_episode(learner, episode, *how)
        return result._replace(loss=result.loss * torch.nan) if episode.query.texts in bad else result

    trainer.run_episode = run  # type: ignore[attr-defined]
    # Float64: in float32 the noise on a gradient that is 0 in theory, a key's bias, would move AdamW by more than 1e-5.
    learner = Learner.from_pretrained(encoder, inner_steps=2, inner_lr=0.05, second_order_steps=2).double()
    texts = make_domain(2).texts if case.endswith("adversarial") else []
    config = TrainConfig(meta_steps=3, meta_batch_size=int(case[0]), outer_lr=1e-2, progress=False)
    config = dataclasses.replace(config, adversarial=0.5 if texts else 0.0)
    job = MetaTrainer(learner, sampler, config=config, target_texts=texts)
    result: dict[str, Tensor] = {}
    update = job._update

    def keep(flat: Tensor) -> None:
        result[f"gradient {job.state.step}"] = flat.clone()
        update(flat)

    job._update = keep  # type: ignore[method-assign]
    job.train()
    trainer.run_episode = run_episode  # type: ignore[attr-defined]
    return job, result | {name: p.detach().clone() for name, p in learner.named_parameters()}


if __name__ == "__main__":
    for number, case in enumerate(CASES):
        job, tensors = train(sys.argv[1], case)
        tensors["skipped"] = torch.tensor(job.state.skipped)
        tensors["processes"] = torch.tensor(job.accelerator.num_processes)
        save_file(tensors, Path(sys.argv[2]) / f"{number}-of-{job.accelerator.process_index}.safetensors")
