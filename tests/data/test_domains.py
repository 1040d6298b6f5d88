from __future__ import annotations

import csv
import json
import logging
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from metatext.data.columns import checked_strings, column
from metatext.data.domains import Domain, shared_classes
from metatext.data.readers import read_rows
from metatext.data.settings import Table
from metatext.data.user_files import read_domains
from metatext.errors import InputError

SHARED = Path(__file__).resolve().parents[3] / "shared"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="needs the shared data")

TEXTS = ['他说"好", 然后\r\n走了', "NA", "null", " 001 ", "line\nbreak\u2028end", "=1+1\t😀"]
LABELS = ["a", "1", "None", "b", "a", "1.0"]
RECORDS = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]


def fault(exception: type[Exception], call, *arguments, **options) -> str:
    """The message of the error that the call raises: one line of text."""
    with pytest.raises(exception) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_csv(path: Path, encoding: str = "utf-8", delimiter: str = ",") -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(RECORDS)
    return path


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# The domain itself


def test_a_domain_knows_its_rows_and_classes() -> None:
    domain = Domain("news", ["t0", "t1", "t2"], ["b", "a", "b"])
    assert len(domain) == 3
    assert domain.classes == ["a", "b"]
    assert domain.rows_of == {"b": [0, 2], "a": [1]}
    assert domain.classes is domain.classes
    assert pickle.loads(pickle.dumps(domain)) == domain


def test_subset_keeps_the_order_given() -> None:
    domain = Domain("news", ["t0", "t1", "t2"], ["b", "a", "c"])
    assert domain.subset([2, 0]) == Domain("news", ["t2", "t0"], ["c", "b"])
    assert domain.subset(iter([1]), name="one") == Domain("one", ["t1"], ["a"])
    assert fault(InputError, domain.subset, []) == "domain 'news' has no rows"


def test_restrict_keeps_the_rows_of_some_classes() -> None:
    domain = Domain("news", ["t0", "t1", "t2"], ["sport", "car", "food"])
    assert domain.restrict(["food", "sport"]) == Domain("news", ["t0", "t2"], ["sport", "food"])
    assert fault(InputError, domain.restrict, ["sports"]) == (
        "domain 'news' has no class 'sports'; there are 'car', 'food', 'sport'; did you mean 'sport'?"
    )


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (["a", "b"], ["x"], "domain 'd' has 2 texts but 1 labels; each row needs both"),
        ([], [], "domain 'd' has no rows"),
        (["a", " \n"], ["x", "y"], "domain 'd', row 2, column 'text': the value is blank"),
        (["a", None], ["x", "y"], "domain 'd', row 2, column 'text': there is no value"),
        (["a", 5], ["x", "y"], "domain 'd', row 2, column 'text': 5 is not a string but of type int"),
        (["a", "b"], ["x", ""], "domain 'd', row 2, column 'label': the value is blank"),
        (["a", "b"], [1, "x"], "domain 'd', row 1, column 'label': 1 is not a string but of type int"),
        (["\ud83d"], ["x"], "domain 'd', row 1, column 'text': the value holds half a character"),
    ],
)
def test_a_bad_domain_is_refused(texts: list, labels: list, message: str) -> None:
    assert fault(InputError, Domain, "d", texts, labels).startswith(message)


def test_relabel_keeps_the_rows_that_have_a_new_label() -> None:
    domain = Domain("d", ["a", "b", "c", "d"], ["happy", "neutral", "sad", "angry"])
    polar = domain.relabel({"happy": "positive", "sad": "negative", "angry": "negative"})
    assert (polar.name, polar.texts, polar.labels) == ("d", ["a", "c", "d"], ["positive", "negative", "negative"])
    with pytest.raises(InputError, match="domain 'd' has no class 'glad'"):
        domain.relabel({"glad": "positive"})


