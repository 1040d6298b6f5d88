"""The held-out likelihood of prototypes: folds, chance, scale, gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import lognorm
from torch.nn.functional import normalize

from metatext.adaptation.held_out import SCALES, held_out_cosines, held_out_fit, stratified_folds


def test_a_fold_has_one_text_of_each_class_and_there_are_at_most_ten() -> None:
    assert stratified_folds(torch.tensor([0, 1, 0, 1, 1, 2])).tolist() == [0, 0, 1, 1, 2, 0]
    assert stratified_folds(torch.zeros(23, dtype=torch.int64)).bincount().tolist() == [3, 3, 3] + [2] * 7


def test_a_text_is_scored_by_the_other_folds() -> None:
    """Written out in numpy: neither the centre nor a prototype contains a text of the fold."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(7, 5, generator=generator) + torch.tensor([3.0, 0, 0, 0, 0])
    labels, folds = [0, 0, 1, 1, 1, 2, 2], [0, 1, 0, 1, 2, 0, 1]
    priors = normalize(torch.randn(3, 5, generator=generator), dim=1)
    x, cosines = features.double().numpy(), np.zeros((7, 3))
    for i in range(7):
        rest = [j for j in range(7) if folds[j] != folds[i]]
        own = [[x[j] for j in rest if labels[j] == c] for c in range(3)]
        means, counts = [np.mean(texts, 0) for texts in own], [len(texts) for texts in own]
        centre = np.mean(means, 0)
        scatter = sum(((np.array(texts) - mean) ** 2).sum() for texts, mean in zip(own, means, strict=True))
        variance = scatter / (len(rest) - 3) if len(rest) > 3 else 0.0
        unit = {j: (x[j] - centre) / np.linalg.norm(x[j] - centre) for j in [*rest, i]}
        for c in range(3):
            length = np.linalg.norm(
                prototype := priors[c].double().numpy() + sum(unit[j] for j in rest if labels[j] == c)
            )
            inverse = sum(1 / np.linalg.norm(text - centre) for text in own[c])
            noise = inverse / length * variance * (sum(1 / n for n in counts) / 9 - 1 / (3 * counts[c]))
            cosines[i, c] = prototype @ unit[i] / length - noise / np.linalg.norm(x[i] - centre)
    found, missing = held_out_cosines(features, torch.tensor(labels), priors)
    np.testing.assert_allclose(found.numpy(), cosines, atol=1e-5)
    assert not missing.any()
    totals = {}
    for scale in SCALES.tolist():
        logits = scale * cosines
        totals[scale] = (logits[range(7), labels] - np.log(np.exp(logits).sum(1))).sum()
    fit = held_out_fit(features, torch.tensor(labels), priors)
    assert totals[fit.scale] == max(totals.values())
    odds = {scale: lognorm.pdf(scale, 0.5, scale=6) * scale for scale in totals}  # on a grid of logarithms
    joint = {scale: math.exp(totals[scale] + 7 * math.log(3)) * odds[scale] for scale in totals}
    assert fit.evidence == pytest.approx(math.log(sum(joint.values()) / sum(odds.values())), abs=1e-4)
    mean = sum(weight * math.log(scale) for scale, weight in joint.items()) / sum(joint.values())
    assert fit.calibrated_scale == pytest.approx(math.exp(mean), rel=1e-4)


@pytest.mark.parametrize(("ways", "shots"), [(2, 2), (2, 5), (3, 2), (5, 2), (13, 5)])
@pytest.mark.parametrize("kind", ["noise", "permuted labels"])
def test_labels_that_say_nothing_score_at_chance(ways: int, shots: int, kind: str) -> None:
    """Accuracy over many supports of 384 dimensions, within four standard errors of chance."""
    generator, scores = torch.Generator().manual_seed(ways * shots), []
    for _ in range(60 if ways == 13 else 300):
        labels = torch.arange(ways).repeat(shots)
        features = torch.randn(len(labels), 384, generator=generator)
        if kind == "permuted labels":  # texts of real classes, with the labels of others
            features += 3 * torch.randn(ways, 384, generator=generator)[labels]
            labels = labels[torch.randperm(len(labels), generator=generator)]
        cosines, _ = held_out_cosines(features, labels, torch.zeros(ways, 384))
        scores.append(float((cosines.argmax(1) == labels).float().mean()))
    assert np.mean(scores) == pytest.approx(1 / ways, abs=4 * float(np.std(scores)) / math.sqrt(len(scores)) + 1e-3)


@pytest.mark.parametrize("counts", [(1, 9), (1, 50), (2, 8), (5, 20, 20), (4, 8, 2, 2, 2)])
@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_unequal_classes_are_at_chance_too(counts: tuple[int, ...], weight: float) -> None:
    """Noise and names that say nothing. Without the correction, 1 + 9 texts have an accuracy of .90."""
    generator, ways, scores, evidence = torch.Generator().manual_seed(0), len(counts), [], []
    labels = torch.arange(ways).repeat_interleave(torch.tensor(counts))
    for _ in range(200):
        features = torch.randn(len(labels), 384, generator=generator)
        priors = weight * normalize(torch.randn(ways, 384, generator=generator), dim=1)
        cosines, missing = held_out_cosines(features, labels, priors)
        right = (cosines.argmax(1) == labels).float()
        right[missing] = 1 / ways
        scores.append(float(right.mean()))
        evidence.append(held_out_fit(features, labels, priors).evidence)
    assert np.mean(scores) == pytest.approx(1 / ways, abs=4 * float(np.std(scores)) / math.sqrt(200))
    assert np.mean(evidence) < 0.05


@pytest.mark.parametrize("ways", [2, 5, 13])
def test_names_that_say_nothing_have_no_evidence_from_one_text_a_class(ways: int) -> None:
    """Accuracy within four standard errors of chance, and a log Bayes factor that is negative on average."""
    generator, scores, evidence = torch.Generator().manual_seed(0), [], []
    for _ in range(1000):
        names = normalize(torch.randn(ways, 64, generator=generator), dim=1)
        features, labels = torch.randn(ways, 64, generator=generator), torch.arange(ways)
        cosines, _ = held_out_cosines(features, labels, names)
        scores.append(float((cosines.argmax(1) == labels).float().mean()))
        evidence.append(held_out_fit(features, labels, names).evidence)
    assert np.mean(scores) == pytest.approx(1 / ways, abs=4 * float(np.std(scores)) / math.sqrt(1000))
    assert np.mean(evidence) < 0


def test_texts_of_a_class_with_no_other_text_and_no_name_count_as_chance() -> None:
    fit = held_out_fit(torch.eye(4), torch.arange(4), torch.zeros(4, 4))
    assert fit.evidence == pytest.approx(0.0, abs=1e-5)
    assert 5.5 < fit.calibrated_scale < 6.5  # nothing is known of the scale but the prior
    nothing = held_out_fit(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.eye(4))
    assert nothing.evidence == 0.0 and nothing.calibrated_scale == 12.0
    _, missing = held_out_cosines(torch.eye(4), torch.tensor([0, 0, 1, 1]), torch.zeros(2, 4))
    assert not missing.any()
    features = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    _, missing = held_out_cosines(features, torch.tensor([0, 0, 1, 0, 0, 0]), torch.zeros(2, 8))
    assert missing.tolist() == [False, False, True, False, False, False]


def test_the_cosines_have_the_gradient_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(9, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    priors, labels = torch.randn(3, 5, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2] * 3)
    assert torch.autograd.gradcheck(lambda x: held_out_cosines(x, labels, priors)[0], (features,))
