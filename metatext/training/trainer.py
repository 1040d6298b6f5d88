"""The outer loop of meta-training, in one process or several, with exact resume."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from metatext.data.class_names import names_of_domains
from metatext.data.columns import checked_texts
from metatext.data.episode_sampler import EpisodeSampler
from metatext.data.episodes import Episode, with_names
from metatext.data.fingerprints import describe_domains, fingerprint
from metatext.errors import InputError
from metatext.learners.heads import PrototypeHead
from metatext.learners.learner import Learner
from metatext.learners.meta_gradient import evaluate_episode, run_episode
from metatext.learners.weight_blending import remember_source_classes
from metatext.training.adversary import ADVERSARY_PREFIX, Adversary, adversarial_weight
from metatext.training.checkpoints import (
    SAMPLER,
    RunState,
    last_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    read_weights,
    save_checkpoint,
    step_folder,
)
from metatext.training.initial_head_scale import calibrate_scale
from metatext.training.loss_scale import FIRST_LOSS_SCALE, all_finite, count_bad_episodes
from metatext.training.outer_optimizer import parameter_groups
from metatext.training.run_folder import TRACKER_RUN, check_output, finish_run, set_aside
from metatext.training.schedules import learning_rate, multi_step_weights
from metatext.training.settings import TrainConfig, check_method

logger = logging.getLogger(__name__)


class MetaTrainer:
    """Meta-trains a learner over episodes (Finn 2017, algorithm 1).

    Each outer step averages the meta-gradients of `meta_batch_size` episodes. Under `accelerate launch`, the processes
    share the episodes of a step by index, and their gradients are added. The result equals that of one process up to
    rounding. Episodes and learner are deterministic: a resumed run ends with the same weights as an uninterrupted one,
    bit for bit on a CPU.

    Args:
        learner: trained in place.
        sampler: meta-training episodes. Step s uses the episodes from s * meta_batch_size on.
        valid_sampler: episodes of held-out classes or domains. The weights with the best validation accuracy are kept,
            and training stops early without progress. Without a sampler, and in adversarial training, the last weights
            are kept.
        config: settings of the outer loop.
        on_validation: called after each validation, in every process, with step, valid_loss and valid_accuracy. An
            exception that it raises ends the training.
        target_texts: unlabelled texts of the target, for `config.adversarial`.

    Raises:
        FileExistsError: the output folder holds a run, and neither `resume` nor `overwrite` is set.
        InputError: there is nothing to resume; the tracker is not installed; `config.adversarial` and `target_texts` do
            not come together.

    Example:
        `MetaTrainer(learner, sampler, config=TrainConfig(meta_steps=40)).train()`
    """

    def __init__(
        self,
        learner: Learner,
        sampler: EpisodeSampler,
        valid_sampler: EpisodeSampler | None = None,
        config: TrainConfig | None = None,
        on_validation: Callable[[dict[str, float]], None] | None = None,
        target_texts: Sequence[str] = (),
    ) -> None:
        self.on_validation = on_validation
        self.learner, self.sampler, self.valid_sampler = learner, sampler, valid_sampler
        self.config = config or TrainConfig()
        target_texts = checked_texts(target_texts, "target_texts")
        if bool(self.config.adversarial) != bool(target_texts):
            missing = "a weight, --adversarial 0.3" if target_texts else "texts of the target, --unlabelled posts.csv"
            raise InputError(f"adversarial training lacks {missing}")
        self.output = Path(self.config.output) if self.config.output else None
        if self.output:
            check_output(self.output, self.config)
        self.accelerator = self._accelerator()
        learner.to(self.accelerator.device)
        precision = self.config.mixed_precision
        if precision == "no":
            precision = self.accelerator.mixed_precision  # from `accelerate launch --mixed_precision`
        check_method(self.config, learner.settings, precision)
        learner.autocast_dtype = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        learner.sources = sorted({*learner.sources, *(domain.name for domain in sampler.domains)})
        self.state = RunState(loss_scale=FIRST_LOSS_SCALE if precision == "fp16" else 1.0)
        self.parameters = {name: p for name, p in learner.named_parameters() if p.requires_grad}
        self.adversary = None
        if target_texts:
            hidden = learner.encoder.config.hidden_size
            self.adversary = Adversary(hidden, target_texts, sampler.seed).to(learner.log_inner_lr)
            logger.info("the encoder learns to hide %d unlabelled texts of the target", len(target_texts))
            self.parameters |= {ADVERSARY_PREFIX + name: p for name, p in self.adversary.named_parameters()}
        self.names = self._class_names()
        self.optimizer = torch.optim.AdamW(parameter_groups(self.parameters, self.config), fused=True)
        self.history: list[dict[str, float]] = []

    def _accelerator(self) -> Accelerator:
        """Accelerate's view of processes, devices and the tracker."""
        try:
            accelerator = Accelerator(
                log_with=self.config.tracker,
                project_dir=str(self.output) if self.output else None,
            )
        except (ValueError, ImportError) as error:
            raise InputError(str(error)) from error
        if self.config.tracker and not accelerator.log_with:
            raise InputError(
                f"the tracker {self.config.tracker!r} is not installed: pip install it (metatext[tensorboard] for one)"
            )
        return accelerator

    def _class_names(self) -> dict[str, str]:
        """Names of source classes, by label, that join the support texts of their class."""
        if not (self.config.names and isinstance(self.learner.head, PrototypeHead)):
            return {}
        domains = self.sampler.domains + (self.valid_sampler.domains if self.valid_sampler else [])
        names = names_of_domains(domains, self.learner.tokens.reads)
        if names:
            logger.info("the names of %d classes join their support texts", len(names))
        else:
            logger.info(
                "class names are not used in meta-training: the encoder cannot read the labels of any source with more "
                "than two classes; labels in the language of the texts would help"
            )
        return names

    def train(self) -> dict[str, Any]:
        """Runs the outer loop, and leaves the best (or last) weights in the learner and in the output folder.

        Returns:
            A summary: outer steps taken, best step and accuracy, skipped episodes, seconds, validation history.

        Raises:
            FloatingPointError: ten episodes in a row had a non-finite loss or gradient.
        """
        config, started = self.config, time.time()
        if self.output and config.overwrite and self.output.exists() and self.accelerator.is_main_process:
            set_aside(self.output)
        self.accelerator.wait_for_everyone()
        if self.output and config.resume:
            self._load(last_checkpoint(self.output))
        elif isinstance(self.learner.head, PrototypeHead) and not self.learner.meta_trained:
            calibrate_scale(self.learner, self.sampler)
        state = self.state
        self.learner.meta_trained = True
        if config.tracker:
            self.accelerator.init_trackers(TRACKER_RUN, self._tracked_config())
        best = {name: p.detach().clone() for name, p in self.parameters.items()}
        if state.best_step >= 0 and self.output:
            best = read_weights(step_folder(self.output, state.best_step), self.accelerator.device)
        resumed_at = state.step
        hidden = not config.progress or not self.accelerator.is_main_process
        bar = tqdm(total=config.meta_steps, initial=state.step, unit="step", disable=hidden, dynamic_ncols=True)
        while state.step < config.meta_steps:
            if config.patience and self._selects and state.validations_since_best >= config.patience:
                logger.info("no better validation for %d times: stopped at step %d", config.patience, state.step)
                break
            figures = self._step()
            episodes = (state.step - resumed_at) * config.meta_batch_size
            bar.update()
            bar.set_postfix(figures | {"episodes/s": round(episodes / (time.time() - started), 2)})
            last = state.step == config.meta_steps
            if self.valid_sampler and (state.step % config.eval_every == 0 or last):
                figures |= self._validate()
                if state.best_step == state.step:
                    best = {name: p.detach().clone() for name, p in self.parameters.items()}
            if config.tracker:
                self.accelerator.log(figures, step=state.step)
            if self.output and (state.step % config.save_every == 0 or last or state.best_step == state.step):
                self._save(step_folder(self.output, state.step))
            if self.on_validation and "valid_accuracy" in figures:
                self.on_validation(self.history[-1])
        bar.close()
        if self._selects:
            self._set_weights(best)
        if self.accelerator.is_main_process and isinstance(self.learner.head, PrototypeHead):
            self.learner.source_classes = remember_source_classes(self.learner, self.sampler.domains)
        self.learner.loss_scale, self.learner.autocast_dtype = 1.0, None
        summary = dataclasses.asdict(state) | {"seconds": time.time() - started, "validation": self.history}
        if config.tracker:
            self.accelerator.end_training()
        if self.output and self.accelerator.is_main_process:
            finish_run(self.output, self.learner, summary | {"config": self._tracked_config()})
        self.accelerator.wait_for_everyone()
        return summary

    @property
    def _selects(self) -> bool:
        """Whether validation chooses the weights. Accuracy on source classes does not measure adversarial training."""
        return self.valid_sampler is not None and self.adversary is None

    def _step(self) -> dict[str, float]:
        """One outer step: the mean meta-gradient of a meta-batch, and an update of the initialisation."""
        config, state = self.config, self.state
        first = state.step * config.meta_batch_size
        query_weights, order = multi_step_weights(config, self.learner.settings.inner_steps, state.step)
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        self.learner.loss_scale = state.loss_scale
        sizes = [p.numel() for p in self.parameters.values()]
        size, flags = sum(sizes), config.meta_batch_size
        # One buffer needs one all-reduce. It holds the gradients, loss, hits, queries, and a flag for each bad episode.
        buffer = torch.zeros(size + 3 + flags, device=self.accelerator.device)
        total = dict(zip(self.parameters, buffer[:size].split(sizes), strict=True))
        for number in range(rank, config.meta_batch_size, processes):
            episode = with_names(self.sampler[first + number], self.names)
            result = run_episode(self.learner, episode, query_weights, order)
            gradients = [*result.gradients.items(), *self._adversarial_gradients(episode, first + number)]
            if not all_finite([result.loss, *(gradient for _, gradient in gradients)]):
                buffer[size + 3 + number] = 1.0
                continue
            for name, gradient in gradients:
                total[name].add_(gradient.flatten())
            buffer[size] += result.loss
            buffer[size + 1] += result.correct
            buffer[size + 2] += len(episode.query)
        buffer = self.accelerator.reduce(buffer, "sum")
        bad = [bool(flag) for flag in buffer[size + 3 :].tolist()]
        count_bad_episodes(state, bad, first, self.learner.autocast_dtype is torch.float16)
        loss, correct, queries = buffer[size : size + 3].tolist()
        good = len(bad) - sum(bad)
        if good:
            self._update(buffer[:size] / good)
        state.step += 1
        if not good:
            return {"loss": math.nan, "accuracy": math.nan}
        return {"loss": round(loss / good, 4), "accuracy": round(correct / queries, 4)}

    def _adversarial_gradients(self, episode: Episode, number: int) -> Iterable[tuple[str, Tensor]]:
        """The gradients of adversarial training; none without an adversary."""
        if not self.adversary:
            return ()
        weight = adversarial_weight(self.config.adversarial, self.state.step, self.config.meta_steps)
        return self.adversary.gradients(self.learner, episode.query.texts, number, weight, self.parameters).items()

    def _update(self, flat: Tensor) -> None:
        """Takes an optimiser step along a meta-gradient, (all parameters,)."""
        share = learning_rate(self.state.step, self.config.meta_steps, self.config.warmup_fraction)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share
        parts = flat.split([p.numel() for p in self.parameters.values()])
        for parameter, gradient in zip(self.parameters.values(), parts, strict=True):
            parameter.grad = gradient.view_as(parameter).to(parameter.dtype)
        encoder = [p for name, p in self.parameters.items() if name.startswith("encoder.")]
        torch.nn.utils.clip_grad_norm_(encoder, self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _validate(self) -> dict[str, float]:
        """Loss and accuracy on the validation episodes; notes the best step."""
        assert self.valid_sampler
        state, config = self.state, self.config
        totals = torch.zeros(3, device=self.accelerator.device)
        for number in range(self.accelerator.process_index, config.eval_episodes, self.accelerator.num_processes):
            episode = with_names(self.valid_sampler[number], self.names)
            loss, correct = evaluate_episode(self.learner, episode)
            totals += torch.stack([loss.float(), correct.float(), loss.new_tensor(len(episode.query)).float()])
        loss_sum, correct_sum, queries = self.accelerator.reduce(totals, "sum").tolist()
        figures = {"valid_loss": loss_sum / config.eval_episodes, "valid_accuracy": correct_sum / queries}
        self.history.append({"step": state.step} | figures)
        state.validations_since_best += 1
        if (figures["valid_accuracy"], -figures["valid_loss"]) > (state.best_accuracy, -state.best_loss):
            state.best_accuracy, state.best_loss = figures["valid_accuracy"], figures["valid_loss"]
            state.best_step, state.validations_since_best = state.step, 0
        logger.info("step %d: validation accuracy %.4f, loss %.4f", state.step, *reversed(list(figures.values())))
        return figures

    def _save(self, folder: Path) -> None:
        """Writes a checkpoint, and removes all others but the best."""
        if self.accelerator.is_main_process:
            save_checkpoint(folder, self.parameters, self.optimizer, self.state, self.history, self._tracked_config())
            prune_checkpoints(folder.parent, {folder, step_folder(folder.parent.parent, self.state.best_step)})
        self.accelerator.wait_for_everyone()

    def _load(self, folder: Path) -> None:
        """Restores a checkpoint."""
        self.state, self.history = load_checkpoint(folder, self.optimizer, self._tracked_config())
        self._set_weights(read_weights(folder, self.accelerator.device))

    def _set_weights(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])

    @cached_property
    def _domains(self) -> tuple[str, str]:
        """Fingerprints of the training and the validation domains."""
        valid = self.valid_sampler
        return describe_domains(self.sampler.domains), describe_domains(valid.domains) if valid else ""

    def _tracked_config(self) -> dict[str, Any]:
        """All settings of the run, for trackers, checkpoints and `training.json`."""
        sampler = self.sampler
        own = {name: getattr(sampler, name) for name in SAMPLER}
        own["encoder"] = self.learner.base_model
        own["domains"], own["valid_domains"] = self._domains
        own["target_texts"] = fingerprint(self.adversary.texts) if self.adversary else ""
        settings = dataclasses.asdict(self.learner.settings)
        settings["classes"] = ", ".join(settings["classes"])
        return dataclasses.asdict(self.config) | own | settings