def test_a_column_parts_a_file_into_domains(tmp_path: Path) -> None:
    rows = [("good", 1, "books"), ("poor", 0, "hotels"), ("bad", 0, "books")]
    lines = "".join(json.dumps({"text": text, "label": label, "shop": shop}) + "\n" for text, label, shop in rows)
    (tmp_path / "reviews.jsonl").write_text(lines, encoding="utf-8")
    books, hotels = Domain.each_from_file(tmp_path / "reviews.jsonl", "shop")
    assert books == Domain("reviews/books", ["good", "bad"], ["1", "0"])
    assert hotels == Domain("reviews/hotels", ["poor"], ["0"])
    assert read_domains([str(tmp_path / "reviews.jsonl")] * 2, Table(by="shop")) == [books, hotels] * 2
    assert [len(domain) for domain in read_domains([str(tmp_path / "reviews.jsonl")], Table())] == [3]
    with pytest.raises(InputError, match=r"has no column 'domain'"):
        Domain.each_from_file(tmp_path / "reviews.jsonl", "domain")
    (tmp_path / "reviews.jsonl").write_text(lines.replace('"hotels"', "null"), encoding="utf-8")
    with pytest.raises(InputError, match=r"row 2: the shop is missing|row 2.*shop"):
        Domain.each_from_file(tmp_path / "reviews.jsonl", "shop")


def test_shared_classes() -> None:
    news = Domain("news", ["t"] * 3, ["c", "a", "b"])
    posts = Domain("posts", ["t"] * 3, ["b", "c", "d"])
    assert shared_classes([news, posts]) == ["b", "c"]
    assert shared_classes([news]) == ["a", "b", "c"]
    message = fault(InputError, shared_classes, [news, Domain("mails", ["t", "t"], ["x", "c"])])
    assert "no overlap of label sets" in message
    assert "'news' has 'a', 'b', 'c'; 'mails' has 'c', 'x'" in message
    assert "none given" in fault(InputError, shared_classes, [])


# Records


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([1, 0], ["1", "0"]),
        ([True, False], ["True", "False"]),
        ([1.0, 2.5], ["1", "2.5"]),
        (np.array([1, 0]), ["1", "0"]),
        (np.array([1.0, 0.0], dtype=np.float32), ["1", "0"]),
        (np.array(["x", "y"]), ["x", "y"]),
        (pd.Series(["x", "y"], dtype="category"), ["x", "y"]),
    ],
)
def test_labels_become_class_names(labels, names: list[str]) -> None:
    domain = Domain.from_records(pd.Series(["a", "b"]), labels)
    assert domain.name == "records"
    assert domain.labels == names
    assert {type(label) for label in domain.labels} <= {str, np.str_}


@pytest.mark.parametrize("missing", [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT])
def test_a_missing_label_is_named_by_its_row(missing) -> None:
    message = fault(InputError, Domain.from_records, ["a", "b"], [1.0, missing], name="shop")
    assert message == "domain 'shop', row 2, column 'label': there is no value"


def test_one_column_is_not_both(tmp_path: Path) -> None:
    (tmp_path / "posts.csv").write_text("text,label\na,b\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"posts\.csv: the texts and the labels cannot both be column 'text'"):
        Domain.from_file(tmp_path / "posts.csv", label="text")


def test_other_labels_are_refused() -> None:
    message = fault(InputError, Domain.from_records, ["a"], [["x"]])
    assert message == "domain 'records', row 1, column 'label': ['x'] is not a string but of type list"


def test_records_can_be_cleaned() -> None:
    assert Domain.from_records(["好[doge]", "[泪]"], ["x", "y"], clean="weibo").texts == ["好", "[泪]"]
    assert Domain.from_records([" 好[doge]"], ["x"]).texts == [" 好[doge]"]


# Files that are right


@pytest.mark.parametrize(
    ("name", "encoding", "delimiter"),
    [
        ("d.csv", "utf-8", ","),
        ("D.CSV", "utf-8-sig", ","),
        ("d.csv", "utf-16", ","),
        ("d.csv", "gb18030", ","),
        ("d.tsv", "utf-8", "\t"),
        ("d.tsv", "gb18030", "\t"),
    ],
)
def test_delimited_files_keep_every_character(tmp_path: Path, name: str, encoding: str, delimiter: str) -> None:
    domain = Domain.from_file(write_csv(tmp_path / name, encoding, delimiter))
    assert domain == Domain(name[0], TEXTS, LABELS)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.jsonl", "\n\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS)),
        ("d.ndjson", "\r\n".join(json.dumps(record) for record in RECORDS) + "\r\n"),
        ("d.json", "\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS)),
        ("d.json", "\n" + json.dumps(RECORDS, ensure_ascii=False, indent=1)),
        ("d.json", json.dumps({"version": 1, "data": RECORDS})),
        ("d.json", json.dumps({"text": TEXTS, "label": LABELS})),
        ("d.jsonl", json.dumps(RECORDS, ensure_ascii=False)),
        ("d.txt", json.dumps(RECORDS, ensure_ascii=False)),
        ("d", "\n".join(json.dumps(record) for record in RECORDS)),
    ],
)
def test_json_files_keep_every_character(tmp_path: Path, name: str, content: str, encoding: str) -> None:
    path = write(tmp_path / name, content.encode(encoding))
    assert Domain.from_file(path) == Domain("d", TEXTS, LABELS)


