"""How fast and how large the ways to a meta-gradient are, how close to the machine's limit, and how exact."""

from __future__ import annotations

import gc
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measured_methods import INNER_LR, SHAPES, Floor, Ours, in_batches, make_episode, make_learner, scopes, variants
from peer_libraries import PEERS, double_backward, make_peers
from timing import Gradients, Method, Options, Row, Tables, cosine, relative, rounds, rows, timed, worker

from metatext import Domain, EpisodeSampler, Learner
from metatext.learners.meta_gradient import run_episode

DATA = Path(__file__).resolve().parents[1] / "data"


# ------------------------------------------------------------------------------------------- A: speed
SPEED = {  # length, inner steps, what is measured beside the floor
    "tiny": [
        (64, 1, "all"), (64, 5, "all"), (64, 5, "scopes"), (64, 10, "all"), (64, 20, "all"), (64, 20, "scopes"),
        (32, 5, "all"),
    ],
    "minilm": [(32, 1, "all"), (32, 5, "all"), (32, 5, "scopes"), (32, 20, "scopes")],
    "base": [(32, 1, "all")],
}  # fmt: skip


def speed(name: str, options: Options) -> Tables:
    """All ways to a meta-gradient, in rounds; the gradients are compared first."""
    shape, tables = SHAPES[name], Tables()
    for length, steps, what in SPEED[name]:
        episode = make_episode(shape.vocabulary, length)
        base = make_learner(shape, inner_steps=steps)
        settings = variants(steps) if what == "all" else scopes(shape, steps)
        methods: dict[str, Method] = {"floor": Floor(base, steps)}
        methods |= {row: Ours(shape, **values) for row, values in settings.items()}
        peers, missing = make_peers(base, steps) if what == "all" else ({}, {})
        methods |= peers
        where = f"{shape.title}, {length} tokens, {steps} inner step{'s' * (steps > 1)}"
        where += ", smaller scopes" * (what == "scopes")
        # Many steps with random weights make much of float32's rounding: 8e-3 after 20, where float64 has 1e-11.
        dtype = torch.float64 if what == "scopes" else torch.float32
        agreement = _agreement(methods, make_episode(shape.vocabulary, 8), dtype)
        table = rows(rounds(methods, [episode], options.repeats, options.seconds))
        for row in table:
            row["agreement"] = agreement.get(row["method"], "")
            row["moves"] = _share_moved(methods[row["method"]])
        tables[where] = table + [{"method": row, "agreement": reason} for row, reason in missing.items()]
        del methods, peers
        gc.collect()
    return tables


def _share_moved(method: Method) -> str:
    """How much of the encoder, adapters included, the inner loop moves: a task's own state."""
    if not isinstance(method, Ours):
        return ""
    sizes = {name: p.numel() for name, p in method.learner.encoder.named_parameters()}
    return f"{sum(sizes[name] for name in method.learner.inner_names) / sum(sizes.values()):.2%}"


def _agreement(methods: dict[str, Method], episode: Any, dtype: torch.dtype) -> dict[str, float]:
    """Relative difference of each method's meta-gradient from its reference; raises where it is too large."""
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
            found[name] = relative(gradients[name], gradients[reference])
            if not found[name] <= limit:
                raise AssertionError(f"{name} is {found[name]:.1e} away from {reference}, more than {limit:.0e}")
        if name.endswith("cached"):
            del gradients[name], gradients[plain]
    if second in gradients:
        found[second] = relative(gradients[second], gradients[first])
    return found


# ------------------------------------------------------------------------------------------- B: memory
MEMORY = {"tiny": (64, (1, 5, 20)), "minilm": (32, (5, 20)), "base": (32, (1,))}
# A mapping of its own for every tensor but small ones, so that holes in the heap are not counted.
STEADY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "1048576"}
HEAVY = ("functional_call, unrolled", "full MAML, graphs kept")


def memory(name: str, options: Options) -> Tables:
    """Peak resident memory over the model's own, a fresh process each."""
    length, all_steps = MEMORY[name]
    names = ["floor", "first order", *HEAVY, *list(variants(1))[4:], *in_batches(1)]
    table: list[Row] = []
    for method in names:
        row: Row = {"method": method}
        for steps in all_steps:
            # At 20 steps of a larger encoder what the graphs take and how long all take is known from 5.
            left_out = steps > 5 and name != "tiny" and method not in ("first order", "full MAML, recomputed")
            row[f"MB, K = {steps}"] = (
                None if left_out else worker("memory", name, method, length, steps, environment=STEADY)["MB"]
            )
        table.append(row)
    return {f"{SHAPES[name].title}, {length} tokens": table}


