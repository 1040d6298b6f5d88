"""Pushing to and fetching from the Hub: the real client against the server in hub_server.py, in processes of its own.

huggingface_hub reads its address and its cache folder at import, so each of them is set in a process's environment.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import TOKEN, HubServer, Repo

from metatext.errors import InputError
from metatext.hub.card import model_card
from metatext.hub.export import push
from metatext.hub.model_folder import BOX

ROOT = Path(__file__).resolve().parents[2]

METADATA = {
    "kind": "classifier",
    "metatext_version": "0.1.0",
    "base_model": "intfloat/multilingual-e5-small",
    "method": "first-order MAML",
    "sources": ["tnews_titles.train"],
    "inner_steps": 5,
    "text_prefix": "query: ",
    "max_length": 16,
    "pooling": "mean",
    "classes": ["sport", "finance|bank"],
    "support": {"sport": 5, "finance|bank": 3},
    "results": [
        {"target": "weibo", "shots": 5, "method": "first-order MAML", "metric": "accuracy", "mean": 0.61, "ci95": 0.02,
         "draws": 10},
        {"target": "weibo", "shots": 5, "method": "majority", "metric": "accuracy", "mean": 0.5, "ci95": 0.0},
    ],
}  # fmt: skip

# Runs calls one after the other and prints what each returned or the sentence of its InputError; anything else fails.
CALLS = """
import json, logging, sys, time, traceback
options, calls = json.loads(sys.argv[1])
if options.get("log"):
    logging.basicConfig(level=logging.DEBUG)
if options.get("no_waiting"):
    time.sleep = lambda seconds: None  # the client waits up to 8 s between its attempts
from metatext.errors import InputError
from metatext.hub.export import push
from metatext.hub.model_folder import resolve_folder
for name, *arguments in calls:
    try:
        print("returned", globals()[name](*arguments))
    except InputError as error:
        print("error", error)
        if options.get("log"):
            traceback.print_exc()
"""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny classifier with its tokenizer, beside things that must never leave the machine."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder = tmp_path_factory.mktemp("saved") / "my-model"
    folder.mkdir()
    words = ["the", "match", "was", "won", "by", "a", "goal", "bank", "raises", "interest", "rate"]
    vocabulary = folder.parent / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    BertTokenizerFast(vocab_file=str(vocabulary), model_max_length=16).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    labels = {0: "sport", 1: "finance|bank"}
    config = BertConfig(vocab_size=5 + len(words), id2label=labels, initializer_range=0.5, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder)
    (folder / "metatext.json").write_text(json.dumps(METADATA))
    for name in ("pytorch_model.bin", "optimizer.pt", "events.out.tfevents.1", "checkpoints/1/trainer.json", ".env"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("stays here")
    return folder


@pytest.fixture
def learner(tmp_path: Path) -> Path:
    """Files as a saved learner has them; their contents do not matter to the Hub."""
    folder = tmp_path / "learner"
    folder.mkdir(parents=True)
    (folder / "metatext.json").write_text(json.dumps({"kind": "learner", "base_model": "bert-base-chinese"}))
    (folder / "learner.safetensors").write_bytes(b"rates" * 1000)
    (folder / "model.safetensors").write_bytes(b"weights" * 1000)
    (folder / "config.json").write_text("{}")
    return folder


def run(code: str, home: Path, url: str, *arguments: str, token: str | None = TOKEN, **environment: str) -> str:
    """Standard output and error of a Python process that sees only this Hub."""
    clean = {
        k: v for k, v in os.environ.items() if not re.match("HF_|HUGGING|TRANSFORMERS_|.*_proxy$", k, re.IGNORECASE)
    }
    clean |= {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}
    clean |= {"OMP_NUM_THREADS": "1"} | ({"HF_TOKEN": token} if token else {}) | environment
    command = [sys.executable, "-c", code, *arguments]
    process = subprocess.run(command, capture_output=True, text=True, env=clean, cwd=home, timeout=120)
    assert process.returncode == 0, process.stderr
    return process.stdout + process.stderr


def call(home: Path, url: str, *calls: list[object], token: str | None = TOKEN, **options: object) -> list[str]:
    """One line for each call: `returned VALUE` or `error SENTENCE`."""
    settings = {name: options.pop(name) for name in ("log", "no_waiting") if name in options}
    environment = {name: str(value) for name, value in options.items()}
    output = run(CALLS, home, url, json.dumps([settings, calls]), token=token, **environment)
    lines = [line for line in output.splitlines() if re.match("(returned|error) ", line)]
    assert len(lines) == len(calls), output
    return lines


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file's bytes and time of change."""
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def metadata_of(folder: Path, **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "metatext.json").write_text(json.dumps(METADATA | changes))
    return folder


