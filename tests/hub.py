"""A Hugging Face Hub on this machine, for tests of uploads: the part of its API that huggingface_hub speaks to it."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from typing import Any

import yaml
from hosting import Host, hosting

TOKENS = {"hf_owner": "owner", "hf_reader": None}  # by token: the namespace that it may write to
LICENCES = ("apache-2.0", "mit", "other")


@dataclass
class Repository:
    """A model's: the files of each commit, the branches, and which files came by LFS."""

    private: bool = False
    branches: dict[str, str] = field(default_factory=lambda: {"main": sha1(b"").hexdigest()})
    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {sha1(b"").hexdigest(): {}})
    in_lfs: set[str] = field(default_factory=set)

    @property
    def files(self) -> dict[str, bytes]:
        """Of the main branch."""
        return self.commits[self.branches["main"]]


class Hub:
    """Answers what is sent; what it has got is served by the host."""

    def __init__(self, host: Host) -> None:
        self.host, self.repositories = host, dict[str, Repository]()
        self.objects: dict[str, bytes] = {}
        host.receive = self.receive

    @property
    def environment(self) -> dict[str, str]:
        """What makes huggingface_hub use it, with the token of its owner."""
        return {
            "HF_ENDPOINT": self.host.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "hf_owner",
        }

    def receive(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, Any]:
        """Status and answer."""
        if method == "PUT":  # as to the storage behind it: the address is all that is needed
            self.objects[path.rpartition("/")[2]] = body
            return 200, {}
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body)["content"])
        if (token := headers.get("Authorization", "").removeprefix("Bearer ")) not in TOKENS:
            return 401, {"error": "Invalid username or password."}
        if path == "/api/repos/create":
            return self._create(json.loads(body), TOKENS[token])
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {"objects": [self._action(one) for one in json.loads(body)["objects"]]}
        if path == "/verify":
            told = json.loads(body)
            return (200 if len(self.objects[told["oid"]]) == told["size"] else 400), {}
        _, _, _, owner, name, what, branch = path.split("/")
        if TOKENS[token] != owner:
            return 403, {"error": "You don't have the rights to write to it."}
        repository = self.repositories[f"{owner}/{name}"]
        if what == "branch":
            repository.branches.setdefault(branch, repository.branches["main"])
            self.serve(f"{owner}/{name}")
            return 201, {}
        if what == "preupload":
            return 200, {"files": [self._mode(one) for one in json.loads(body)["files"]]}
        return self._commit(f"{owner}/{name}", branch, [json.loads(line) for line in body.splitlines()])

    def _create(self, asked: dict[str, Any], namespace: str | None) -> tuple[int, Any]:
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != namespace:
            return 403, {"error": f"You don't have the rights to create a model under the namespace {namespace}."}
        if name in self.repositories:
            return 409, {"error": "You already created this model repo", "url": f"{self.host.url}/{name}"}
        self.repositories[name] = Repository(asked.get("visibility") == "private" or asked.get("private", False))
        self.serve(name)
        return 200, {"url": f"{self.host.url}/{name}"}

    def _validate(self, card: str) -> tuple[int, Any]:
        told = yaml.safe_load(card.split("---\n")[1])
        if told.get("license", "mit") not in LICENCES:
            return 400, {"errors": [{"message": f'"license" must be one of {LICENCES}'}], "warnings": []}
        if "base_model" in told and told["base_model"].count("/") != 1:
            return 400, {"errors": [{"message": '"base_model" is no model'}], "warnings": []}
        return 200, {"errors": [], "warnings": []}

    def _mode(self, told: dict[str, Any]) -> dict[str, Any]:
        """By size and, as .gitattributes of a new repository has it, by name."""
        large = told["size"] > 10_000_000 or told["path"].endswith(".safetensors")
        return {"path": told["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": None}

    def _action(self, told: dict[str, Any]) -> dict[str, Any]:
        if told["oid"] in self.objects:
            return told
        url = self.host.url
        return {**told, "actions": {"upload": {"href": f"{url}/s3/{told['oid']}"}, "verify": {"href": f"{url}/verify"}}}

    def _commit(self, name: str, branch: str, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        repository = self.repositories[name]
        if branch not in repository.branches:
            return 404, {"error": f"Invalid rev id: {branch}"}
        files = dict(repository.commits[repository.branches[branch]])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "lfsFile":
                repository.in_lfs.add(value["path"])
                files[value["path"]] = self.objects[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        commit = sha1(repr(sorted(files.items())).encode()).hexdigest()
        repository.commits[commit] = files
        repository.branches[branch] = commit
        self.serve(name)
        return 200, {"commitUrl": f"{self.host.url}/{name}/commit/{commit}", "commitOid": commit}

    def serve(self, name: str) -> None:
        """Has the host serve a repository as it is."""
        repository = self.repositories[name]
        for reference, commit in {**repository.branches, **{one: one for one in repository.commits}}.items():
            files = repository.commits[commit]
            about = {"id": name, "sha": commit, "private": repository.private, "gated": False, "tags": []}
            about["siblings"] = [{"rfilename": file} for file in files]
            self.host.files[f"/api/models/{name}/revision/{reference}"] = json.dumps(about).encode()
            if reference == "main":
                self.host.files[f"/api/models/{name}"] = json.dumps(about).encode()
            tree = [self._entry(repository, file, content) for file, content in files.items()]
            self.host.files[f"/api/models/{name}/tree/{reference}"] = json.dumps(tree).encode()
            for file, content in files.items():
                path = f"/{name}/resolve/{reference}/{file}"
                self.host.files[path] = content
                self.host.headers_of[path] = {"X-Repo-Commit": commit}

    def _entry(self, repository: Repository, file: str, content: bytes) -> dict[str, Any]:
        entry = {"type": "file", "path": file, "size": len(content), "oid": sha1(content).hexdigest()}
        if file in repository.in_lfs:
            entry["lfs"] = {"oid": sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return entry


@contextmanager
def hub() -> Iterator[Hub]:
    """A Hub while it runs."""
    with hosting() as host:
        yield Hub(host)
