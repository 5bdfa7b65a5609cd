"""Who may ask for the page: a guard against other sites that lead a browser here under a name of theirs."""

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

_Send = Callable[[dict[str, Any]], Awaitable[None]]
_App = Callable[[dict[str, Any], Any, _Send], Awaitable[None]]


class KnownHosts:
    """ASGI middleware that answers requests for known hosts alone, and others with status 400.

    Known are addresses in digits, localhost, this machine's own name, and `names`. A site that gives its own name the
    address of this machine (DNS rebinding) has none of these in its requests.

    Args:
        app: what answers.
        names: more names.
    """

    def __init__(self, app: _App, names: Sequence[str] = ()) -> None:
        self._app = app
        own = (socket.gethostname(), socket.getfqdn())
        self._names = {name.lower().rstrip(".") for name in ("localhost", *own, *names)}

    async def __call__(self, scope: dict[str, Any], receive: Any, send: _Send) -> None:
        """Pass a request on, or refuse it."""
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
        """Whether requests for a host, with a port or without, are answered."""
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