def test_pushed_classifier_predicts_the_same_from_its_id_in_plain_transformers(
    hub: HubServer, classifier: Path, tmp_path: Path
) -> None:
    before = state(classifier)

    output = run(
        CALLS, tmp_path, hub.url, json.dumps([{"log": True}, [["push", str(classifier), "user/topics", True]]])
    )

    assert f"returned {hub.url}/user/topics" in output
    assert "DEBUG" in output and TOKEN not in output  # every log of every library was on
    assert state(classifier) == before
    repo = hub.repos["user/topics"]
    assert repo.private
    sent = {"README.md", "config.json", "metatext.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert repo.commits == [sent]
    assert repo.files["model.safetensors"] == before["model.safetensors"][0]
    for content in [*repo.files.values(), *(content for content, _ in state(tmp_path).values())]:
        assert TOKEN.encode() not in content
    assert not [name for name, content in repo.files.items() if str(classifier.parent).encode() in content]

    snippet = re.search(r"```python\n(.*?)```", repo.files["README.md"].decode(), re.DOTALL)
    assert snippet is not None
    code = f"""{snippet[1]}
import json, sys
from huggingface_hub import ModelCard
local = pipeline("text-classification", model=sys.argv[1], top_k=None)
fetched = pipeline("text-classification", model="user/topics", top_k=None)
texts = ["the match was won by a goal", "bank raises interest rate"]
assert local(texts) == fetched(texts), (local(texts), fetched(texts))
print("SCORES", json.dumps(fetched(texts)))
card = ModelCard.load("user/topics")
print("CARD", json.dumps(card.data.to_dict()))
"""
    lines = dict(re.findall(r"^(SCORES|CARD) (.*)$", run(code, tmp_path, hub.url, str(classifier)), re.MULTILINE))
    scores = json.loads(lines["SCORES"])
    assert {entry["label"] for entry in scores[0]} == {"sport", "finance|bank"}
    assert scores[0] != scores[1]
    card = json.loads(lines["CARD"])
    assert card["base_model"] == "intfloat/multilingual-e5-small"
    (result,) = card["model-index"][0]["results"]
    assert [metric["value"] for metric in result["metrics"]] == [0.61]


def test_a_learner_comes_back_by_its_id_and_only_for_those_who_may_see_it(
    hub: HubServer, learner: Path, tmp_path: Path
) -> None:
    pushed, fetched = call(
        tmp_path, hub.url, ["push", str(learner), "user/learner", True], ["resolve_folder", "user/learner"]
    )

    assert pushed == f"returned {hub.url}/user/learner"
    folder = Path(fetched.removeprefix("returned "))
    contents = {name: content for name, (content, _) in state(folder).items()}
    readme = contents.pop("README.md").decode()
    assert contents == {name: content for name, (content, _) in state(learner).items()}
    assert "Learner.from_pretrained('user/learner')" in readme

    other = tmp_path / "other"
    other.mkdir()
    (hidden,) = call(other, hub.url, ["resolve_folder", "user/learner"], token=None)
    assert hidden.startswith("error 'user/learner' was not found: no folder of that name exists, and the Hub shows no")

    local, no_revision, cached = call(
        tmp_path,
        hub.url,
        ["resolve_folder", "learner"],  # a folder of the working directory
        ["resolve_folder", "user/learner", "v9"],
        ["resolve_folder", "user/learner", hub.repos["user/learner"].sha],
    )
    assert local == "returned learner"
    assert no_revision.startswith("error 'user/learner' exists on the Hub, but not in the revision")
    assert cached == fetched


def test_a_learner_in_the_package_goes_to_the_hub_with_its_own_card(hub: HubServer, tmp_path: Path) -> None:
    pushed, fetched = call(tmp_path, hub.url, ["push", "general-english", "user/mine"], ["resolve_folder", "user/mine"])
    assert pushed == f"returned {hub.url}/user/mine"
    fetched_files = {name: content for name, (content, _) in state(Path(fetched.removeprefix("returned "))).items()}
    assert fetched_files == {name: content for name, (content, _) in state(BOX / "general-english").items()}


def test_pickles_on_the_hub_are_not_fetched(hub: HubServer, tmp_path: Path) -> None:
    files = {"config.json": b"{}", "pytorch_model.bin": b"pickle", "checkpoints/1/state.json": b"{}"}
    hub.repos["other/encoder"] = Repo(private=False, files=files)

    (line,) = call(tmp_path, hub.url, ["resolve_folder", "other/encoder"], token=None)

    assert set(state(Path(line.removeprefix("returned ")))) == {"config.json"}


def test_what_cannot_be_pushed_is_one_sentence(hub: HubServer, learner: Path, tmp_path: Path) -> None:
    hub.repos["other/model"] = Repo(private=False)
    hub.repos["user/public"] = Repo(private=False)
    names = ["someone/model", "other/model", "model", "user/a b", "user/a/b", "user/a--b"]
    calls: list[list[object]] = [["push", str(learner), name] for name in names]

    *lines, public = call(tmp_path, hub.url, *calls, ["push", str(learner), "user/public", True])

    for name, line in zip(names[:2], lines[:2], strict=True):
        assert line.startswith(f"error this login may not write to '{name}': use your own user name")
    for name, line in zip(names[2:], lines[2:], strict=True):
        assert line.startswith("error ") and repr(name) in line and "user/name" in line
    assert public.startswith("error 'user/public' already exists on the Hub and is public")
    assert not any(repo.commits for repo in hub.repos.values())


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (None, "not logged in"),
        ("hf_expired", "refused the login"),
        ("hf_\u200bgood", "a character that no token has"),
        ("hf_\x0bgood", "a character that no token has"),
    ],
)
def test_login_that_is_missing_or_wrong(
    hub: HubServer, learner: Path, tmp_path: Path, token: str | None, words: str
) -> None:
    calls = [["push", str(learner), "user/learner"]]
    output = run(CALLS, tmp_path, hub.url, json.dumps([{"log": True}, calls]), token=token)

    assert "Traceback" in output and (token is None or (token not in output and repr(token)[1:-1] not in output))
    (sentence,) = re.findall("^error .*$", output, re.MULTILINE)
    assert words in sentence and "`hf auth login`" in sentence and "HF_TOKEN" in sentence
    assert not hub.repos


