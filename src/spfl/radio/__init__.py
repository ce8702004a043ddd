"""Radio models beyond the closed form of `spfl.channel`: every one is an option, off by default (docs/radio.md)."""
