"""What the server believes of a device: side information is checked, and capped, before anything is decided by it.

Packets are checked where they are decoded (`codec`). Side information arrives reliably and is not encoded, but nothing
says that it is true. What no gradient can have (NaN, infinities, what float32 cannot hold, negative squares, a product
<v, vbar> of moduli that is negative or beyond Cauchy-Schwarz) takes the device out of the round. What is possible but
unlikely is capped, at a multiple of the cohort's median, which less than half of the devices cannot move far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from spfl.arrays import Vector
from spfl.config.schema import SchemeConfig
from spfl.uplink.format import Format
from spfl.uplink.robust import clipped
from spfl.uplink.upload import Upload, silent

FLOAT32_MAX = float(np.finfo(np.float32).max)
MOST_SAMPLES = 2**62  # n_k is an int64 on the way
SLACK = 1e-3  # relative, on Cauchy-Schwarz: sums of a million float32 products


def admit(form: Format, uploads: Sequence[Upload]) -> list[Upload]:
    """The uploads that a server works with: impossible ones silenced, claims capped as configured."""
    config = form.settings
    believed = [upload if _possible(form, upload) else silent(form, upload.device) for upload in uploads]
    if config.max_samples is not None:
        most = config.max_samples * _median([upload.samples for upload in believed if upload.samples])
        believed = [replace(u, samples=min(u.samples, math.ceil(most))) for u in believed]
    if config.device_clip is not None:
        believed = _clip_claims(believed, config.device_clip)
        if form.scheme.uplink == "analog":
            believed = _sent_within(believed, norm_limit(config, believed))
    return believed


def norm_limit(config: SchemeConfig, uploads: Sequence[Upload]) -> float:
    """Largest norm that a device's vector may have: `device_clip` times the median of what the cohort claims."""
    if config.device_clip is None:
        return math.inf
    return config.device_clip * _median([claimed_norm(upload) for upload in uploads if upload.samples])


def claimed_norm(upload: Upload) -> float:
    """Root mean square norm of a device's decoded vector, by its own word: noise and output bias included."""
    return math.sqrt(upload.v2 + upload.delta2 + _length(upload.output_bias) ** 2)


def _length(vector: Vector) -> float:
    return float(np.linalg.norm(vector.astype(np.float64)))  # squares of what float32 holds need not fit into it


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if len(values) else 0.0


def _possible(form: Format, upload: Upload) -> bool:
    squares = (upload.v2, upload.vbar2, upload.delta2)
    if not all(0.0 <= square <= FLOAT32_MAX for square in squares):  # NaN fails as well
        return False
    if not 0 <= upload.samples <= MOST_SAMPLES or FLOAT32_MAX < abs(upload.loss) < math.inf:
        return False
    if not 0.0 <= upload.v_vbar <= (1.0 + SLACK) * math.sqrt(upload.v2) * math.sqrt(upload.vbar2):
        return False
    if upload.tensor_means.shape != (len(form.packets.names),) or upload.output_bias.shape != (
        form.packing.output_biases,
    ):
        return False
    if not (np.isfinite(upload.tensor_means).all() and (upload.tensor_means >= 0).all()):
        return False
    used = upload.gradient if form.scheme.uplink in ("ideal", "analog") else None
    if used is not None and not np.isfinite(used).all():
        return False
    return bool(np.isfinite(upload.output_bias).all())


def _clip_claims(uploads: Sequence[Upload], clip: float) -> list[Upload]:
    """Norms, mean moduli and the output biases, each at most `clip` times the cohort's median of it."""
    speaking = [upload for upload in uploads if upload.samples]
    norm = clip * _median([math.sqrt(upload.v2) for upload in speaking])
    means = clip * np.median([upload.tensor_means for upload in speaking], axis=0) if speaking else 0.0
    output_bias = clip * _median([_length(upload.output_bias) for upload in speaking])
    return [
        replace(
            _shortened(upload, norm),
            tensor_means=np.minimum(upload.tensor_means, means).astype(np.float32),
            output_bias=clipped(upload.output_bias, output_bias),
        )
        for upload in uploads
    ]


def _sent_within(uploads: Sequence[Upload], limit: float) -> list[Upload]:
    """Each vector at the common receive power that its claim stands for: what the air adds up, nobody shortens."""
    return [u if u.gradient is None else replace(u, gradient=clipped(u.gradient, limit)) for u in uploads]


def _shortened(upload: Upload, norm: float) -> Upload:
    """The claims of the device, had it scaled its gradient down to `norm`."""
    if upload.v2 <= norm**2:
        return upload
    factor = norm / math.sqrt(upload.v2)
    return replace(upload, v2=norm**2, v_vbar=factor * upload.v_vbar, delta2=factor**2 * upload.delta2)
