"""What a publisher of images has: an https server with a CA of its own, and OpenPGP keys."""

import http.server
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ai_how.process import get_tool, run

Answer = bytes | str | Callable[[http.server.BaseHTTPRequestHandler], None]


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `files`: a text is where it redirects to, a function answers itself."""

    files: dict[str, Answer]
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        answer = self.files.get(self.path.split("?")[0])
        if callable(answer):
            answer(self)
        elif isinstance(answer, str):
            self.send_response(302)
            self.send_header("Location", answer)
            self.end_headers()
        elif answer is None:
            self.send_error(404)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Silent."""


def announcing(size: int, content: bytes) -> Answer:
    """An answer that has another size than it announces."""

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(size))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


@dataclass
class Site:
    """A server on the loopback."""

    port: int
    files: dict[str, Answer]
    asked: list[str] = field(default_factory=list)

    def url(self, path: str, host: str = "localhost") -> str:
        return f"https://{host}:{self.port}{path}"


class Authority:
    """A CA that openssl(1) made; `file` is what trusts it."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.file = directory / "ca.pem"
        self.key = directory / "ca.key"
        run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"),
                *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=Test CA"),
                *("-addext", "keyUsage=critical,keyCertSign"),
                *("-keyout", self.key, "-out", self.file),
            ]
        )

    def certificate(self, name: str, *, dates: tuple[str, str] | None = None) -> tuple[Path, Path]:
        """A certificate and its key, for a DNS name; `dates` as openssl-ca(1) takes them."""
        at = self.directory / name
        at.mkdir()
        request, key, certificate = at / "request", at / "key.pem", at / "cert.pem"
        (at / "index").touch()
        (at / "settings").write_text(
            f"[ca]\ndefault_ca=a\n[a]\ndatabase={at}/index\nnew_certs_dir={at}\nrand_serial=yes\n"
            "default_md=sha256\npolicy=p\nx509_extensions=x\ndefault_days=2\n"
            f"[p]\ncommonName=supplied\n[x]\nsubjectAltName=DNS:{name}\n"
        )
        run(
            [
                *("openssl", "req", "-new", "-newkey", "ec", "-nodes", "-subj", f"/CN={name}"),
                *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", key, "-out", request),
            ]
        )
        when = ("-startdate", dates[0], "-enddate", dates[1]) if dates else ()
        run(
            [
                *("openssl", "ca", "-batch", "-notext", "-config", at / "settings", *when),
                *("-cert", self.file, "-keyfile", self.key, "-in", request, "-out", certificate),
            ]
        )
        return certificate, key


@contextmanager
def serving(certificate: tuple[Path, Path]) -> Iterator[Site]:
    """An https server; its files are set afterwards."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    site = Site(0, {})
    handler = type("Handler", (Handler,), {"files": site.files, "asked": site.asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        # A client that refuses the certificate must end its own thread, not that of the server.
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        server.handle_error = lambda *_: None
        site.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


class Keys:
    """Keys of a GNUPGHOME that nobody else has. `gpgconf --kill all` ends its agent."""

    def __init__(self, home: Path) -> None:
        home.mkdir(mode=0o700)
        self.home = home
        self.gpg, self.gpgconf = get_tool("gpg"), get_tool("gpgconf")

    def _gpg(self, *words: str | Path, time: str | None = None) -> str:
        then = ["--faked-system-time", time] if time else []
        quiet = ["--batch", "--quiet", "--yes", "--passphrase", ""]
        env = {"GNUPGHOME": str(self.home)}
        return run([self.gpg, *quiet, *then, *words], env=env).stdout

    def new(self, name: str, *, made: str | None = None, until: str = "never") -> None:
        """A key without a passphrase; with `made` the clock is set to that time."""
        self._gpg("--quick-generate-key", name, "ed25519", "sign", until, time=made)

    def revoke(self, name: str) -> None:
        words = self._gpg("--list-keys", "--with-colons", name).splitlines()
        fingerprint = next(line.split(":")[9] for line in words if line.startswith("fpr:"))
        form = self.home / "openpgp-revocs.d" / f"{fingerprint}.rev"
        ready = self.home / "revocation"
        ready.write_text(form.read_text().replace(":-----BEGIN", "-----BEGIN"))
        self._gpg("--import", ready)

    def export(self, name: str, to: Path, *, armor: bool = True, secret: bool = False) -> Path:
        verb = "--export-secret-keys" if secret else "--export"
        self._gpg(*(["--armor"] if armor else []), "--output", to, verb, name)
        return to

    def sign(
        self, name: str, file: Path, *, how: str = "--detach-sign", time: str | None = None
    ) -> Path:
        """Beside the file: its signature, or with `--clearsign` the text that contains it."""
        made = file.with_name(f"{file.name}.{how.strip('-')}")
        words = [how] if how != "--armor" else ["--armor", "--detach-sign"]
        self._gpg("--local-user", name, "--output", made, *words, file, time=time)
        return made

    def close(self) -> None:
        run([self.gpgconf, "--homedir", self.home, "--kill", "all"])
