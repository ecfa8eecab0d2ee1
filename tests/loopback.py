"""A stand-in for W&B's server on the loopback: as much of it as a run and its files ask."""

import gzip
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "someone"


class Server(ThreadingHTTPServer):
    """What was sent: `runs` by name, `files` by path, `views` by id, `artifacts` by id and which are
    `committed`, which of them a run has `used`, and operations that are
    `unknown`, which were refused.

    `sweeps` have a `config` and, in `todo`, names and arguments of runs; agents have `taken` some, by `commands`.
    A view that is sent without an id is a new one; a project is there once it was made or has a run.

    `trouble` is how it fails, None if it does not: the status that it answers everything with, "dead" (it hangs up) or
    "mute" (it never answers; it hangs up when that changes).
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.RLock()
        self.runs: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.projects: set[str] = set()
        self.unknown: set[str] = set()
        self.committed: set[str] = set()
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.sweeps: dict[str, dict[str, Any]] = {}
        self.taken: dict[str, tuple[str, dict[str, Any]]] = {}
        self.commands: list[str] = []
        self.trouble: int | str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": "k" * 40, "WANDB_ENTITY": ENTITY}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client resets its idle connections when it ends."""

    def run(self, name: str) -> dict[str, Any]:
        return self.runs.setdefault(name, {"config": {}, "summary": {}, "history": [], "exit": None})

    def rows(self, name: str) -> list[dict[str, Any]]:
        """A run's history as W&B shows it: a row that is sent again, by its `_step`, takes the place of the first.

        Source: https://github.com/wandb/wandb/pull/12668, "the second overwrites the first".
        """
        return list({row["_step"]: row for row in self.runs[name]["history"]}.values())


