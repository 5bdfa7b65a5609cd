"""The hosts that the page answers to: a guard against sites that reach it through their own name (DNS rebinding)."""

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

_Send = Callable[[dict[str, Any]], Awaitable[None]]
_App = Callable[[dict[str, Any], Any, _Send], Awaitable[None]]


class KnownHosts:
    """ASGI middleware that answers requests for known hosts only; others get status 400.

    Known hosts are numeric addresses, localhost, this machine's own name, and `names`. A site that points its own name
    at this machine's address (DNS rebinding) sends its own name in its requests, which is not among these.

    Args:
        app: the wrapped application.
        names: additional names.
    """

    def __init__(self, app: _App, names: Sequence[str] = ()) -> None:
        self._app = app
        own = (socket.gethostname(), socket.getfqdn())
        self._names = {name.lower().rstrip(".") for name in ("localhost", *own, *names)}

    async def __call__(self, scope: dict[str, Any], receive: Any, send: _Send) -> None:
        """Forward a request, or refuse it."""
        if scope["type"] not in ("http", "websocket") or self.knows(_host_of(scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            text = b"The page does not answer to this host name. Start it with scvae-fast app --allow-host NAME."
            headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
            await send({"type": "http.response.start", "status": 400, "headers": headers})
            await send({"type": "http.response.body", "body": text})

    def knows(self, host: str) -> bool:
        """Whether requests for a host, with or without a port, are answered."""
        name = host.lower()
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        elif name.count(":") == 1:
            name = name.partition(":")[0]
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.rstrip(".") in self._names
        return True


def _host_of(scope: dict[str, Any]) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
