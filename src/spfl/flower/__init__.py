"""SP-FL on Flower: the same round, the same numbers, from one process to hosts that speak TLS.

settings     the app's run config <-> the configuration
protocol     uploads <-> Flower records; everything that arrives is checked here
client_app   a node: computes for its devices, keeps their packets until they are asked for
roster       which node holds which devices
strategy     the server's round as a Flower `Strategy`
server_app   a run folder, written by the strategy's rounds
inprocess    a `Grid` without network, for laptops and tests
project      `spfl flower init`: a Flower app in a folder
deployment   certificates, keys, SuperLink and SuperNodes on this machine
"""

from __future__ import annotations

from importlib.util import find_spec

from spfl.errors import ConfigError

if find_spec("flwr") is None:
    raise ConfigError("Flower is not installed; pip install 'spfl[flower]'")
