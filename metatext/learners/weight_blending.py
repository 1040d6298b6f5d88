"""Interpolates the encoder's weights between pretrained and meta-trained, and summarises the source classes there.

Meta-training forgets what its source domains do not need. Weights on the straight line between the pretrained and the
meta-trained encoder keep much of both (Wortsman 2022, "Robust fine-tuning of zero-shot models"). The point on this line
is called the blend. `metatext.adaptation.start_selection` chooses it for each task, from the support.
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
"""Candidate blends: shares of the meta-trained weights."""


@contextmanager
def blended(learner: Learner, blend: float) -> Iterator[None]:
    """Gives the encoder the weights blend * meta-trained + (1 - blend) * pretrained within the block.

    Args:
        learner: its encoder has its meta-trained weights again when the block ends.
        blend: share of the meta-trained weights, 0 to 1.

    Raises:
        InputError: `blend` is below 1, and the learner was saved without its pretrained weights.
    """
    if blend == 1.0:
        yield
        return
    if learner.pretrained is None:
        raise InputError(f"blend={blend} needs the pretrained weights, which this learner was saved without")
    tensors: list[Tensor] = [learner.encoder.get_parameter(name) for name in learner.pretrained]
    with in_scratch_memory(tensors):
        for tensor, pretrained in zip(tensors, learner.pretrained.values(), strict=True):
            tensor.data.lerp_(pretrained.to(tensor), 1 - blend)
        yield


def remember_source_classes(learner: Learner, domains: Sequence[Domain], texts: int = 16) -> SourceClasses:
    """Computes prototypes and centroids of the source classes with each of the `BLENDS`.

    The centroid of a class is the mean feature of its texts. The centre of a domain is the mean of its centroids. The
    prototype of a class is the unit direction from the centre of its domain to its centroid. A class that occurs in
    several domains gets the mean of its centroids and the normalised sum of its directions. Domains with fewer than two
    classes are left out.

    Args:
        learner: a meta-trained learner with its pretrained weights.
        domains: the source domains.
        texts: maximum number of texts per class and domain, drawn with a fixed seed.
    """
    rng = np.random.default_rng(0)
    pools = [
        {
            name: [of_class[i] for i in rng.permutation(len(of_class))[:texts]]
            for name, of_class in pool.items()
            if of_class
        }
        for pool in map(distinct_texts, domains)
    ]
    pools = [pool for pool in pools if len(pool) > 1]
    names = sorted(set().union(*pools))
    shape = len(BLENDS), len(names), learner.encoder.config.hidden_size
    prototypes, centroids = torch.zeros(shape), torch.zeros(shape)
    for row, blend in enumerate(BLENDS):
        with blended(learner, blend):
            for pool in pools:
                means = torch.stack([learner.encode(sample).mean(0) for sample in pool.values()]).float()
                rows = [names.index(name) for name in pool]
                prototypes[row, rows] += normalize(means - means.mean(0), dim=1)
                centroids[row, rows] += means
    domain_counts = torch.tensor([[float(sum(name in pool for pool in pools))] for name in names])  # (classes, 1)
    return SourceClasses(names, normalize(prototypes, dim=2), centroids / domain_counts)
