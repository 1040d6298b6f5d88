"""`FewShotClassifier` keeps scikit-learn's conventions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TOPICS, make_rows
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from transformers import PreTrainedModel

from metatext import FewShotClassifier, InputError, Learner
from metatext.data.cleaning import clean_texts

ROWS = make_rows(4, 6)
TEXTS, LABELS = [row["text"] for row in ROWS], [row["label"] for row in ROWS]


@pytest.fixture(scope="module")
def learner(tiny_bert: Path) -> Learner:
    return Learner.from_pretrained(tiny_bert, inner_steps=2, inner_lr=0.003)


@pytest.fixture(scope="module")
def fitted(learner: Learner) -> FewShotClassifier:
    return FewShotClassifier(learner).fit(TEXTS, LABELS)


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in learner.named_parameters()}


# ---------------------------------------------------------------- parameters
def test_parameters_are_got_set_and_cloned(learner: Learner) -> None:
    classifier = FewShotClassifier(learner, steps=4)
    assert is_classifier(classifier)
    assert classifier.get_params() == {
        "learner": learner,
        "steps": 4,
        "class_names": None,
        "blend": None,
        "epochs": None,
        "max_length": None,
        "classes": None,
        "encoder": None,
    }
    assert classifier.set_params(steps=1).steps == 1
    copy = clone(classifier)
    assert copy is not classifier and copy.learner is learner and copy.steps == 1
    with pytest.raises(ValueError, match="Invalid parameter 'step'"):
        classifier.set_params(step=1)


def test_a_clone_is_not_fitted(fitted: FewShotClassifier) -> None:
    with pytest.raises(NotFittedError):
        clone(fitted).predict(TEXTS)


def test_steps_are_those_of_the_adaptation(learner: Learner, fitted: FewShotClassifier) -> None:
    zero, two, five = (FewShotClassifier(learner, steps).fit(TEXTS, LABELS).predict_proba(TEXTS) for steps in (0, 2, 5))
    np.testing.assert_array_equal(zero, fitted.predict_proba(TEXTS))  # none by default
    assert np.abs(zero - two).max() > 1e-3 and np.abs(five - two).max() > 1e-3


def test_the_learner_may_be_given_as_a_folder(learner: Learner, fitted: FewShotClassifier, tmp_path: Path) -> None:
    learner.save_pretrained(tmp_path / "learner")
    for name in (tmp_path / "learner", str(tmp_path / "learner")):
        loaded = FewShotClassifier(name).fit(TEXTS, LABELS)
        np.testing.assert_allclose(loaded.predict_proba(TEXTS), fitted.predict_proba(TEXTS), atol=1e-5)


# ---------------------------------------------------------------- fitting and predicting
def test_probabilities_are_those_of_the_sorted_classes(fitted: FewShotClassifier) -> None:
    probabilities = fitted.predict_proba(TEXTS)
    assert fitted.classes_.tolist() == sorted(TOPICS)
    assert probabilities.shape == (36, 6) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    assert fitted.predict(TEXTS).tolist() == [fitted.classes_[i] for i in probabilities.argmax(1)]
    assert fitted.score(TEXTS, LABELS) > 0.9
    np.testing.assert_allclose(fitted.predict_proba(TEXTS[:1])[0], probabilities[0], atol=1e-5)


def test_fitting_again_forgets_the_first_fit(learner: Learner, fitted: FewShotClassifier) -> None:
    again = FewShotClassifier(learner).fit(TEXTS[:8], ["a", "b"] * 4)
    again.fit(TEXTS, LABELS)
    np.testing.assert_array_equal(again.predict_proba(TEXTS), fitted.predict_proba(TEXTS))


def test_fitting_leaves_the_learner_as_it_was(learner: Learner) -> None:
    before = weights(learner)
    classifier = FewShotClassifier(learner).fit(TEXTS, LABELS)
    expected = classifier.predict_proba(TEXTS)
    assert all(torch.equal(value, before[name]) for name, value in weights(learner).items())
    moved = dict(classifier.model.named_parameters())
    assert not any(p is q for p in learner.parameters() for q in moved.values())
    with torch.no_grad():
        for p in learner.parameters():
            p.add_(1.0)
    try:
        np.testing.assert_array_equal(classifier.predict_proba(TEXTS), expected)
    finally:
        with torch.no_grad():
            for name, p in learner.named_parameters():
                p.copy_(before[name])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [(10, 2, [2, 10]), (-1, 1, [-1, 1]), (True, False, [False, True]), ("10", "2", ["10", "2"])],
)
def test_labels_keep_their_type_and_order(learner: Learner, first: Any, second: Any, expected: list[Any]) -> None:
    picked = [row for row in ROWS if row["label"] in ("car", "food")]
    texts = [row["text"] for row in picked]
    labels = [first if row["label"] == "car" else second for row in picked]
    classifier = FewShotClassifier(learner, class_names={first: "", second: ""}).fit(texts, labels)
    assert classifier.classes_.tolist() == expected
    nameless = FewShotClassifier(learner, class_names={"car": "", "food": ""})
    named = nameless.fit(texts, [row["label"] for row in picked])
    columns = [["car", "food"].index("car" if c == first else "food") for c in expected]
    np.testing.assert_allclose(classifier.predict_proba(texts), named.predict_proba(texts)[:, columns], atol=1e-4)
    assert classifier.predict(texts).dtype == np.asarray(labels).dtype
    assert classifier.score(texts, labels) > 0.9
    assert list(classifier.model.config.id2label.values()) == sorted(map(str, expected))


@pytest.mark.parametrize("kind", [np.array, lambda x: np.array(x, dtype=object), tuple, pd.Series, pd.Categorical])
def test_texts_and_labels_may_be_arrays_or_columns(fitted: FewShotClassifier, kind: Callable[[Any], Any]) -> None:
    classifier = clone(fitted).fit(kind(TEXTS), kind(LABELS))
    assert classifier.classes_.tolist() == sorted(TOPICS)
    np.testing.assert_array_equal(classifier.predict_proba(kind(TEXTS)), fitted.predict_proba(TEXTS))


def test_a_series_of_another_index_is_read_in_its_order(fitted: FewShotClassifier) -> None:
    order = list(reversed(range(36)))
    texts, labels = pd.Series(TEXTS, index=order), pd.Series(LABELS, index=order)
    np.testing.assert_array_equal(clone(fitted).fit(texts, labels).predict(texts), fitted.predict(TEXTS))


# ---------------------------------------------------------------- with the rest of scikit-learn
def test_cross_validation_and_grid_search(learner: Learner) -> None:
    scores = cross_val_score(FewShotClassifier(learner), TEXTS, LABELS, cv=3)
    assert scores.shape == (3,) and scores.min() > 0.5
    search = GridSearchCV(FewShotClassifier(learner), {"steps": [0, 2]}, cv=2).fit(TEXTS, LABELS)
    assert search.best_score_ == search.cv_results_["mean_test_score"].max() and search.predict(TEXTS).shape == (36,)
    losses = cross_val_score(FewShotClassifier(learner), TEXTS, LABELS, cv=2, scoring="neg_log_loss")
    assert (losses > -1.7).all()  # log 6 = 1.79 by chance


def test_cleaning_may_stand_in_front(fitted: FewShotClassifier) -> None:
    noisy = [f"@小明 {text} http://t.cn/abc" for text in TEXTS]
    cleaner = FunctionTransformer(lambda texts: clean_texts(list(texts), "weibo"))
    pipeline = clone(make_pipeline(cleaner, clone(fitted))).fit(noisy, LABELS)
    assert pipeline[-1].learner is fitted.learner
    assert pipeline.predict(noisy).tolist() == fitted.predict(TEXTS).tolist()
    np.testing.assert_allclose(pipeline.predict_proba(noisy), fitted.predict_proba(TEXTS), atol=1e-5)
    assert pipeline.classes_.tolist() == sorted(TOPICS)


# ---------------------------------------------------------------- mistakes
def test_before_fitting_nothing_is_known(learner: Learner, tmp_path: Path) -> None:
    classifier = FewShotClassifier(learner)
    for ask in (
        lambda: classifier.predict(TEXTS),
        lambda: classifier.predict_proba(TEXTS),
        lambda: classifier.model,
        lambda: classifier.save_pretrained(tmp_path / "model"),
    ):
        with pytest.raises(NotFittedError):
            ask()
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (["一", "二"], ["a", "a"], "at least two classes, but every label is 'a'"),
        (["一", "二", "三"], ["a", "b"], "3 texts but 2 labels: each text needs one label"),
        (["一", " ", "三"], ["a", "b", "b"], "text 2 of 3 must be a non-empty string, got ' '"),
        (["一", "二", None], ["a", "b", "b"], "text 3 of 3 must be a non-empty string, got None"),
        (["一", "二", float("nan")], ["a", "b", "b"], "text 3 of 3 must be a non-empty string, got nan"),
        ("一二", ["a", "b"], "texts must be a list of strings, got one string"),
        ([], [], "no texts"),
    ],
    ids=["one class", "lengths", "blank", "none", "nan", "one string", "nothing"],
)
def test_texts_and_labels_that_cannot_be_fitted(learner: Learner, texts: Any, labels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        FewShotClassifier(learner).fit(texts, labels)


@pytest.mark.parametrize("kind", [list, pd.Series, lambda x: np.array(x, dtype=object)])
@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA], ids=str)
def test_a_missing_label_is_named_by_its_row(learner: Learner, missing: Any, kind: Callable[[Any], Any]) -> None:
    with pytest.raises(InputError, match="label 2 of 3 is missing"):
        FewShotClassifier(learner).fit(["一", "二", "三"], kind(["a", missing, "b"]))


def test_one_hot_labels_are_refused(learner: Learner) -> None:
    with pytest.raises(InputError, match=r"labels must be one for each text, got an array of shape \(36, 6\)"):
        FewShotClassifier(learner).fit(TEXTS, np.eye(6, dtype=int)[np.arange(36) % 6])


def test_measurements_are_no_labels(learner: Learner) -> None:
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        FewShotClassifier(learner).fit(["一", "二", "三"], [0.1, 0.2, 0.7])


def test_texts_to_predict_are_checked_too(fitted: FewShotClassifier) -> None:
    with pytest.raises(InputError, match="text 2 of 2 must be a non-empty string, got ''"):
        fitted.predict(["一", ""])
    with pytest.raises(InputError, match="got one string"):
        fitted.predict("一")
    assert fitted.predict_proba([]).shape == (0, 6) and fitted.predict([]).shape == (0,)


# ---------------------------------------------------------------- the model
def test_the_model_is_transformers_own(fitted: FewShotClassifier) -> None:
    assert isinstance(fitted.model, PreTrainedModel) and not fitted.model.training
    assert type(fitted.model).__name__ == "BertForSequenceClassification"
    assert fitted.model.config.id2label == dict(enumerate(sorted(TOPICS)))


def test_saving_refuses_a_filled_folder(fitted: FewShotClassifier, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"model already exists .* --overwrite"):
        fitted.save_pretrained(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    (folder / "metatext.json").write_text("{}")  # what an earlier classifier would have
    fitted.save_pretrained(folder, overwrite=True)
    assert not (folder / "notes.txt").exists() and (folder / "model.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_negative_steps_are_refused_and_the_steps_taken_are_recorded(tiny_bert: Path) -> None:
    rows = make_rows(0, 2)
    texts, labels = [row["text"] for row in rows], [row["label"] for row in rows]
    with pytest.raises(InputError, match=r"steps must be 0 or more, got -1"):
        FewShotClassifier(Learner.from_pretrained(tiny_bert), steps=-1).fit(texts, labels)
    fitted = FewShotClassifier(Learner.from_pretrained(tiny_bert), steps=1).fit(texts, labels)
    assert fitted.adapted_.metadata["inner_steps"] == 1
    assert fitted.adapted_.metadata["method"] == "no meta-training"


# ---------------------------------------------------------------- classes without texts
NAMES = {"a": "球队比赛", "b": "股票基金", "c": "汽车轿车"}


def test_names_alone_are_the_nearest_name_by_cosine(tiny_bert: Path) -> None:
    """Without a text there is no centre: the largest cosine to the difference of the names' encodings, written out."""
    learner = Learner.from_pretrained(tiny_bert)
    classifier = FewShotClassifier(learner, class_names=NAMES).fit([], [])
    texts = ["冠军教练联赛", "利率投资市场", "油耗车展驾驶", "进球银行"]
    names = learner.encode(list(NAMES.values()))
    directions = torch.nn.functional.normalize(names - names.mean(0), dim=1)
    cosines = torch.nn.functional.normalize(learner.encode(texts), dim=1) @ directions.T
    assert classifier.classes_.tolist() == ["a", "b", "c"]
    found = torch.from_numpy(classifier.predict_proba(texts)).log()
    scaled = cosines * 12  # the scale of names alone
    found, scaled = (logits - logits.mean(1, keepdim=True) for logits in (found, scaled))
    torch.testing.assert_close(found, scaled, rtol=0.1, atol=0.1)
    assert classifier.adapted_.metadata["support"] == {"a": 0, "b": 0, "c": 0}


