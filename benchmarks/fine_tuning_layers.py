"""Compares which layers the default adaptation fine-tunes, and in how many passes: accuracy and CPU seconds.

    python benchmarks/fine_tuning_layers.py general-english --target tweets_emotion.jsonl --shots 10 20 --draws 10

Every row adapts from the same start of the same draw. "gain" is the accuracy less that without fine-tuning, in points,
paired by draw, with half the width of its 95% confidence interval (Student's t). CPU seconds are those of fine-tuning
alone, on one thread. The command prints a Markdown table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from sklearn.metrics import accuracy_score
from tqdm.auto import tqdm

from metatext import Domain, Learner
from metatext.adaptation.adapt import support_of
from metatext.adaptation.fine_tuning import ALL_LAYERS, TOP_LAYERS, Tuning, fine_tuned
from metatext.adaptation.start_selection import choose_start
from metatext.data.class_names import class_names_for
from metatext.errors import InputError
from metatext.evaluation.statistics import confidence_interval
from metatext.evaluation.support_draws import Draw, make_draws
from metatext.hub.markdown import markdown_table
from metatext.learners.text_length import adaptation_length, reading_at
from metatext.learners.weight_blending import blended

VARIANTS = {
    "no fine-tuning": (ALL_LAYERS, 0),
    "all layers, 4 passes": (ALL_LAYERS, 4),
    "all layers, 2 passes": (ALL_LAYERS, 2),
    "top half, 4 passes": (Tuning(0.5, 1e-4), 4),
    "top third, 4 passes": (TOP_LAYERS, 4),
    "top third, 3 passes": (TOP_LAYERS, 3),
    "top third, 2 passes": (TOP_LAYERS, 2),
    "top third, 8 passes": (TOP_LAYERS, 8),
}
Fits = dict[str, list[tuple[float, float]]]  # accuracy and CPU seconds of each draw


def main() -> None:
    """Fits every variant to every draw and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("learner", help="a learner, or an encoder")
    parser.add_argument("--encoder", help="folder with the encoder of a learner that was saved without it")
    parser.add_argument("--text-prefix", default="", help="text prefix of an encoder")
    parser.add_argument("--target", required=True, help="labelled target file")
    parser.add_argument("--test", help="labelled file with the test texts")
    parser.add_argument("--ways", type=int, help="classes per draw (default: all)")
    parser.add_argument("--shots", type=int, nargs="+", default=[5, 10], help="labels per class (default 5 10)")
    parser.add_argument("--draws", type=int, default=10, help="draws per number of shots (default 10)")
    parser.add_argument("--test-size", type=int, default=500, help="maximum number of test texts (default 500)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    prefix = {"text_prefix": options.text_prefix} if options.text_prefix else {}
    learner = Learner.from_pretrained(options.learner, encoder=options.encoder, **prefix)
    target = Domain.from_file(options.target)
    test = Domain.from_file(options.test) if options.test else None
    draws = make_draws(target, options.shots, options.draws, test=test, ways=options.ways, test_size=options.test_size)
    fits: dict[int, Fits] = {}
    with reading_at(learner, adaptation_length(learner, None)):
        for draw in tqdm(draws, unit="draw"):
            for name, fit in measure(learner, draw).items():
                fits.setdefault(draw.shots, {}).setdefault(name, []).append(fit)
    print(table(fits, {draw.shots: len(draw.support) for draw in draws}))


def measure(learner: Learner, draw: Draw) -> dict[str, tuple[float, float]]:
    """Accuracy and CPU seconds of each variant on a draw."""
    support = support_of([text for text, _ in draw.support], [label for _, label in draw.support], draw.classes)
    start = choose_start(learner, support, draw.classes, class_names_for(draw.classes, None))
    if start is None:
        raise InputError(f"{learner.base_model} has a learned head, which the default adaptation does not fine-tune")
    results = {}
    with blended(learner, start.blend):
        for name, (tuning, passes) in VARIANTS.items():
            begin = time.process_time()
            with fine_tuned(learner, support, start, passes, tuning=tuning) as layer:
                seconds = time.process_time() - begin
                answers = layer.logits(learner.encode([text for text, _ in draw.test]).float()).argmax(1)
            accuracy = accuracy_score([draw.classes.index(label) for _, label in draw.test], answers)
            results[name] = (float(accuracy), seconds)
    return results


def table(fits: dict[int, Fits], texts: dict[int, int]) -> str:
    """A Markdown table with a row per variant, and two columns per number of shots."""
    columns = [column for shots in fits for column in (f"{shots} shots ({texts[shots]} texts)", "CPU s")]
    return markdown_table(["fine-tuning", *columns], [[name, *_cells(fits, name)] for name in VARIANTS])


def _cells(fits: dict[int, Fits], name: str) -> Sequence[str]:
    cells = []
    for of_shots in fits.values():
        accuracies, seconds = zip(*of_shots[name], strict=True)
        base = [accuracy for accuracy, _ in of_shots["no fine-tuning"]]
        gain, half = confidence_interval([own - other for own, other in zip(accuracies, base, strict=True)])
        mean = 100 * sum(accuracies) / len(accuracies)
        cells += [f"{mean:.1f}, {100 * gain:+.1f} ± {100 * half:.1f}", f"{sum(seconds) / len(seconds):.1f}"]
    return cells


if __name__ == "__main__":
    main()
