"""The recipe of the README, in a subprocess, on the demo corpus and encoder, with few steps."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SHARED

from metatext import Domain, TrainConfig
from metatext.data.settings import Table
from metatext.data.user_files import read_domain, read_domains
from metatext.errors import InputError
from metatext.recipe import Recipe

PROJECT = Path(__file__).resolve().parents[1]


def run_recipe(*options: str, name: str = "news_to_weibo") -> subprocess.CompletedProcess[str]:
    words = [sys.executable, f"recipes/{name}.py", "--no-progress", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_recipe_trains_evaluates_and_uses_finished_learners_again(tmp_path: Path) -> None:
    output = tmp_path / "runs"
    options = ["--output", str(output), "--meta-steps", "2", "--eval-episodes", "2", "--target", "weibo_topics"]
    options += ["--evaluate.shots", "1", "2", "--evaluate.draws", "2", "--evaluate.test-size", "40"]
    options += ["--evaluate.fine-tune-steps", "2", "--evaluate.joint-epochs", "0.2"]
    first = run_recipe(*options)
    assert first.returncode == 0, first.stderr[-2000:]
    table = json.loads((output / "weibo_topics.json").read_text(encoding="utf-8"))
    methods = [row["method"] for row in table["rows"] if row["shots"] == 1]
    assert methods == [
        "majority class",
        "TF-IDF + logistic regression",
        "frozen encoder + nearest centroid",
        "frozen encoder + logistic regression",
        "fine-tuning the pretrained encoder",
        "source classifier, no target label",
        "joint training, then fine-tuning",
        "the default adaptation, no meta-training",
        "first-order MAML",
        "full MAML",
    ]
    assert len(table["records"]) == 10 * 2 * 2 and all(0 <= r["accuracy"] <= 1 for r in table["records"])
    assert table["table"] in first.stdout and table["table"] in (output / "weibo_topics.md").read_text(encoding="utf-8")
    assert not list(output.glob(".*")), "the log of a finished evaluation was left behind"

    trained = (output / "full" / "model.safetensors").stat().st_mtime_ns
    again = run_recipe(*options, "--evaluate.methods", "majority", "maml")
    assert again.returncode == 2 and "was made with other options (methods): move it away" in again.stderr
    (output / "weibo_topics.json").unlink()
    again = run_recipe(*options, "--evaluate.methods", "majority", "maml")
    assert again.returncode == 0, again.stderr[-2000:]
    assert (output / "full" / "model.safetensors").stat().st_mtime_ns == trained
    other = run_recipe(*options, "--inner-lr", "0.5")
    assert other.returncode == 2, other.stderr[-2000:]
    assert "holds a learner trained with other options (inner_lr)" in other.stderr


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "target", "classes"),
    [
        ("huffpost_fewshot", "huffpost.test_classes", 16),
        ("reuters_fewshot", "reuters.test_classes", 11),
        ("headlines_to_tweets", "tweets_emotion", 4),
        ("banking_intents", "banking77", 38),
        ("reviews_to_weibo", "weibo_senti", 2),
        ("fewclue", "eprstmt", 2),
        ("general_english", "tweets_topic5", 5),
        ("general_chinese", "weibo_topics", 13),
    ],
)
def test_recipes_run_on_real_text(tmp_path: Path, name: str, target: str, classes: int) -> None:
    folder = {"reviews_to_weibo": "zh", "general_chinese": "zh", "fewclue": "zh/fewclue"}.get(name, "en")
    options = ["--data-dir", str(SHARED / "data"), "--encoder", "data/encoder", "--output", str(tmp_path / "runs")]
    options += ["--meta-steps", "1", "--meta-batch-size", "1", "--eval-episodes", "1", "--max-length", "16"]
    options += ["--evaluate.shots", "1", "--evaluate.draws", "2", "--evaluate.test-size", "20"]
    options += ["--evaluate.methods", "centroid", "maml", "--target", f"{folder}/{target}"]
    done = run_recipe(*options, name=name)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "runs" / f"{target}.json").read_text(encoding="utf-8"))
    assert len(found["classes"]) == classes
    assert [row["method"] for row in found["rows"]] == ["frozen encoder + nearest centroid", "prototypical network"]


def test_classes_of_the_target_are_taken_out_of_a_source_of_the_same_name(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_domain(tmp_path / f"bank.{split}.jsonl", "abcd")
    recipe = Recipe(("bank",), ("bank",), "encoder", str(tmp_path), target_classes=("b", "d"))
    target, test, _ = recipe._read_target("bank")
    assert recipe._read_source("bank")[0].classes == ["a", "c"]
    assert target.classes == ["b", "d"] and test and test.classes == ["b", "d"]
    same = dataclasses.replace(recipe, source=(str(tmp_path / "bank.train.jsonl"),))
    assert same._read_source(same.source[0])[0].classes == ["a", "c"]
    new = dataclasses.replace(recipe, target_labels=("b=x", "d=y", "a=z"), target_classes=("x", "y"))
    assert new._read_source("bank")[0].classes == ["a", "c"] and new._read_target("bank").domain.classes == ["x", "y"]
    whole = dataclasses.replace(recipe, target_classes=())
    assert whole._read_source("bank")[0].classes == whole._read_target("bank").domain.classes == ["a", "b", "c", "d"]


def test_unlabelled_texts_are_read_noted_and_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_domain(tmp_path / "news.jsonl", "abcd")
    write_domain(tmp_path / "posts.train.jsonl", "xy")
    write_domain(tmp_path / "posts.test.jsonl", "xy")
    (tmp_path / "more.txt").write_text("one\u2028line\r\n\ntwo\n", encoding="utf-8")
    recipe = Recipe(("news",), ("posts",), "encoder", str(tmp_path), orders=("first-order",))
    recipe = dataclasses.replace(recipe, config=TrainConfig(output=str(tmp_path / "runs")), table=Table())
    assert recipe.read().unlabelled == []
    given = dataclasses.replace(recipe, unlabelled=("posts",))
    assert given.read().unlabelled == [row["text"] for row in rows_of("xy")]
    lines = dataclasses.replace(recipe, unlabelled=(str(tmp_path / "more.txt"),))
    assert lines.read().unlabelled == ["one\u2028line", "two"]
    with pytest.raises(InputError, match="unlabelled='hub:a/b' must be a file"):
        dataclasses.replace(recipe, unlabelled=("hub:a/b",)).read()

    handed = []
    monkeypatch.setattr("metatext.training.meta_training.train", lambda *_, target_texts: handed.append(target_texts))
    recipe.train(recipe.read())
    folder = tmp_path / "runs" / "first-order"
    (folder / "metatext.json").write_text("{}")
    note = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    for name in ("hard", "adversarial"):  # as older versions wrote it
        del note[name]
    (folder / "recipe.json").write_text(json.dumps(note))
    recipe.train(recipe.read())  # is there already
    with pytest.raises(FileExistsError, match=r"learner trained with other options \(unlabelled\)"):
        lines.train(lines.read())
    harder = dataclasses.replace(recipe, episodes=dataclasses.replace(recipe.episodes, hard=0.5))
    with pytest.raises(FileExistsError, match=r"learner trained with other options \(hard\)"):
        harder.train(harder.read())
    assert handed == [[]]
    del note["names"]  # of a version that had no names among the texts
    (folder / "recipe.json").write_text(json.dumps(note))
    with pytest.raises(FileExistsError, match=r"learner trained with other options \(names\)"):
        recipe.train(recipe.read())
    nameless = dataclasses.replace(recipe, config=dataclasses.replace(recipe.config, names=False))
    nameless.train(nameless.read())


def rows_of(labels: str) -> list[dict[str, str]]:
    return [{"text": f"{label} {i}", "label": label} for label in labels for i in range(3)]


def write_domain(path: Path, labels: str) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(labels)), encoding="utf-8")


def test_sources_on_the_hub_are_named_with_a_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("metatext.data.domains.Domain.from_hub", lambda *a, **k: seen.append((a, k)))
    read_domain("hub:clue/clue:tnews:validation", Table(text="sentence"))
    read_domain("hub:ag_news", Table())
    options = {"label": "label", "clean": None}
    assert seen == [
        (("clue/clue", "tnews", "validation"), {"text": "sentence"} | options),
        (("ag_news", None, "train"), {"text": "text"} | options),
    ]


@pytest.mark.slow
@pytest.mark.shared
def test_each_domain_is_held_out_in_turn(tmp_path: Path) -> None:
    rows = (SHARED / "data" / "zh" / "reviews.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in rows if json.loads(row)["domain"] in {"books", "hotel"}]
    (tmp_path / "reviews.jsonl").write_text("\n".join(rows), encoding="utf-8")
    options = ["--data-dir", str(tmp_path), "--source", "reviews", "--target", "reviews", "--encoder", "data/encoder"]
    options += ["--output", str(tmp_path / "runs"), "--meta-steps", "1", "--max-length", "16"]
    options += ["--evaluate.shots", "1", "--evaluate.draws", "2", "--evaluate.test-size", "20"]
    options += ["--evaluate.methods", "centroid", "maml"]
    done = run_recipe(*options, name="reviews_leave_one_out")
    assert done.returncode == 0, done.stderr[-2000:]
    tables = {
        d: json.loads((tmp_path / "runs" / d / "reviews.json").read_text(encoding="utf-8")) for d in ("books", "hotel")
    }
    assert tables["books"]["sources"] == ["reviews/hotel"] and tables["hotel"]["sources"] == ["reviews/books"]
    mean = json.loads((tmp_path / "runs" / "mean.json").read_text(encoding="utf-8"))["rows"]
    for row, *others in zip(mean, *(table["rows"] for table in tables.values()), strict=True):
        assert row["accuracy"] == pytest.approx(sum(other["accuracy"] for other in others) / 2)
    longer = [*options]
    longer[longer.index("--meta-steps") + 1] = "2"
    other = run_recipe(*longer, name="reviews_leave_one_out")
    assert other.returncode == 2 and "holds a learner trained with other options (meta_steps)" in other.stderr
    other = run_recipe(*options, "--by", "None", name="reviews_leave_one_out")
    assert other.returncode == 2 and "name its column, --by" in other.stderr
    again = run_recipe(*options, name="reviews_leave_one_out")
    assert again.returncode == 0 and "fit/s" not in again.stderr, "finished tables were made again"


@pytest.mark.slow
def test_the_medical_recipe_reads_data_in_the_format_of_the_hub(tmp_path: Path) -> None:
    """Four made-up descriptions of each of the 22 diagnoses, under the columns of gretelai/symptom_to_diagnosis."""
    diagnoses = [
        *("drug reaction", "allergy", "chicken pox", "diabetes", "psoriasis", "hypertension", "cervical spondylosis"),
        *("bronchial asthma", "varicose veins", "malaria", "dengue", "arthritis", "impetigo", "fungal infection"),
        *("common cold", "gastroesophageal reflux disease", "urinary tract infection", "typhoid", "migraine"),
        *("peptic ulcer disease", "pneumonia", "jaundice"),
    ]
    folder = tmp_path / "symptoms"
    folder.mkdir()
    for split in ("train", "test"):
        rows = [{"output_text": d, "input_text": f"{split} {i}: it hurts, {d}"} for d in diagnoses for i in range(4)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    options = ["--source", f"hub:{folder}", "--target", f"hub:{folder}", "--evaluate.test", f"hub:{folder}::test"]
    options += ["--encoder", "data/encoder", "--output", str(tmp_path / "runs"), "--meta-steps", "1", "--queries", "1"]
    options += ["--shots", "1", "--ways", "2", "--eval-episodes", "1", "--max-length", "16", "--evaluate.shots", "1"]
    options += ["--evaluate.draws", "2", "--evaluate.methods", "centroid", "maml"]
    done = run_recipe(*options, name="medical")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "runs" / "symptoms.json").read_text(encoding="utf-8"))
    assert len(found["classes"]) == 10 and {row["test_rows"] for row in found["records"]} == {40}
    learner = json.loads((tmp_path / "runs" / "first-order" / "recipe.json").read_text(encoding="utf-8"))
    assert "(48 rows)" in learner["sources"]  # of the other twelve


@pytest.mark.parametrize("other", ["hub:a/b", "hub:a/b::test", "hub:a/b:"])
def test_classes_of_the_target_are_taken_out_of_a_source_on_the_hub(
    monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    rows = Domain.from_records(["t"] * 4, list("abcd"))
    monkeypatch.setattr("metatext.data.domains.Domain.from_hub", lambda *a, **k: rows)
    recipe = Recipe(("hub:a/b",), (other,), "encoder", "data", target_classes=("b", "d"))
    assert recipe._read_source("hub:a/b")[0].classes == ["a", "c"]
    assert recipe._read_target(other).domain.classes == ["b", "d"]
    assert dataclasses.replace(recipe, target=("hub:a/c",))._read_source("hub:a/b")[0].classes == ["a", "b", "c", "d"]


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.train_0.jsonl").write_text('{"text": "t", "label": "a"}\n', encoding="utf-8")
    recipe = Recipe(("x",), ("x",), "encoder", str(tmp_path))
    recipe = dataclasses.replace(recipe, config=dataclasses.replace(recipe.config, output=str(tmp_path / "runs")))
    with pytest.raises(InputError, match="held_out='books' is a value of a column: name the column, --by domain"):
        dataclasses.replace(recipe, held_out="books").run()
    with pytest.raises(InputError, match="--by shop parts files into domains, not data sets on the Hub"):
        read_domains(["hub:a/b"], Table(by="shop"))
    with pytest.raises(InputError, match="has no 'boks' in column 'label'"):
        dataclasses.replace(recipe, held_out="boks", table=Table(by="label"))._read_target("x")
    with pytest.raises(FileNotFoundError, match="'x' has the supports of an official split, but no test texts"):
        recipe._read_target("x")
    (tmp_path / "x.test_public.jsonl").write_text('{"text": "t", "label": "a"}\n', encoding="utf-8")
    assert len(recipe._read_target(str(tmp_path / "x")).supports) == 1  # also by an absolute path


def test_a_table_of_other_rows_is_not_taken_for_this_one(tmp_path: Path) -> None:
    recipe = Recipe(("x",), ("x",), "encoder", "data", config=TrainConfig(output=str(tmp_path)))
    assert not recipe.table_is_there("x")
    table = {"settings": dataclasses.asdict(recipe._evaluate_settings()), "recipe": recipe._target_options()}
    recipe.table_of("x").write_text(json.dumps(table), encoding="utf-8")
    assert recipe.table_is_there("x")
    other = dataclasses.replace(recipe, target_labels=("happy=positive", "sad=negative"))
    with pytest.raises(FileExistsError, match=r"x.json was made with other options \(target_labels\): move it away"):
        other.table_is_there("x")
