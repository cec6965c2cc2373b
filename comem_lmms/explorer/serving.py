"""A folder of a site in, the site at a port of this machine out, for browsers on it alone."""

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from comem_lmms.errors import UserError

HOST, PORT = "127.0.0.1", 8765


def serve(folder: Path, port: int = PORT) -> ThreadingHTTPServer:
    """A server of a site that listens; ``serve_forever`` answers, until it is interrupted.

    Args:
        port: 0 for any that is free; ``server_port`` of the server tells which.

    Raises:
        UserError: the port is taken or not allowed.
    """
    try:
        return ThreadingHTTPServer((HOST, port), partial(_Handler, directory=str(folder)))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot listen at port {port} of {HOST} ({reason}); give another with --port") from error


class _Handler(SimpleHTTPRequestHandler):
    """Files of the site, and nothing else."""

    def send_head(self) -> Any:
        """Refuses what another site's name was pointed here for."""
        if (self.headers.get("Host") or "").partition(":")[0] in (HOST, "localhost"):
            return super().send_head()
        self.send_error(403)
        return None

    def end_headers(self) -> None:
        """Says that nothing is to be kept, as a site may be built again, and that no other page may show it."""
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", "frame-ancestors 'none'")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        super().end_headers()

    def list_directory(self, path: Any) -> Any:
        """No lists of files."""
        self.send_error(404)
        return None

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: the terminal says where the site is."""