def test_parquet_keeps_every_character_and_class_labels(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    pd.DataFrame(RECORDS).astype({"label": "category"}).to_parquet(tmp_path / "d.parquet")
    assert Domain.from_file(tmp_path / "d.parquet") == Domain("d", TEXTS, LABELS)
    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features).to_parquet(tmp_path / "c.parquet")
    assert Domain.from_file(tmp_path / "c.parquet").labels == ["good", "bad"]
    Dataset.from_dict({"text": ["a", "b"], "label": [1, -1]}, features).to_parquet(tmp_path / "u.parquet")
    message = fault(InputError, Domain.from_file, tmp_path / "u.parquet")
    assert message == f"{tmp_path}/u.parquet, row 2, column 'label': there is no value"


def test_columns_name_and_cleaning_can_be_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", "id,review,y\n7,好[doge],1\n")
    domain = Domain.from_file(str(path), text="review", label="y", name="shop", clean=["emoticons"])
    assert domain == Domain("shop", ["好"], ["1"])


def test_rows_keep_every_column_and_its_type(tmp_path: Path) -> None:
    records = [{"id": 1, "text": "a", "tags": ["x"]}, {"id": 2, "text": "b", "more": {"k": 1}}, {"id": 3}]
    rows = read_rows(write(tmp_path / "d.jsonl", "\n".join(map(json.dumps, records))))
    assert rows.column_names == ["id", "text", "tags", "more"]
    assert column(rows, "id", "d.jsonl") == [1, 2, 3]
    assert [row["text"] for row in rows] == ["a", "b", None]
    assert rows[0]["tags"] == ["x"]
    assert read_rows(write(tmp_path / "d.csv", "id,n\n01,\n\n02,1.50\n"))[:] == {"id": ["01", "02"], "n": ["", "1.50"]}


@pytest.mark.parametrize(
    ("values", "read"),
    [
        ([1, "03", None], ["1", "03", None]),
        (["03", 1.5], ["03", "1.5"]),
        ([1, True], ["1", "true"]),
        ([99999999999999999999, 1], ["99999999999999999999", "1"]),
        ([[1], "x"], ["[1]", "x"]),
        ([{"k": "好"}, {"k": 1}], ['{"k": "好"}', '{"k": 1}']),
    ],
)
def test_json_values_without_a_common_type_are_text(tmp_path: Path, values: list, read: list) -> None:
    path = write(tmp_path / "d.json", json.dumps({"x": values}))
    assert column(read_rows(path), "x", path) == read


def test_texts_longer_than_the_csv_module_allows_are_read(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    path = write(tmp_path / "d.csv", "text,label\n" + "长" * 200_000 + ",a\n")
    assert Domain.from_file(path).texts == ["长" * 200_000]
    assert csv.field_size_limit() == limit


def test_quotation_marks_in_an_unquoted_tsv_are_characters(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "d.tsv", 'label\ttext\n1\t"不错" 他说\n0\t"太差\n')
    assert Domain.from_file(path).texts == ['"不错" 他说', '"太差']
    assert caplog.messages == [f"{path}: quotation marks do not pair up, so they are read as part of the texts"]


def test_gb18030_is_guessed_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "d.csv", "text,label\n不错,好\n".encode("gb18030"))
    with caplog.at_level(logging.WARNING):
        assert Domain.from_file(path) == Domain("d", ["不错"], ["好"])
    assert caplog.messages == [f"{path} is not UTF-8: read as GB18030 (name the encoding if that is wrong)"]


