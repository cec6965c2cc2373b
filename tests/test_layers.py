"""Every module imports only what stands above it in the house."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]

# From the ground up; a module may import those before its own line, and its own package.
ORDER = (
    "comem_lmms",
    "comem_lmms.errors",
    "comem_lmms.command_line",
    "comem_lmms.files",
    "comem_lmms.images",
    "comem_lmms.records",
    "comem_lmms.micro",
    "comem_lmms.fingerprints",
    "comem_lmms.scoring",
    "comem_lmms.linking",
    "comem_lmms.scoring.replay",
    "comem_lmms.prompts",
    "comem_lmms.data",
    "comem_lmms.folders",
    "comem_lmms.questions",
    "comem_lmms.knowledge",
    "comem_lmms.queries",
    "comem_lmms.retrieval",
    "comem_lmms.runs",
    "comem_lmms.harness",
    "comem_lmms.microseek",
    "comem_lmms.resampler",
    "comem_lmms.backbones",
    "comem_lmms.attention",
    "comem_lmms.generation",
    "comem_lmms.vlm",
    "comem_lmms.llm",
    "comem_lmms.encoder",
    "comem_lmms.memory",
    "comem_lmms.reference",
    "comem_lmms.parity",
    "comem_lmms.models",
    "comem_lmms.doctor",
    "comem_lmms.plugin",
    "comem_lmms.importing",
    "comem_lmms.retrieve",
    "comem_lmms.report",
    "comem_lmms.explorer",
    "comem_lmms.rescore",
    "comem_lmms.training",
    "comem_lmms.cli",
)
# Neighbours that know less than their place in a line would allow.
TASKS = {
    "comem_lmms.data",
    "comem_lmms.errors",
    "comem_lmms.folders",
    "comem_lmms.linking",
    "comem_lmms.questions",
    "comem_lmms.records",
    "comem_lmms.scoring",
    "comem_lmms.prompts",
}
NOT_FOR_TRAINING = {*ORDER[ORDER.index("comem_lmms.models") :]} - {"comem_lmms.report"}
LIGHT = (
    "comem_lmms.plugin",
    "comem_lmms.scoring",
    "comem_lmms.linking",
    "comem_lmms.records",
    "comem_lmms.prompts",
    "comem_lmms.data",
    "comem_lmms.questions",
)
HEAVY = {"torch", "transformers", "tokenizers", "peft", "datasets", "faiss", "open_clip", "lmms_eval"}


def sources() -> dict[str, Path]:
    folders = {"comem_lmms": "comem_lmms", "tasks": "comem_lmms.tasks", "training": "comem_lmms.training"}
    found = {}
    for folder, package in folders.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *(p for p in parts if p != "__init__")])] = path
    return found


def imports(path: Path, top_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    names = set()
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def house(name: str) -> str:
    """The line of ORDER (or neighbour) that a module belongs to."""
    parts = name.split(".")
    known = set(ORDER) | {"comem_lmms.tasks", "comem_lmms.training"}
    return next((part for n in (3, 2) if (part := ".".join(parts[:n])) in known), "comem_lmms")


def test_imports_point_downwards():
    wrong = []
    for module, path in sources().items():
        own = house(module)
        for target in {house(name) for name in imports(path) if name.startswith("comem_lmms")} - {own, "comem_lmms"}:
            if own == "comem_lmms.tasks":
                allowed = target in TASKS
            elif own == "comem_lmms.training":
                allowed = target in ORDER and target not in NOT_FOR_TRAINING
            else:
                allowed = target in ORDER and ORDER.index(target) < ORDER.index(own)
            if not allowed:
                wrong.append(f"{module} imports {target}")
    assert not wrong


def test_light_modules_import_nothing_heavy():
    for module, path in sources().items():
        if module.startswith((*LIGHT, "comem_lmms.tasks")):
            assert not {name.split(".")[0] for name in imports(path, top_only=True)} & HEAVY, module


def test_every_module_has_its_place():
    assert {house(module) for module in sources()} == {*ORDER, "comem_lmms.tasks", "comem_lmms.training"}


def test_nothing_is_unpickled_and_no_remote_code_is_run():
    """Weights are safetensors; what open_clip reads it reads as weights only."""
    for module, path in sources().items():
        code = path.read_text()
        assert not {name.split(".")[0] for name in imports(path)} & {"pickle", "dill", "joblib"}, module
        assert not any(word in code for word in ("torch.load(", "trust_remote_code", "weights_only=False")), module
