"""The servers of the suite, by name: what each needs on this machine, and how it is started.

Knows the programs' options and configuration files. What each of them does differently is said in `behaviour`.

All serve the same routes on 127.0.0.1, plain or with TLS:

    GET  /hello                  "hello\\n"
    GET  /bytes/N                the first N bytes of the pattern; with ?chunked without a length
    GET  /text                   some text, packed with gzip for those who accept it
    PUT  /upload                 JSON: how many bytes came, their SHA-256, and how they were announced
    PUT  /limited                the same for a few bytes, 413 for many
    GET  /events?stream=NAME     three events: the first at once, each other one when it is released
    POST /release?stream=NAME    releases the next one
    PUT  /dav/NAME               nginx, Apache and lighttpd: written to a file
    GET  /held?stream=NAME       nginx and lighttpd: the events, through the proxy as it is by default
    PUT  /late                   Apache: the application's /limited, through the proxy

nginx, Apache and lighttpd serve the first three from files, and pass on what needs an application, as HAProxy does with
all: to uvicorn, which is one of the servers here. Who knows limits of its own has one for /limited; it is the
application's with the others.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from syncflow.testing import Nginx, pattern, pattern_pieces
from syncflow.testing.patterns import PERIOD

from .processes import APPLICATIONS, inheriting, on_a_free_port, python

BIG = 8 << 20
# What waitress and cheroot take at most, of whatever path.
MOST = 16 << 20
TEXT = b"All work and no play makes a dull server.\n" * 20_000


@dataclass(frozen=True)
class Setting:
    """What a server is given.

    Attributes:
        tls: certificate and key in PEM, or None.
        backend: port of 127.0.0.1 of the application that a proxy stands in front of.
    """

    tls: tuple[Path, Path] | None
    backend: int


@dataclass(frozen=True)
class Running:
    """A server that answers. `files`: where it keeps what was put under /dav/, if it does."""

    name: str
    port: int
    tls: bool
    files: Path | None = None

    @property
    def url(self) -> str:
        """Without a slash at the end."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"


Start = Callable[[Setting], contextlib.AbstractContextManager[Running]]


@dataclass(frozen=True)
class Server:
    """`program`: on the PATH, with its `modules`; or `package`: of Python. `backed`: stands in front of `BACKEND`."""

    start: Start
    program: str | None = None
    modules: tuple[str, ...] = ()
    package: str | None = None
    backed: bool = False


def find_program(name: str) -> str:
    program = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
    assert program is not None
    return program


# ------------------------------------------------------------------------------------- servers of files, and proxies


def lay_files(root: Path) -> None:
    """What servers of files serve. Readable and writable also for the user that a server turns into."""
    (root / "bytes").mkdir()
    (root / "dav").mkdir()
    (root / "dav").chmod(0o777)
    (root / "hello").write_bytes(b"hello\n")
    (root / "text").write_bytes(TEXT)
    with (root / "bytes" / str(BIG)).open("wb") as file:
        file.writelines(pattern_pieces(BIG))


