"""What runs at the server."""

from spfl.flower.server_app import app

__all__ = ["app"]
