"""A small stand-in for the Hugging Face Hub on 127.0.0.1: real HTTP, spoken to by the real client.

It keeps repositories in memory, follows the Hub's API as far as the client uses it for models (LFS, not Xet),
keeps a record of every request, and fails on request.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

TOKEN = "hf_standinStandinStandinStandin0000"
LFS_SUFFIXES = (".onnx", ".safetensors", ".data")


@dataclass
class Repository:
    """Commits by their number, each with all its files, and what names point at them."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pull_requests: int = 0

    def add(self, files: dict[str, bytes], branch: str) -> str:
        parent = self.refs.get(branch) or self.refs.get("main")
        content = {**self.commits.get(parent or "", {}), **files}
        digest = hashlib.sha1(f"{len(self.commits)}".encode(), usedforsecurity=False)
        for name in sorted(content):
            digest.update(name.encode() + content[name])
        commit = digest.hexdigest()
        self.commits[commit] = content
        self.refs[branch] = commit
        return commit

    def find(self, revision: str) -> str | None:
        known = {**self.refs, **self.tags, **{commit: commit for commit in self.commits}}
        return known.get(revision)


@dataclass
class Fault:
    """What goes wrong with the next requests that fit."""

    method: str
    path: str
    times: int
    act: Callable[[Handler], bool]


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    token: str | None
    range: str | None = None


