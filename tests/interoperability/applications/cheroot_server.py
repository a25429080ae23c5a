"""cheroot with the suite's application, on a port of 127.0.0.1.

Knows how cheroot is set up. Arguments: the port; how large a body may be; for TLS the files of certificate and key.
"""

from __future__ import annotations

import signal
import sys

from cheroot import wsgi
from cheroot.ssl.builtin import BuiltinSSLAdapter
from wsgi_application import application


def main(port: str, most: str, *tls: str) -> None:
    server = wsgi.Server(("127.0.0.1", int(port)), application, numthreads=8, shutdown_timeout=1)
    server.max_request_body_size = int(most)
    if tls:
        server.ssl_adapter = BuiltinSSLAdapter(*tls)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        server.start()
    finally:
        server.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