def test_a_named_encoding_is_used_without_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert Domain.from_file(write(tmp_path / "d.csv", "text,label\n是,x\n".encode("big5")), encoding="big5").texts == [
        "是"
    ]
    assert Domain.from_file(write_csv(tmp_path / "b.csv", "utf-8-sig"), encoding="utf-8").texts == TEXTS
    assert caplog.messages == []


def test_reading_leaves_no_cache_and_shows_no_progress(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "d.csv")
    code = f"from metatext import Domain; Domain.from_file({str(path)!r})"
    environment = {"HF_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout + run.stderr == ""
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_importing_is_light() -> None:
    code = "import metatext.data.domains, sys; print([m for m in ('datasets', 'numpy', 'torch') if m in sys.modules])"
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


# Files that are wrong


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert fault(FileNotFoundError, read_rows, tmp_path / "no.csv") == f"there is no file {tmp_path}/no.csv"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert fault(InputError, read_rows, tmp_path).startswith(f"{tmp_path} is a folder; give one file (.csv, ")


@pytest.mark.parametrize("name", ["d.csv", "d.tsv", "d.jsonl", "d.json", "d.parquet", "d.txt"])
@pytest.mark.parametrize("content", [b"", b" \r\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    assert fault(InputError, read_rows, write(tmp_path / name, content)) == f"{tmp_path}/{name} is empty"


@pytest.mark.parametrize(("name", "content"), [("d.csv", "text,label\n"), ("d.json", "[]"), ("d.json", '{"data": []}')])
def test_a_file_without_rows_is_refused(tmp_path: Path, name: str, content: str) -> None:
    assert fault(InputError, read_rows, write(tmp_path / name, content)) == f"{tmp_path}/{name} has no rows"


@pytest.mark.parametrize(("name", "content"), [("d.txt", b"text,label\na,b\n"), ("d.xlsx", b"PK\x03\x04\x80\xff")])
def test_an_unknown_type_lists_those_that_are_known(tmp_path: Path, name: str, content: bytes) -> None:
    assert fault(InputError, read_rows, write(tmp_path / name, content)) == (
        f"{tmp_path}/{name} is of no known type: its suffix is none of "
        ".csv, .tsv, .jsonl, .ndjson, .json, .parquet, and it is not JSON"
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.csv", 'text,label\n"a\nb",x\nc,d,y\n', "line 4: 3 fields where the header has 2; "),
        ("d.csv", "text,label\na\n", "line 2: 1 fields where the header has 2; "),
        ("d.csv", 'text,label\nok,x\n"a,x\nb,y\n', "line 3: the quoting is broken (unexpected end of data); "),
        ("d.csv", 'text,label\n"a" b,x\n', "line 2: the quoting is broken ("),
        ("d.csv", "text,label,text\na,b,c\n", "line 1: the header names column 'text' more than once"),
        ("d.csv", "1,1\na,b\n", "line 1: the header names column '1' more than once; does the file have a header row?"),
        ("d.tsv", "text\tlabel\na\n", "line 2: 1 fields where the header has 2; "),
        ("d.jsonl", '{"text": "a"}\n{"text": \n', "line 2: not valid JSON at character 10 (Expecting value)"),
        ("d.json", '[{"text": "a"},\n{"text" "b"}]', "line 2: not valid JSON at character 9 ("),
        ("d.json", '[{"text": "a"}]\n\n[1]', "line 3: not valid JSON, there is something behind its end"),
        ("d.jsonl", '{"text": "a"}\n["b"]', "row 2: ['b'] is not an object with named fields"),
        ("d.jsonl", '{"text": "a"}\n{"text": "\\ud83d"}', "row 2, column 'text': the value holds half a character"),
        ("d.jsonl", '{"text": 1}\n{"text": "\\ud83d"}', "row 2, column 'text': the value holds half a character"),
    ],
)
def test_a_malformed_file_is_named_with_its_place(tmp_path: Path, name: str, content: str, message: str) -> None:
    assert fault(InputError, read_rows, write(tmp_path / name, content)).startswith(f"{tmp_path}/{name}, {message}")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.json", '{"text": ["a"], "label": ["x", "y"]}', ": the columns differ in length ('text' 1, 'label' 2)"),
        ("d.json", '"text"', " holds 'text', not an array of objects"),
        ("d.parquet", "PAR1 and nothing else", " is not a Parquet file that can be read: "),
    ],
)
def test_a_file_that_is_no_table_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    assert fault(InputError, read_rows, write(tmp_path / name, content)).startswith(f"{tmp_path}/{name}{message}")


