"""gunicorn's settings for the gateway, which it finds where it is started: four processes of 16 threads."""

import os
import signal
from typing import Any

wsgi_app = "app:app"
bind = "127.0.0.1:8000"
workers = 4
worker_class = "gthread"
threads = int(os.environ.get("GATEWAY_THREADS", "16"))  # as app.py, whose session has connections for so many

# Seconds. More than the 8 that the gateway's client has for what is under way, and less than a supervisor's 10 or more.
graceful_timeout = 9


def post_worker_init(worker: Any) -> None:
    """In each process, once gunicorn's own handlers are there: streams of events end when it is asked to stop."""
    worker.wsgi.wsgi_app.drain_on(signal.SIGTERM)
