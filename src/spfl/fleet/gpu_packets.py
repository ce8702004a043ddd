"""Packets of a round whose gradients are on a PyTorch device: made and decoded there, or by the host.

`OnDevice` keeps all that has a row a device and a column a parameter on the device: packed signs, moduli, the sum. It
has the schemes of the paper's kind, and is taken for large rounds. `OnHost` takes the gradients to the host and makes
packets by the very code of the worker threads, so that every scheme, codec and own part works. Rotations and dither
are the same streams in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch.nn import functional as F

from spfl.arrays import State, Vector
from spfl.compensation import VECTOR
from spfl.errors import PacketError
from spfl.machine import cores
from spfl.packets import gpu as codec
from spfl.rng import Purpose, stream
from spfl.uplink import reception
from spfl.uplink.format import Format
from spfl.uplink.reception import Arrived, Round, Update, aggregation_weights, finish, normalizes
from spfl.uplink.upload import Origin, Upload, encode, silent
from spfl.world.torch_device import makes_packets
from spfl.world.world import World

LEAST_ELEMENTS = 1 << 22  # of the gradients of a round: with fewer, starting kernels takes longer than the host's work


class Chunk(NamedTuple):
    """Gradients float32 (device, dim) of a chunk of a round, on their device, with each row's device and loss.

    `kept`: what devices keep for their next round, by device.
    """

    round_: int
    number: int
    gradients: torch.Tensor
    rows: list[tuple[int, float]]
    kept: Mapping[int, Vector] = {}


class Packets(Protocol):
    """Both ends of the uplink for the gradients of a PyTorch device."""

    def encode(self, chunk: Chunk, state: Mapping[str, Vector]) -> dict[int, Upload]:
        """Packets of the chunk's finite gradients, by device."""

    def receive(self, form: Format, arrived: Arrived, state: State) -> Update:
        """See `reception.receive`."""

    def close(self) -> None:
        """Let go of threads."""


def packets_for(world: World, device: torch.device) -> Packets:
    """On the device where it has kernels for the scheme and rounds are large, else on the host."""
    kernels = makes_packets(world.config, world.scheme)
    return OnDevice(world, device) if kernels and not small(world) else OnHost(world)


def small(world: World) -> bool:
    """Whether starting the kernels of a round takes longer than they do."""
    return world.config.cohort * world.layout.size < LEAST_ELEMENTS


