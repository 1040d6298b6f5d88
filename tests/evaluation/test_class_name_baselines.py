"""The rows that read class names, and the default adaptation without meta-training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TOPICS, make_domain
from scipy.special import softmax

from metatext import Domain, FewShotClassifier, InputError, Learner
from metatext.evaluation.baselines import FrozenEncoder
from metatext.evaluation.class_name_baselines import class_names_alone, prototypes_with_names, usable_names
from metatext.evaluation.evaluate import evaluate
from metatext.evaluation.methods import METHODS, make_methods
from metatext.evaluation.settings import EvaluateSettings
from metatext.evaluation.support_draws import make_draws

NAMES = {label: words.split()[0] for label, words in TOPICS.items()}  # in the language of the texts
GIVEN = tuple(f"{label}={name}" for label, name in NAMES.items())


@pytest.fixture(scope="module")
def encoder(tiny_bert: Path) -> Learner:
    return Learner.from_pretrained(tiny_bert)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.sqrt((one @ one) * (other @ other)))


def test_names_alone_are_the_cosines_of_texts_and_names(encoder: Learner) -> None:
    classes, texts = sorted(TOPICS), make_domain(2).texts[:30]
    found = class_names_alone(FrozenEncoder(encoder), NAMES)(classes)(texts)
    vectors, names = encoder.encode(texts).numpy(), encoder.encode([NAMES[label] for label in classes]).numpy()
    cosines = np.array([[cosine(vector, name) for name in names] for vector in vectors])
    assert found.labels == [classes[i] for i in cosines.argmax(1)] and len(set(found.labels)) > 2
    assert found.probabilities == pytest.approx(softmax(20 * cosines, axis=1).max(1), rel=1e-4)


def test_a_class_without_a_name_is_not_predicted_by_names_alone(encoder: Learner) -> None:
    classes, texts = ["car", "food", "sport"], make_domain(2).texts
    fit = class_names_alone(FrozenEncoder(encoder), NAMES | {"food": ""})
    assert set(fit(classes)(texts).labels) == {"car", "sport"}
    assert set(class_names_alone(FrozenEncoder(encoder), dict.fromkeys(classes, ""))(classes)(texts).labels) <= {
        *classes
    }


def test_a_name_counts_as_two_directions_of_its_class(encoder: Learner) -> None:
    (draw, _) = make_draws(make_domain(2), [2], 2)
    texts, labels = zip(*draw.support, strict=True)
    queries = [text for text, _ in draw.test]
    names = NAMES | {"food": ""}
    by_class = {c: encoder.encode([t for t, label in draw.support if label == c]).numpy() for c in draw.classes}
    centre = np.mean([vectors.mean(0) for vectors in by_class.values()], axis=0)
    encoded = {c: encoder.encode([name]).numpy()[0] for c, name in names.items() if name}
    middle = np.mean(list(encoded.values()), axis=0)
    prototypes = []
    for label in draw.classes:
        prototype = sum((v - centre) / np.linalg.norm(v - centre) for v in by_class[label])
        if label in encoded:
            prototype = prototype + 2 * (encoded[label] - middle) / np.linalg.norm(encoded[label] - middle)
        prototypes.append(prototype)
    vectors = encoder.encode(queries).numpy()
    expected = [draw.classes[int(np.argmax([cosine(v - centre, p) for p in prototypes]))] for v in vectors]
    frozen = FrozenEncoder(encoder)
    assert prototypes_with_names(frozen, names)(texts, labels)(queries).labels == expected
    assert prototypes_with_names(frozen, dict.fromkeys(names, ""))(texts, labels)(queries).labels != expected
    only = dict.fromkeys(names, "") | {"car": NAMES["car"]}  # one name has no direction from the mean of the names
    without = prototypes_with_names(frozen, dict.fromkeys(names, ""))(texts, labels)(queries)
    assert prototypes_with_names(frozen, only)(texts, labels)(queries).labels == without.labels


def test_usable_names_are_given_or_readable_and_in_the_encoders_words(encoder: Learner) -> None:
    found = usable_names(encoder, ["球队", "3", "car", "美食"], {"car": "汽车", "美食": "жжж"})
    assert found == {"球队": "球队", "3": "", "car": "汽车", "美食": ""}


@pytest.mark.parametrize("names", [True, False])
def test_no_meta_training_is_the_adapted_encoder_with_the_learners_names(tiny_bert: Path, names: bool) -> None:
    settings = EvaluateSettings(methods=("no-meta-training",), class_names=GIVEN if names else (), names=names)
    encoder = Learner.from_pretrained(tiny_bert, inner_steps=3)
    (method,) = make_methods(settings, make_domain(2), lambda: encoder, pytest.fail, {}).values()
    for draw in make_draws(make_domain(2), [1, 5], 2):  # 5 shots are 30 texts, which are fine-tuned on
        texts, labels = zip(*draw.support, strict=True)
        given = NAMES if names else dict.fromkeys(NAMES, "")
        classifier = FewShotClassifier(Learner.from_pretrained(tiny_bert), class_names=given).fit(texts, labels)
        queries = [text for text, _ in draw.test]
        answer = method.on(draw)
        assert answer.labels == classifier.predict(queries).tolist() and len(set(answer.labels)) > 2
        assert answer.probabilities == pytest.approx(classifier.predict_proba(queries).max(1), abs=5e-3)


def test_without_names_their_rows_are_left_out(learner_folder: str, caplog: pytest.LogCaptureFixture) -> None:
    settings = EvaluateSettings(shots=(1,), draws=2, methods=("majority", "names", "frozen+names"), names=False)
    result = evaluate([learner_folder], make_domain(2), [], settings)
    assert [row["method"] for row in result["rows"]] == ["majority class"]
    assert "no row for 'class names alone, no label', 'frozen encoder + names': --no-names" in caplog.text
    with pytest.raises(InputError, match="no method is left to evaluate: name others with --methods"):
        evaluate([learner_folder], make_domain(2), [], EvaluateSettings(methods=("names",), names=False))


def test_names_that_say_nothing_make_no_row(learner_folder: str, caplog: pytest.LogCaptureFixture) -> None:
    numbers = {label: str(i) for i, label in enumerate(TOPICS)}
    target = make_domain(2)
    coded = Domain.from_records(target.texts, [numbers[label] for label in target.labels], name="coded")
    settings: dict[str, Any] = {"shots": (1,), "draws": 2, "methods": ("majority", "names", "frozen+names")}
    result = evaluate([learner_folder], coded, [], EvaluateSettings(**settings))
    assert [row["method"] for row in result["rows"]] == ["majority class"]
    assert "fewer than two classes have a name that the encoder can read" in caplog.text
    given = EvaluateSettings(**settings, class_names=("0=球队", "1=股票"))
    result = evaluate([learner_folder], coded, [], given)
    assert [row["method"] for row in result["rows"]] == [METHODS[key] for key in settings["methods"]]
    assert caplog.text.count("never predicts classes without a name: '2', '3', '4', '5'") == 1
    assert set(result["rows"][1]["confusion"]["2"]) <= {"0", "1"}


def test_names_alone_answer_alike_whatever_the_labels(learner_folder: str) -> None:
    settings = EvaluateSettings(shots=(0, 1, 3), draws=2, methods=("names",), class_names=GIVEN, test_size=30)
    result = evaluate([learner_folder], make_domain(2), [], settings)
    assert [(row["shots"], row["draws"]) for row in result["rows"]] == [(0, 2), (1, 2), (3, 2)]
    assert len({record["accuracy"] for record in result["records"]}) == 1
    assert 0 < result["rows"][0]["accuracy"] < 1
