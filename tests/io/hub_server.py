"""A server on loopback that speaks the hub's protocol, as far as huggingface_hub needs it."""

import base64
import hashlib
import json
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit


class Hub:
    """Repositories with their commits, and the requests that have come.

    Attributes
    ----------
    commits : dict of str to dict
        Of "owner/name" what each commit holds: {commit: {name: bytes}}.
    branches : dict of str to dict
        Of "owner/name" the commit of each branch.
    requests : list of (method, path)
    tokens : dict of str to str
        Of private repositories.
    """

    def __init__(self):
        self.commits, self.branches, self.requests, self.tokens = {}, {}, [], {}

    def commit(self, repo_id, files, branch="main"):
        """Add a commit with these files {name: bytes}; its id."""
        text = repr((repo_id, sorted(files), len(self.commits.get(repo_id, ())), branch))
        found = hashlib.sha1(text.encode()).hexdigest()
        self.commits.setdefault(repo_id, {})[found] = dict(files)
        self.branches.setdefault(repo_id, {})[branch] = found
        return found

    def resolve(self, repo_id, revision):
        """The commit of a revision, or None."""
        found = self.branches[repo_id].get(revision, revision)
        return found if found in self.commits[repo_id] else None

    def fetched(self):
        """Names of the files whose bytes were asked for."""
        return [path.split("/", 5)[-1] for method, path in self.requests if _is_get(method, path)]


def _is_get(method, path):
    return method == "GET" and "/resolve/" in path


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", headers=(), *, code=None):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        self.send_response(status)
        if code is not None:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        hub.requests.append((self.command, path))
        info = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not (info or file):
            return self.answer(404, {"error": path})
        repo_id, revision = (info or file)[1], (info or file)[2] or "main"
        token = hub.tokens.get(repo_id)
        allowed = token is None or self.headers.get("Authorization") == f"Bearer {token}"
        if repo_id not in hub.commits or not allowed:
            return self.answer(401, code="RepoNotFound")
        commit = hub.resolve(repo_id, revision)
        if commit is None:
            return self.answer(404, code="RevisionNotFound")
        files = hub.commits[repo_id][commit]
        if info:
            siblings = [{"rfilename": name} for name in files]
            return self.answer(200, {"id": repo_id, "sha": commit, "siblings": siblings})
        if file[3] not in files:
            return self.answer(404, code="EntryNotFound", headers=[("X-Repo-Commit", commit)])
        etag = hashlib.sha1(files[file[3]]).hexdigest()
        headers = [("ETag", f'"{etag}"'), ("X-Repo-Commit", commit)]
        return self.answer(200, files[file[3]], headers)

    do_HEAD = do_GET

    def do_POST(self):
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        hub.requests.append((self.command, path))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            given = json.loads(body)
            repo_id = f"{given['organization']}/{given['name']}"
            answer = {"url": f"{self.server.address}/{repo_id}"}
            if repo_id in hub.commits:
                return self.answer(409, {"error": "exists", **answer})
            hub.commit(repo_id, {})
            return self.answer(200, answer)
        asked = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(\w+)/(.+)", path)
        repo_id, what, branch = asked.groups()
        if what == "branch":
            if branch in hub.branches[repo_id]:
                return self.answer(409, {"error": "exists"})
            hub.branches[repo_id][branch] = hub.branches[repo_id]["main"]
            return self.answer(200, {})
        if what == "preupload":
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                for each in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        lines = [json.loads(line) for line in body.splitlines()]
        files = dict(hub.commits[repo_id][hub.branches[repo_id][branch]])
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        commit = hub.commit(repo_id, files, branch)
        url = f"{self.server.address}/{repo_id}/commit/{commit}"
        return self.answer(200, {"success": True, "commitOid": commit, "commitUrl": url})


@contextmanager
def serving(hub):
    """Serve a hub; its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub, server.address = hub, f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.address
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
