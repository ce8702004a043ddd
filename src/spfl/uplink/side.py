"""Side information that has to arrive: what the server knows of a device, and since when (model.md, section 12).

With `channel.side_information = "reliable"` every device's floats of this round are known before anything is decided.
With `"in_packet"` they are in the packet and are lost with it: the allocator works with what it last received of a
device, and calibration with the last known auxiliary vector, shrunk by its age. The number of samples is told once,
when a device joins.
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


def side_key(device: int) -> str:
    return f"side/{device}"


def keep_side(form: Format, round_: int, uploads: Sequence[Upload], received: Bools, state: State) -> State:
    """The state with what the received devices told: round, floats, auxiliary vector."""
    if not form.in_packet:
        return state
    told = {
        side_key(u.device): np.array([round_, *(getattr(u, name) for name in FLOATS), *u.output_bias], np.float32)
        for u, came in zip(uploads, received, strict=True)
        if came and u.samples
    }
    return state | told


def known_uploads(form: Format, uploads: Sequence[Upload], state: Mapping[str, Vector]) -> Sequence[Upload]:
    """The uploads as the allocator knows them: floats last received; for one without, the others' mean."""
    if not form.in_packet:
        return uploads
    last = {u.device: state[side_key(u.device)] for u in uploads if side_key(u.device) in state}
    typical = np.mean([values[1:5] for values in last.values()], axis=0) if last else np.array(TYPICAL)
    known = [np.asarray(last[u.device][1:5] if u.device in last else typical, np.float64) for u in uploads]
    return [_with_floats(u, values) if u.samples else u for u, values in zip(uploads, known, strict=True)]


def _with_floats(upload: Upload, values: Floats) -> Upload:
    v2, vbar2, v_vbar, delta2 = map(float, values)
    return replace(upload, v2=v2, vbar2=vbar2, v_vbar=v_vbar, delta2=delta2)


def auxiliary(
    form: Format, uploads: Sequence[Upload], received: Bools, round_: int, state: Mapping[str, Vector]
) -> Floats:
    """The auxiliary vector of every device as the server knows it, (device, aux).

    The label shares told at the start; or the gradient of the output bias: of this round where it is known, else the
    last one known, drawn to the mean of the received by its age.
    """
    if form.scheme.auxiliary == "labels" and form.classes is not None:
        return form.classes[[u.device for u in uploads]]
    told = np.stack([u.output_bias for u in uploads]).astype(np.float64)
    if not form.in_packet or received.all() or not received.any():
        return told
    centre = told[received].mean(0)
    for k in np.flatnonzero(~received).tolist():
        last = state.get(side_key(uploads[k].device))
        trust = 0.0 if last is None else SHRINK ** max(round_ - float(last[0]), 0.0)
        told[k] = centre if last is None else trust * last[5:] + (1.0 - trust) * centre
    return told
