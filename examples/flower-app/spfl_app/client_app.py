"""What runs at a node."""

from spfl.flower.client_app import app

__all__ = ["app"]
