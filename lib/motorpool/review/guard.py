"""Who may speak to the page's server: browsers that were given its address, asking by its own name, from its own page.

The address holds a token, which becomes a cookie that scripts cannot read and that browsers send from this page alone.
Names that somebody else could let point to this machine (DNS rebinding) are refused, and so are writes that do not
come from the page.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """ASGI middleware that answers 403 to whoever may not ask, and adds the headers that keep the page to itself."""

    def __init__(self, app: ASGIApp, token: str, port: int, names: Collection[str] = ()) -> None:
        """``names``: hosts that the server is asked by, besides ``localhost`` and addresses such as 127.0.0.1."""
        self._app = app
        self._token = token
        # Cookies know no ports: two reviews on one machine must not take each other's.
        self._cookie = f"motorpool-review-{port}"
        self._names = {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"{scope['type']!r}: the page's server speaks HTTP alone")
        headers = Headers(scope=scope)
        given = QueryParams(scope["query_string"]).get("token") if scope["path"] == "/" else None
        refusal = self._refusal(scope, headers, given)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    answer[name] = value
                answer.setdefault("Cache-Control", "no-store")
                if given is not None and refusal is None:
                    cookie = f"{self._cookie}={self._token}; HttpOnly; SameSite=Strict; Path=/; Max-Age=2592000"
                    answer.append("Set-Cookie", cookie)
            await send(message)

        answer = self._app if refusal is None else PlainTextResponse(refusal + "\n", 403)
        await answer(scope, receive, guarded)

    def _refusal(self, scope: Scope, headers: Headers, given: str | None) -> str | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return "This name is not the server's: use the address that `motorpool review` printed."
        if scope["method"] not in ("GET", "HEAD") and headers.get("origin") != f"http://{hosts[0]}":
            return "This does not come from the review's own page."
        if not self._has_token(headers, given):
            return "The token is missing or wrong: open the address that `motorpool review` printed."
        return None

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header is an address, or a name of ours: no page elsewhere can be called by an address."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return True

    def _has_token(self, headers: Headers, given: str | None) -> bool:
        if given is None:
            cookies: SimpleCookie = SimpleCookie()
            try:
                cookies.load(headers.get("cookie", ""))
            except CookieError:
                return False
            given = cookies[self._cookie].value if self._cookie in cookies else ""
        return hmac.compare_digest(given.encode(), self._token.encode())