def test_bytes_of_no_encoding_are_placed(tmp_path: Path) -> None:
    path = write(tmp_path / "noise.csv", b"text,label\n\n" + bytes(range(128, 256)) + b",a\n")
    assert fault(InputError, read_rows, path) == (
        f"{path}, line 3: byte 0x80 is not valid in its encoding (tried utf-8, gb18030); pass the right one"
    )


def test_damaged_utf8_is_not_taken_for_gb18030(tmp_path: Path) -> None:
    damaged = "text,label\n不错不错不错不错,好的\n".encode() + "不错".encode()[:2] + b",x\n"
    assert damaged.decode("gb18030").endswith("\n涓,x\n")  # valid, and nonsense
    path = write(tmp_path / "d.csv", damaged)
    assert fault(InputError, read_rows, path).startswith(f"{path}, line 3: byte 0xe4 is not valid")


@pytest.mark.parametrize("encoding", ["no-such", "base64"])
def test_an_unknown_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    path = write_csv(tmp_path / "d.csv")
    assert fault(InputError, read_rows, path, encoding) == (
        f"{path} cannot be read: {encoding!r} is not a text encoding that Python knows"
    )


def test_a_named_encoding_that_fails_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", "text,label\n不错,好\n".encode("gb18030"))
    message = fault(InputError, read_rows, path, "utf-8")
    assert message.startswith(f"{path}, line 2: byte 0xb2 is not valid in its encoding (tried utf-8)")


def test_a_missing_column_lists_those_that_are_there(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", "review, Label\na,x\n")
    assert fault(InputError, Domain.from_file, path, text="body", label="label") == (
        f"{path} has no column 'body'; there are 'review', ' Label'"
    )
    assert fault(InputError, Domain.from_file, path, text="review", label="label") == (
        f"{path} has no column 'label'; there are 'review', ' Label'; did you mean ' Label'?"
    )


def test_a_missing_header_is_guessed(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", "这家酒店不错,1\n太差,0\n")
    assert fault(InputError, Domain.from_file, path) == (
        f"{path} has no column 'text'; there are '这家酒店不错', '1'; "
        "these look like data: does the file have a header row?"
    )


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "b"}, "row 2, column 'label': there is no value"),
        ({"label": "y"}, "row 2, column 'text': there is no value"),
        ({"text": "b", "label": None}, "row 2, column 'label': there is no value"),
        ({"text": "b", "label": float("nan")}, "row 2, column 'label': there is no value"),
        ({"text": " ", "label": "y"}, "row 2, column 'text': the value is blank"),
    ],
)
def test_a_bad_row_of_a_file_is_named(tmp_path: Path, record: dict, message: str) -> None:
    path = write(tmp_path / "d.jsonl", json.dumps({"text": "a", "label": "x"}) + "\n" + json.dumps(record))
    assert fault(InputError, Domain.from_file, path) == f"{path}, {message}"


def test_a_column_of_another_type_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", '{"text": 5, "label": ["x"]}\n')
    message = fault(InputError, Domain.from_file, path)
    assert message == f"{path}, row 1, column 'text': 5 is not a string but of type int"
    message = fault(InputError, Domain.from_file, write(path, '{"text": "a", "label": ["x"]}\n'))
    assert message == f"{path}, row 1, column 'label': ['x'] is not a string but of type list"


