"""The `metatext` command: what it writes, and how it refuses."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TOPICS, make_rows
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from metatext import Learner, __version__
from metatext.cli.main import main
from metatext.training.source_list import read_listed_sources

pytestmark = pytest.mark.slow

COLUMNS = ("--text", "text", "--label", "label")
SMALL = ("--ways", "2", "--shots", "2", "--queries", "3", "--meta-steps", "2", "--meta-batch-size", "2",
         "--inner-steps", "1", "--eval-episodes", "2", "--no-progress")  # fmt: skip


def words(*arguments: Any) -> list[str]:
    return [str(word) for word in arguments]


def command(*arguments: Any, code: int = 0) -> subprocess.CompletedProcess[str]:
    """`metatext` in a process of its own."""
    run = [sys.executable, "-m", "metatext", *words(*arguments)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == code, done.stderr[-3000:]
    return done


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one sentence with which the command refuses its arguments, in this process."""

    def run(*arguments: Any) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(words(*arguments))
        assert stop.value.code == 2
        out, errors = capsys.readouterr()
        lines = [line for line in errors.splitlines() if line and "Loading weights" not in line]
        assert out == "" and len(lines) == 1, errors
        return lines[0]

    return run


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled files: a and b are sources, target has five rows a class."""
    made = tmp_path_factory.mktemp("files")
    for name, seed, per_class in (("a", 0, 8), ("b", 1, 8), ("target", 2, 5)):
        write_jsonl(made / f"{name}.jsonl", make_rows(seed, per_class))
    return made


@pytest.fixture(scope="module")
def run(folder: Path, tiny_bert: Path) -> Path:
    main(words("train", "--source", folder / "a.jsonl", folder / "b.jsonl", "--encoder", tiny_bert, *SMALL,
               "--output", folder / "run"))  # fmt: skip
    return folder / "run"


@pytest.fixture(scope="module")
def model(folder: Path, run: Path) -> Path:
    main(words("adapt", run, folder / "target.jsonl", *COLUMNS, "--output", folder / "model"))
    return folder / "model"


# ---------------------------------------------------------------- help
def test_help_needs_no_torch() -> None:
    code = """
import sys
from metatext.cli.main import main
for words in ([], ["train"], ["search"], ["adapt"], ["predict"], ["evaluate"], ["export"]):
    try:
        main([*words, "--help"])
    except SystemExit as stop:
        assert stop.code == 0, words
loaded = {"torch", "transformers", "accelerate", "sklearn", "datasets", "optuna"} & set(sys.modules)
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    for word in (
        "train",
        "search",
        "adapt",
        "predict",
        "evaluate",
        "export",
        "--meta-steps",
        "--inner-lr",
        "--shots",
        "--trials",
        "--hub-id",
    ):
        assert word in done.stdout


def test_a_misspelt_option_is_met_with_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "--source", "a.jsonl", "--encoder", "x", "--output", "y", "--meta-step", "3"])
    assert stop.value.code == 2
    out, errors = capsys.readouterr()
    assert out == "" and "--meta-step" in errors and "--meta-steps" in errors and "Traceback" not in errors


