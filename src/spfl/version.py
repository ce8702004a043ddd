"""The version of this package; the build reads it here as well."""

__version__ = "0.1.0"