@contextlib.contextmanager
def new_folder(name: str) -> Iterator[Path]:
    """Not one of pytest's: a server that gives up root's rights must get in."""
    with tempfile.TemporaryDirectory(prefix=f"syncflow-{name}-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        (path / "files").mkdir()
        yield path


NGINX = """
location = /text {{ gzip on; default_type text/plain; gzip_types text/plain; }}
location /dav/ {{ dav_methods PUT; }}
location ~ ^/(upload|events|release) {{
    proxy_pass http://127.0.0.1:{backend}; proxy_http_version 1.1; proxy_buffering off;
}}
location = /limited {{ client_max_body_size 1m; proxy_pass http://127.0.0.1:{backend}; }}
location = /held {{ proxy_pass http://127.0.0.1:{backend}/events; }}
"""


@contextlib.contextmanager
def start_nginx(setting: Setting) -> Iterator[Running]:
    with Nginx(NGINX.format(backend=setting.backend), tls=setting.tls) as nginx:
        lay_files(nginx.root)
        yield Running("nginx", nginx.port, setting.tls is not None, nginx.root / "dav")


APACHE_MODULES = "/usr/lib/apache2/modules/mod_{}.so"
APACHE_LOADS = [
    *("mpm_event", "authz_core", "dav", "dav_fs", "deflate", "filter", "proxy", "proxy_http"),
    *("socache_shmcb", "ssl"),
]
APACHE = """
ServerRoot "{folder}"
DefaultRuntimeDir "{folder}"
PidFile "{folder}/pid"
ErrorLog "{folder}/error.log"
Listen 127.0.0.1:{port}
ServerName localhost
{modules}
{user}
StartServers 1
DocumentRoot "{folder}/files"
ForceType text/plain
DavLockDB "{folder}/files/locks"
<Directory "{folder}/files/dav">
    Dav On
</Directory>
<Location "/text">
    SetOutputFilter DEFLATE
</Location>
<Location "/limited">
    Dav On
    LimitRequestBody 1048576
</Location>
<Location "/late">
    LimitRequestBody 1048576
</Location>
ProxyPass "/upload" "http://127.0.0.1:{backend}/upload"
ProxyPass "/late" "http://127.0.0.1:{backend}/limited"
ProxyPass "/events" "http://127.0.0.1:{backend}/events"
ProxyPass "/release" "http://127.0.0.1:{backend}/release"
"""
APACHE_TLS = """
SSLEngine on
SSLCertificateFile "{0}"
SSLCertificateKeyFile "{1}"
"""


@contextlib.contextmanager
def start_apache(setting: Setting) -> Iterator[Running]:
    program = find_program("apache2")
    with new_folder("apache") as folder:
        lay_files(folder / "files")
        (folder / "files").chmod(0o777)
        modules = [f"LoadModule {name}_module {APACHE_MODULES.format(name)}" for name in APACHE_LOADS]
        # It refuses to serve as root.
        user = "User nobody\nGroup nogroup" if os.geteuid() == 0 else ""
        tls = "" if setting.tls is None else APACHE_TLS.format(*setting.tls)

        def command(port: int) -> list[str]:
            text = APACHE.format(
                folder=folder, port=port, modules="\n".join(modules), user=user, backend=setting.backend
            )
            (folder / "apache.conf").write_text(text + tls)
            return [program, "-D", "FOREGROUND", "-f", str(folder / "apache.conf")]

        with on_a_free_port(command, folder / "error.log", tls=setting.tls is not None) as port:
            yield Running("Apache httpd", port, setting.tls is not None, folder / "files" / "dav")


LIGHTTPD_MODULES = "/usr/lib/lighttpd/mod_{}.so"
LIGHTTPD = """
server.bind = "127.0.0.1"
server.port = {port}
server.document-root = "{folder}/files"
server.errorlog = "{folder}/error.log"
server.upload-dirs = ("{folder}")
server.modules = ("mod_deflate", "mod_webdav", "mod_proxy")
mimetype.assign = ("" => "text/plain")
server.max-request-size = 65536
$HTTP["url"] == "/text" {{
    deflate.mimetypes = ("text/plain")
    deflate.allowed-encodings = ("gzip")
}}
$HTTP["url"] =~ "^/dav/" {{
    webdav.activate = "enable"
}}
$HTTP["url"] =~ "^/(upload|limited|events|release|held)" {{
    proxy.server = ("" => (("host" => "127.0.0.1", "port" => {backend})))
}}
$HTTP["url"] =~ "^/(upload|events|release)" {{
    server.stream-response-body = 1
}}
$HTTP["url"] =~ "^/held" {{
    proxy.header = ("map-urlpath" => ("/held" => "/events"))
}}
$HTTP["url"] =~ "^/limited" {{
    server.max-request-size = 1024
}}
"""
LIGHTTPD_TLS = """
server.modules += ("mod_openssl")
ssl.engine = "enable"
ssl.pemfile = "{0}"
ssl.privkey = "{1}"
"""


@contextlib.contextmanager
def start_lighttpd(setting: Setting) -> Iterator[Running]:
    program = find_program("lighttpd")
    with new_folder("lighttpd") as folder:
        lay_files(folder / "files")
        tls = "" if setting.tls is None else LIGHTTPD_TLS.format(*setting.tls)

        def command(port: int) -> list[str]:
            text = LIGHTTPD.format(folder=folder, port=port, backend=setting.backend)
            (folder / "lighttpd.conf").write_text(text + tls)
            return [program, "-D", "-f", str(folder / "lighttpd.conf")]

        with on_a_free_port(command, folder / "error.log", tls=setting.tls is not None) as port:
            yield Running("lighttpd", port, setting.tls is not None, folder / "files" / "dav")


HAPROXY = """
defaults
    mode http
    timeout connect 10s
    timeout client 60s
    timeout server 60s
frontend street
    bind fd@{number}{tls}
    filter compression
    compression algo gzip
    compression type text/plain
    http-request deny deny_status 413 if {{ path /limited }} {{ req.hdr_val(content-length) gt 1048576 }}
    default_backend application
backend application
    compression offload
    server one 127.0.0.1:{backend}
"""


@contextlib.contextmanager
def start_haproxy(setting: Setting) -> Iterator[Running]:
    program = find_program("haproxy")
    with new_folder("haproxy") as folder:
        tls = ""
        if setting.tls is not None:
            (folder / "both.pem").touch(0o600)
            (folder / "both.pem").write_bytes(b"".join(path.read_bytes() for path in setting.tls))
            tls = f" ssl crt {folder / 'both.pem'}"

        def command(number: int) -> list[str]:
            (folder / "haproxy.cfg").write_text(HAPROXY.format(number=number, tls=tls, backend=setting.backend))
            return [program, "-db", "-f", str(folder / "haproxy.cfg")]

        with inheriting(command, folder / "log", tls=bool(tls)) as port:
            yield Running("HAProxy", port, bool(tls))


# ------------------------------------------------------------------------------------- servers of applications


# The number of the listening socket, or of a port; the files for TLS, if there is to be any.
Command = Callable[[int, tuple[str, ...]], list[str]]


def application(
    name: str, command: Command, run: Callable[..., contextlib.AbstractContextManager[int]] = inheriting
) -> Start:
    """A program that is given a listening socket; with `on_a_free_port` one that cannot be."""

    @contextlib.contextmanager
    def start(setting: Setting) -> Iterator[Running]:
        files = tuple(map(str, setting.tls or ()))
        with new_folder(name) as folder:
            with run(lambda number: command(number, files), folder / "log", tls=bool(files)) as port:
                yield Running(name, port, bool(files))

    return start


@contextlib.contextmanager
def start_node(setting: Setting) -> Iterator[Running]:
    program = find_program("node")
    with new_folder("node") as folder:
        (folder / "period").write_bytes(pattern(PERIOD))
        arguments = [program, str(APPLICATIONS / "node_server.js")]
        files = [str(folder / "period"), *map(str, setting.tls or ())]
        with inheriting(
            lambda number: [*arguments, str(number), *files], folder / "log", tls=setting.tls is not None
        ) as port:
            yield Running("Node http", port, setting.tls is not None)


def gunicorn(number: int, tls: tuple[str, ...]) -> list[str]:
    options = ["--worker-class", "gthread", "--threads", "8", "--bind", f"fd://{number}"]
    # The usual two seconds may pass between two requests of a test.
    options += ["--keep-alive", "30", "--graceful-timeout", "1"]
    files = [f"--certfile={tls[0]}", f"--keyfile={tls[1]}"] if tls else []
    return python("-m", "gunicorn", *options, *files, "wsgi_application:application")


def waitress(port: int, tls: tuple[str, ...]) -> list[str]:
    assert not tls, "waitress knows no TLS"
    options = [f"--listen=127.0.0.1:{port}", "--threads=8", f"--max-request-body-size={MOST}"]
    return python("-m", "waitress", *options, "wsgi_application:application")


def cheroot(port: int, tls: tuple[str, ...]) -> list[str]:
    return python(str(APPLICATIONS / "cheroot_server.py"), str(port), str(MOST), *tls)


def uvicorn(number: int, tls: tuple[str, ...]) -> list[str]:
    # Without being told it takes another parser, and another loop, where they are installed.
    options = ["--fd", str(number), "--http", "h11", "--loop", "asyncio", "--timeout-graceful-shutdown", "1"]
    files = ["--ssl-certfile", tls[0], "--ssl-keyfile", tls[1]] if tls else []
    return python("-m", "uvicorn", *options, *files, "asgi_application:application")


def hypercorn(number: int, tls: tuple[str, ...]) -> list[str]:
    options = ["--bind", f"fd://{number}", "--workers", "0", "--graceful-timeout", "1"]
    files = ["--certfile", tls[0], "--keyfile", tls[1]] if tls else []
    return python("-m", "hypercorn", *options, *files, "asgi_application:application")


def aiohttp(number: int, tls: tuple[str, ...]) -> list[str]:
    return python(str(APPLICATIONS / "aiohttp_server.py"), str(number), *tls)


SERVERS = {
    "nginx": Server(start_nginx, program="nginx", backed=True),
    "Apache httpd": Server(
        start_apache,
        program="apache2",
        modules=tuple(APACHE_MODULES.format(name) for name in APACHE_LOADS),
        backed=True,
    ),
    "lighttpd": Server(
        start_lighttpd,
        program="lighttpd",
        modules=tuple(LIGHTTPD_MODULES.format(name) for name in ("deflate", "openssl", "proxy", "webdav")),
        backed=True,
    ),
    "HAProxy": Server(start_haproxy, program="haproxy", backed=True),
    "Node http": Server(start_node, program="node"),
    "gunicorn": Server(application("gunicorn", gunicorn), package="gunicorn"),
    "waitress": Server(application("waitress", waitress, on_a_free_port), package="waitress"),
    "cheroot": Server(application("cheroot", cheroot, on_a_free_port), package="cheroot"),
    "uvicorn": Server(application("uvicorn", uvicorn), package="uvicorn"),
    "hypercorn": Server(application("hypercorn", hypercorn), package="hypercorn"),
    "aiohttp": Server(application("aiohttp", aiohttp), package="aiohttp"),
}
BACKEND = "uvicorn"
