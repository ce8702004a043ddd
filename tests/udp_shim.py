"""A relay on loopback that erases, doubles and reorders datagrams: the air of a federation with packets by UDP."""

from __future__ import annotations

import socket
import threading

import numpy as np

HOST = "127.0.0.1"


class Shim:
    """A relay on loopback that erases, doubles, holds back and reorders datagrams, in a thread."""

    def __init__(self, port, loss=0.0, seed=0, disorder=False):
        self.loss, self.rng, self.disorder, self.target = loss, np.random.default_rng(seed), disorder, (HOST, port)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**22)
        self.socket.bind((HOST, 0))
        self.socket.settimeout(0.02)
        self.address, self.seen, self.over = f"{HOST}:{self.socket.getsockname()[1]}", [], False
        self.thread = threading.Thread(target=self.relay, daemon=True)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over = True
        self.thread.join()
        self.socket.close()

    def relay(self):
        held = []
        while not self.over:
            try:
                raw = self.socket.recv(65536)
            except TimeoutError:
                raw = None
            if raw is not None:
                self.seen.append(raw)
                if self.rng.random() >= self.loss:
                    held += [raw, raw] if self.disorder else [raw]
            if held and (raw is None or not self.disorder or len(held) > 6):
                for i in self.rng.permutation(len(held)) if self.disorder else range(len(held)):
                    self.socket.sendto(held[i], self.target)
                held = []
