"""The page's server on a port of this machine, until somebody stops it."""

from __future__ import annotations

import logging
import socket

import uvicorn

from motorpool import stopping
from motorpool.review.guard import Guard
from motorpool.serve import is_loopback

log = logging.getLogger(__name__)


def address_of(listening: socket.socket, host: str, token: str) -> str:
    """The address to open; for a server that listens everywhere, the one for this machine."""
    port = listening.getsockname()[1]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 (shown)
    return f"http://{shown}:{port}/?token={token}"


def serve_until_stopped(app: Guard, listening: socket.socket) -> None:
    """Answer until Ctrl-C or SIGTERM; answers that are being saved then are saved."""
    if not is_loopback(listening):
        log.warning(
            "review: other machines can reach the page; whoever has its address sees the photos and answers, and what "
            "is sent between is not encrypted"
        )
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, lifespan="off", ws="none",
        timeout_graceful_shutdown=5,
    )  # fmt: skip
    server = uvicorn.Server(config)
    # It raises the signal again that has stopped it.
    with stopping.asked(lambda: setattr(server, "should_exit", True)):
        server.run(sockets=[listening])
