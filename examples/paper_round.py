"""The paper's round in plain sight: sign and modulus packets over a fading uplink, on the embedded digits.

Run it with `python examples/paper_round.py`. The readable twin of `spfl.training.run`: softmax regression in NumPy,
packets by the real codec, the real allocator and link, everything else written out.
"""

import numpy as np

from spfl.allocation.allocator import allocate
from spfl.allocation.bound import Devices, Objective
from spfl.data.digits import read_digits
from spfl.packets.codec import Levels, decode_modulus, decode_signs, encode_modulus, encode_signs, gradient_stats
from spfl.packets.container import modulus_packet_bits, sign_packet_bits
from spfl.packets.layout import Layout
from spfl.radio.outage import Link, draw_fades, success, transmit
from spfl.radio.path_loss import drop_cell

K, ROUNDS, RATE, BITS, SEED = 10, 60, 0.5, 3, 0
levels = Levels(BITS)
images, labels = read_digits()
images = np.hstack([images.reshape(-1, 64) / 16, np.ones((len(images), 1))])
train, test = np.arange(1400), np.arange(1400, len(images))
parts = np.array_split(train[np.argsort(labels[train], kind="stable")], K)  # two classes a device: far from IID
layout = Layout(("weight",), ((65, 10),))
d = layout.size

cell = drop_cell(K, seed=SEED, round_=0, min_distance_m=35.0, radius_m=500.0, shadowing_db=8.0)
link = Link(
    bandwidth_hz=10e6,
    noise_w_per_hz=4e-21,
    power_w=np.full(K, 1e-3),
    gain=cell.gain,
    tau_s=np.full(K, 2 * K * d / 10e6),  # two complex symbols a parameter and device
    sign_bits=np.full(K, sign_packet_bits(d)),
    modulus_bits=np.full(K, modulus_packet_bits(d, BITS)),
)


def gradient(w: np.ndarray, part: np.ndarray) -> np.ndarray:
    logits = images[part] @ w
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return (images[part].T @ (p - np.eye(10)[labels[part]]) / len(part)).astype(np.float32).ravel()


w = np.zeros((65, 10))
for t in range(1, ROUNDS + 1):
    gradients = [gradient(w, part) for part in parts]
    means = [layout.expand(layout.tensor_means(np.abs(g))) for g in gradients]  # vbar: side information
    name = [{"layout": layout, "round_": t, "device": k} for k in range(K)]
    signs = [encode_signs(g, **name[k]) for k, g in enumerate(gradients)]
    moduli = [encode_modulus(g, levels, rng=np.random.default_rng((t, k)), **name[k]) for k, g in enumerate(gradients)]
    stats = np.array([gradient_stats(g, m) for g, m in zip(gradients, means, strict=True)]).T
    devices = Devices(np.full(K, 1 / K), *stats, np.array([delta2 for _, delta2 in moduli]))
    shares = allocate(devices, link, Objective(weights="normalized"), solver="alternating")
    outcome = transmit(success(link, shares.beta, shares.alpha), draw_fades(SEED, t, K, link.fading))
    update, heard = np.zeros(d), 0
    for k in np.flatnonzero(outcome.sign):
        modulus = decode_modulus(moduli[k][0], **name[k]) if outcome.modulus[k] else means[k]
        update, heard = update + decode_signs(signs[k], **name[k]) * modulus, heard + 1
    w -= RATE * (update / max(heard, 1)).reshape(w.shape)
    if t % 10 == 0:
        accuracy = np.mean((images[test] @ w).argmax(1) == labels[test])
        print(f"round {t}: {heard} of {K} signs, {outcome.modulus.sum()} moduli, test accuracy {accuracy:.1%}")
