"""Measures speed and memory of metatext, of plain SGD (the floor), and of other implementations of MAML.

    python benchmarks/speed_and_memory.py                             # all sections, into runs/benchmarks
    python benchmarks/speed_and_memory.py --only speed --shape tiny   # one section, even if its file exists
    pip install -r benchmarks/requirements.txt                        # the other libraries, all optional

Each section writes a JSON file when it is done. A second run measures the sections whose files are missing. The report
is made from all files in the output folder.
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
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads of the measured process (default 1)")
    parser.add_argument("--repeats", type=int, default=7, help="rounds; a round runs each method once (default 7)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        help="a table gets no further round after this many seconds, but at least three rounds (default 60)",
    )
    parser.add_argument(
        "--only", nargs="+", metavar="SECTION", help="measure only these sections, even if their files exist"
    )
    parser.add_argument(
        "--shape",
        nargs="+",
        default=["tiny", "minilm"],
        choices=["tiny", "minilm", "base"],
        help="sizes of the encoder, with random weights (default tiny minilm)",
    )
    parser.add_argument(
        "--texts",
        nargs="+",
        default=(),
        metavar="FILE",
        help="JSON lines with text and label, for section lengths (default: the demo corpus)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/benchmarks"), help="output folder (default runs/benchmarks)"
    )
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Runs the requested sections and writes the report."""
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
    from gradient_benchmarks import limit, measure_memory, memory, precision, speed
    from peer_libraries import versions
    from rejected_optimisations import compile_and_vmap
    from timing import Options, Tables
    from usage_benchmarks import adapt, lengths, measure_processes, processes

    torch.set_num_threads(args.threads)
    if args.worker:
        name, *words = args.worker
        measure = measure_memory if name == "memory" else measure_processes
        print(json.dumps(measure(*words)))
        return
    sections: dict[str, Callable[[str, Options], Tables]] = {
        "speed": speed,
        "memory": memory,
        "lengths": lengths,
        "processes": processes,
        "adapt": adapt,
        "limit": limit,
        "precision": precision,
        "tries": compile_and_vmap,
    }
    if unknown := set(args.only or ()) - set(sections):
        raise SystemExit(f"unknown section {', '.join(sorted(unknown))}; the sections are {', '.join(sections)}")
    args.output.mkdir(parents=True, exist_ok=True)
    options = Options(args.repeats, args.seconds, tuple(args.texts))
    setup = {"machine": machine(args.threads), "versions": versions()}
    for section in args.only or sections:
        for shape in ["encoder"] if section == "adapt" else args.shape:
            path = args.output / f"{section}-{shape}.json"
            if path.exists() and not args.only:
                continue
            started = time.perf_counter()
            tables = sections[section](shape, options)
            took = {"took": round(time.perf_counter() - started, 1), "repeats": args.repeats}
            result = {"section": section, "shape": shape, **setup, **took, "tables": tables}
            path.write_text(json.dumps(result, indent=1), encoding="utf-8")
            print(f"{path}: {took['took']:.0f} s", flush=True)
            write_report(args.output, list(sections))
    print(args.output / "benchmarks.md")


if __name__ == "__main__":
    main()
