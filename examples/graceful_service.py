"""A service that SIGTERM ends gracefully: what it has begun it finishes, within a limit. A demonstration of itself;
with the URL of an upstream, and perhaps the limit in seconds, it serves: `graceful_service.py http://localhost:8080 5`.
"""

import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import syncflow
from syncflow.testing import AppServer, Request, Response


class Handler(BaseHTTPRequestHandler):
    timeout = 5  # seconds, for a client that sends nothing, or takes nothing

    def do_GET(self) -> None:
        try:
            answer = session.get(upstream + self.path)
            status, body = answer.status_code, answer.content
        except syncflow.RequestException as error:  # SessionClosed: it came too late, or has taken too long
            status, body = 503, repr(error).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Not a line for each request."""


class Service(ThreadingHTTPServer):
    daemon_threads = False  # so the end of its block waits until every client has its answer


def serve(limit: float) -> int:
    terminated = threading.Event()
    # A handler runs in the middle of whatever the main thread does: it only says that it is time.
    signal.signal(signal.SIGTERM, lambda *_: terminated.set())
    with session, Service(("127.0.0.1", 0), Handler) as service:
        threading.Thread(target=service.serve_forever, args=(0.05,)).start()
        print(f"http://127.0.0.1:{service.server_port}", flush=True)
        while not terminated.wait(1.0):  # a signal in the moment before Python falls asleep would not wake it
            pass
        service.shutdown()
        service.socket.close()  # new clients are refused at once, so that a balancer goes elsewhere
        in_time = session.drain(limit)  # requests under way end, or are ended
    print("all was finished" if in_time else f"something was not finished within {limit:g} s", flush=True)
    return 0 if in_time else 1


def answer_slowly(request: Request) -> Response:
    arrived.release()
    time.sleep(0.5)
    return Response(200, {}, request.path.encode())


if len(sys.argv) > 1:
    # The limit is less than the supervisor's, which kills: 10 s of Docker, 30 of Kubernetes, 90 of systemd.
    session, upstream = syncflow.Session(), sys.argv[1]
    sys.exit(serve(float(sys.argv[2]) if len(sys.argv) > 2 else 5.0))

arrived = threading.Semaphore(0)
with AppServer(answer_slowly) as server, syncflow.Session() as client, ThreadPoolExecutor(10) as pool:
    with subprocess.Popen([sys.executable, __file__, server.url], stdout=subprocess.PIPE, text=True) as service:
        url = service.stdout.readline().strip()
        answers = [pool.submit(client.get, f"{url}/{number}") for number in range(10)]
        assert all(arrived.acquire(timeout=5) for _ in answers)
        service.terminate()
        print("SIGTERM while 10 requests were under way:", " ".join(answer.result().text for answer in answers))
        print(service.stdout.read(), end="")
    print("exit code", service.returncode)
