"""The air: outage, path loss, fading, coded links. All beyond `outage` and `path_loss` is an option (docs/radio.md)."""
