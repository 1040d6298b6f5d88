"""A Hugging Face Hub on this machine: as much of its HTTP interface as pushing and fetching a model needs.

    with HubServer() as hub:
        ...  # a client with HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN, HF_HUB_DISABLE_XET=1
        hub.repos["user/name"].files

State is in memory. `hub.cut["commit"] = 1` closes the socket in the middle of the next commit; "lfs" does so for the
uploads of large files.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

USER = "user"
TOKEN = "hf_good0123456789"
LARGE = (".safetensors", ".model")


@dataclass
class Repo:
    """A model repository: its files at the last commit, and what each commit brought."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[set[str]] = field(default_factory=list)

    @property
    def sha(self) -> str:
        """Commit id, 40 hexadecimal digits."""
        state = f"{len(self.commits)}{sorted((name, oid(name, content)) for name, content in self.files.items())}"
        return hashlib.sha1(state.encode()).hexdigest()


def oid(name: str, content: bytes) -> str:
    """What the Hub uses as ETag: git's blob id, or the sha256 of a large file."""
    if name.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubServer:
    """The server on a free port of 127.0.0.1, for as long as the `with` block lasts."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}  # uploaded large files by sha256
        self.cut: Counter[str] = Counter()  # how many of the next requests of a kind break off half-way
        self.seen: Counter[str] = Counter()  # requests by kind
        handler = type("BoundHandler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._resolve(*self._path())

    def do_GET(self) -> None:
        parts = self._path()
        if parts[:2] == ["api", "whoami-v2"]:
            if self._logged_in():
                self._json(200, {"name": USER, "type": "user", "orgs": []})
        elif parts[:2] == ["api", "models"] and len(parts) >= 4:
            self._model_api("/".join(parts[2:4]), parts[4:])
        elif len(parts) > 4 and parts[2] == "resolve":
            self._resolve(*parts)
        else:
            self._json(404, {"error": "Not found"})

    def do_POST(self) -> None:
        parts = self._path()
        if self._breaks("commit", "commit" in parts):
            return
        body = self._body()
        if parts == ["api", "validate-yaml"]:
            self._json(200, {"errors": [], "warnings": []})
        elif not self._logged_in():
            return
        elif parts == ["api", "repos", "create"]:
            self._create(json.loads(body))
        elif parts[:2] == ["api", "models"]:
            self._write("/".join(parts[2:4]), parts[4], body)
        elif parts[2:] == ["info", "lfs", "objects", "batch"]:
            self._lfs_batch("/".join(parts[:2]).removesuffix(".git"), json.loads(body))
        elif parts[0] == "lfs":
            asked = json.loads(body)
            known = len(self.hub.large.get(asked["oid"], b"")) == asked["size"]
            self._json(200 if known else 404, {})
        else:
            self._json(404, {"error": "Not found"})

    def do_PUT(self) -> None:
        if self._breaks("lfs", True):
            return
        content = self._body()
        expected = self._path()[1]
        if hashlib.sha256(content).hexdigest() == expected:
            self.hub.large[expected] = content
            self._json(200, {})
        else:
            self._json(400, {"error": "content and oid differ"})

    # ---- what is asked

    def _model_api(self, name: str, rest: list[str]) -> None:
        repo = self._readable(name)
        if repo is None:
            return
        revision = unquote(rest[1]) if len(rest) > 1 else "main"
        if revision not in ("main", repo.sha):
            self._json(404, {"error": f"Invalid rev id: {revision}"}, {"X-Error-Code": "RevisionNotFound"})
        elif rest[:1] == ["tree"]:
            under = "/".join(rest[2:])
            entries = [_entry(path, content) for path, content in sorted(repo.files.items()) if path.startswith(under)]
            self._json(200, entries) if entries or not under else self._no_entry(repo)
        elif rest[:1] in ([], ["revision"]):
            siblings = [{"rfilename": path} for path in sorted(repo.files)]
            info = {"id": name, "modelId": name, "sha": repo.sha, "private": repo.private, "siblings": siblings}
            self._json(200, info | {"tags": []})
        else:
            self._json(404, {"error": "Not found"})

    def _resolve(self, *parts: str) -> None:
        repo = self._readable("/".join(parts[:2]))
        if repo is None:
            return
        path = unquote("/".join(parts[4:]))
        if parts[3] not in ("main", repo.sha):
            self._json(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        elif path not in repo.files:
            self._no_entry(repo)
        else:
            content = repo.files[path]
            headers = {"ETag": f'"{oid(path, content)}"', "X-Repo-Commit": repo.sha}
            self._send(200, content, headers | {"Content-Type": "application/octet-stream"})

    def _create(self, asked: dict[str, Any]) -> None:
        owner = asked.get("organization") or USER
        name = f"{owner}/{asked['name']}"
        if owner != USER:
            message = f"You don't have the rights to create a model under the namespace {owner!r}"
            self._json(403, {"error": message}, {"X-Error-Message": message})
        elif name in self.hub.repos:
            self._json(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
        else:
            private = asked.get("visibility") == "private" or asked.get("private") is True  # before huggingface_hub 2
            self.hub.repos[name] = Repo(private=private)
            self._json(200, {"url": f"{self.hub.url}/{name}", "name": name, "id": name})

    def _write(self, name: str, action: str, body: bytes) -> None:
        repo = self._readable(name)
        if repo is None:
            return
        if not name.startswith(f"{USER}/"):
            self._json(403, {"error": "no write access"}, {"X-Error-Message": "no write access"})
        elif action == "preupload":
            modes = [self._upload_mode(repo, asked["path"]) for asked in json.loads(body)["files"]]
            self._json(200, {"files": modes})
        else:
            self._commit(name, repo, [json.loads(line) for line in body.splitlines()])

    def _upload_mode(self, repo: Repo, path: str) -> dict[str, Any]:
        known = oid(path, repo.files[path]) if path in repo.files else None
        mode = "lfs" if path.endswith(LARGE) else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": known}

    def _lfs_batch(self, name: str, asked: dict[str, Any]) -> None:
        if self._readable(name) is None:
            return
        objects = []
        for item in asked["objects"]:
            actions = {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}
            actions["verify"] = {"href": f"{self.hub.url}/lfs/{item['oid']}/verify"}
            known = item["oid"] in self.hub.large
            objects.append(item if known else item | {"actions": actions})
        self._json(200, {"transfer": "basic", "objects": objects})

    def _commit(self, name: str, repo: Repo, lines: list[dict[str, Any]]) -> None:
        new = {}
        for value in (line["value"] for line in lines if line["key"] != "header"):
            new[value["path"]] = self.hub.large[value["oid"]] if "oid" in value else base64.b64decode(value["content"])
        repo.files |= new
        repo.commits.append(set(new))
        self._json(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{repo.sha}", "commitOid": repo.sha})

    # ---- the connection

    def _path(self) -> list[str]:
        return urlsplit(self.path).path.strip("/").split("/")

    def _breaks(self, kind: str, applies: bool) -> bool:
        """Counts the request; closes the socket after a part of its body when it is to be cut."""
        if not applies:
            return False
        self.hub.seen[kind] += 1
        if self.hub.cut[kind] <= 0:
            return False
        self.hub.cut[kind] -= 1
        self.rfile.read(10)
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
        return True

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _logged_in(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        message = "Invalid credentials in Authorization header"
        self._json(401, {"error": message}, {"X-Error-Message": message})
        return False

    def _readable(self, name: str) -> Repo | None:
        """The repository, if this request may see it; the Hub does not tell a hidden one from a missing one."""
        repo = self.hub.repos.get(name)
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repo is not None and (known or not repo.private):
            return repo
        status, message = (404, "Repository not found") if known else (401, "Invalid username or password.")
        self._json(status, {"error": message}, {"X-Error-Code": "RepoNotFound", "X-Error-Message": message})
        return None

    def _no_entry(self, repo: Repo) -> None:
        headers = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found", "X-Repo-Commit": repo.sha}
        self._json(404, {"error": "Entry not found"}, headers)

    def _json(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"} | (headers or {}))

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": oid("blob", content)}
    if path.endswith(LARGE):
        entry["lfs"] = {"oid": oid(path, content), "size": len(content), "pointerSize": 130}
    return entry
