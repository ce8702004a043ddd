"""Federated learning over unreliable wireless links, with sign-prioritized uplinks (Yue et al., arXiv 2603.10763)."""

__version__ = "0.1.0"