class Handler(BaseHTTPRequestHandler):
    """GraphQL, the stream of a run's history, and uploads."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_PUT(self) -> None:
        body = self._body()
        if self._well():
            self.server.files[self.path] = body
            self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        if not self._well():
            return
        with self.server.lock:
            if self.path == "/graphql":
                self._answer(self._graphql(json.loads(body)))
            elif self.path.endswith("/file_stream"):
                self._stream(self.server.run(self.path.split("/")[-2]), json.loads(body))
                self._answer({"exitcode": None, "limits": {}})
            else:
                self._answer({})

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _well(self) -> bool:
        """Whether a request is to be answered; else what the trouble says has happened to it."""
        trouble = self.server.trouble
        while self.server.trouble == "mute":
            time.sleep(0.05)
        self.close_connection |= isinstance(trouble, str)
        if isinstance(trouble, int):
            self._answer({"errors": [{"message": "no"}]}, trouble)
        return trouble is None

    def _answer(self, value: Any, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, run: dict[str, Any], sent: dict[str, Any]) -> None:
        for name, chunk in (sent.get("files") or {}).items():
            rows = [json.loads(line) for line in chunk["content"]] if name.startswith("wandb-") else []
            if name == "wandb-history.jsonl":
                run["history"][chunk["offset"] : chunk["offset"] + len(rows)] = rows
            elif name == "wandb-summary.json":
                run["summary"] = rows[-1]
        run["preempting"] = run.get("preempting") or sent.get("preempting")
        if sent.get("complete"):
            run["exit"] = sent.get("exitcode")

    def _graphql(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request.get("operationName") or request["query"].split("(")[0].split("{")[0].split()[-1]
        answer = getattr(self, f"_{name}", None)
        if answer is None:
            self.server.unknown.add(name)
            return {"data": None, "errors": [{"message": f"no {name} here"}]}
        return {"data": answer(request.get("variables") or {})}

    def _Viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        return {"viewer": {"id": "v", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": teams}}

    def _ServerFeaturesQuery(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _OrganizationCoreWeaveOrganizationID(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"organization": None}}

    def _RunResumeStatus(self, asked: dict[str, Any]) -> dict[str, Any]:
        run, bucket = self.server.runs.get(asked["name"]), None
        if run is not None:
            last = [json.dumps(row) for row in run["history"][-1:]]
            bucket = {
                "id": asked["name"],
                "name": asked["name"],
                "summaryMetrics": json.dumps(run["summary"]),
                "historyLineCount": len(run["history"]),
                "eventsLineCount": 0,
                "logLineCount": 0,
                "historyTail": json.dumps(last),
                "eventsTail": "[]",
                "config": json.dumps(run["config"]),
                "tags": [],
                "wandbConfig": '{"t": 1}',
            }
        entity = {"id": "e", "name": ENTITY}
        return {"model": {"id": "p", "name": asked.get("project"), "entity": entity, "bucket": bucket}}

    def _UpsertBucket(self, asked: dict[str, Any]) -> dict[str, Any]:
        new = asked["name"] not in self.server.runs
        run = self.server.run(asked["name"])
        run["config"] |= json.loads(asked.get("config") or "{}")
        run |= {k: asked[k] for k in ("displayName", "groupName", "jobType", "project") if asked.get(k)}
        project = {"id": "p", "name": run.get("project"), "entity": {"id": "e", "name": ENTITY}}
        bucket = {
            "id": asked["name"],
            "name": asked["name"],
            "displayName": run.get("displayName"),
            "config": json.dumps(run["config"]),
            "sweepName": None,
            "historyLineCount": len(run["history"]),
            "project": project,
        }
        return {"upsertBucket": {"inserted": new, "bucket": bucket}}

    def _FetchArtifactDigestAlgorithm(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"project": None}

    def _XXHashDigestsEnabled(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"xxhashDigestsEnabled": False}}

    def _CreateArtifact(self, asked: dict[str, Any]) -> dict[str, Any]:
        given = asked["input"]
        digest = given["digest"]
        name = f"a{digest}"
        known = self.server.artifacts.setdefault(
            name,
            {"name": given["artifactCollectionName"], "type": given["artifactTypeName"], "made_by": None},
        )
        known["made_by"] = known["made_by"] or given["runName"]
        aliases = {alias["alias"] for alias in given.get("aliases") or []}
        known |= {"aliases": known.get("aliases", set()) | aliases, "metadata": given.get("metadata")}
        state = "COMMITTED" if name in self.server.committed else "PENDING"
        artifact = {
            "id": name,
            "state": state,
            "digest": digest,
            "artifactSequence": {"id": "s", "latestArtifact": None},
        }
        return {"createArtifact": {"artifact": artifact}}

    def _CreateArtifactManifest(self, asked: dict[str, Any]) -> dict[str, Any]:
        url = f"{self.server.url}/artifacts/{asked['artifactID']}/{asked['name']}"
        file = {"id": "f", "uploadUrl": url, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": f"m{asked['artifactID']}", "file": file}}}

    def _UpdateArtifactManifest(self, asked: dict[str, Any]) -> dict[str, Any]:
        url = f"{self.server.url}/artifacts/{asked['artifactManifestID'][1:]}/manifest.json"
        file = {"id": "f", "uploadUrl": url, "uploadHeaders": []}
        return {"updateArtifactManifest": {"artifactManifest": {"id": asked["artifactManifestID"], "file": file}}}

    def _CreateArtifactFiles(self, asked: dict[str, Any]) -> dict[str, Any]:
        nodes = [
            {
                "storagePath": file["name"],
                "uploadUrl": f"{self.server.url}/artifacts/{file['artifactID']}/{file['name']}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": file["artifactID"]},
            }
            for file in asked["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def _CommitArtifact(self, asked: dict[str, Any]) -> dict[str, Any]:
        artifact = asked["artifactID"]
        self.server.committed.add(artifact)
        return {"commitArtifact": {"artifact": {"id": artifact, "digest": artifact[1:]}}}

    def _ArtifactType(self, asked: dict[str, Any]) -> dict[str, Any]:
        types = [known["type"] for known in self.server.artifacts.values() if known["name"] == asked["name"]]
        return {"project": {"artifact": {"artifactType": {"name": types[0]}} if types else None}}

    def _UseArtifact(self, asked: dict[str, Any]) -> dict[str, Any]:
        given = asked.get("input") or asked
        self.server.run(given["runName"]).setdefault("used", set()).add(given["artifactID"])
        return {"useArtifact": {"artifact": {"id": given["artifactID"]}}}

    def _CreateRunFiles(self, asked: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": f, "uploadUrl": f"{self.server.url}/{asked['run']}/{f}"} for f in asked["files"]]
        return {"createRunFiles": {"runID": asked["run"], "uploadHeaders": [], "files": files}}

    def _SweepWithRuns(self, asked: dict[str, Any]) -> dict[str, Any]:
        sweep = self.server.sweeps[asked["sweep"]]
        fields = ("description", "createdAt", "heartbeatAt", "updatedAt", "bestLoss", "controller", "scheduler")
        known = {"id": asked["sweep"], "name": asked["sweep"], "method": "grid", "state": "RUNNING"}
        known |= {"config": json.dumps(sweep["config"]), "earlyStopJobRunning": False, "runs": {"edges": []}}
        return {"project": {"sweep": dict.fromkeys(fields) | known}}

    def _CreateAgent(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"createAgent": {"agent": {"id": f"{asked['sweep']}/{time.monotonic_ns()}"}}}

    def _Heartbeat(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What an agent is to do. A run that it has no more, which said that it can be resumed, is the next.

        The five minutes that W&B waits for a sign of it are left out.

        Source: https://docs.wandb.ai/models/sweeps/resume-preemptible-sweeps-runs
        """
        agent, busy = asked["id"], json.loads(asked["runState"] or "{}")
        todo = self.server.sweeps[agent.partition("/")[0]]["todo"]
        for name in [name for name, (of, _) in self.server.taken.items() if of == agent and name not in busy]:
            _, args = self.server.taken.pop(name)
            run = self.server.run(name)
            if run["exit"] != 0 and run.pop("preempting", False):
                todo.insert(0, (name, args))
        commands = []
        if todo and not busy:
            name, args = todo.pop(0)
            kind = "resume" if name in self.server.runs else "run"
            self.server.taken[name] = (agent, args)
            given = {key: {"value": value} for key, value in args.items()}
            commands = [{"type": kind, "run_id": name, "program": None, "args": given}]
        elif not busy:
            commands = [{"type": "exit"}]
        self.server.commands += [command["type"] for command in commands]
        return {"agentHeartbeat": {"agent": {"id": agent}, "commands": json.dumps(commands)}}

    def _GetDefaultEntity(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "v", "entity": ENTITY}}

    def _GetProjects(self, _: dict[str, Any]) -> dict[str, Any]:
        names = self.server.projects | {run["project"] for run in self.server.runs.values() if "project" in run}
        kind, user = (
            {"__typename": "Project"},
            {"isBenchmark": False, "user": None, "createdAt": "2026-01-01T00:00:00Z"},
        )
        nodes = [{"node": kind | user | {"id": name, "name": name, "entityName": ENTITY}} for name in sorted(names)]
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"pageInfo": page, "edges": nodes}}

    def _CreateProject(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.server.projects.add(asked["input"]["name"])
        return {"result": {"project": None, "model": None, "inserted": True}}

    def _ProjectInternalId(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"id": asked["projectName"], "internalId": "1"}}

    def _ProjectViews(self, asked: dict[str, Any]) -> dict[str, Any]:
        kind, name = asked.get("viewType", "runs"), asked.get("viewName")
        views = [v for v in self.server.views.values() if v["type"] == kind and name in (None, v["name"])]
        found = [{"node": {"description": "", **view}, "cursor": view["id"]} for view in views]
        page = {"endCursor": None, "hasNextPage": False}
        return {"project": {"allViews": {"edges": found, "pageInfo": page}}}

    _View = _ProjectViews

    def _UpsertView2(self, asked: dict[str, Any]) -> dict[str, Any]:
        new = not asked.get("id")
        name = str(len(self.server.views)) if new else asked["id"]
        fields = {key: asked[key] for key in ("name", "displayName", "type", "spec")}
        self.server.views[name] = {"id": name, "project": {"name": asked["projectName"]}, **fields}
        return {"upsertView": {"view": self.server.views[name], "inserted": new}}

    _upsertView = _UpsertView2

    def _MarkRunFilesUploaded(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"markRunFilesUploaded": {"success": True}}


@contextmanager
def served() -> Iterator[Server]:
    """A server that answers while the block runs."""
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.trouble = "dead"  # lets go of whom it was mute to
            server.shutdown()