# ---------------------------------------------------------------- train, adapt, predict
def test_train_adapt_predict_in_processes_of_their_own(folder: Path, tiny_bert: Path, tmp_path: Path) -> None:
    sources = (folder / "a.jsonl", folder / "b.jsonl")
    done = command("train", "--source", *sources, "--encoder", tiny_bert, *SMALL, "--output", tmp_path / "run")
    assert done.stdout.startswith(f"{tmp_path / 'run'}: 2 meta-steps in ") and done.stdout.count("\n") == 1
    assert "Warning" not in done.stderr and "Loading" not in done.stderr and "Traceback" not in done.stderr
    done = command("adapt", tmp_path / "run", folder / "target.jsonl", *COLUMNS, "--output", tmp_path / "model")
    first, encoder, classes, length = done.stdout.splitlines()
    given = re.fullmatch(
        r"(.*): a classifier of 6 classes, adapted to 30 texts, of which it gives (\d+) your label", first
    )
    assert given and given[1] == str(tmp_path / "model")
    assert re.fullmatch(r"length: none of the 30 texts were cut at \d+ tokens \(--max-length\)", length)
    assert encoder.startswith("encoder: ") and encoder.endswith("fine-tuned in 4 passes over your texts (--epochs)")
    assert re.fullmatch(
        r"classes: (what their names say counts as much as \d(\.\d)? more .*|known by your texts alone \(.*)", classes
    )
    posts = write_jsonl(
        tmp_path / "posts.jsonl", [{"id": i, "text": row["text"]} for i, row in enumerate(make_rows(3, 4))]
    )
    done = command("predict", tmp_path / "model", posts, "--text", "text", "--output", tmp_path / "out.jsonl")
    assert done.stdout == f"{tmp_path / 'out.jsonl'}: 24 texts labelled\n"
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert [list(row) for row in rows] == [["id", "text", "label", "score"]] * 24
    assert [(row["id"], row["text"]) for row in rows] == [(row["id"], row["text"]) for row in read_jsonl(posts)]
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    classifier = pipeline("text-classification", plain, tokenizer=AutoTokenizer.from_pretrained(tmp_path / "model"))
    answers = classifier([row["text"] for row in rows])
    assert [answer["label"] for answer in answers] == [row["label"] for row in rows]
    assert [answer["score"] for answer in answers] == pytest.approx([row["score"] for row in rows], abs=1e-4)
    accuracy = sum(row["label"] == true["label"] for row, true in zip(rows, make_rows(3, 4), strict=True)) / 24
    assert accuracy > 0.5


def test_a_run_says_what_it_was_made_of(run: Path, folder: Path, tiny_bert: Path) -> None:
    sources = json.loads((run / "sources.json").read_text(encoding="utf-8"))
    assert [source["path"] for source in sources] == [str(folder / "a.jsonl"), str(folder / "b.jsonl")]
    assert (sources[0]["text"], sources[0]["label"], sources[0]["clean"]) == ("text", "label", [])
    metadata = json.loads((run / "metatext.json").read_text(encoding="utf-8"))
    assert (metadata["kind"], metadata["base_model"], metadata["sources"]) == ("learner", str(tiny_bert), ["a", "b"])
    config = json.loads((run / "training.json").read_text(encoding="utf-8"))["config"]
    assert (config["ways"], config["shots"], config["meta_steps"], config["inner_steps"]) == (2, 2, 2, 1)


def test_a_saved_learner_goes_on_as_the_encoder(run: Path, folder: Path, tiny_bert: Path, tmp_path: Path) -> None:
    more = (*SMALL, "--outer-lr", "1e-9", "--rate-lr", "1e-9", "--weight-decay", "0")
    main(words("train", "--source", folder / "b.jsonl", "--encoder", run, *more, "--output", tmp_path / "more"))
    first, second = (load_file(path / "learner.safetensors") for path in (run, tmp_path / "more"))
    assert first["head.log_scale"].item() == pytest.approx(second["head.log_scale"].item(), abs=1e-6)
    assert first["head.log_scale"].item() != pytest.approx(3.4657, abs=1e-3)  # log 32, where an encoder would start
    metadata = json.loads((tmp_path / "more" / "metatext.json").read_text(encoding="utf-8"))
    assert (metadata["base_model"], metadata["sources"]) == (str(tiny_bert), ["a", "b"])


def test_an_adapted_classifier_says_what_it_was_made_of(model: Path) -> None:
    metadata = json.loads((model / "metatext.json").read_text(encoding="utf-8"))
    assert metadata["kind"] == "classifier" and metadata["classes"] == sorted(TOPICS)
    assert metadata["support"] == dict.fromkeys(sorted(TOPICS), 5) and metadata["metatext_version"] == __version__
    assert not [path for path in model.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]


