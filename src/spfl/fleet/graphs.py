"""Gradients of a chunk of devices, recorded once as a CUDA graph and replayed every round.

A small round on a GPU is some hundred short kernels, and starting each from Python takes longer than the kernel. A
graph starts them all at once. The kernels and their order are the same, and so are the bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

Tensors = tuple[torch.Tensor, ...]
WARM_UP = 3  # calls before a recording, so that libraries have chosen their algorithms and taken their memory
MOST = 4  # graphs: each keeps the memory of its activations


@dataclass
class _Recorded:
    graph: torch.cuda.CUDAGraph
    inputs: Tensors
    outputs: Tensors


class Graphs:
    """A function of tensors on a CUDA device, replayed as a graph from the second call with tensors of the same shapes.

    A function that cannot be recorded is called as it is.
    """

    def __init__(self, compute: Callable[..., Tensors]) -> None:
        self._compute = compute
        self._recorded: dict[tuple[torch.Size, ...], _Recorded | None] = {}
        self._seen: set[tuple[torch.Size, ...]] = set()

    def __call__(self, *inputs: torch.Tensor) -> Tensors:
        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes not in self._recorded:
            if shapes not in self._seen or len(self._recorded) == MOST:
                self._seen.add(shapes)
                return self._compute(*inputs)
            self._recorded[shapes] = self._record(inputs)
        recorded = self._recorded[shapes]
        if recorded is None:
            return self._compute(*inputs)
        for place, tensor in zip(recorded.inputs, inputs, strict=True):
            place.copy_(tensor)
        recorded.graph.replay()
        return tuple(tensor.clone() for tensor in recorded.outputs)

    def _record(self, inputs: Tensors) -> _Recorded | None:
        places = tuple(tensor.clone() for tensor in inputs)
        try:
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    self._compute(*places)
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                outputs = self._compute(*places)
            return _Recorded(graph, places, outputs)
        except RuntimeError:  # such as a network that asks for a value in the middle
            return None
