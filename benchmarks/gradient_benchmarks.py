"""Benchmarks of meta-gradients: sections speed, memory, limit and precision."""

from __future__ import annotations

import gc
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measured_methods import (
    INNER_LR,
    SHAPES,
    Floor,
    Metatext,
    batched_variants,
    make_episode,
    make_learner,
    scope_variants,
    variants,
)
from peer_libraries import PEERS, double_backward, make_peers
from timing import Gradients, Method, Options, Row, Tables, cosine, relative_distance, rounds, rows, run_worker, timed

from metatext import Domain, Episode, EpisodeSampler, Learner
from metatext.learners.meta_gradient import run_episode

DATA = Path(__file__).resolve().parents[1] / "data"


SPEED = {  # shape -> (tokens per text, inner steps, "all" methods or smaller "scopes")
    "tiny": [
        (64, 1, "all"), (64, 5, "all"), (64, 5, "scopes"), (64, 10, "all"), (64, 20, "all"), (64, 20, "scopes"),
        (32, 5, "all"),
    ],
    "minilm": [(32, 1, "all"), (32, 5, "all"), (32, 5, "scopes"), (32, 20, "scopes")],
    "base": [(32, 1, "all")],
}  # fmt: skip


def speed(name: str, options: Options) -> Tables:
    """Times all methods of an encoder's shape in rounds.

    Raises:
        AssertionError: two meta-gradients that must agree do not. They are compared before the timing.
    """
    shape, tables = SHAPES[name], Tables()
    for length, steps, what in SPEED[name]:
        episode = make_episode(shape.vocabulary, length)
        base = make_learner(shape, inner_steps=steps)
        settings = variants(steps) if what == "all" else scope_variants(shape, steps)
        methods: dict[str, Floor | Metatext] = {"floor": Floor(base, steps)}
        methods |= {row: Metatext(shape, **values) for row, values in settings.items()}
        peers, missing = make_peers(base, steps) if what == "all" else ({}, {})
        methods |= peers
        caption = f"{shape.title}, {length} tokens, {steps} inner step{'s' * (steps > 1)}"
        caption += ", smaller scopes" * (what == "scopes")
        # With random weights, rounding errors grow with the inner steps: 8e-3 in float32 and 1e-11 in float64 after 20.
        dtype = torch.float64 if what == "scopes" else torch.float32
        agreement = _agreement(methods, make_episode(shape.vocabulary, 8), dtype)
        table = rows(rounds(methods, [episode], options.repeats, options.seconds))
        for row in table:
            row["agreement"] = agreement.get(row["method"], "")
            row["moves"] = _share_moved(methods[row["method"]])
        tables[caption] = table + [{"method": row, "agreement": reason} for row, reason in missing.items()]
        del methods, peers
        gc.collect()
    return tables


def _share_moved(method: Method) -> str:
    """Returns the share of the encoder's parameters, adapters included, that the inner loop moves, as text."""
    if not isinstance(method, Metatext):
        return ""
    sizes = {name: p.numel() for name, p in method.learner.encoder.named_parameters()}
    return f"{sum(sizes[name] for name in method.learner.inner_names) / sum(sizes.values()):.2%}"


def _agreement(methods: dict[str, Floor | Metatext], episode: Episode, dtype: torch.dtype) -> dict[str, float]:
    """Returns the relative distance of each method's meta-gradient from that of its reference method.

    Raises:
        AssertionError: a distance is larger than its limit.
    """
    first, second = "floor", "full MAML, graphs kept"
    gradients: dict[str, Gradients] = {}
    found: dict[str, float] = {}
    for name, method in methods.items():
        method.prepare(episode)
        method.to(dtype)
        gradients[name] = method.run()
        method.restore()
        method.to(torch.float32)
        plain = name.removesuffix(", nothing cached").removesuffix(", one-sided difference")
        if "top:" in name and name.endswith("difference"):
            reference, limit = plain, math.inf
        elif (plain != name and name.endswith("cached")) or name in (second, "first order, prototype head"):
            reference, limit = plain if plain != name else "", 1e-5
        elif "top:" in name or name.endswith((" head", "LoRA")):
            continue
        else:
            is_second = name.startswith("full") or (name in PEERS and PEERS[name][1])
            reference = second if is_second else first
            limit = math.inf if "difference" in name else 1e-4
        if reference in gradients and reference != name:
            found[name] = relative_distance(gradients[name], gradients[reference])
            if not found[name] <= limit:
                raise AssertionError(f"{name} is {found[name]:.1e} away from {reference}, more than {limit:.0e}")
        if name.endswith("cached"):
            del gradients[name], gradients[plain]
    if second in gradients:
        found[second] = relative_distance(gradients[second], gradients[first])
    return found


