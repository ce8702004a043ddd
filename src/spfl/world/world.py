"""What a configuration stands for: data dealt to devices, the network's layout, the scheme, the cell and its fades."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from spfl.allocation.result import AllocationResult
from spfl.arrays import Bools, Floats, Indices, State, Vector
from spfl.config.schema import Config
from spfl.custom import AS_CONFIGURED, Custom, copy_module
from spfl.data.dataset import Dataset
from spfl.data.node_data import NodeData, NodeParts, trial_data
from spfl.errors import ConfigError
from spfl.flat_model import PLAIN, STATISTICS, FlatModel, Traits
from spfl.learning.asynchronous import Timeline
from spfl.learning.local import remember_round
from spfl.learning.selection import LOSSES, Selection, remember_losses
from spfl.packets.layout import Layout
from spfl.packets.segments import Cut
from spfl.plugins import with_plugin
from spfl.radio.downlink import Broadcast, LastHeard, keep_models, misses, model_heard
from spfl.radio.outage import Link, Outcome, level
from spfl.rng import SETUP_ROUND, Purpose, server_stream
from spfl.scheme import Scheme
from spfl.tasks import Task, task_of
from spfl.units import dbm_to_watt
from spfl.uplink.format import LARGEST_ASIDE, Format
from spfl.uplink.reception import Update
from spfl.uplink.upload import Upload
from spfl.world.asynchronous import Asynchronous, check_asynchronous
from spfl.world.attack import hostile_devices
from spfl.world.batch_norm import average_statistics, check_batches
from spfl.world.dealing import as_asked, check_own, dealt, tried
from spfl.world.energy import Spent, clocks_hz, slowdown, spend, transmit_power
from spfl.world.evaluation import evaluated_part, rounds_between, tell_rare_evaluation
from spfl.world.networks import named_network
from spfl.world.placement import noise_w_per_hz
from spfl.world.radio import Radio, carried
from spfl.world.state import ServerState
from spfl.world.torch_device import check_supported, find_device


@dataclass(frozen=True)
class World:
    """A configured experiment, ready to run. Its fields never change; what is derived from them is cached."""

    config: Config
    dataset: Dataset
    parts: Sequence[Indices]
    scheme: Scheme
    custom: Custom = AS_CONFIGURED
    traits: Traits = PLAIN

    @classmethod
    def build(cls, config: Config, dataset: Dataset, custom: Custom = AS_CONFIGURED) -> World:
        """Pool, split and partition the data as configured, or as `custom` has it. Raises DataError or ConfigError."""
        data = config.data
        custom = with_plugin(config, dataset, custom)
        if data.source == "node":
            if not isinstance(dataset, NodeData):
                raise ConfigError("data.source = node needs nodes that bring their data; use spfl flower run")
            scheme = carried(config, custom.scheme)
            check_own(config, dataset, scheme)
            custom, traits = tried(config, trial_data(dataset), custom)
            parts: Sequence[Indices] = NodeParts(dataset, data.devices)
            check_batches(config, [parts[0]], traits)
            return cls(config, dataset, parts, scheme, custom, traits)
        dataset = as_asked(config, dataset)
        if data.pool > 1:
            dataset = dataset.pooled(data.pool)
        if data.validation_fraction > 0:
            rng = server_stream(config.seed, SETUP_ROUND, Purpose.VALIDATION_SPLIT)
            dataset = dataset.split_validation(data.validation_fraction, rng)
        dataset = evaluated_part(config, dataset)
        scheme = carried(config, custom.scheme)
        if config.torch_device is not None:
            check_supported(config, own_local=custom.local is not None)
            find_device(config.torch_device)
        parts = dealt(config, dataset, custom)
        custom, traits = tried(config, dataset, custom)
        check_batches(config, parts, traits)
        if config.asynchronous.on:
            check_asynchronous(scheme, bool(traits.statistics))
        if config.torch_device is not None:
            check_supported(config, own_local=custom.local is not None, statistics=bool(traits.statistics))
        world = cls(config, dataset, parts, scheme, custom, traits)
        world._check_calibration()
        tell_rare_evaluation(config, world.eval_every, len(dataset.test_labels))
        return world

    @cached_property
    def eval_every(self) -> int:
        """Rounds between evaluations."""
        given = self.config.training.eval_every
        return given or rounds_between(self.config, self.dataset, self.layout.size, self.model)

    @cached_property
    def task(self) -> Task:
        """What is learned: loss and score."""
        return task_of(self.dataset, self.custom.loss, self.custom.metric)

    def _check_calibration(self) -> None:
        """Tell of a network without an output bias, by which weights would be calibrated."""
        scheme = self.scheme
        if self.custom.module is None or scheme.rule != "calibrated" or scheme.auxiliary != "bias":
            return
        last, classes = self.layout.shapes[-1], self.dataset.classes
        if last != (classes,) or self.format.packing.output_biases == 0:
            warnings.warn(
                f"{scheme.name} calibrates weights by the gradient of an output bias; the last tensor of this network, "
                f"{self.layout.names[-1]} of shape {last}, is none of {classes} outputs, at most {LARGEST_ASIDE}, so "
                "the weights are plain ones; set scheme.auxiliary = labels, or end the network in a bias",
                stacklevel=3,
            )

    def model(self) -> FlatModel:
        """A new copy of the network with its initial weights."""
        if self.custom.module is not None:
            return FlatModel(copy_module(self.custom.module), self.task, self.traits)
        return FlatModel(named_network(self.config, self.dataset), self.task)

    def start(self) -> ServerState:
        """The server before the first round. Raises ConfigError for a trace that lacks rows of the run's cohorts."""
        self._check_trace()
        weights = self.model().weights.numpy()
        return ServerState(0, weights, np.zeros_like(weights), {})

    def _check_trace(self) -> None:
        trace = None if self.config.trace.path is None else self.radio.trace
        if trace is None or trace.known.all():
            return
        for t in range(1, self.config.training.rounds + 1):
            chosen = self.config.clients.selection == "random"  # else by losses, which nobody knows yet
            cohort = self.cohort(t) if chosen else range(self.config.data.devices)
            missing = [k for k in cohort if not trace.known[trace.row(t), k]]
            if missing:
                raise ConfigError(f"trace {trace.path} has no row of device {missing[0]} in round {t}")

    @cached_property
    def layout(self) -> Layout:
        """Names and shapes of the parameter tensors."""
        return self.model().layout

    def tensors(self, server: ServerState) -> dict[str, NDArray[np.float32]]:
        """Weights by tensor name, and the running statistics that the server has averaged; frozen tensors are not."""
        layout = self.layout
        edges = zip(layout.names, layout.shapes, layout.edges, layout.edges[1:], strict=False)
        found = {name: server.weights[start:end].reshape(shape) for name, shape, start, end in edges}
        statistics = server.memory.get(STATISTICS)
        return found if statistics is None else found | self.model().named_statistics(statistics)

    @cached_property
    def format(self) -> Format:
        """How gradients travel: what devices and server have agreed upon."""
        config, channel = self.config, self.config.channel
        told = self._label_shares() if self.scheme.auxiliary == "labels" else None
        agreed = (self.scheme, config.scheme, self.layout, config.codec, config.seed)
        one_fade = channel.fading not in ("independent", "selective")
        cut = Cut(channel.segment_bits, channel.recovery == "segment", one_fade, channel.sign_parity)
        return Format(
            *agreed, channel.side_information, channel.device_csi == "instantaneous", self._statistics, cut, told
        )

    @cached_property
    def _statistics(self) -> int:
        """Floats of running statistics."""
        return self.model().statistics().size if self.traits.statistics else 0

    def _label_shares(self) -> Floats:
        """The share of each class in the samples of each device, (device, class). ConfigError without classes."""
        if self.dataset.task != "classification":
            raise ConfigError(f"scheme.auxiliary = labels needs classes, got data.task = {self.dataset.task}")
        labels, classes = self.dataset.train_labels.numpy(), self.dataset.classes
        counts = [np.bincount(labels[part], minlength=classes) / max(len(part), 1) for part in self.parts]
        return np.array(counts, np.float64)

    @cached_property
    def radio(self) -> Radio:
        """The uplink."""
        return Radio(self.config, self.format, self.custom)

    @cached_property
    def hostile(self) -> frozenset[int]:
        """The devices that attack; none, as a rule."""
        return hostile_devices(self.config.attack, self.config.data.devices, self.config.seed)

    @cached_property
    def selection(self) -> Selection:
        """Who takes part in a round."""
        config = self.config
        return Selection(config.clients, config.data.devices, config.cohort, config.seed)

    @cached_property
    def asynchronous(self) -> Asynchronous | None:
        """Who sends when on which model, and what becomes of it, where rounds are asynchronous."""
        config = self.config
        if not config.asynchronous.on:
            return None
        airtime_s = self.radio.tau_s * self.scheme.attempts
        timeline = Timeline(self.selection, airtime_s, lambda k, began: self._compute_s([k], [began]).item())
        return Asynchronous(config, self.format, timeline)

    def cohort(self, round_: int, memory: State | None = None) -> tuple[int, ...]:
        """The devices of a round, ascending; `memory` is the server's before it, for choices by training loss."""
        if self.asynchronous is not None:
            return self.asynchronous.timeline.slot(round_).senders
        if self.config.clients.selection == "random":
            return self.selection.cohort(round_)
        return self.selection.cohort(round_, self._samples, (memory or {}).get(LOSSES))

    @cached_property
    def _samples(self) -> Floats:
        return np.array([len(part) for part in self.parts], np.float64)

    def sending(self, cohort: Sequence[int], round_: int) -> Bools:
        """Which devices of a cohort send: reached, not dropped out, done before the deadline."""
        members = list(cohort)
        if self.selection.certain:
            return np.ones(len(members), np.bool_)
        if self.asynchronous is not None:  # who has got a model was reached, and nobody waits for anybody
            return self.selection.lasting(round_)[members]
        compute_s = np.zeros(self.config.data.devices)
        compute_s[members] = self._compute_s(members, [round_] * len(members))
        return self.selection.sending(round_, compute_s)[members]

    def _compute_s(self, members: Sequence[int], rounds: Sequence[int]) -> Floats:
        """Seconds that devices need to compute on the models of these rounds, (device,)."""
        samples = [self.config.training.samples(len(self.parts[k])) for k in members]
        cycles = self.config.device.cycles_per_sample * np.array(samples, np.float64)
        return cycles / self._clocks_at(members, rounds)

    def _clocks_at(self, members: Sequence[int], rounds: Sequence[int]) -> Floats:
        """Processor clocks of devices as they compute on the models of these rounds, (device,)."""
        device, seed = self.config.device, self.config.seed
        if device.cpu_jitter == 0:
            return self.clocks_hz[list(members)]
        slower = [slowdown(device, seed, round_, k) for k, round_ in zip(members, rounds, strict=True)]
        return self.clocks_hz[list(members)] / np.array(slower, np.float64)

    def remember(self, uploads: Sequence[Upload], received: Bools, update: Update, told: Bools) -> Update:
        """The update with what local rules keep, and what a selection by loss needs to know, in its state.

        `told` (device,): whose side information of this round is there.
        """
        state, training, devices = update.state, self.config.training, self.config.data.devices
        kept = {u.device: u.kept for u, ok in zip(uploads, received, strict=True) if ok and u.kept is not None}
        if training.correction != "none" or kept:
            state = remember_round(training, state, kept, update.gradient, int(received.sum()) / devices)
        if self.traits.statistics:
            state = average_statistics(state, uploads, told)
        if self.config.clients.selection != "random":
            heard = [u for u, came in zip(uploads, told, strict=True) if came or not self.format.lossy]
            losses = [u.device for u in heard], [u.loss for u in heard]
            state = state | {LOSSES: remember_losses(state.get(LOSSES), devices, *losses)}
        return replace(update, state=state)

    @cached_property
    def _last_heard(self) -> LastHeard:
        channel = self.config.channel
        broadcast = Broadcast(
            bits=channel.downlink_bits_per_parameter * self.layout.size,
            bandwidth_hz=channel.bandwidth_hz,
            tau_s=self.radio.tau_s,
            power_w=dbm_to_watt(channel.downlink_power_dbm),
            noise_w_per_hz=noise_w_per_hz(channel, channel.downlink_noise_figure_db),
        )

        def missed(round_: int) -> Bools:
            return misses(broadcast, self.radio.cell(round_).gain, self.config.seed, round_)

        return LastHeard(self.config.data.devices, missed)

    def models(self, server: ServerState, cohort: Sequence[int], round_: int) -> list[Vector | None]:
        """The model that each device of a cohort trains on; None for one that missed it, or sends nothing."""
        models = self._models_heard(server, cohort, round_)
        return [w if sends else None for w, sends in zip(models, self.sending(cohort, round_), strict=True)]

    def _models_heard(self, server: ServerState, cohort: Sequence[int], round_: int) -> Sequence[Vector | None]:
        if self.asynchronous is not None:
            return self.asynchronous.models(server, cohort)
        if self.config.channel.downlink == "perfect":
            return [server.weights] * len(cohort)
        last = self._last_heard.at(round_)
        if self.config.channel.downlink == "sit_out":
            return [server.weights if last[k] == round_ else None for k in cohort]
        return [model_heard(server.memory, int(last[k]), round_, server.weights) for k in cohort]

    def keep_models(self, before: ServerState, memory: State) -> State:
        """The memory with the models that devices may still train on; `before` is the server before the round."""
        if self.asynchronous is not None:
            return self.asynchronous.keep_models(before, memory)
        if self.config.channel.downlink != "stale":
            return memory
        round_ = before.round_ + 1
        return keep_models(memory, self._last_heard.at(round_), round_, before.weights)

    @cached_property
    def clocks_hz(self) -> Floats:
        """Processor clock of every device."""
        return clocks_hz(self.config.device, self.config.data.devices, self.config.seed)

    def spent(
        self, cohort: Sequence[int], link: Link, allocation: AllocationResult, outcome: Outcome, fade: Floats,
        round_: int | None = None,
    ) -> Spent:  # fmt: skip
        """Joules and seconds of each device of a cohort in a round; who is late has computed until the deadline."""
        device, members = self.config.device, list(cohort)
        samples = np.array([self.config.training.samples(len(self.parts[k])) for k in members], np.float64)
        deadline_s, began = self.config.clients.deadline_s, [round_ or SETUP_ROUND] * len(members)
        if self.asynchronous is not None and round_ is not None:
            slot = self.asynchronous.timeline.slot(round_)
            began = [dict(zip(slot.senders, slot.began.tolist(), strict=True))[k] for k in members]
        elif round_ is not None and not self.selection.certain:
            samples = samples * self.selection.reached(round_)[members]
        clock = self._clocks_at(members, began)
        if deadline_s is not None:
            samples = np.minimum(samples, deadline_s * clock / device.cycles_per_sample)
        power_w = transmit_power(self.scheme, link, allocation, outcome.sign, level(fade))
        spent = spend(device, power_w, link.tau_s * self.scheme.attempts, samples, clock)
        if (side := self.radio.side_channel) is not None and round_ is not None:
            sends = self.sending(members, round_) & (samples > 0)
            joules = spent.joules + sends * side.joules(device.amplifier_efficiency)
            spent = replace(spent, joules=joules, uplink_s=spent.uplink_s + sends * side.time_s)
        if self.asynchronous is None or round_ is None:
            return spent
        return replace(spent, elapsed_s=self.asynchronous.timeline.elapsed_s(round_))
