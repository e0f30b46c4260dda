"""Who is let in: pages of this server itself, and programs of this machine that name it."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ALWAYS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """Around an application that listens on a port of this machine.

    A name that another site lets point here (DNS rebinding) is not one of the hosts; what another site's page sends
    has another origin, or is said by the browser to come from another site.
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        self.app = app
        self.hosts = [f"{name}{end}" for name in ("127.0.0.1", "localhost") for end in ends(port)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(ALWAYS)
            await send(message)

        if why := self.refuses(scope["method"], Headers(scope=scope)):
            await JSONResponse({"error": why}, 403)(scope, receive, send_guarded)
        else:
            await self.app(scope, receive, send_guarded)

    def refuses(self, method: str, headers: Headers) -> str | None:
        if headers.getlist("host") not in [[host] for host in self.hosts]:
            return f"another host than {self.hosts[0]}"
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
        other = origin is not None and origin not in [f"http://{host}" for host in self.hosts]
        if method not in ("GET", "HEAD") and (other or site not in ("same-origin", "none")):
            return "from a page of another origin"
        return None


def ends(port: int) -> list[str]:
    return ["", f":{port}"] if port == 80 else [f":{port}"]
