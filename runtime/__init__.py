"""Serves a bundle: over HTTP by `serve`, and in a program of your own by `Engine`."""

from runtime.embedded_engine import Engine

__all__ = ["Engine"]