def memory_cell(name: str, method: str, length: int, steps: int) -> Row:
    """In its own process: the peak of one episode over what is resident before it."""
    import psutil

    length, steps = int(length), int(steps)
    shape = SHAPES[name]
    made: Method
    if method == "floor" or method in PEERS:
        base = make_learner(shape, inner_steps=steps)
        made = Floor(base, steps) if method == "floor" else PEERS[method][0](base, steps, PEERS[method][1])
        del base
    else:
        made = Ours(shape, **(variants(steps) | in_batches(steps))[method])
    made.prepare(make_episode(shape.vocabulary, 8))
    made.run()  # loads what is loaded at first use
    made.restore()
    made.prepare(make_episode(shape.vocabulary, length))
    gc.collect()
    before = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, see proc(5)
    made.run()
    status = Path("/proc/self/status").read_text()  # ru_maxrss would be that of the parent, from before it became this
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    return {"MB": (peak - before) / 2**20}


# ------------------------------------------------------------------------------------------- F: the machine's limit
def limit(name: str, options: Options) -> Tables:
    """The share of the machine's matmul rate that first-order MAML and plain fine-tuning reach."""
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
        "first order": Ours(shape, inner_steps=steps),
    }
    flops = {}
    for name, method in methods.items():
        method.prepare(episode)
        with double_backward(), FlopCounterMode(display=False) as counter:  # it does not count fused attention on a CPU
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
    for _ in range(repeats):
        a @ b


class _FineTuning(Floor):
    """As many passes as an episode has, each with an update: what ordinary training would do with the time."""

    def run(self) -> Gradients:
        optimizer = torch.optim.SGD(self.parameters, lr=INNER_LR)
        for k in range(1, self.steps + 1):
            optimizer.zero_grad()
            self.model(**self.batch(k)).backward()
            optimizer.step()
        return {}


# ------------------------------------------------------------------------------------------- G: precision
def precision(name: str, options: Options) -> Tables:
    """How far the meta-gradients of bfloat16 and of differences are from exact ones in float32.

    In place of the tiny shape, whose random weights would say little, stands the trained encoder in data/.
    """
    trained = name == "tiny"
    domain = Domain.from_file(DATA / "news.jsonl")
    shown = "data/encoder (3 x 256, trained)" if trained else f"{SHAPES[name].title}, random"
    episode = EpisodeSampler([domain], queries=5)[0] if trained else make_episode(SHAPES[name].vocabulary, 32)
    cases = [("linear", 5, 0.01), ("prototype", 5, 0.01)]
    cases += [("linear", 1, 0.01), ("prototype", 1, 0.01), ("prototype", 5, 0.1)] if trained else []
    differences: list[Row] = []
    bf16: list[Row] = []
    for head, steps, rate in cases:
        row: Row = {"head": head, "K": steps, "inner rate": rate}
        exact: dict[str, Gradients] = {}
        halves: dict[str, float] = {}
        for kind, settings in variants(steps).items():
            if ("," in kind and not kind.startswith("full")) or kind == "full MAML, recomputed":
                continue
            values = settings | {"head": head, "inner_lr": rate}
            learner = _trained(domain, **values) if trained else make_learner(SHAPES[name], **values)
            exact[kind] = run_episode(learner, episode).gradients
            learner.autocast_dtype = torch.bfloat16
            halves[kind] = cosine(run_episode(learner, episode).gradients, exact[kind])
        reference = exact["full MAML, graphs kept"]
        distances = {kind: relative(gradients, reference) for kind, gradients in exact.items()}
        del distances["full MAML, graphs kept"]
        differences.append(row | distances)
        bf16.append(row | halves)
    return {
        f"{shown}: cosine of the bfloat16 meta-gradient with the same in float32": bf16,
        f"{shown}: relative distance from the exact meta-gradient, float32": differences,
    }


def _trained(domain: Domain, **settings: Any) -> Learner:
    classes = tuple(domain.classes) if settings["head"] == "linear" else ()
    learner = Learner.from_pretrained(DATA / "encoder", learn_inner_lr=False, classes=classes, **settings)
    if settings["head"] == "linear":
        torch.manual_seed(0)
        torch.nn.init.normal_(learner.head.get_parameter("weight"), std=0.1)
    return learner