MEMORY = {"tiny": (64, (1, 5, 20)), "minilm": (32, (5, 20)), "base": (32, (1,))}  # tokens per text, inner steps
# With these settings, each larger tensor gets a memory mapping of its own, so that free gaps in the heap do not count.
MALLOC_SETTINGS = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "1048576"}
KEPT_GRAPH_METHODS = ("functional_call, unrolled", "full MAML, graphs kept")


def memory(name: str, options: Options) -> Tables:
    """Measures the peak memory of each method and number of inner steps, each in a fresh process."""
    length, all_steps = MEMORY[name]
    names = ["floor", "first order", *KEPT_GRAPH_METHODS, *list(variants(1))[4:], *batched_variants(1)]
    table: list[Row] = []
    for method in names:
        row: Row = {"method": method}
        for steps in all_steps:
            # For larger encoders, 20 steps are left out where 5 steps already show the memory of the graphs.
            left_out = steps > 5 and name != "tiny" and method not in ("first order", "full MAML, recomputed")
            words = ("memory", name, method, length, steps)
            row[f"MB, K = {steps}"] = None if left_out else run_worker(*words, environment=MALLOC_SETTINGS)["MB"]
        table.append(row)
    return {f"{SHAPES[name].title}, {length} tokens": table}


def measure_memory(name: str, method: str, length: int, steps: int) -> Row:
    """Returns the peak resident memory of one episode over that before it, in MB; needs a fresh process."""
    import psutil

    length, steps = int(length), int(steps)
    shape = SHAPES[name]
    made: Method
    if method == "floor" or method in PEERS:
        base = make_learner(shape, inner_steps=steps)
        made = Floor(base, steps) if method == "floor" else PEERS[method][0](base, steps, PEERS[method][1])
        del base
    else:
        made = Metatext(shape, **(variants(steps) | batched_variants(steps))[method])
    made.prepare(make_episode(shape.vocabulary, 8))
    made.run()  # the first run loads libraries
    made.restore()
    made.prepare(make_episode(shape.vocabulary, length))
    gc.collect()
    before = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, see proc(5)
    made.run()
    status = Path("/proc/self/status").read_text()  # ru_maxrss would include the peak of the parent before exec
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    return {"MB": (peak - before) / 2**20}


def limit(name: str, options: Options) -> Tables:
    """Measures the share of the machine's matrix-product rate that first-order MAML and fine-tuning reach."""
    from torch.utils.flop_counter import FlopCounterMode

    shape, length, steps = SHAPES[name], 64, {"tiny": 5, "minilm": 1}[name]
    tokens = 25 * length
    best = 0.0
    for inner, outer in ((shape.hidden, shape.hidden), (shape.hidden, shape.intermediate)):
        a, b = torch.randn(tokens, inner), torch.randn(inner, outer)
        repeats = max(1, int(2e9 / (2 * tokens * inner * outer)))
        best = max(
            best, *(2 * tokens * inner * outer * repeats / timed(partial(_products, a, b, repeats)) for _ in range(5))
        )
    episode = make_episode(shape.vocabulary, length)
    methods: dict[str, Method] = {
        "plain fine-tuning, SGD, batches of 25": _FineTuning(make_learner(shape), steps + 1),
        "first order": Metatext(shape, inner_steps=steps),
    }
    flops = {}
    for name, method in methods.items():
        method.prepare(episode)
        # FlopCounterMode does not count fused attention on a CPU.
        with double_backward(), FlopCounterMode(display=False) as counter:
            method.run()
        flops[name] = counter.get_total_flops()
        method.restore()
    table = rows(rounds(methods, [episode], options.repeats, options.seconds), next(iter(methods)))
    for row in table:
        row.pop("x floor")
        row["GFLOP"] = flops[row["method"]] / 1e9
        row["GFLOP/s"] = row["GFLOP"] / row["ms"] * 1e3
        row["share of matmul"] = f"{row['GFLOP/s'] * 1e9 / best:.0%}"
    table.insert(0, {"method": "matmul, the best of this model's sizes", "GFLOP/s": best / 1e9})
    return {f"{shape.title}, {length} tokens, {steps} inner step{'s' * (steps > 1)}": table}


