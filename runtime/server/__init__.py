"""OpenAI-compatible HTTP server over an `EngineCore`."""

from runtime.server.app import create_app
from runtime.server.lifecycle import Server, serve

__all__ = ["Server", "create_app", "serve"]
