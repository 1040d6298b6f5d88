"""The outer loop of meta-training, in one process or several, with exact resume."""

from __future__ import annotations

import dataclasses
import logging
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
    SAMPLER_SETTINGS,
    RunState,
    last_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    read_weights,
    save_checkpoint,
    step_folder,
)
from metatext.training.initial_head_scale import calibrate_scale
from metatext.training.loss_scale import FIRST_LOSS_SCALE, count_bad_episodes
from metatext.training.meta_batch import MetaBatch
from metatext.training.outer_optimizer import parameter_groups
from metatext.training.run_folder import TRACKER_RUN, check_output, finish_run, set_aside
from metatext.training.schedules import learning_rate, multi_step_weights
from metatext.training.settings import TrainConfig, check_method

logger = logging.getLogger(__name__)


class MetaTrainer:
    """Meta-trains a learner over episodes (Finn 2017, algorithm 2).

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
            logger.info("adversarial training with %d unlabelled texts of the target", len(target_texts))
            self.parameters |= {ADVERSARY_PREFIX + name: p for name, p in self.adversary.named_parameters()}
        self.names = self._class_names()
        self.optimizer = torch.optim.AdamW(parameter_groups(self.parameters, self.config), fused=True)
        self.history: list[dict[str, float]] = []

    def _accelerator(self) -> Accelerator:
        """Returns Accelerate's view of processes, devices and the tracker."""
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
        """Returns label -> class name, for the names that are added to the support texts of their class."""
        if not (self.config.names and isinstance(self.learner.head, PrototypeHead)):
            return {}
        domains = self.sampler.domains + (self.valid_sampler.domains if self.valid_sampler else [])
        names = names_of_domains(domains, self.learner.tokens.reads)
        if names:
            logger.info("the names of %d classes are added to their support texts", len(names))
        else:
            logger.info(
                "no class names are added to the support texts: no source with more than two classes has labels that "
                "the encoder can read"
            )
        return names

    def train(self) -> dict[str, Any]:
        """Runs the outer loop, and leaves the best (or last) weights in the learner and in the output folder.

        Returns:
            A summary: outer steps taken, best step and accuracy, skipped episodes, seconds, validation history.

        Raises:
            FloatingPointError: ten episodes in a row had a non-finite loss or gradient.
        """
        started = time.time()
        self._begin()
        config, state, first_step = self.config, self.state, self.state.step
        best = self._copy_of_weights()
        if state.best_step >= 0 and self.output:
            best = read_weights(step_folder(self.output, state.best_step), self.accelerator.device)
        hidden = not config.progress or not self.accelerator.is_main_process
        bar = tqdm(total=config.meta_steps, initial=state.step, unit="step", disable=hidden, dynamic_ncols=True)
        while state.step < config.meta_steps and not self._out_of_patience():
            figures = self._step()
            episodes = (state.step - first_step) * config.meta_batch_size
            bar.update()
            bar.set_postfix(figures | {"episodes/s": round(episodes / (time.time() - started), 2)})
            last = state.step == config.meta_steps
            if self.valid_sampler and (state.step % config.eval_every == 0 or last):
                figures |= self._validate()
                if state.best_step == state.step:
                    best = self._copy_of_weights()
            if config.tracker:
                self.accelerator.log(figures, step=state.step)
            if self.output and (state.step % config.save_every == 0 or last or state.best_step == state.step):
                self._save(step_folder(self.output, state.step))
            if self.on_validation and "valid_accuracy" in figures:
                self.on_validation(self.history[-1])
        bar.close()
        if self._selects:
            self._set_weights(best)
        return self._finish(started)

    @property
    def _selects(self) -> bool:
        """Whether validation chooses the weights. Accuracy on source classes does not measure adversarial training."""
        return self.valid_sampler is not None and self.adversary is None

    def _begin(self) -> None:
        """Resumes the run in the output folder, or sets an earlier run aside and calibrates a new prototype head."""
        config = self.config
        if self.output and config.overwrite and self.output.exists() and self.accelerator.is_main_process:
            set_aside(self.output)
        self.accelerator.wait_for_everyone()
        if self.output and config.resume:
            self._load(last_checkpoint(self.output))
        elif isinstance(self.learner.head, PrototypeHead) and not self.learner.meta_trained:
            calibrate_scale(self.learner, self.sampler)
        self.learner.meta_trained = True
        if config.tracker:
            self.accelerator.init_trackers(TRACKER_RUN, self._tracked_config())

    def _finish(self, started: float) -> dict[str, Any]:
        """Writes the learner to the output folder. Returns the summary of the run, which started at time `started`."""
        if self.accelerator.is_main_process and isinstance(self.learner.head, PrototypeHead):
            self.learner.source_classes = remember_source_classes(self.learner, self.sampler.domains)
        self.learner.loss_scale, self.learner.autocast_dtype = 1.0, None
        seconds = time.time() - started
        summary = dataclasses.asdict(self.state) | {"seconds": seconds, "validation": self.history}
        if self.config.tracker:
            self.accelerator.end_training()
        if self.output and self.accelerator.is_main_process:
            finish_run(self.output, self.learner, summary | {"config": self._tracked_config()})
        self.accelerator.wait_for_everyone()
        return summary

    def _out_of_patience(self) -> bool:
        """Returns whether `patience` validations in a row have brought no progress."""
        patience, state = self.config.patience, self.state
        if not (patience and self._selects and state.validations_since_best >= patience):
            return False
        logger.info("stopped at step %d: %d validations without progress", state.step, patience)
        return True

    def _step(self) -> dict[str, float]:
        """Takes an outer step (Finn 2017, algorithm 2, lines 3 to 10), and returns its query loss and accuracy."""
        config, state, learner = self.config, self.state, self.learner
        query_weights, order = multi_step_weights(config, learner.settings.inner_steps, state.step)
        learner.loss_scale = state.loss_scale
        first = state.step * config.meta_batch_size
        meta_batch = MetaBatch(self.parameters, config.meta_batch_size, self.accelerator.device)
        for i in range(self.accelerator.process_index, config.meta_batch_size, self.accelerator.num_processes):
            episode = with_names(self.sampler[first + i], self.names)  # lines 5 and 8: support and query
            result = run_episode(learner, episode, query_weights, order)  # lines 6 and 7, and the gradient of line 10
            gradients = [*result.gradients.items(), *self._adversarial_gradients(episode, first + i)]
            meta_batch.add(i, result.loss, result.correct, len(episode.query), gradients)
        mean = meta_batch.mean(self.accelerator)
        count_bad_episodes(state, mean.bad, first, learner.autocast_dtype is torch.float16)
        if mean.gradient is not None:
            self._update(mean.gradient)  # line 10, with AdamW
        state.step += 1
        return {"loss": round(mean.loss, 4), "accuracy": round(mean.accuracy, 4)}

    def _adversarial_gradients(self, episode: Episode, number: int) -> Iterable[tuple[str, Tensor]]:
        """Returns names and gradients of adversarial training; none without an adversary."""
        if not self.adversary:
            return ()
        weight = adversarial_weight(self.config.adversarial, self.state.step, self.config.meta_steps)
        return self.adversary.gradients(self.learner, episode.query.texts, number, weight, self.parameters).items()

    def _update(self, meta_gradient: Tensor) -> None:
        """Takes an optimiser step along a meta-gradient, (all parameters,)."""
        share_of_peak = learning_rate(self.state.step, self.config.meta_steps, self.config.warmup_fraction)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share_of_peak
        gradients = meta_gradient.split([p.numel() for p in self.parameters.values()])
        for parameter, gradient in zip(self.parameters.values(), gradients, strict=True):
            parameter.grad = gradient.view_as(parameter).to(parameter.dtype)
        encoder = [p for name, p in self.parameters.items() if name.startswith("encoder.")]
        torch.nn.utils.clip_grad_norm_(encoder, self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _validate(self) -> dict[str, float]:
        """Returns loss (nats) and accuracy on the validation episodes, and records the best step."""
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
        """Writes a checkpoint, and removes all others except the best."""
        if self.accelerator.is_main_process:
            save_checkpoint(folder, self.parameters, self.optimizer, self.state, self.history, self._tracked_config())
            prune_checkpoints(folder.parent, {folder, step_folder(folder.parent.parent, self.state.best_step)})
        self.accelerator.wait_for_everyone()

    def _load(self, folder: Path) -> None:
        """Restores a checkpoint."""
        self.state, self.history = load_checkpoint(folder, self.optimizer, self._tracked_config())
        self._set_weights(read_weights(folder, self.accelerator.device))

    def _copy_of_weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def _set_weights(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])

    @cached_property
    def _domains(self) -> tuple[str, str]:
        """The fingerprints of the training and the validation domains."""
        valid = self.valid_sampler
        return describe_domains(self.sampler.domains), describe_domains(valid.domains) if valid else ""

    def _tracked_config(self) -> dict[str, Any]:
        """Returns all settings of the run, for trackers, checkpoints and `training.json`."""
        sampler = self.sampler
        data = {name: getattr(sampler, name) for name in SAMPLER_SETTINGS}
        data["encoder"] = self.learner.base_model
        data["domains"], data["valid_domains"] = self._domains
        data["target_texts"] = fingerprint(self.adversary.texts) if self.adversary else ""
        settings = dataclasses.asdict(self.learner.settings)
        settings["classes"] = ", ".join(settings["classes"])
        return dataclasses.asdict(self.config) | data | settings