class StandIn(ThreadingHTTPServer):
    """The server; use it in a with statement."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.bytes_sent = 0
        self.lock = threading.RLock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def storage_url(self) -> str:
        """Another host name, as the storage of the Hub has."""
        return f"http://localhost:{self.server_port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()

    def handle_error(self, *_: Any) -> None:
        """Clients may leave whenever they like."""

    def put(
        self, repo_id: str, files: dict[str, bytes], *, private: bool = False, branch: str = "main"
    ) -> str:
        """Commit files from behind, and return the commit."""
        with self.lock:
            repository = self.repositories.setdefault(repo_id, Repository(private=private))
            return repository.add(files, branch)

    def commit_of(self, repo_id: str, revision: str = "main") -> str:
        """Return the commit that a branch or a tag points at."""
        commit = self.repositories[repo_id].find(revision)
        assert commit is not None
        return commit

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        repository = self.repositories[repo_id]
        return repository.commits[repository.find(revision) or ""]

    def fail(
        self, act: Callable[[Handler], bool], *, path: str = "", method: str = "", times: int = 10_000
    ) -> None:
        """Let the next requests fail whose method is this one and whose path holds ``path``."""
        self.faults.append(Fault(method, path, times, act))

    def asked(self, *, method: str = "", path: str = "") -> list[Request]:
        return [one for one in self.requests if method in one.method and path in one.path]


def status(code: int, **headers: str) -> Callable[[Handler], bool]:
    """Answer with an error."""

    def act(handler: Handler) -> bool:
        handler.answer(
            code, {"error": f"stand-in says {code}"}, {k.replace("_", "-"): v for k, v in headers.items()}
        )
        return True

    return act


def cut_after(count: int) -> Callable[[Handler], bool]:
    """Promise a whole file, send some bytes of it and hang up."""

    def act(handler: Handler) -> bool:
        handler.cut = count
        return False

    return act


def hang_up(handler: Handler) -> bool:
    """Close the connection without an answer."""
    handler.close_connection = True
    return True


def damaged(handler: Handler) -> bool:
    """Send as many bytes as there are, one of them another."""
    handler.spoil = lambda data: data[:-1] + bytes([data[-1] ^ 1])
    return False


def shortened(handler: Handler) -> bool:
    """Send a file that ends too early, and say so."""
    handler.spoil = lambda data: data[: len(data) // 2]
    return False


def slow(seconds: float) -> Callable[[Handler], bool]:
    def act(_: Handler) -> bool:
        time.sleep(seconds)
        return False

    return act


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits for the client's delayed acknowledgement
    server: StandIn
    cut: int | None = None
    spoil: Callable[[bytes], bytes] | None = None

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def answer(self, code: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self._send(data)

    def _send(self, data: bytes) -> None:
        if self.cut is not None:
            data, self.close_connection = data[: self.cut], True
        self.wfile.write(data)
        self.wfile.flush()
        with self.server.lock:
            self.server.bytes_sent += len(data)

    def _serve(self) -> None:
        self.cut = self.spoil = None
        length = int(self.headers.get("Content-Length") or 0)
        if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
            self.body = b"".join(iter(self._chunk, b""))
        else:
            self.body = self.rfile.read(length)
        authorization = self.headers.get("Authorization")
        self.token = authorization.removeprefix("Bearer ") if authorization else None
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        path = unquote(parts.path)
        with self.server.lock:
            self.server.requests.append(Request(self.command, path, self.token, self.headers.get("Range")))
            fault = next(
                (
                    one
                    for one in self.server.faults
                    if one.times > 0 and one.method in self.command and one.path in path
                ),
                None,
            )
            if fault is not None:
                fault.times -= 1
        if fault is not None and fault.act(self):
            return
        for pattern, method in ROUTES:
            match = re.fullmatch(pattern, f"{self.command} {path}")
            if match:
                getattr(self, method)(**match.groupdict())
                return
        self.answer(404, {"error": f"the stand-in has no {self.command} {path}"})

    def _chunk(self) -> bytes:
        size = int(self.rfile.readline().strip(), 16)
        data = self.rfile.read(size)
        self.rfile.readline()
        return data

    def _repository(self, repo: str, *, is_writing: bool = False) -> Repository | None:
        """Find a repository that this token may see, or answer as the Hub does."""
        repository = self.server.repositories.get(repo)
        if is_writing and self.token != TOKEN:
            self.answer(401, {"error": "Invalid username or password."})
            return None
        if repository is None or (repository.private and self.token != TOKEN):
            code = 404 if self.token == TOKEN else 401
            self.answer(code, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        return repository

    def who(self) -> None:
        if self.token != TOKEN:
            self.answer(401, {"error": "Invalid credentials in Authorization header"})
            return
        self.answer(200, {"type": "user", "name": "org", "orgs": []})

    def create(self) -> None:
        if self.token != TOKEN:
            self.answer(401, {"error": "Invalid username or password."})
            return
        wanted = json.loads(self.body)
        repo = f"{wanted['organization']}/{wanted['name']}"
        with self.server.lock:
            if repo in self.server.repositories:
                self.answer(409, {"error": "You already created this model repo"})
                return
            is_private = wanted.get("private") or wanted.get("visibility") == "private"
            self.server.repositories[repo] = Repository(private=bool(is_private))
            self.server.put(repo, {".gitattributes": b"*.onnx filter=lfs\n"})
        self.answer(200, {"url": f"{self.server.url}/{repo}", "name": repo})

    def info(self, repo: str, revision: str = "main") -> None:
        repository = self._repository(repo)
        if repository is None:
            return
        commit = repository.find(revision)
        if commit is None:
            self.answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
            return
        files = [{"rfilename": name} for name in repository.commits[commit]]
        self.answer(
            200,
            {"id": repo, "modelId": repo, "sha": commit, "private": repository.private, "siblings": files},
        )

    def tree(self, repo: str, revision: str) -> None:
        repository = self._repository(repo)
        if repository is None:
            return
        content = repository.commits[repository.find(revision) or ""]
        files = [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha256(data).hexdigest()[:40]}
            for name, data in content.items()
        ]
        self.answer(200, files)

    def references(self, repo: str) -> None:
        repository = self._repository(repo)
        if repository is None:
            return

        def listed(names: dict[str, str], kind: str) -> list[dict[str, str]]:
            return [
                {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit}
                for name, commit in names.items()
            ]

        self.answer(
            200,
            {
                "branches": listed(repository.refs, "heads"),
                "tags": listed(repository.tags, "tags"),
                "converts": [],
            },
        )

    def branch(self, repo: str, name: str) -> None:
        repository = self._repository(repo, is_writing=True)
        if repository is None:
            return
        if name in repository.refs:
            self.answer(409, {"error": "Reference already exists"})
            return
        repository.refs[name] = repository.refs["main"]
        self.answer(201, {})

    def tag(self, repo: str, revision: str) -> None:
        repository = self._repository(repo, is_writing=True)
        if repository is None:
            return
        repository.tags[json.loads(self.body)["tag"]] = repository.find(revision) or ""
        self.answer(200, {})

    def validate(self) -> None:
        self.answer(200, {"errors": [], "warnings": []})

    def preupload(self, repo: str, revision: str) -> None:
        if self._repository(repo, is_writing=True) is None:
            return
        files = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["path"].endswith(LFS_SUFFIXES) else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for one in json.loads(self.body)["files"]
        ]
        self.answer(200, {"files": files, "revision": revision})

    def batch(self, repo: str) -> None:
        if self._repository(repo, is_writing=True) is None:
            return
        objects = []
        for one in json.loads(self.body)["objects"]:
            upload = {"href": f"{self.server.url}/storage/{one['oid']}"}
            verify = {"href": f"{self.server.url}/verify"}
            actions = (
                {} if one["oid"] in self.server.objects else {"actions": {"upload": upload, "verify": verify}}
            )
            objects.append({"oid": one["oid"], "size": one["size"], **actions})
        self.answer(200, {"transfer": "basic", "objects": objects})

    def store(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            self.answer(400, {"error": "checksum"})
            return
        with self.server.lock:
            self.server.objects[oid] = self.body
        self.answer(200, {})

    def verify(self) -> None:
        wanted = json.loads(self.body)
        is_here = len(self.server.objects.get(wanted["oid"], b"")) == wanted["size"]
        self.answer(200 if is_here else 404, {})

    def commit(self, repo: str, revision: str) -> None:
        repository = self._repository(repo, is_writing=True)
        if repository is None:
            return
        files: dict[str, bytes] = {}
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
        with self.server.lock:
            is_request = "create_pr" in self.query
            if is_request:
                repository.pull_requests += 1
                revision = f"refs/pr/{repository.pull_requests}"
            made = repository.add(files, revision)
        url = f"{self.server.url}/{repo}"
        self.answer(
            200,
            {
                "commitUrl": f"{url}/commit/{made}",
                "commitOid": made,
                "pullRequestUrl": f"{url}/discussions/{repository.pull_requests}" if is_request else None,
            },
        )

    def resolve(self, repo: str, rest: str) -> None:
        repository = self._repository(repo)
        if repository is None:
            return
        names = sorted((*repository.refs, *repository.tags, *repository.commits), key=len, reverse=True)
        revision = next((name for name in names if rest.startswith(f"{name}/")), None)
        if revision is None:
            self.answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
            return
        commit = repository.find(revision) or ""
        name = rest.removeprefix(f"{revision}/")
        data = repository.commits[commit].get(name)
        if data is None:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
            self.answer(404, {"error": "Entry not found"}, headers)
            return
        digest = hashlib.sha256(data).hexdigest()
        if name.endswith(LFS_SUFFIXES):
            self.server.objects.setdefault(digest, data)
            headers = {
                "Location": f"{self.server.storage_url}/storage/{digest}",
                "X-Repo-Commit": commit,
                "X-Linked-Etag": f'"{digest}"',
                "X-Linked-Size": str(len(data)),
            }
            self.answer(302, b"", headers)
            return
        self._file(data, {"X-Repo-Commit": commit, "ETag": f'"{digest[:40]}"'})

    def storage(self, oid: str) -> None:
        self._file(self.server.objects[oid], {"ETag": f'"{oid}"'})

    def _file(self, data: bytes, headers: dict[str, str]) -> None:
        if self.spoil is not None:
            data = self.spoil(data)
        headers = {**headers, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if wanted:
            start = int(wanted.group(1))
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.answer(206, data[start:], headers)
            return
        self.answer(200, data, headers)


_REPO = r"(?P<repo>[^/ ]+/[^/ ]+)"
ROUTES = (
    (r"GET /api/whoami-v2", "who"),
    (r"POST /api/repos/create", "create"),
    (r"POST /api/validate-yaml", "validate"),
    (rf"GET /api/models/{_REPO}", "info"),
    (rf"GET /api/models/{_REPO}/revision/(?P<revision>.+)", "info"),
    (rf"GET /api/models/{_REPO}/tree/(?P<revision>.+)", "tree"),
    (rf"GET /api/models/{_REPO}/refs", "references"),
    (rf"POST /api/models/{_REPO}/branch/(?P<name>.+)", "branch"),
    (rf"POST /api/models/{_REPO}/tag/(?P<revision>.+)", "tag"),
    (rf"POST /api/models/{_REPO}/preupload/(?P<revision>.+)", "preupload"),
    (rf"POST /api/models/{_REPO}/commit/(?P<revision>.+)", "commit"),
    (rf"POST /{_REPO}\.git/info/lfs/objects/batch", "batch"),
    (r"POST /verify", "verify"),
    (r"PUT /storage/(?P<oid>\w+)", "store"),
    (r"(GET|HEAD) /storage/(?P<oid>\w+)", "storage"),
    (rf"(GET|HEAD) /{_REPO}/resolve/(?P<rest>.+)", "resolve"),
)
