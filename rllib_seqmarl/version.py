"""The version of the package and of the files that it writes."""

__version__ = "0.1.0"
