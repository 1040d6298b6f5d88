"""No code that comes with a model runs, whatever is answered to transformers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MARK = "the code ran"
CODE = f'''
from pathlib import Path
from transformers import PretrainedConfig
Path(__file__).with_name("mark.txt").write_text("{MARK}")
Path("mark.txt").write_text("{MARK}")
class Config(PretrainedConfig):
    model_type = "unheard_of"
'''


@pytest.fixture
def hostile(tiny_bert: Path, tmp_path: Path) -> Path:
    """An encoder whose configuration and tokenizer name code in the folder."""
    folder = tmp_path / "hostile"
    shutil.copytree(tiny_bert, folder)
    (folder / "hostile.py").write_text(CODE, encoding="utf-8")
    for name, changes in (
        ("config.json", {"model_type": "unheard_of", "auto_map": {"AutoConfig": "hostile.Config"}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["hostile.Config", "hostile.Config"]}}),
    ):
        values = json.loads((folder / name).read_text(encoding="utf-8")) | changes
        (folder / name).write_text(json.dumps(values), encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["adapt", "hostile", "posts.jsonl", "--output", "out"],
        ["predict", "hostile", "posts.jsonl", "--output", "out.jsonl"],
        ["pretrain", "hostile", "--texts", "posts.jsonl", "--output", "out"],
    ],
)
def test_a_yes_on_standard_input_runs_nothing(hostile: Path, tmp_path: Path, words: list[str]) -> None:
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(4)]
    (tmp_path / "posts.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "metatext", *words],
        input="y\n" * 9,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert "hostile" in done.stderr and "Traceback" not in done.stderr and "[y/N]" not in done.stdout + done.stderr
    assert not list(tmp_path.rglob("mark.txt")) and not list(tmp_path.glob("out*"))