def _products(a: torch.Tensor, b: torch.Tensor, repeats: int) -> None:
    """Computes a @ b several times."""
    for _ in range(repeats):
        a @ b


class _FineTuning(Floor):
    """Plain fine-tuning with as many passes as an episode of MAML has, each followed by an update."""

    def run(self) -> Gradients:
        optimizer = torch.optim.SGD(self.parameters, lr=INNER_LR)
        for k in range(1, self.steps + 1):
            optimizer.zero_grad()
            self.model(**self.batch(k)).backward()
            optimizer.step()
        return {}


def precision(name: str, options: Options) -> Tables:
    """Compares meta-gradients in bfloat16, and those of finite differences, with exact ones in float32.

    The trained encoder in data/ replaces the tiny shape, whose random weights are not typical.
    """
    trained = name == "tiny"
    domain = Domain.from_file(DATA / "news.jsonl")
    encoder = "data/encoder (3 x 256, trained)" if trained else f"{SHAPES[name].title}, random"
    episode = EpisodeSampler([domain], queries=5)[0] if trained else make_episode(SHAPES[name].vocabulary, 32)
    cases = [("linear", 5, 0.01), ("prototype", 5, 0.01)]
    cases += [("linear", 1, 0.01), ("prototype", 1, 0.01), ("prototype", 5, 0.1)] if trained else []
    differences: list[Row] = []
    bfloat16: list[Row] = []
    for head, steps, rate in cases:
        row: Row = {"head": head, "K": steps, "inner rate": rate}
        exact: dict[str, Gradients] = {}
        cosines: dict[str, float] = {}
        for kind, settings in variants(steps).items():
            if ("," in kind and not kind.startswith("full")) or kind == "full MAML, recomputed":
                continue
            values = settings | {"head": head, "inner_lr": rate}
            learner = _trained(domain, **values) if trained else make_learner(SHAPES[name], **values)
            exact[kind] = run_episode(learner, episode).gradients
            learner.autocast_dtype = torch.bfloat16
            cosines[kind] = cosine(run_episode(learner, episode).gradients, exact[kind])
        reference = exact["full MAML, graphs kept"]
        distances = {kind: relative_distance(gradients, reference) for kind, gradients in exact.items()}
        del distances["full MAML, graphs kept"]
        differences.append(row | distances)
        bfloat16.append(row | cosines)
    return {
        f"{encoder}: cosine of the bfloat16 meta-gradient with the same in float32": bfloat16,
        f"{encoder}: relative distance from the exact meta-gradient, float32": differences,
    }


def _trained(domain: Domain, **settings: Any) -> Learner:
    """Returns a learner with the encoder in data/; a linear head gets random weights."""
    classes = tuple(domain.classes) if settings["head"] == "linear" else ()
    learner = Learner.from_pretrained(DATA / "encoder", learn_inner_lr=False, classes=classes, **settings)
    if settings["head"] == "linear":
        torch.manual_seed(0)
        torch.nn.init.normal_(learner.head.get_parameter("weight"), std=0.1)
    return learner
