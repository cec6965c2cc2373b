"""What tests call: chats, tasks, lmms-eval in this process, and models of lmms-eval that note what they are asked."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from hashlib import sha1, sha256
from pathlib import Path
from typing import Any, ClassVar

import pytest
from accelerate.utils import is_deepspeed_available
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models import MODEL_REGISTRY_V2
from lmms_eval.models.registry_v2 import ModelManifest
from lmms_eval.utils import Collator


def chat(text: str, *images: object) -> list[dict]:
    """One user turn: images, then text."""
    content: list[dict] = [{"type": "image", "url": image} for image in images]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


def evaluate(model: Any, tasks: tuple[str, ...] = ("microseek",), **arguments: Any) -> dict:
    """A run of lmms-eval through its Python API."""
    from lmms_eval.evaluator import simple_evaluate

    return simple_evaluate(model=model, tasks=list(tasks), **arguments)


def launched(config: str, *module: str) -> dict[str, Any]:
    """What subprocess takes for two processes without a GPU, started by accelerate as a configuration of ours says."""
    from comem_lmms.training.settings import ACCELERATE

    launch = ["-m", "accelerate.commands.launch", "--config_file", str(ACCELERATE / f"{config}.yaml")]
    return {
        "args": [sys.executable, *launch, "--num_processes", "2", *module],
        "env": {**os.environ, "ACCELERATE_USE_CPU": "true"},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }


def zero3(*values: Any) -> Any:
    """Values of a test that needs DeepSpeed."""
    reason = "DeepSpeed is not installed"
    return pytest.param(*values, marks=pytest.mark.skipif(not is_deepspeed_available(), reason=reason))


def indexed(base: Any, kind: str = "auto", clip: str = "micro") -> Any:
    """A knowledge base's embeddings and index, made anew as the commands do it."""
    from comem_lmms.retrieval import ClipEmbedder, Index, embed

    shutil.rmtree(base.folder / "embeddings", ignore_errors=True)
    embed(base, ClipEmbedder(clip))
    return Index.build(base, kind)


def answers(results: dict, task: str = "microseek") -> list[str]:
    """The answers of a run, question by question."""
    return [sample["filtered_resps"][0] for sample in sorted(results["samples"][task], key=lambda s: s["doc_id"])]


def usages(results: dict, task: str = "microseek") -> list[dict]:
    """What each answer of a run cost."""
    return [sample["token_counts"][0] for sample in sorted(results["samples"][task], key=lambda s: s["doc_id"])]


def spoiled_task(tmp_path: Path, questions: list[dict], image: Any) -> Any:
    """A TaskManager that knows ``spoiled``: MicroSeek's first documents with another image in the third."""
    import datasets
    import yaml

    from comem_lmms.plugin import task_folder

    columns = ["item_id", "question", "answer", "attribute"]
    rows = [{**{c: q[c] for c in columns}, "image": q["image"]} for q in questions[:4]]
    features = datasets.Features({**{c: datasets.Value("string") for c in columns}, "image": datasets.Image()})
    table = datasets.Dataset.from_list(rows, features=features).cast_column("image", datasets.Image(decode=False))
    cells = table.to_list()
    cells[2]["image"] = image
    datasets.Dataset.from_list(cells, features=features).to_parquet(tmp_path / "test.parquet")
    source = f"{task_folder()}/microseek"
    shutil.copy(f"{source}/utils.py", tmp_path)
    text = Path(source, "microseek.yaml").read_text().replace("task: microseek", "task: spoiled")
    assert yaml.safe_load(text.split("doc_to_visual")[0])["task"] == "spoiled"
    (tmp_path / "spoiled.yaml").write_text(text)
    from lmms_eval.tasks import TaskManager

    return TaskManager(include_path=str(tmp_path))


def as_on_the_hub(folder: Path, hub: Path, name: str) -> Path:
    """Files of a folder in a cache as huggingface_hub leaves them; returns the folder of their commit.

    What the Hub keeps in LFS lies under its SHA-256, the rest under git's hash.
    """
    repository = hub / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0123456789abcdef" * 2 + "01234567")
    for made in (snapshot, repository / "blobs", repository / "refs"):
        made.mkdir(parents=True)
    (repository / "refs/main").write_text(snapshot.name)
    for path in folder.iterdir():
        content = path.read_bytes()
        in_git = sha1(f"blob {len(content)}\0".encode() + content)
        blob = (sha256(content) if path.suffix == ".safetensors" else in_git).hexdigest()
        (repository / "blobs" / blob).write_bytes(content)
        (snapshot / path.name).symlink_to(f"../../blobs/{blob}")
    return snapshot


class Recorder(lmms):
    """A simple model of lmms-eval that notes what it is asked.

    It batches as most of them do: the first request's function and task are taken for the whole batch, and ``until``
    is taken out of the first request's arguments.
    """

    asked: ClassVar[dict[tuple[str, int], tuple]] = {}
    place: ClassVar[int] = 1  # of the arguments of generation

    def __init__(self, batch_size: int = 1) -> None:
        super().__init__()
        self.batch_size = int(batch_size)

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        collator = Collator([r.args for r in requests], lambda x: -len(x[0]), lambda x: x[self.place], grouping=True)
        chunks = collator.get_batched(n=self.batch_size)
        return collator.get_original([a for chunk in chunks for a in self.answer(*zip(*chunk, strict=True))])

    def answer(
        self, contexts: Any, arguments: Any, seen: Any, ids: Any, tasks: Any, splits: Any
    ) -> Iterable[GenerationResult]:
        generation = dict(arguments[0])
        arguments[0].pop("until", None)
        for context, id_ in zip(contexts, ids, strict=True):
            images = seen[0](self.task_dict[tasks[0]][splits[0]][id_])
            self.asked[tasks[0], id_] = (context, images, generation)
            yield GenerationResult(f"answer {id_}", TokenCounts(input_tokens=len(context), output_tokens=2))

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError


class Silent(Recorder):
    """Answers nothing, as models of lmms-eval do that catch their errors."""

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        return [GenerationResult("") for _ in requests]


class ChatRecorder(Recorder):
    """The same as a chat model."""

    is_simple = False
    place = 2

    def answer(
        self, contexts: Any, seen: Any, arguments: Any, ids: Any, tasks: Any, splits: Any
    ) -> Iterable[GenerationResult]:
        return super().answer(contexts, arguments, seen, ids, tasks, splits)


class Scripted(ChatRecorder):
    """A chat model that answers what a function says of the name of the task and the document."""

    says: ClassVar[Callable[[str, dict], str]] = staticmethod(lambda task, doc: "")

    def answer(
        self, contexts: Any, seen: Any, arguments: Any, ids: Any, tasks: Any, splits: Any
    ) -> Iterable[GenerationResult]:
        for context, show, id_, task, split in zip(contexts, seen, ids, tasks, splits, strict=True):
            doc = self.task_dict[task][split][id_]
            self.asked[task, id_] = (context, show(doc), dict(arguments[0]))
            yield GenerationResult(Scripted.says(task, doc))


def register(name: str, kind: str, path: str) -> str:
    """Makes a class known to lmms-eval as a "simple" or "chat" model."""
    MODEL_REGISTRY_V2.register_manifest(ModelManifest(name, **{f"{kind}_class_path": path}), overwrite=True)
    return name
