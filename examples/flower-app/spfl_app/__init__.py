"""SP-FL as a Flower app."""