class OnHost:
    """Every scheme: gradients come to the host, and threads make their packets as the worker threads do."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._pool = ThreadPoolExecutor(world.config.workers or cores())

    def encode(self, chunk: Chunk, state: Mapping[str, Vector]) -> dict[int, Upload]:
        world, gradients = self._world, chunk.gradients.cpu().numpy()

        def one(i: int) -> Upload:
            device, loss = chunk.rows[i]
            try:
                origin = Origin(device, chunk.round_, len(world.parts[device]), loss)
                return encode(world.format, gradients[i], state, origin)
            except PacketError:  # a gradient that is not finite: the device is out of this round
                return silent(world.format, device)

        return {upload.device: upload for upload in self._pool.map(one, range(len(chunk.rows)))}

    def receive(self, form: Format, arrived: Arrived, state: State) -> Update:
        return reception.receive(form, arrived, state)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


@dataclass
class _Sent:
    """What the devices of a chunk have put on the air: packed payloads, or exact gradients; rows as in `members`.

    `flips` are the bytes of their rotations, which the server draws from the same streams. `number` counts the chunks
    of a round. An `Upload` holds its chunk, so that packets live as long as their uploads do.
    """

    number: int
    members: list[int]
    flips: torch.Tensor | None = None
    signs: torch.Tensor | None = None
    moduli: torch.Tensor | None = None
    limits: torch.Tensor | None = None
    exact: torch.Tensor | None = None


def _chunks(uploads: Sequence[Upload]) -> list[_Sent]:
    """The chunks that hold packets of these uploads, in the order in which they were made."""
    held = {id(u.held): u.held for u in uploads if isinstance(u.held, _Sent)}
    return sorted(held.values(), key=lambda sent: sent.number)


class OnDevice:
    """The schemes that have kernels: packets stay on the device, the host gets the side information and the sum."""

    def __init__(self, world: World, device: torch.device) -> None:
        self._world, self._packing, self._device = world, world.format.packing, device

    def close(self) -> None:
        """Nothing is held between calls."""

    def encode(self, chunk: Chunk, state: Mapping[str, Vector]) -> dict[int, Upload]:
        world, scheme, packing = self._world, self._world.scheme, self._packing
        round_, number, gradients, rows, _ = chunk
        finite = gradients.isfinite().all(1)
        if not bool(finite.all()):
            keep = finite.nonzero().flatten()
            gradients, rows = gradients[keep], [rows[i] for i in keep.tolist()]
        if not rows:
            return {}
        members = [device for device, _ in rows]
        output_bias = gradients[:, gradients.shape[1] - packing.output_biases :]
        sent, delta2 = (
            _Sent(number, members, self._flips(members, round_)),
            torch.zeros(len(members), dtype=torch.float64),
        )
        vectors = self._rotate(gradients[:, : gradients.shape[1] - packing.output_biases], sent.flips)
        if scheme.uplink == "ideal":
            sent.exact = gradients
        else:
            sent.signs = codec.pack(vectors < 0, 1)
        if scheme.uplink in ("split", "single"):
            keys = [stream(world.config.seed, round_, k, Purpose.QUANTISE) for k in members]
            drawn = [codec.signed(int(key.integers(0, 2**64 - 1, dtype=np.uint64, endpoint=True))) for key in keys]
            dither = torch.tensor(drawn, device=self._device)
            sent.moduli, sent.limits, delta2 = codec.quantise(vectors, world.config.codec.bits, self._ranges, dither)
        means = self._means(vectors)
        v, vbar = vectors.abs().double(), self._stand_in(means, state).double()
        figures = torch.stack([(v * v).sum(1), (vbar * vbar).sum(1), (v * vbar).sum(1), delta2.to(v.device)], 1)
        sides = zip(figures.tolist(), means.cpu().numpy(), output_bias.cpu().numpy().copy(), strict=True)
        return {
            k: Upload(k, len(world.parts[k]), loss, mean, v2, vbar2, v_vbar, noise, output_bias=side, held=sent)
            for (k, loss), ((v2, vbar2, v_vbar, noise), mean, side) in zip(rows, sides, strict=True)
        }

    @cached_property
    def _ranges(self) -> codec.Ranges:
        packets = self._packing.packets
        return codec.Ranges(packets.sizes if self._world.config.codec.per_tensor else [packets.size])

    def _flips(self, members: Sequence[int], round_: int) -> torch.Tensor | None:
        """The bytes of the devices' rotations, uint8 (device, ceil(size / 8)); None where nothing is rotated."""
        if not self._packing.rotated:
            return None
        size, seed = -(-self._packing.packets.size // 8), self._world.config.seed
        drawn = b"".join(stream(seed, round_, k, Purpose.ROTATION).bytes(size) for k in members)
        return torch.frombuffer(bytearray(drawn), dtype=torch.uint8).view(len(members), size).to(self._device)

    def _rotate(self, rest: torch.Tensor, flips: torch.Tensor | None) -> torch.Tensor:
        if flips is None:
            return rest
        size, block = self._packing.packets.size, self._packing.packets.sizes[0]
        padded = F.pad(rest, (0, size - rest.shape[1]))
        return codec.hadamard(padded * codec.random_signs(flips, size), block)

    def _rotate_back(self, vectors: torch.Tensor, flips: torch.Tensor | None) -> torch.Tensor:
        if flips is None:
            return vectors
        size, block = self._packing.packets.size, self._packing.packets.sizes[0]
        turned = codec.hadamard(vectors, block) * codec.random_signs(flips, size)
        return turned[:, : self._packing.parameters.size - self._packing.output_biases]

    def _means(self, vectors: torch.Tensor) -> torch.Tensor:
        """What a sign alone stands for in each tensor, float32 (device, tensor): see `Packing.scales`."""
        tensors, modulus = codec.Ranges(self._packing.packets.sizes), vectors.abs().double()
        if self._world.scheme.one_mean:
            return modulus.mean(1, keepdim=True).float().expand(-1, len(tensors.sizes))
        means = (tensors.reduce(modulus, "mean")).float()
        if not self._packing.rotated:
            return means
        squares = tensors.reduce(modulus.float().square().double(), "mean").float()
        return torch.where(means > 0, squares / means, 0.0)

    def _stand_in(self, means: torch.Tensor, state: Mapping[str, Vector]) -> torch.Tensor:
        """vbar_k of model.md, section 5, shrunk, float32 (device, dim): see `compensation.compensatory_modulus`."""
        scheme = self._world.scheme
        if scheme.compensation == "global" and VECTOR in state:
            vbar = torch.from_numpy(state[VECTOR]).to(self._device).expand(len(means), -1)
        else:
            vbar = codec.Ranges(self._packing.packets.sizes).spread(means)
        return vbar * (0.0 if scheme.compensation == "zero" else scheme.shrink)

    # --- the server's side ---------------------------------------------------------------------------------------

    def receive(self, form: Format, arrived: Arrived, state: State) -> Update:
        """See `reception.receive`: the sum over the received devices is taken, and rotated back, on the device."""
        uploads, outcome, layout = arrived.uploads, arrived.outcome, form.layout
        scale = aggregation_weights(form, arrived, state)
        place = {upload.device: i for i, upload in enumerate(uploads)}
        total, received = torch.zeros(layout.size, device=self._device, dtype=torch.float32), 0.0
        rejected = sum(not upload.samples for upload in uploads)
        for sent in _chunks(uploads):
            rows = [i for i, k in enumerate(sent.members) if outcome.sign[place[k]] and uploads[place[k]].samples]
            if not rows:
                continue
            places = [place[sent.members[i]] for i in rows]
            vectors = self._decode(sent, rows, [uploads[i] for i in places], outcome.modulus[places], state)
            finite = vectors.isfinite().all(1)
            rejected += len(rows) - int(finite.sum())
            weight = torch.where(finite, torch.from_numpy(scale[places]).to(self._device), 0.0)
            total += weight.float() @ torch.where(finite[:, None], vectors, 0.0)
            received += float(weight.sum())
        if received > 0 and normalizes(form):
            total /= received
        return finish(form, arrived, state, Round(scale, total.cpu().numpy(), rejected=rejected))

    def _decode(
        self, sent: _Sent, rows: list[int], uploads: list[Upload], exact: np.ndarray, state: State
    ) -> torch.Tensor:
        """What the server uses of received devices, float32 (device, dim)."""
        if sent.exact is not None:
            return sent.exact[rows]
        packing, scheme = self._packing, self._world.scheme
        assert sent.signs is not None
        signs = codec.signs(sent.signs[rows], packing.packets.size)
        if scheme.rule == "vote":
            return signs
        means = torch.from_numpy(np.stack([upload.tensor_means for upload in uploads])).to(self._device)
        moduli = self._stand_in(means, state)
        if sent.moduli is not None and sent.limits is not None and exact.any():
            bits, arrived = self._world.config.codec.bits, torch.from_numpy(exact).to(self._device)[:, None]
            own = codec.dequantise(sent.moduli[rows], bits, self._ranges, sent.limits[rows])
            moduli = torch.where(arrived, own, moduli)
        vectors = self._rotate_back(signs * moduli, None if sent.flips is None else sent.flips[rows])
        if packing.output_biases:
            output_bias = torch.from_numpy(np.stack([upload.output_bias for upload in uploads])).to(self._device)
            vectors = torch.cat([vectors, output_bias], 1)
        return vectors
