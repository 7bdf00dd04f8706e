"""A dataset hub on a port of this machine, as far as an upload needs one."""

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

TOKEN: Final = "hf_of_the_tests"


@dataclass
class Hub:
    """What the hub holds.

    Attributes:
        url: its address.
        private: repository -> whether it is private.
        files: repository -> path -> content.
        commits: the messages.
    """

    url: str = ""
    private: dict[str, bool] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        """Return status and JSON of the answer."""
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            # Newer versions say `visibility`, others `private`.
            private = asked.get("visibility") == "private" or asked.get("private") is True
            self.private[name] = private
            self.files[name] = {}
            return 200, {"url": f"{self.url}/datasets/{name}", "name": name}
        if not (found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(/.*)?", path)):
            return 404, {"error": f"{method} {path}"}
        name, rest = found[1], found[2] or ""
        if name not in self.private:
            return 404, {"error": "Repository not found"}
        return self._of_repository(name, rest, body)

    def _of_repository(self, name: str, rest: str, body: bytes) -> tuple[int, object]:
        if rest.startswith("/preupload/"):
            files = json.loads(body)["files"]
            modes = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in files
            ]
            return 200, {"files": modes}
        if rest.startswith("/commit/"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "header":
                    self.commits.append(line["value"]["summary"])
                else:
                    content = base64.b64decode(line["value"]["content"])
                    self.files[name][line["value"]["path"]] = content
            address = f"{self.url}/datasets/{name}/commit/0"
            return 200, {"commitUrl": address, "commitOid": "0" * 40, "success": True}
        siblings = [{"rfilename": path} for path in self.files[name]]
        return 200, {
            "id": name,
            "private": self.private[name],
            "sha": "0" * 40,
            "siblings": siblings,
            "tags": [],
        }


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Give a hub without repositories, to which `TOKEN` may write."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(size)
            status: int
            answer: Any
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                status, answer = 401, {"error": "Invalid username or password."}
            else:
                status, answer = hub.answer(self.command, self.path.partition("?")[0], body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _answer  # noqa: N815 - as http.server calls them

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
