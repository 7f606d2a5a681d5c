"""Serves a bundle: over HTTP by `serve`, and in a program of your own by `Engine`."""

from runtime.engine import Engine

__all__ = ["Engine"]
