"""A W&B server small enough to read: GraphQL and file_stream as wandb 0.31 speaks them, on loopback, with faults.

    with WandbServer() as server:
        environ = server.environment()           # WANDB_BASE_URL, WANDB_API_KEY
        ...
        server.runs["run-1"].history             # rows as uploaded, NaN as float
        server.fault = "unauthorized"            # see FAULTS

Faults hit everything, or only uploads of rows (file_stream) or of checkpoints: ``rows_...``, ``files_...``.
"""

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789abcdef0123456789abcdef01234567"
FAULTS = (
    "refuse", "hang", "error", "unauthorized", "forbidden", "too_many", "html",
    "rows_unauthorized", "rows_error", "rows_html", "rows_hang", "files_hang",
)  # fmt: skip


class StoredRun:
    """What the server has of one run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[int, str] = {}
        """History lines by their offset in the file, as file_stream addresses them."""
        self.summary: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.upserts: list[dict[str, Any]] = []
        self.complete = False

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(self.lines[offset]) for offset in sorted(self.lines)]


class WandbServer:
    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        self.requests: list[tuple[str, bytes]] = []
        """(path, body) of everything that came, for canaries."""
        self.operations: list[str] = []
        self.uploaded_names: list[str] = []
        self.artifacts: list[dict[str, Any]] = []
        """What was said of each when it was created."""
        self.committed: list[str] = []
        self.fault: str | None = None
        self.refused = 0
        self._http: ThreadingHTTPServer | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def environment(self, key: str = KEY) -> dict[str, str]:
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": key}

    def __enter__(self) -> "WandbServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.fault = None
        self.stop()

    def start(self) -> None:
        """On the same port again after ``stop``: an outage that ends."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server._answer(self)

            def do_GET(self) -> None:
                server._answer(self)

            def do_PUT(self) -> None:
                server._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *_: object) -> None:
                pass  # Clients that hang up are part of the tests.

        self._http = Server(("127.0.0.1", self._port), Handler)
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Connections are refused from now on."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        self.requests.append((handler.path, body))
        rows = "file_stream" in handler.path
        fault = self.fault
        kind = "rows" if rows else "files" if handler.path.startswith("/storage/checkpoint") else "graphql"
        if fault and {"rows", "files"} & {fault.partition("_")[0]} <= {kind}:
            self.refused += 1
            self._fail(handler, fault.removeprefix(f"{kind}_"))
            return
        if handler.path.startswith("/storage/"):  # A signed URL: it carries no key.
            _reply(handler, 200, {})
        elif not self._authorised(handler):
            _reply(handler, 401, {"error": "user is not logged in"})
        elif handler.path == "/graphql":
            _reply(handler, 200, self._graphql(json.loads(body)))
        elif rows:
            _reply(handler, 200, self._file_stream(handler.path, json.loads(body)))
        else:
            _reply(handler, 200, {})

    def _authorised(self, handler: BaseHTTPRequestHandler) -> bool:
        scheme, _, value = handler.headers.get("Authorization", "").partition(" ")
        return scheme == "Basic" and base64.b64decode(value).decode().partition(":")[2] == KEY

    def _fail(self, handler: BaseHTTPRequestHandler, fault: str) -> None:
        if fault == "hang":
            deadline = time.monotonic() + 600
            while self.fault and time.monotonic() < deadline:
                time.sleep(0.05)
            handler.close_connection = True
        elif fault == "refuse":
            handler.close_connection = True
        elif fault == "html":
            _reply_bytes(handler, 200, b"<html>Welcome to the hotel network</html>", "text/html")
        elif fault == "too_many":
            _reply(handler, 429, {"error": "rate limit"}, {"Retry-After": "1"})
        else:
            _reply(handler, {"unauthorized": 401, "forbidden": 403}.get(fault, 500), {"error": fault})

    def _graphql(self, request: dict[str, Any]) -> dict[str, Any]:
        query, variables = request.get("query", ""), request.get("variables") or {}
        operation = request.get("operationName") or query.split("(")[0].split()[-1]
        self.operations.append(operation)
        answer = getattr(self, f"_on_{operation}", None)
        return {"data": answer(variables) if answer else {}}

    def _on_RunResumeStatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(variables["name"])
        if run is None:
            return _model(variables, None)
        history = run.history
        tail = history[-1] if history else {}
        bucket = {
            "id": "b", "name": run.name, "summaryMetrics": json.dumps(run.summary), "displayName": run.name,
            "logLineCount": 0, "historyLineCount": len(history), "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(tail)] if tail else []), "eventsTail": "[]",
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "tags": [], "wandbConfig": json.dumps({"t": 1}),
        }  # fmt: skip
        return _model(variables, bucket)

    def _on_UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables.get("name") or variables.get("id")
        inserted = name not in self.runs
        run = self.runs.setdefault(name, StoredRun(name))
        run.upserts.append(variables)
        if variables.get("config"):
            config = json.loads(variables["config"])
            run.config.update({key: value.get("value") for key, value in config.items() if key != "_wandb"})
        project = variables.get("project") or "uncategorized"
        bucket = {
            "id": f"id-{name}", "name": name, "displayName": variables.get("displayName") or name, "description": None,
            "config": variables.get("config") or "{}", "sweepName": None, "historyLineCount": len(run.lines),
            "project": {"id": "p", "name": project, "entity": {"id": "e", "name": variables.get("entity") or "team"}},
        }  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _on_CreateRunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.uploaded_names += variables["files"]
        files = [{"name": name, "uploadUrl": f"{self.url}/storage/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": f"id-{variables['run']}", "uploadHeaders": [], "files": files}}

    def _on_ServerFeaturesQuery(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    # --- artifacts: created, their files and manifest put under signed addresses, committed

    def _on_ArtifactType(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def _on_CreateArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        given = variables["input"]
        self.artifacts.append(given)
        sequence = {"latestArtifact": None}
        created = {"id": f"artifact-{len(self.artifacts)}", "state": "PENDING", "artifactSequence": sequence}
        return {"createArtifact": {"artifact": created}}

    def _on_CreateArtifactManifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"createArtifactManifest": {"artifactManifest": self._manifest()}}

    def _on_UpdateArtifactManifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"updateArtifactManifest": {"artifactManifest": self._manifest()}}

    def _manifest(self) -> dict[str, Any]:
        file = {"id": "f", "name": "m", "uploadUrl": f"{self.url}/storage/wandb_manifest.json", "uploadHeaders": []}
        return {"id": "manifest", "file": file}

    def _on_CreateArtifactFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        files = variables["artifactFiles"] if "artifactFiles" in variables else variables["input"]["artifactFiles"]
        nodes = [
            {
                "id": "f", "name": file["name"], "displayName": file["name"], "uploadHeaders": [],
                "uploadUrl": f"{self.url}/storage/{file['name']}", "storagePath": f"path/{file['name']}",
                "uploadMultipartUrls": None, "artifact": {"id": file["artifactID"]},
            }
            for file in files
        ]  # fmt: skip
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def _on_ArtifactByID(self, variables: dict[str, Any]) -> dict[str, Any]:
        given = self.artifacts[int(variables["id"].rpartition("-")[2]) - 1]
        project = {"id": "p", "internalId": "1", "name": given["projectName"], "entity": {"name": given["entityName"]}}
        sequence = {"__typename": "ArtifactSequence", "name": given["artifactCollectionName"], "project": project}
        return {"artifact": {
            "__typename": "Artifact", "id": variables["id"], "artifactSequence": sequence, "versionIndex": 0,
            "artifactType": {"name": given["artifactTypeName"]}, "description": None, "metadata": given["metadata"],
            "ttlDurationSeconds": -2, "ttlIsInherited": False, "tags": [], "historyStep": 0, "state": "COMMITTED",
            "size": 0, "digest": given["digest"], "commitHash": "", "fileCount": 1, "updatedAt": None, "aliases": [],
            "createdAt": "2026-11-21T00:00:00",
        }}  # fmt: skip

    def _on_CommitArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.committed.append(variables["artifactID"])
        return {"commitArtifact": {"artifact": {"id": variables["artifactID"], "digest": ""}}}

    def _on_RunStoppedStatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"run": {"stopped": False}}}

    def _on_Viewer(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "u", "entity": "team", "username": "tester", "flags": "{}", "teams": {"edges": []}}}

    def _file_stream(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.setdefault(path.split("/")[-2], StoredRun(path.split("/")[-2]))
        files = body.get("files") or {}
        if chunk := files.get("wandb-history.jsonl"):
            for index, line in enumerate(chunk["content"]):
                run.lines[chunk["offset"] + index] = line
        if chunk := files.get("wandb-summary.json"):
            run.summary = json.loads(chunk["content"][-1])
        run.complete = bool(body.get("complete")) or run.complete
        return {"limits": {}}


def _model(variables: dict[str, Any], bucket: dict[str, Any] | None) -> dict[str, Any]:
    return {"model": {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": "team"}, "bucket": bucket}}


def _reply(handler: BaseHTTPRequestHandler, code: int, answer: object, headers: dict[str, str] | None = None) -> None:
    _reply_bytes(handler, code, json.dumps(answer).encode(), "application/json", headers)


def _reply_bytes(
    handler: BaseHTTPRequestHandler, code: int, content: bytes, kind: str, headers: dict[str, str] | None = None
) -> None:
    handler.send_response(code)
    for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content)
