"""Between the pretrained and the meta-trained encoder, and what the sources' classes look like from there.

Meta-training forgets what its sources do not ask for. Weights on the straight line between the two encoders keep much
of both (Wortsman 2022, "Robust fine-tuning of zero-shot models"); where on the line a task stands is chosen from its
support (`metatext.start`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from metatext.core.in_place import in_scratch_memory
from metatext.data.domains import Domain
from metatext.data.episode_sampler import distinct_texts
from metatext.errors import InputError
from metatext.learners.learner import Learner
from metatext.learners.state import SourceClasses

BLENDS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the meta-trained weights, in the blends that a task may start from."""


@contextmanager
def blended(learner: Learner, share: float) -> Iterator[None]:
    """Within the block the encoder has share * meta-trained + (1 - share) * pretrained weights.

    Raises:
        InputError: a share below 1 of a learner that was saved without its pretrained weights.
    """
    if share == 1.0:
        yield
        return
    if learner.pretrained is None:
        raise InputError(f"blend={share} needs the pretrained weights, which this learner was saved without")
    tensors: list[Tensor] = [learner.encoder.get_parameter(name) for name in learner.pretrained]
    with in_scratch_memory(tensors):
        for tensor, start in zip(tensors, learner.pretrained.values(), strict=True):
            tensor.data.lerp_(start.to(tensor), 1 - share)
        yield


def remember_source_classes(learner: Learner, domains: Sequence[Domain], texts: int = 16) -> SourceClasses:
    """Prototypes and centroids of the sources' classes in every blend, from at most `texts` texts a class and domain.

    A prototype is the direction from the mean of its domain's classes to the class, of which a domain needs two. A
    class of several domains has the means of its directions and of its centroids.
    """
    rng = np.random.default_rng(0)
    pools = [
        {name: [every[i] for i in rng.permutation(len(every))[:texts]] for name, every in pool.items() if every}
        for pool in map(distinct_texts, domains)
    ]
    pools = [pool for pool in pools if len(pool) > 1]
    names = sorted(set().union(*pools))
    shape = len(BLENDS), len(names), learner.encoder.config.hidden_size
    prototypes, centroids = torch.zeros(shape), torch.zeros(shape)
    for row, share in enumerate(BLENDS):
        with blended(learner, share):
            for pool in pools:
                found = torch.stack([learner.encode(some).mean(0) for some in pool.values()]).float()
                rows = [names.index(name) for name in pool]
                prototypes[row, rows] += normalize(found - found.mean(0), dim=1)
                centroids[row, rows] += found
    domains_of = torch.tensor([[float(sum(name in pool for pool in pools))] for name in names])
    return SourceClasses(names, normalize(prototypes, dim=2), centroids / domains_of)