def test_adapt_takes_texts_without_labels_and_passes_over_those_with(
    run: Path, folder: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    more = write_jsonl(tmp_path / "more.jsonl", [{"text": row["text"]} for row in make_rows(1, 4)])
    adapt = ("adapt", run, folder / "target.jsonl", "--output", tmp_path / "model")
    lines = tmp_path / "more.txt"
    lines.write_text("team goal tonight\nvote today\n", encoding="utf-8")
    main(words(*adapt, "--unlabelled", more, lines, "--epochs", 1))
    metadata = json.loads((tmp_path / "model" / "metatext.json").read_text(encoding="utf-8"))
    assert (metadata["epochs"], metadata["unlabelled"]) == (1, 26)
    sentence = refused(*adapt, "--by", "text", "--overwrite")
    assert "--by parts source files into domains, but a file to adapt to is one" in sentence
    assert "row 2" in refused(*adapt, "--overwrite", "--unlabelled", write_jsonl(more, [{"text": "a"}, {"text": " "}]))


def test_adapt_says_how_many_texts_it_cut_and_where(
    run: Path, folder: Path, tmp_path: Path, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    adapt = ("adapt", run, folder / "target.jsonl", "--output", tmp_path / "model")
    texts = [row["text"] for row in read_jsonl(folder / "target.jsonl")]
    lengths = [len(text) + 2 for text in texts]  # a token a character, and two marks
    limit = sorted(lengths)[20]
    cut = sum(length > limit for length in lengths)
    assert 0 < cut < 30
    for options, line in (
        ((), "none of the 30 texts were cut at 66 tokens"),
        (("--max-length", limit), f"{cut} of the 30 texts were cut at {limit} tokens"),
    ):
        main(words(*adapt, *options, "--overwrite"))
        assert f"length: {line} (--max-length)" in capsys.readouterr().out.splitlines()
    assert json.loads((tmp_path / "model" / "metatext.json").read_text(encoding="utf-8"))["max_length"] == limit
    sentence = refused(*adapt, "--max-length", 67, "--overwrite")
    assert sentence == "metatext: max_length must be at most 66, the positions of the encoder, got 67"


@pytest.mark.parametrize(
    "options", [("--class-names", "a=x", "--class-names", "b=y"), ("--class-names", "a=x", "--class_names=b=y")]
)
def test_an_option_that_is_given_twice_is_refused(refused: Callable[..., str], options: tuple[str, ...]) -> None:
    sentence = refused("adapt", "run", "posts.csv", "--output", "model", *options)
    assert sentence == "metatext: --class-names is given 2 times: give it once, with all its values after it"


def test_names_can_be_switched_off(
    run: Path, folder: Path, tmp_path: Path, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    adapt = ("adapt", run, folder / "target.jsonl", "--output", tmp_path / "model")
    labels = sorted({row["label"] for row in read_jsonl(folder / "target.jsonl")})

    def weight(*options: str) -> float:
        main(words(*adapt, *options, "--overwrite"))
        metadata = json.loads((tmp_path / "model" / "metatext.json").read_text(encoding="utf-8"))
        return float(metadata["start"]["names_weight"])

    assert weight() > 0  # the sources have these classes
    capsys.readouterr()
    assert weight("--no-names") == 0
    assert "classes: known by your texts alone (--no-names)" in capsys.readouterr().out
    assert weight("--class-names", *(f"{label}=" for label in labels)) == 0
    sentence = refused(*adapt, "--no-names", "--class-names", f"{labels[0]}=x", "--overwrite")
    assert "--no-names and --class-names contradict each other" in sentence


def test_adapt_says_the_one_reason_why_names_count_for_nothing(
    tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(label: Callable[[str], str], *options: str) -> list[str]:
        rows = [row | {"label": label(row["label"])} for row in make_rows(2, 2)]
        source = write_jsonl(tmp_path / "own.jsonl", rows)
        main(words("adapt", tiny_bert, source, "--output", tmp_path / "own", "--overwrite", *options))
        return capsys.readouterr().out.splitlines()

    number = {name: str(i) for i, name in enumerate(TOPICS)}
    lines = printed(lambda name: number[name])
    assert lines[1].startswith("encoder: as pretrained, ")  # there is nothing meta-trained to blend with
    assert lines[2].startswith("classes: known by your texts alone (the labels do not say what they mean;")
    assert "(the encoder cannot read the names;" in printed(lambda name: f"żółć {name} ąęś")[2]
    assert printed(lambda name: name, "--no-names")[2] == "classes: known by your texts alone (--no-names)"


def test_evaluate_says_which_names_the_encoder_cannot_read(
    tiny_bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [row | {"label": f"żółć {row['label']} ąęś"} for row in make_rows(2, 4)]
    target = write_jsonl(tmp_path / "own.jsonl", rows)
    evaluate = ("evaluate", tiny_bert, "--target", target, "--shots", 1, "--draws", 2, "--methods", "majority")
    main(words(*evaluate, "--output", tmp_path / "a.json", "--no-progress"))
    assert "the encoder has no words for what these labels are called" in caplog.text
    caplog.clear()
    main(words(*evaluate, "--output", tmp_path / "b.json", "--no-progress", "--no-names"))
    assert "the encoder has no words" not in caplog.text


def test_a_learner_saved_without_its_encoder_takes_one_from_a_folder(
    folder: Path, tiny_bert: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    learner = Learner.from_pretrained(tiny_bert, scope="lora", inner_steps=0)
    learner.base_model, learner.base_on_hub, learner.meta_trained = "someone/tiny", True, True
    learner.save_pretrained(tmp_path / "small")
    target, output = folder / "target.jsonl", tmp_path / "table.json"
    adapt = ("adapt", tmp_path / "small", target, "--output", tmp_path / "model")
    sentence = refused(*adapt)
    assert "small needs the encoder someone/tiny" in sentence and "--encoder FOLDER" in sentence
    main(words(*adapt, "--encoder", tiny_bert))
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert len(plain.config.id2label) == len(TOPICS)
    evaluate = ("evaluate", tmp_path / "small", "--target", target, "--shots", 1, "--draws", 2, "--no-progress")
    evaluate += ("--methods", "centroid", "maml", "--output", output)
    assert "small needs the encoder someone/tiny" in refused(*evaluate)
    main(words(*evaluate, "--encoder", tiny_bert))
    table = json.loads(output.read_text(encoding="utf-8"))
    assert (table["encoder"], table["versions"]["metatext"]) == (tiny_bert.name, __version__)
    assert {row["method"] for row in table["rows"]} == {"prototypical network", "frozen encoder + nearest centroid"}


def test_sources_are_read_only_for_methods_that_train_on_them(
    run: Path, folder: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    (moved / "sources.json").unlink()
    evaluate = ("evaluate", moved, "--target", folder / "target.jsonl", "--shots", 1, "--draws", 2, "--no-progress")
    assert "does not say what it was trained on" in refused(
        *evaluate, "--methods", "joint", "--output", tmp_path / "a.json"
    )
    main(words(*evaluate, "--methods", "majority", "tfidf", "--output", tmp_path / "b.json"))
    assert (tmp_path / "b.json").exists()


def test_a_column_parts_the_sources_also_when_they_are_read_again(
    folder: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    rows = [row | {"shop": shop} for seed, shop in enumerate("xy") for row in make_rows(seed, 10)]
    source = write_jsonl(tmp_path / "shops.jsonl", rows)
    options = ("--source", source, "--by", "shop", "--encoder", tiny_bert, *SMALL)
    main(words("train", *options, "--output", tmp_path / "run"))
    metadata = json.loads((tmp_path / "run" / "metatext.json").read_text(encoding="utf-8"))
    assert metadata["sources"] == ["shops/x", "shops/y"]
    assert [domain.name for domain in read_listed_sources(str(tmp_path / "run"))] == ["shops/x", "shops/y"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_predict_keeps_every_column(model: Path, tmp_path: Path, suffix: str) -> None:
    given = [{"no": i, "text": f'{row["text"]}, "quoted"\n次行', "label": row["label"], "note": None if i else "x"}
             for i, row in enumerate(make_rows(3, 2))]  # fmt: skip
    source, output = write_jsonl(tmp_path / "posts.jsonl", given), tmp_path / f"out.{suffix}"
    main(words("predict", model, source, "--output", output))
    if suffix == "jsonl":
        rows = read_jsonl(output)
    elif suffix == "csv":
        with output.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    else:
        import pyarrow.parquet

        rows = pyarrow.parquet.read_table(output).to_pylist()
    assert list(rows[0]) == ["no", "text", "label_given", "note", "label", "score"]
    assert [(int(row["no"]), row["text"], row["label_given"]) for row in rows] == [
        (row["no"], row["text"], row["label"]) for row in given
    ]
    assert all(row["label"] in TOPICS and 1 / 6 <= float(row["score"]) <= 1 for row in rows)


def test_the_lines_of_a_text_file_are_predicted(model: Path, tmp_path: Path) -> None:
    posts = tmp_path / "posts.txt"
    posts.write_text("goal team\u2028score\n\nvote\n", encoding="utf-8")
    main(words("predict", model, posts, "--output", tmp_path / "out.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").split("\n") if line]
    assert [row["text"] for row in rows] == ["goal team\u2028score", "vote"]
    assert all(set(row) == {"text", "label", "score"} for row in rows)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [('{"text": "a"}\n{"text": "b"\n', "line 2: not valid JSON"), ("\u3000\n\u3000\n", "posts.txt is empty")],
)
def test_a_text_file_of_broken_json_or_nothing_is_refused(
    model: Path, tmp_path: Path, content: str, sentence: str, refused: Callable[..., str]
) -> None:
    posts = tmp_path / "posts.txt"
    posts.write_text(content, encoding="utf-8")
    assert sentence in refused("predict", model, posts, "--output", tmp_path / "out.jsonl")


def test_what_was_predicted_can_be_predicted_again(model: Path, folder: Path, tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"{n}.jsonl" for n in range(3))
    main(words("predict", model, folder / "target.jsonl", "--output", first))
    main(words("predict", model, first, "--output", second))
    main(words("predict", model, second, "--output", third))
    assert [row["label"] for row in read_jsonl(third)] == [row["label"] for row in read_jsonl(first)]
    assert [row["text"] for row in read_jsonl(third)] == [row["text"] for row in read_jsonl(folder / "target.jsonl")]


def test_predict_cleans_what_it_classifies_but_not_the_file(model: Path, tmp_path: Path) -> None:
    texts = [row["text"] for row in make_rows(3, 1)]
    dirty = write_jsonl(tmp_path / "dirty.jsonl", [{"text": f"@某人 {text} http://t.cn/abc"} for text in texts])
    plain = write_jsonl(tmp_path / "plain.jsonl", [{"text": text} for text in texts])
    main(words("predict", model, dirty, "--clean", "weibo", "--output", tmp_path / "cleaned.jsonl"))
    main(words("predict", model, plain, "--output", tmp_path / "out.jsonl"))
    cleaned, out = read_jsonl(tmp_path / "cleaned.jsonl"), read_jsonl(tmp_path / "out.jsonl")
    assert [row["text"] for row in cleaned] == [row["text"] for row in read_jsonl(dirty)]
    assert [row["score"] for row in cleaned] == pytest.approx([row["score"] for row in out], abs=1e-5)


# ---------------------------------------------------------------- evaluate
def test_evaluate_writes_rows_and_records(run: Path, folder: Path, tmp_path: Path, capsys: Any) -> None:
    main(words("evaluate", run, "--target", folder / "target.jsonl", "--shots", 1, 2, "--draws", 2, "--joint-epochs", 1,
               "--fine-tune-steps", 2, "--no-progress", "--output", tmp_path / "table.json"))  # fmt: skip
    result = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    assert len(result["rows"]) == 12 * 2 and len(result["records"]) == 12 * 2 * 2
    assert {"accuracy", "accuracy_ci95", "macro_f1", "macro_f1_ci95", "fit_seconds", "draws"} < result["rows"][0].keys()
    assert result["rows"][-1]["method"] == "first-order MAML" and result["target"] == "target"
    printed = capsys.readouterr()
    assert printed.out.startswith(result["table"] + "\n") and "fit/s" not in printed.err and "s/fit" not in printed.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.json", "table.md"]


# ---------------------------------------------------------------- mistakes
@pytest.fixture(scope="module")
def bad(folder: Path) -> Path:
    """Files and folders that cannot be used."""
    rows = make_rows(4, 3)
    write_jsonl(folder / "one.jsonl", [row for row in rows if row["label"] == "car"])
    write_jsonl(folder / "gap.jsonl", [*rows[:4], {"text": " ", "label": "car"}])
    (folder / "empty.csv").write_text("")
    (folder / "header.csv").write_text("text,label\n")
    (folder / "noise.csv").write_bytes(b"text,label\n" + bytes(range(128, 256)) * 3 + b",a\n")
    (folder / "letter.docx").write_bytes(b"PK\x03\x04")
    (folder / "hollow").mkdir()
    return folder


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("none.csv", ["none.csv"]),
        ("empty.csv", ["empty.csv"]),
        ("header.csv", ["header.csv"]),
        ("noise.csv", ["noise.csv", "encoding"]),
        ("letter.docx", ["letter.docx", "csv"]),
        ("one.jsonl", ["one.jsonl", "only one class", "'car'"]),
        ("gap.jsonl", ["gap.jsonl", "row 5"]),
        ("hollow", ["hollow"]),
    ],
)
def test_a_bad_file_is_refused(
    refused: Callable[..., str], run: Path, bad: Path, tmp_path: Path, file: str, expected: list[str]
) -> None:
    sentence = refused("adapt", run, bad / file, *COLUMNS, "--output", tmp_path / "model")
    assert sentence.startswith("metatext: ") and all(word in sentence for word in expected), sentence
    assert not list(tmp_path.iterdir())


def test_a_missing_column_is_refused(
    refused: Callable[..., str], run: Path, model: Path, folder: Path, tmp_path: Path
) -> None:
    target = folder / "target.jsonl"
    for sentence in (
        refused("adapt", run, target, "--text", "body", "--label", "label", "--output", tmp_path / "model"),
        refused("predict", model, target, "--text", "body", "--output", tmp_path / "out.csv"),
    ):
        assert "target.jsonl" in sentence and "'body'" in sentence and "there are 'text', 'label'" in sentence, sentence
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_model_is_refused(
    refused: Callable[..., str], run: Path, model: Path, bad: Path, tmp_path: Path
) -> None:
    target = bad / "target.jsonl"
    adapt = lambda learner: refused("adapt", learner, target, *COLUMNS, "--output", tmp_path / "x")  # noqa: E731
    assert "hollow holds no model: there is no config.json" in adapt(bad / "hollow")
    assert "has these classes already: 'car', " in adapt(model)
    needed = refused("evaluate", model, "--target", target, "--shots", "1", "--output", tmp_path / "x.json")
    assert "model holds a classifier, but what is needed is a meta-trained learner" in needed
    assert "nowhere/at-all" in adapt("nowhere/at-all")
    predict = lambda learner: refused("predict", learner, target, "--output", tmp_path / "x.csv")  # noqa: E731
    assert "run is a learner, which predicts nothing yet: run `metatext adapt" in predict(run)
    assert "hollow holds no model: there is no config.json" in predict(bad / "hollow")
    assert not list(tmp_path.iterdir())


def test_too_few_rows_are_refused(
    refused: Callable[..., str], run: Path, folder: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    train = ("train", "--source", folder / "a.jsonl", "--encoder", tiny_bert, "--output", tmp_path / "run")
    assert "domain 'a' has 0 classes with 65 distinct texts" in refused(*train, "--shots", 50)
    assert "'a'" in refused(*train, "--ways", 7, "--shots", 1, "--queries", 1)
    evaluate = ("evaluate", run, "--target", folder / "target.jsonl", "--output", tmp_path / "table.json")
    assert "class 'car' of 'target' has too few distinct texts, 5: 50 shots need 51" in refused(
        *evaluate, "--shots", 50
    )
    assert not list(tmp_path.iterdir())


def test_an_unknown_label_is_refused_by_a_learned_head(
    refused: Callable[..., str], folder: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    main(words("train", "--source", folder / "a.jsonl", folder / "b.jsonl", "--encoder", tiny_bert, "--head", "linear",
               *SMALL, "--output", shared))  # fmt: skip
    main(words("adapt", shared, folder / "target.jsonl", *COLUMNS, "--output", tmp_path / "model"))
    rows = [{"text": "音乐会", "label": "music"}, {"text": "汽车", "label": "car"}]
    other = write_jsonl(tmp_path / "other.jsonl", rows)
    sentence = refused("adapt", shared, other, *COLUMNS, "--output", tmp_path / "never")
    assert "label 'music' is unknown to this learner, whose learned head knows car, finance, food" in sentence
    assert not (tmp_path / "never").exists()


def test_what_is_there_already_is_kept(
    refused: Callable[..., str], run: Path, model: Path, folder: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in (*run.glob("*.*"), *model.glob("*.*"))}
    sentence = refused("train", "--source", folder / "a.jsonl", "--encoder", tiny_bert, *SMALL, "--output", run)
    assert f"{run} already exists" in sentence and "--resume" in sentence and "--overwrite" in sentence
    sentence = refused("adapt", run, folder / "target.jsonl", *COLUMNS, "--output", model)
    assert f"{model} already exists" in sentence and "--overwrite" in sentence and "--resume" not in sentence
    (tmp_path / "out.csv").write_text("mine")
    sentence = refused("predict", model, folder / "target.jsonl", "--output", tmp_path / "out.csv")
    assert "out.csv already exists" in sentence and (tmp_path / "out.csv").read_text() == "mine"
    sentence = refused("evaluate", run, "--target", folder / "target.jsonl", "--output", tmp_path / "out.csv")
    assert "out.csv is to be a JSON file" in sentence
    (tmp_path / "out.md").write_text("mine")
    sentence = refused("evaluate", run, "--target", folder / "target.jsonl", "--output", tmp_path / "out.json")
    assert "out.md already exists" in sentence and (tmp_path / "out.md").read_text() == "mine"
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--inner-steps", "2", "--second-order-steps", "3"), "second_order_steps must be from 0 to inner_steps (2)"),
        (("--scope", "bottom"), "scope must be all, head, body, lora or top:L such as top:2, got 'bottom'"),
        (("--meta-steps", "0"), "meta_steps must be at least 1, got 0"),
        (("--resume", "--overwrite"), "--resume and --overwrite contradict each other: choose one"),
        (("--resume",), "holds no checkpoint to resume: start without --resume"),
        (("--valid-classes", "music"), "validation class 'music' is in no source; their classes are car, finance"),
    ],
)
def test_contradictory_options_are_refused(
    folder: Path,
    tiny_bert: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    expected: str,
) -> None:
    train = ("train", "--source", folder / "a.jsonl", "--encoder", tiny_bert, "--ways", 2, "--shots", 2, "--queries", 2)
    with pytest.raises(SystemExit) as stop:
        main(words(*train, "--output", tmp_path / "run", *options))
    out, errors = capsys.readouterr()
    assert stop.value.code == 2 and out == "" and not list(tmp_path.iterdir())
    assert expected in " ".join(errors.split()) and "Traceback" not in errors  # tyro breaks lines


def test_predict_refuses_an_output_of_unknown_kind_before_it_works(
    refused: Callable[..., str], model: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metatext.adaptation.inference.predict", lambda *arguments: pytest.fail("it predicted"))
    sentence = refused("predict", model, folder / "target.jsonl", "--output", tmp_path / "out.xlsx")
    assert "out.xlsx" in sentence and ".jsonl" in sentence and not list(tmp_path.iterdir())


def test_a_mistake_in_a_process_of_its_own(run: Path, folder: Path, tmp_path: Path) -> None:
    arguments = ("adapt", run, folder / "none.csv", *COLUMNS, "--output", tmp_path / "model")
    done = command(*arguments, code=2)
    assert done.stdout == "" and done.stderr.startswith("metatext: ") and done.stderr.count("\n") == 1
    assert "none.csv" in done.stderr
    done = command(*arguments, "--debug", code=1)
    assert "Traceback (most recent call last)" in done.stderr and "FileNotFoundError" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_classifier_is_made_of_names_alone(
    tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "more.txt").write_text("球队比赛\n股票基金\n", encoding="utf-8")
    main(words("adapt", tiny_bert, "--classes", "sport=球队", "股票", "--output", tmp_path / "names"))
    assert "a classifier of 2 classes, adapted to the names of its classes\n" in capsys.readouterr().out
    output = ["--unlabelled", tmp_path / "more.txt", "--output", tmp_path / "more"]
    main(words("adapt", tiny_bert, "--classes", "sport=球队", "股票", *output))
    assert "adapted to the names of its classes and 2 texts without labels\n" in capsys.readouterr().out
    config = json.loads((tmp_path / "names" / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": "sport", "1": "股票"}
    (tmp_path / "names.csv").write_text("label,name\nsport,球队\nsport,比赛\nstock,股票\n", encoding="utf-8")
    main(words("adapt", tiny_bert, "--class-names", tmp_path / "names.csv", "--output", tmp_path / "file"))
    config = json.loads((tmp_path / "file" / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": "sport", "1": "stock"}


def test_adapt_adds_classes_to_a_classifier(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = json.loads((model / "metatext.json").read_text(encoding="utf-8"))
    new = write_jsonl(tmp_path / "new.jsonl", [{"text": t, "label": "weather"} for t in ("天气预报", "气温下降")])
    main(words("adapt", model, new, "--output", tmp_path / "more"))
    out = capsys.readouterr().out
    assert f"a classifier of {len(old['classes']) + 1} classes, 1 of them new\n" in out
    assert "of your 2 texts it gives 2 your label\n" in out
    metadata = json.loads((tmp_path / "more" / "metatext.json").read_text(encoding="utf-8"))
    assert metadata["classes"] == [*old["classes"], "weather"] and metadata["clean"] == old["clean"]
    for options, message in [
        ([new, "--epochs", "2"], "to which classes are only added: leave out --epochs, or name the learner"),
        ([new, "--no-names"], "leave out --no-names, or name the learner"),
        ([], "name a file with texts of classes that "),
    ]:
        with pytest.raises(SystemExit):
            main(words("adapt", model, *options, "--output", tmp_path / "none"))
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "name the file of your labelled texts, or without any at least two classes"),
        (
            ["--classes", "7", "9"],
            "nothing is known of class '7', of which there is no text: its label does not",
        ),
        (["--classes", "球队", "球队"], "--classes has '球队' twice: name each class once"),
        (
            ["--classes", "球队", "股票", "--label", "kind"],
            "--label kind is a column of your labelled texts",
        ),
        (["--classes", "球队", "股票", __file__], "--classes takes all words after it, also "),
        (["--classes", "sport=球队"], "name the file of your labelled texts, or without any at least two classes"),
        (["--classes", "sport=", "stock=股票"], "classes must be label=name"),
        (["--classes", "a=球队", "b=股票", "--no-names"], "--no-names and --classes contradict each other"),
        (["--classes", "a=球队", "b=股票", "--class-names", "a=比赛"], "--classes and --class-names both name 'a'"),
    ],
)
def test_names_that_make_no_classifier_are_refused(
    tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        main(words("adapt", tiny_bert, *options, "--output", tmp_path / "model"))
    assert message in capsys.readouterr().err and not (tmp_path / "model").exists()