def test_a_bad_row_is_named_by_the_columns_own_name(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", "review,y\na,1\nb,\n")
    message = fault(InputError, Domain.from_file, path, text="review", label="y", name="shop")
    assert message == f"{path}, row 2, column 'y': the value is blank"


def test_checked_strings() -> None:
    assert checked_strings(iter(["a", " b "]), "d.csv", "text") == ["a", " b "]
    assert fault(InputError, checked_strings, ["a", ""], "d.csv", "text") == (
        "d.csv, row 2, column 'text': the value is blank"
    )


# The Hub, through folders that have its layout


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from datasets import ClassLabel, Dataset, Features, Value

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    folder = tmp_path / "reviews"
    folder.mkdir()
    Dataset.from_dict({"text": ["不错", "太差[泪]"], "label": [1, 0]}, features).to_parquet(folder / "train.parquet")
    Dataset.from_dict({"text": ["还行"], "label": [-1]}, features).to_parquet(folder / "test.parquet")
    return folder


def test_a_data_set_of_the_hub(hub_folder: Path) -> None:
    assert Domain.from_hub(str(hub_folder)) == Domain(str(hub_folder), ["不错", "太差[泪]"], ["good", "bad"])
    domain = Domain.from_hub(str(hub_folder), "default", "train[1:]", name="shop", clean="weibo")
    assert domain == Domain("shop", ["太差"], ["bad"])
    assert Domain.from_hub(str(hub_folder), "default").name == f"{hub_folder}/default"


def test_faults_of_a_data_set_of_the_hub_are_named(hub_folder: Path) -> None:
    assert fault(InputError, Domain.from_hub, str(hub_folder), text="txt") == (
        f"{hub_folder} has no column 'txt'; there are 'text', 'label'; did you mean 'text'?"
    )
    assert fault(InputError, Domain.from_hub, str(hub_folder), split="test") == (
        f"{hub_folder}, row 1, column 'label': there is no value"
    )
    message = fault(InputError, Domain.from_hub, str(hub_folder), split="dev")
    assert message.startswith(f"cannot load split 'dev' of the data set '{hub_folder}': Unknown split")


@pytest.mark.parametrize(
    ("error", "cause"),
    [(ConnectionError("no network\nsecond line"), "no network"), (RuntimeError(), "RuntimeError")],
)
def test_what_load_dataset_raises_becomes_one_sentence(
    monkeypatch: pytest.MonkeyPatch, error: Exception, cause: str
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("datasets.load_dataset", refuse)
    message = fault(InputError, Domain.from_hub, "no/such-set")
    assert message == f"cannot load split 'train' of the data set 'no/such-set': {cause}"


# Real files


@pytest.mark.shared
@needs_shared
@pytest.mark.parametrize(
    ("name", "encoding", "text", "rows"),
    [
        ("weibo_labelled_bom.csv", "utf-8-sig", "review", 1729),
        ("hotel_reviews_multiline.csv", "utf-8", "review", 676),
        ("weibo_posts_gb18030.csv", "gb18030", "text", 133),
    ],
)
def test_real_dirty_files_are_read_to_the_character(name: str, encoding: str, text: str, rows: int) -> None:
    path = SHARED / "data/messy" / name
    with path.open(encoding=encoding, newline="") as file:
        truth = list(csv.DictReader(file))
    assert len(truth) == rows
    assert list(read_rows(path)) == truth
    assert column(read_rows(path), text, path) == [row[text] for row in truth]


@pytest.mark.shared
@needs_shared
def test_a_real_json_array_in_a_text_file() -> None:
    path = SHARED / "data/messy/weibo_json_array.txt"
    domain = Domain.from_file(path, text="content")
    assert domain.texts == [record["content"] for record in json.loads(path.read_text(encoding="utf-8"))]
    assert len(domain) == 2000


@pytest.mark.shared
@needs_shared
def test_a_real_file_without_a_header() -> None:
    message = fault(InputError, Domain.from_file, SHARED / "data/messy/ag_news_no_header.csv")
    assert "ag_news_no_header.csv has no column 'text'" in message
    assert "does the file have a header row?" in message
    assert len(message) < 400
