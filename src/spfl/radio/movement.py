"""Devices that move: random waypoints in the disc of the cell (Johnson and Maltz 1996), or a trace. Axis: `device`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from spfl.arrays import Floats
from spfl.rng import SETUP_ROUND, Purpose, server_stream


@dataclass(frozen=True)
class Waypoints:
    """Devices that go straight on to a point drawn uniformly in the disc, then to the next, without a pause.

    Where they are is a function of the seed and the time alone. `start_m` (device,) are their first distances.
    """

    seed: int
    start_m: Floats
    radius_m: float
    speed_m_per_s: float
    _points: list[Floats] = field(default_factory=list, repr=False)  # of each leg, (device, 2)
    _arrivals: list[Floats] = field(default_factory=list, repr=False)  # seconds at which a point is reached, (device,)

    def distance_m(self, time_s: float) -> Floats:
        """Distance of each device to the base station, (device,)."""
        while not self._points or (self._arrivals[-1] <= time_s).any():
            self._go_on()
        arrivals = np.array(self._arrivals)
        leg, every = (arrivals <= time_s).sum(0), np.arange(len(self.start_m))  # the point that is walked to
        begun, ended = arrivals[leg - 1, every], arrivals[leg, every]
        points = np.array(self._points)
        part = ((time_s - begun) / (ended - begun))[:, None]
        return np.asarray(np.linalg.norm((1 - part) * points[leg - 1, every] + part * points[leg, every], axis=1))

    def _go_on(self) -> None:
        """Draw the next point of every device."""
        number = len(self._points)
        uniform = server_stream(self.seed, SETUP_ROUND + number, Purpose.MOVEMENT).random((2, len(self.start_m)))
        distance = self.start_m if number == 0 else self.radius_m * np.sqrt(uniform[0])
        angle = 2 * np.pi * uniform[1]
        point = np.stack([distance * np.cos(angle), distance * np.sin(angle)], 1)
        way = np.linalg.norm(point - self._points[-1], axis=1) if number else np.zeros(len(self.start_m))
        self._arrivals.append((self._arrivals[-1] if number else 0.0) + way / self.speed_m_per_s)
        self._points.append(point)


@dataclass(frozen=True)
class Recorded:
    """Devices that go straight on from one recorded position to the next, and stand before and after.

    `positions` are (device, time_s, x_m, y_m), the base station at the origin. Devices without any stand at `start_m`.
    """

    start_m: Floats
    positions: Sequence[tuple[int, float, float, float]]

    def distance_m(self, time_s: float) -> Floats:
        """Distance of each device to the base station, (device,)."""
        distance = self.start_m.copy()
        for device, (times, x_m, y_m) in self._paths.items():
            distance[device] = np.hypot(np.interp(time_s, times, x_m), np.interp(time_s, times, y_m))
        return distance

    @cached_property
    def _paths(self) -> dict[int, Floats]:
        """Times and places of each device, in the order of time, (3, position)."""
        paths: dict[int, list[tuple[float, ...]]] = {}
        for device, *point in self.positions:
            paths.setdefault(device, []).append(tuple(point))
        return {device: np.array(sorted(path)).T for device, path in paths.items()}
