"""What of this machine the process may use."""

from __future__ import annotations


def cores() -> int:
    """Cores that this process may use: CPU affinity and the limit of a container are respected."""
    from joblib import cpu_count

    return int(cpu_count())