def test_a_stored_login_is_used(hub: HubServer, learner: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    (line,) = call(tmp_path, hub.url, ["push", str(learner), "user/learner"], token=None)
    assert line == f"returned {hub.url}/user/learner"
    assert not hub.repos["user/learner"].private


@pytest.mark.parametrize(("kind", "cuts"), [("commit", 1), ("lfs", 100)])
def test_a_connection_that_breaks_half_way_leaves_the_folder_alone_and_a_repeat_finishes(
    hub: HubServer, learner: Path, tmp_path: Path, kind: str, cuts: int
) -> None:
    before = state(learner)
    hub.cut[kind] = cuts
    arguments: list[object] = ["push", str(learner), "user/learner"]

    (line,) = call(tmp_path, hub.url, arguments, no_waiting=True)

    assert re.fullmatch(
        r"error the connection to the Hub broke off or could not be made \(\w+\); "
        "nothing was changed locally; repeat the command to finish",
        line,
    )
    assert state(learner) == before
    assert hub.repos["user/learner"].commits == []
    uploads = hub.seen["lfs"]

    hub.cut.clear()
    done, again = call(tmp_path, hub.url, arguments, arguments)

    assert done == again == f"returned {hub.url}/user/learner"
    assert hub.repos["user/learner"].commits == [{*before, "README.md"}]
    assert hub.seen["lfs"] == uploads + (0 if kind == "commit" else 2)  # what had arrived is not sent again
    assert state(learner) == before


def test_no_connection(learner: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: every connection is refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        calls: list[list[object]] = [["push", str(learner), "user/learner"], ["resolve_folder", "user/none"]]
        pushed, fetched = call(tmp_path, url, *calls)
        pushed_offline, fetched_offline = call(tmp_path, url, *calls, HF_HUB_OFFLINE=1)

    assert "could not be made" in pushed and pushed.endswith("repeat the command to finish")
    assert (
        "'user/none' was not found: no folder of that name exists (check the name), the Hub did not answer" in fetched
    )
    assert pushed_offline.startswith("error HF_HUB_OFFLINE is set, so 'user/learner' cannot be reached")
    assert (
        "'user/none' was not found: no folder of that name exists (check the name), HF_HUB_OFFLINE is set"
        in fetched_offline
    )


def test_local_paths_are_taken_out_and_the_users_own_readme_wins(hub: HubServer, learner: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret-project"
    metadata = {"kind": "learner", "base_model": str(secret / "my-encoder"), "sources": [str(secret / "posts.jsonl")]}
    (learner / "metatext.json").write_text(json.dumps(metadata | {"classes": ["/Arts/Music"]}))
    own = learner.parent / "own"
    own.mkdir()
    for name, (content, _) in state(learner).items():
        (own / name).parent.mkdir(exist_ok=True)
        (own / name).write_bytes(content)
    (own / "README.md").write_text("---\nlicense: mit\n---\nMine.\n")

    call(tmp_path, hub.url, ["push", str(learner), "user/a"], ["push", str(own), "user/b"])

    files = hub.repos["user/a"].files
    assert not [name for name, content in files.items() if b"secret-project" in content]
    assert json.loads(files["metatext.json"]) == {
        "kind": "learner",
        "base_model": "./my-encoder",
        "sources": ["posts.jsonl"],
        "classes": ["/Arts/Music"],
    }
    assert "my-encoder (a local folder)" in files["README.md"].decode()
    assert hub.repos["user/b"].files["README.md"] == b"---\nlicense: mit\n---\nMine.\n"


def test_card_says_what_is_known(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard(model_card(metadata_of(tmp_path / "m", language="zh"), "user/topics"))

    data = card.data.to_dict()
    assert data["language"] == "zh" and "license" not in data
    assert data["library_name"] == "transformers" and data["pipeline_tag"] == "text-classification"
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("weibo", "accuracy", 0.61)
    assert result.metric_args == {"shots": 5, "draws": 10, "ci95": 0.02}
    assert "| weibo | 5 | first-order MAML | accuracy | 0.610 ± 0.020 | 10 |" in card.text
    assert "| weibo | 5 | majority | accuracy | 0.500 ± 0.000 |  |" in card.text
    assert "| sport | 5 |\n| finance\\|bank | 3 |" in card.text
    assert "first-order MAML, 5 inner steps" in card.text and "tnews_titles.train" in card.text
    assert "3 to 5 labelled texts per class" in card.text


def test_card_of_a_folder_that_says_nothing(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    for kind in ("classifier", "learner"):
        (tmp_path / "metatext.json").write_text(json.dumps({"kind": kind}))
        card = ModelCard(model_card(tmp_path, "user/topics"))
        assert {"language", "license", "base_model", "model-index", "model_name"} & card.data.to_dict().keys() == set()
        assert "None" not in str(card) and "nan" not in str(card)


@pytest.mark.parametrize("name", ["/home/me/e5", "~/e5", "C:\\models\\e5", "./e5", "../e5", "here"])
def test_base_model_that_is_a_folder_is_not_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    text = model_card(metadata_of(tmp_path / "m", base_model=name), "user/topics")
    assert "base_model" not in text
    assert f"- **Base model:** {'here' if name == 'here' else 'e5'} (a local folder)" in text


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "it lacks config.json and model.safetensors"),
        ({"config.json": "{}", "pytorch_model.bin": ""}, "it lacks model.safetensors"),
        ({"metatext.json": '{"kind": "learner"}', "model.bin": ""}, "it lacks weights"),
        ({"metatext.json": '{"kind": "poem"}'}, "was not written by metatext"),
        ({"metatext.json": "{"}, "cannot be read as JSON"),
        ({"config.json": "{}", "model.safetensors": "", "README.md": "\udcff"}, "is not UTF-8 text"),
        (None, "there is no folder"),
    ],
)
def test_folder_that_metatext_did_not_save(tmp_path: Path, files: dict[str, str] | None, words: str) -> None:
    folder = tmp_path / "some-folder"
    if files is not None:
        folder.mkdir()
    for name, content in (files or {}).items():
        (folder / name).write_text(content, errors="surrogateescape")
    with pytest.raises(InputError, match=words) as caught:
        push(folder, "user/name")
    assert "some-folder" in str(caught.value)


def test_import_is_light() -> None:
    code = (
        "import sys, metatext.hub.export; assert not {'huggingface_hub', 'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_scores_of_an_evaluation_go_into_the_card(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    row = {"method": "first-order MAML", "shots": 5, "draws": 10, "accuracy": 0.61, "accuracy_ci95": 0.02}
    row |= {"macro_f1": 0.58, "macro_f1_ci95": 0.03}
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"target": "weibo_topics", "rows": [row]}), encoding="utf-8")
    card = ModelCard(model_card(metadata_of(tmp_path / "m", method="first-order MAML"), "user/topics", table))
    found = {(r.dataset_name, r.metric_type): r.metric_value for r in card.data.eval_results or []}
    assert found == {("weibo_topics", "accuracy"): 0.61, ("weibo_topics", "macro_f1"): 0.58}
    table.write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"table.json was not written by `metatext evaluate`"):
        model_card(tmp_path / "m", "user/topics", table)
