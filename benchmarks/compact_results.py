"""Puts results of `metatext evaluate` on the same draws into one small file, as docs/results/ keeps them.

    python benchmarks/compact_results.py runs/news/weibo_topics.json docs/results/weibo_topics.json.gz

Several results become one: the first file's row wins where two have the same. Files after `--baselines` give their
baselines only. A compact file holds one line of figures a method and draw, and the settings, machine and versions of
each run once. It leaves out what can be computed from the figures (tables, comparisons, confusion counts).
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metatext.errors import InputError
from metatext.evaluation.report import is_row_of

Result = dict[str, Any]

_KEPT = (
    "target", "target_rows", "classes", "encoder", "official_supports", "draws_sha256", "test_texts", "learners",
    "runs",
)  # fmt: skip
_RUN = ("sources", "settings", "recipe", "machine", "versions")
_PATHS = ("joint", "test")
_COLUMNS = ("shots", "draw", "test_rows", "accuracy", "macro_f1", "calibration_error", "fit_seconds")
_ANSWERS = "correct"  # one more column, which results of earlier versions lack
_SAME = ("target_rows", "classes", "encoder", "official_supports")
_SAME_SETTINGS = ("draws", "draw_seed", "test_size", "ways")


def main() -> None:
    """Writes the compact file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="results of metatext evaluate, or of recipes")
    parser.add_argument("output", type=Path, help="file to write, NAME.json.gz")
    parser.add_argument("--baselines", nargs="+", type=Path, default=[], help="results whose learners are left out")
    options = parser.parse_args()
    write_compact(merged(options.files, options.baselines), options.output)


def read_result(path: Path) -> Result:
    """A result with a list of `runs`, and with the number of its run in each record.

    Args:
        path: a result of `metatext evaluate`, or a compact file of this module.
    """
    data = path.read_bytes()
    result: Result = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    if "runs" in result:
        result["records"] = [
            {name: block[name] for name in ("method", "weights", "run")}
            | dict(zip((*_COLUMNS, _ANSWERS)[: len(figures)], figures, strict=True))
            for block in result.pop("figures")
            for figures in block["draws"]
        ]
    else:
        result["runs"] = [_run(result)]
        result["records"] = [record | {"run": 0} for record in result["records"]]
    return result


def write_compact(result: Result, path: Path) -> None:
    """Writes a result in the compact form; equal results give equal bytes."""
    blocks: dict[tuple[str, str | None, int], list[list[Any]]] = {}
    for record in result["records"]:
        draws = blocks.setdefault((record["method"], record["weights"], record["run"]), [])
        answers = [record[_ANSWERS]] if _ANSWERS in record else []
        draws.append([_rounded(record.get(column)) for column in _COLUMNS] + answers)
    compact = {name: result[name] for name in _KEPT if name in result} | {
        "figures": [
            {"method": method, "weights": weights, "run": run, "draws": draws}
            for (method, weights, run), draws in blocks.items()
        ],
    }
    text = json.dumps(compact, ensure_ascii=False, separators=(",", ":"))
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def merged(files: Sequence[Path], baselines: Sequence[Path] = ()) -> Result:
    """One result with the records of all files, and of `baselines` without their learners'.

    Raises:
        InputError: the files were not judged on the same draws, or have learners of one name with other weights.
    """
    results = {file: read_result(file) for file in [*files, *baselines]}
    for result in [results[file] for file in baselines]:
        own = list(result["learners"])
        result["learners"] = {}
        result["records"] = [record for record in result["records"] if not is_row_of(record["method"], own)]
    _check_same(results)
    runs: list[dict[str, Any]] = []
    weights: dict[str, str | None] = {}
    records: dict[tuple[str, int, int], dict[str, Any]] = {}
    for result in results.values():
        for record in result["records"]:
            if weights.setdefault(record["method"], record["weights"]) != record["weights"]:
                raise InputError(f"the files have several learners called {record['method']!r}")
            key = (record["method"], record["shots"], record["draw"])
            records.setdefault(key, record | {"run": len(runs) + record["run"]})
        runs += result["runs"]
    parts = list(results.values())
    whole = parts[0] | {
        "learners": {name: settings for result in parts for name, settings in result["learners"].items()},
        "draws_sha256": {shots: digest for r in parts for shots, digest in r.get("draws_sha256", {}).items()},
        "runs": runs,
        "records": list(records.values()),
    }
    if numbered := [result["test_texts"] for result in parts if "test_texts" in result]:
        whole["test_texts"] = numbered[0]
    return whole


def _check_same(results: dict[Path, Result]) -> None:
    """Refuses results that were judged on other draws or test texts than the first file's."""
    first, *others = results
    for file in others:
        mine, its = results[first], results[file]
        if _target(mine) != _target(its):
            raise InputError(f"{file} is of target {_target(its)}, {first} of {_target(mine)}")
        pairs = [(mine.get(name), its.get(name), name) for name in _SAME]
        own, other_runs = mine["runs"][0]["settings"], its["runs"]
        pairs += [(own.get(name), run["settings"].get(name), name) for run in other_runs for name in _SAME_SETTINGS]
        if other := next((name for one, another, name in pairs if (one or 0) != (another or 0)), None):
            raise InputError(f"{file} has another {other} than {first}: the draws are not the same")
    if len({json.dumps(result["test_texts"]) for result in results.values() if "test_texts" in result}) > 1:
        raise InputError("the files were judged on different test texts: take them one by one")
    for file, result in results.items():
        for shots, digest in result.get("draws_sha256", {}).items():
            if any(other.get("draws_sha256", {}).get(shots, digest) != digest for other in results.values()):
                raise InputError(f"{file} was judged on other texts at {shots} shots than another of the files")


def _target(result: Result) -> str:
    return str(result["target"]).removesuffix(".train")  # a recipe that reads NAME.train and NAME.test omits it


def _run(result: Result) -> dict[str, Any]:
    """What a run was made with; of files the names only, as folders differ from machine to machine."""
    run = {name: result[name] for name in _RUN if name in result}
    paths = {name: Path(run["settings"][name]).name for name in _PATHS if run["settings"].get(name)}
    return run | {"settings": run["settings"] | paths}


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
