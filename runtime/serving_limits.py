"""A server's default limits. Light: the command line shows these without loading a server."""

MAX_QUEUE = 1024
"""Sequences that may wait beyond those that run."""
MAX_WAIT_S = 120.0
"""Seconds that one may wait."""
DRAIN_TIMEOUT_S = 30.0
"""Seconds that open requests have once the server is told to stop."""
KEEP_ALIVE_S = 5.0
"""Seconds after which a stream that has nothing to say says that it lives."""
HTTP_KEEP_ALIVE_S = 5
"""Seconds that an idle connection stays open for a next request."""
