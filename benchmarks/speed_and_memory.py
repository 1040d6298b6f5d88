"""Measures metatext beside a floor and beside other MAML implementations, in one process.

    python benchmarks/speed_and_memory.py                             # everything, into runs/benchmarks
    python benchmarks/speed_and_memory.py --only speed --shape tiny   # measured anew
    pip install -r benchmarks/requirements.txt                        # the peer libraries, all optional

Each section writes its own JSON as soon as it is done, and a second run measures what is missing; the report is made
from what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads of the measuring process (default 1)")
    parser.add_argument("--repeats", type=int, default=7, help="rounds over the methods (default 7)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        help="no new round of a table after this long, from the third (default 60)",
    )
    parser.add_argument("--only", nargs="+", metavar="SECTION", help="measure these sections, also if they are there")
    parser.add_argument("--shape", nargs="+", default=["tiny", "minilm"], choices=["tiny", "minilm", "base"])
    parser.add_argument("--texts", nargs="+", default=(), metavar="FILE", help="JSON lines with text and label")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Runs the sections that are asked for, and writes the report."""
    args = parse()
    os.environ.update(
        HF_HUB_OFFLINE="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        TOKENIZERS_PARALLELISM="false",
        OMP_NUM_THREADS=str(args.threads),
    )
    warnings.simplefilter("ignore")
    import torch
    from benchmark_report import machine, write_report
    from gradient_benchmarks import limit, memory, memory_cell, precision, speed
    from peer_libraries import versions
    from rejected_optimisations import tries
    from timing import Options, Tables
    from usage_benchmarks import adapt, lengths, processes, processes_cell

    torch.set_num_threads(args.threads)
    if args.worker:
        name, *words = args.worker
        worker = memory_cell if name == "memory" else processes_cell
        print(json.dumps(worker(*words)))
        return
    sections: dict[str, Callable[[str, Options], Tables]] = {
        "speed": speed,
        "memory": memory,
        "lengths": lengths,
        "processes": processes,
        "adapt": adapt,
        "limit": limit,
        "precision": precision,
        "tries": tries,
    }
    if unknown := set(args.only or ()) - set(sections):
        raise SystemExit(f"unknown section {', '.join(sorted(unknown))}; the sections are {', '.join(sections)}")
    args.output.mkdir(parents=True, exist_ok=True)
    options = Options(args.repeats, args.seconds, tuple(args.texts))
    where = {"machine": machine(args.threads), "versions": versions()}
    for section in args.only or sections:
        for shape in ["encoder"] if section == "adapt" else args.shape:
            path = args.output / f"{section}-{shape}.json"
            if path.exists() and not args.only:
                continue
            started = time.perf_counter()
            tables = sections[section](shape, options)
            took = {"took": round(time.perf_counter() - started, 1), "repeats": args.repeats}
            result = {"section": section, "shape": shape, **where, **took, "tables": tables}
            path.write_text(json.dumps(result, indent=1), encoding="utf-8")
            print(f"{path}: {took['took']:.0f} s", flush=True)
            write_report(args.output, list(sections))
    print(args.output / "benchmarks.md")


if __name__ == "__main__":
    main()