def test_some_classes_have_texts_and_others_names_only(tiny_bert: Path) -> None:
    learner = Learner.from_pretrained(tiny_bert)
    texts, labels = ["球队比赛进球", "冠军教练联赛", "股票基金银行", "利率投资市场"], ["a", "a", "b", "b"]
    mixed = FewShotClassifier(learner, class_names=NAMES, classes=["c"]).fit(texts, labels)
    assert mixed.classes_.tolist() == ["a", "b", "c"]
    assert mixed.predict(["汽车轿车"]).tolist() == ["c"]
    assert mixed.adapted_.metadata["support"] == {"a": 2, "b": 2, "c": 0}
    unlabelled = FewShotClassifier(learner, class_names=NAMES).fit([], [], unlabelled=[*texts, "油耗车展驾驶"])
    alone = FewShotClassifier(learner, class_names=NAMES).fit([], [])
    assert not np.allclose(unlabelled.predict_proba(texts), alone.predict_proba(texts), atol=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "there are no texts to adapt to: give labelled texts of at least two classes, or class names"),
        ({"class_names": {"a": "球队"}}, "a classifier needs at least two classes, but every label is 'a'"),
        (
            {"class_names": NAMES | {"c": ""}},
            "nothing is known of class 'c', .*: its label does not",
        ),
        (
            {"class_names": {"a": "球队", "b": "非球队"}},
            "class 'a', .*: its name and another's differ by a negation",
        ),
        ({"class_names": NAMES, "steps": 2}, "steps=2 needs labelled texts"),
    ],
)
def test_classes_without_texts_need_names(tiny_bert: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FewShotClassifier(Learner.from_pretrained(tiny_bert), **options).fit([], [])


def test_the_order_of_the_texts_changes_no_answer(tiny_bert: Path) -> None:
    rows = make_rows(0, 6)
    texts, labels = [row["text"] for row in rows], [row["label"] for row in rows]
    learner = Learner.from_pretrained(tiny_bert)
    order = np.random.default_rng(0).permutation(len(texts)).tolist()
    first = FewShotClassifier(learner, epochs=1).fit(texts, labels)
    second = FewShotClassifier(learner, epochs=1).fit([texts[i] for i in order], [labels[i] for i in order])
    np.testing.assert_array_equal(first.predict_proba(texts), second.predict_proba(texts))
