"""Side information that has to arrive: what the server knows of a device, and since when (model.md, section 12).

With `channel.side_information = "reliable"` every device's floats of this round are known before anything is decided.
With `"in_packet"` they are in the packet and are lost with it: the allocator works with what it last received of a
device, and calibration with the last known auxiliary vector, shrunk by its age. With `"lossy"` they have a packet of
their own: who told is known before anything is decided, and of the others the server knows what they told last. The
number of samples is told once, when a device joins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from spfl.arrays import Bools, Floats, State, Vector
from spfl.uplink.format import Format
from spfl.uplink.upload import Upload

SHRINK = 0.98  # a round: how fast a last known auxiliary vector loses its weight
FLOATS = ("v2", "vbar2", "v_vbar", "delta2")
TYPICAL = (1.0, 2.0 / np.pi, 2.0 / np.pi, 0.1)  # of Gaussian gradients, before anything was received
FIRST = 1 + len(FLOATS)  # of the output bias in what is kept, after the round and the floats; scales follow it


def side_key(device: int) -> str:
    return f"side/{device}"


def who_told(form: Format, received: Bools, told: Bools | None) -> Bools:
    """Of whom the server has the side information of this round: `told` by a side channel, or with packets."""
    if told is not None:
        return told
    return received if form.in_packet else np.ones(received.shape, np.bool_)


def keep_side(form: Format, round_: int, uploads: Sequence[Upload], told: Bools, state: State) -> State:
    """The state with what those devices told that did: round, floats, auxiliary vector; scales where they may fail."""
    if form.reliable:
        return state
    kept = {u.device: u for u, came in zip(uploads, told, strict=True) if came and u.samples}
    scales = {k: u.tensor_means if form.lossy else () for k, u in kept.items()}
    return state | {
        side_key(k): np.array([round_, *(getattr(u, name) for name in FLOATS), *u.output_bias, *scales[k]], np.float32)
        for k, u in kept.items()
    }


def known_uploads(
    form: Format, uploads: Sequence[Upload], state: Mapping[str, Vector], told: Bools | None = None
) -> Sequence[Upload]:
    """The uploads as the allocator knows them: floats told or last received; for one without, the others' mean."""
    if form.reliable:
        return uploads
    now = np.zeros(len(uploads), np.bool_) if told is None else told
    last = {u.device: state[side_key(u.device)][1:FIRST] for u in uploads if side_key(u.device) in state}
    last |= {
        u.device: np.array([getattr(u, name) for name in FLOATS], np.float64)
        for u, is_new in zip(uploads, now, strict=True)
        if is_new and u.samples
    }
    typical = np.mean(list(last.values()), axis=0) if last else np.array(TYPICAL)
    known = [np.asarray(last.get(u.device, typical), np.float64) for u in uploads]
    return [
        _with_floats(u, values) if u.samples and not is_new else u
        for u, values, is_new in zip(uploads, known, now, strict=True)
    ]


def _with_floats(upload: Upload, values: Floats) -> Upload:
    v2, vbar2, v_vbar, delta2 = map(float, values)
    return replace(upload, v2=v2, vbar2=vbar2, v_vbar=v_vbar, delta2=delta2)


def heard_uploads(
    form: Format, uploads: Sequence[Upload], told: Bools, state: Mapping[str, Vector]
) -> Sequence[Upload]:
    """The uploads as the server can read them: of who did not tell, the scales are those last known.

    Scales that were never told are NaN: signs that need them are not used. Only a side channel of its own loses them
    without the packet.
    """
    if not form.lossy:
        return uploads
    known = known_uploads(form, uploads, state, told)
    return [u if came else _with_last(u, state.get(side_key(u.device))) for u, came in zip(known, told, strict=True)]


def _with_last(upload: Upload, last: Vector | None) -> Upload:
    biases, scales = upload.output_bias.size, np.full_like(upload.tensor_means, np.nan)
    if last is None:
        return replace(upload, tensor_means=scales, output_bias=np.zeros(biases, np.float32), statistics=None)
    bias, means = last[FIRST : FIRST + biases], last[FIRST + biases :]
    return replace(upload, tensor_means=means, output_bias=bias, statistics=None)


def auxiliary(form: Format, uploads: Sequence[Upload], told: Bools, round_: int, state: Mapping[str, Vector]) -> Floats:
    """The auxiliary vector of every device as the server knows it, (device, aux).

    The label shares told at the start; or the gradient of the output bias: of this round where it is known, else the
    last one known, drawn to the mean of those that told by its age.
    """
    if form.scheme.auxiliary == "labels" and form.classes is not None:
        return form.classes[[u.device for u in uploads]]
    vectors = np.stack([u.output_bias for u in uploads]).astype(np.float64)
    if form.reliable or told.all() or not told.any():
        return vectors
    centre = vectors[told].mean(0)
    for k in np.flatnonzero(~told).tolist():
        last = state.get(side_key(uploads[k].device))
        trust = 0.0 if last is None else SHRINK ** max(round_ - float(last[0]), 0.0)
        own = centre if last is None else last[FIRST : FIRST + centre.size]
        vectors[k] = trust * own + (1.0 - trust) * centre if last is not None else centre
    return vectors
