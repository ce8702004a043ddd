"""Bring your own data: uint8 images and labels, as arrays. Run it with `python examples/own_dataset.py`."""

import numpy as np

import spfl

rng = np.random.default_rng(0)
labels = np.arange(1200) % 4  # in which quarter of the image the bright spot lies
images = rng.integers(0, 100, (1200, 8, 8), np.uint8)
images[np.arange(1200), labels // 2 * 4 + rng.integers(0, 4, 1200), labels % 2 * 4 + rng.integers(0, 4, 1200)] = 255
dataset = spfl.make_dataset("spots", train=(images[:1000], labels[:1000]), test=(images[1000:], labels[1000:]))

run = spfl.run("configs/demo.toml", dataset=dataset, scheme="sp_fl_plus", overrides={"training.rounds": 30})
print(run)
