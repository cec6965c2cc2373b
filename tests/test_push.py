"""A trained encoder goes to the Hub with its card and nothing else, and comes back as it was."""

import json
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from comem_lmms.training.paths import without_paths
from comem_lmms.training.push import Parcel
from comem_lmms.training.settings import load
from comem_lmms.training.train import train
from helpers import answers, evaluate
from hub import hub
from huggingface_hub import ModelCard, constants
from samples import rows_of, write

from comem_lmms import micro
from comem_lmms.cli import main
from comem_lmms.encoder import FILES, fingerprint
from comem_lmms.models.arguments import MemoryArguments
from comem_lmms.models.loading import Parts
from comem_lmms.reference import merge

MICRO = micro.resolve("micro", "memory_encoder")


@pytest.fixture(scope="module")
def trained(questions, knowledge, tmp_path_factory):
    """A short training."""
    folder = tmp_path_factory.mktemp("trained") / "Jane Doe"
    ids = [knowledge.id(row) for row in range(500, 600)]
    data = write(folder / "data", rows_of(questions, ids, 20), knowledge)
    given = {"data": data, "out": folder / "out", "depth": 2, "rank": 4, "global_batch": 4, "batch_size": 2}
    given |= {"max_steps": 4, "eval_samples": 4, "eval_every": 2, "eval_tokens": 8, "tracker": "none"}
    AcceleratorState._reset_state(reset_partial_state=True)
    return train(load("micro", [f"{name}={value}" for name, value in given.items()]))


@pytest.fixture(scope="module")
def results(trained, tmp_path_factory):
    """Of lmms-eval: of the trained encoder, with the right items and with wrong ones, and of another one."""
    folder = tmp_path_factory.mktemp("results")
    told = {"tasks": "microseek", "limit": 6, "batch_size": 6, "log_samples": True}
    encoders = {"mine": trained, "wrong": f"{trained},retrieval=wrong", "bundled": "micro"}
    runs = [
        {**told, "model": "comem", "model_args": f"memory_encoder={given}", "output_path": str(folder / name)}
        for name, given in encoders.items()
    ]
    (folder / "runs.yaml").write_text(yaml.safe_dump(runs))
    subprocess.run([sys.executable, "-m", "lmms_eval", "--config", str(folder / "runs.yaml")], check=True, timeout=900)
    return folder


@pytest.fixture
def whole(results, tmp_path):
    """The same as if microseek had no more questions."""
    return shutil.copytree(results, tmp_path / "whole", copy_function=partial(rewrite, limit=None))


def rewrite(source, copy, limit=6, top_k=3, replaced=()):
    """Copies a file of lmms-eval, with another limit and top_k if it holds results, and texts replaced in pairs."""
    text = Path(source).read_text()
    for old, new in replaced:
        text = text.replace(old, new)
    if source.endswith("_results.json"):
        run = json.loads(text)
        run["config"] |= {"limit": limit, "model_args": f"{run['config']['model_args']},top_k={top_k}"}
        for counted in run["n-samples"].values():
            counted["original"] = counted["original"] if limit else counted["effective"]
        text = json.dumps(run)
    Path(copy).write_text(text)


def logged(results):
    """The answers of the trained encoder."""
    (log,) = (results / "mine").rglob("*_samples_microseek.jsonl")
    told = sorted(map(json.loads, log.read_text().splitlines()), key=lambda sample: sample["doc_id"])
    return [sample["filtered_resps"] for sample in told]


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A Hub, which huggingface_hub uses in this process; it has read the environment already."""
    with hub() as made:
        given = {"ENDPOINT": made.host.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}
        given["HUGGINGFACE_CO_URL_TEMPLATE"] = made.host.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {**given, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_TOKEN_PATH": "no"}.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", "hf_owner")
        monkeypatch.chdir(tmp_path)
        yield made


@pytest.fixture
def push(capsys):
    """The command; the last line of what it says."""

    def pushed(*arguments, status=0):
        capsys.readouterr()
        assert main(["push", *map(str, arguments)]) == status
        said = capsys.readouterr()
        return (said.err if status else said.out).strip().splitlines()[-1].removeprefix("comem-lmms: ")

    return pushed


def test_what_is_pushed_is_loaded_as_it_was(trained, results, push, there, tmp_path, monkeypatch):
    said = push(trained, "owner/mine", "--license", "mit", "--results", results)
    place, commit = re.fullmatch(r"(\S+): use it as memory_encoder=owner/mine@([0-9a-f]{40})", said).groups()
    assert place == f"{there.host.url}/owner/mine/tree/{commit}"
    repository = there.repositories["owner/mine"]
    assert set(repository.files) == {*FILES, "README.md"}
    assert repository.in_lfs == {"adapter_model.safetensors", "resampler.safetensors"}
    assert all(repository.files[name] == (trained / name).read_bytes() for name in repository.in_lfs)
    texts = [content.decode() for name, content in repository.files.items() if name not in repository.in_lfs]
    assert not any(part in text for text in texts for part in (str(results), "Jane", "Doe/"))

    push(MICRO, "owner/mine")  # pinned, though the branch moves on
    given = {"limit": 6, "batch_size": 6}
    assert answers(evaluate("comem", model_args=f"memory_encoder=owner/mine@{commit}", **given)) == logged(results)
    assert fingerprint("owner/mine") == fingerprint("micro")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # from the cache
    assert fingerprint(f"owner/mine@{commit}") == fingerprint(str(trained)) != fingerprint("micro")


def test_a_card_tells_of_data_training_and_results(trained, results, whole, push, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ("--results", whole, "--license", "apache-2.0", "--card-only", "CARD.md")
    assert push(trained, "owner/mine", *given) == "CARD.md: the card; nothing was uploaded"
    content = Path("CARD.md").read_text()
    card = ModelCard(content)
    assert (card.data.license, card.data.library_name, card.data.base_model) == ("apache-2.0", "peft", None)
    (entry,) = yaml.safe_load(content.split("---\n")[1])["model-index"]  # not the bundled one's, no control
    assert entry["name"] == "comem memory_encoder=owner/mine, micro, clip, k=3"
    assert entry["results"][0]["dataset"]["name"] == "microseek"
    record = json.loads((trained / "training.json").read_text())
    assert f"| 4 | {record['losses'][-1]:.4f} | {record['evaluations'][-1][1]:.4f}" in content
    for part in (
        "4 steps on 16 samples",
        "--model_args pretrained=micro,memory_encoder=owner/mine,",
        "memory_encoder=owner/mine@COMMIT",
        "rank: 4\n",
        f"knowledge: `{record['knowledge_fingerprint']}`",
        f"memory encoder: `{fingerprint(str(trained))}`",
        f"torch {record['versions']['torch']}",
        "| comem memory_encoder=micro",
    ):
        assert part in content, part
    assert not any(part in content for part in (str(results), "Jane", "Doe/"))
    push(trained, "owner/mine", "--results", results, "--card-only", "CARD.md")
    assert yaml.safe_load(Path("CARD.md").read_text().split("---\n")[1])["model-index"] == []  # six of all questions


def test_a_card_tells_what_was_kept_and_dropped(trained, tmp_path):
    record = json.loads((trained / "training.json").read_text())
    record["data_manifest"] |= {
        "what": "training data",
        "from": "samples",
        "tasks": {"okvqa_train": {"en": 20}},
        "fingerprint": "f" * 64,
        "counts": {"okvqa_train": {"answers": 30, "kept": 20, "dropped": {"wrong": 9, "cut off": 1}}},
        "rollouts": [
            {
                "model": "vanilla_rag",
                "model_args": {"base": base, "knowledge": f"{scheme}/home/me/my kb/wit"},
                "answers": {"kept": 10},
                "fingerprints": {"kind": ["clip"]},
            }
            for base, scheme in (("vllm", ""), ("qwen2_vl", "file:"))
        ],
        "against": {"documents": {"okvqa": 5046}, "overlaps": {"okvqa": {"image": 2}}, "not_checked": ["oven"]},
    }
    record["settings"]["reader"] = "/home/Jane Doe/llm"
    record["settings"]["start"] = "/home/Jane Doe/encoder"
    record["start_fingerprint"] = "5" * 64
    for name in FILES:
        shutil.copy(trained / name, tmp_path)
    (tmp_path / "training.json").write_text(json.dumps(record))
    card = Parcel(str(tmp_path)).add_card("owner/mine", None, None)
    for part in (
        "okvqa_train: 20 of 30 answers kept, 9 wrong, 1 cut off",
        "10 vanilla_rag (base=vllm, knowledge=wit), 10 vanilla_rag (base=qwen2_vl, knowledge=wit)",
        "compared with 5046 documents of okvqa: 2 image",
        "NOT compared with oven",
        "comem-lmms merge owner/mine MERGED --layout reference",
        "memory_encoder=MERGED,reader=llm,",
        "It went on from another memory encoder",
        f"- start: `{'5' * 64}`",
    ):
        assert part in card, part
    assert not any(part in card for part in ("/home", "Jane", "my kb"))
    assert "license" not in card
    assert "## Results" not in card


def test_a_merged_encoder(push, there, tmp_path, knowledge):
    merge("micro", tmp_path / "merged", dtype="float32")
    its_own = {path.name for path in (tmp_path / "merged").iterdir()}
    for name in ("training.json", "run.json", "log.txt", "vlm_results.json"):
        (tmp_path / "merged" / name).write_text('{"out": "/home/me/runs"}')
    push("merged", "owner/merged", "--revision", "v1")
    repository = there.repositories["owner/merged"]
    assert repository.files == {}
    assert repository.commits[repository.branches["v1"]].keys() == {"README.md", *its_own}
    made = [
        Parts(MemoryArguments(memory_encoder=source), "cpu").encoder.encode([knowledge[0]])
        for source in ("owner/merged@v1", str(tmp_path / "merged"))
    ]
    assert torch.equal(*made)


def test_a_vlm_that_lies_in_a_folder_is_named_as_others_have_it(push, there, trained, tmp_path):
    for name in FILES:
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / name).write_bytes((trained / name).read_bytes())
    about = json.loads((trained / "memory_encoder.json").read_text())
    folder = micro.resolve("micro", "vlm")
    (tmp_path / "mine/memory_encoder.json").write_text(json.dumps({**about, "vlm": folder}))
    assert push("mine", "owner/mine", status=2) == (
        f"memory encoder 'mine' was made for {folder!r}, a folder that others do not have; give --base "
        "OWNER/NAME, the VLM's name on the Hub"
    )
    push("mine", "owner/mine", "--base", "owner/vlm")
    files = there.repositories["owner/mine"].files
    assert json.loads(files["memory_encoder.json"])["vlm"] == "owner/vlm"
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "owner/vlm"
    assert ModelCard(files["README.md"].decode()).data.base_model == "owner/vlm"
    assert not any(folder.encode() in content for content in files.values())


def test_mistakes_are_one_line(push, there, trained, tmp_path, monkeypatch):
    said = partial(push, status=2)
    (tmp_path / "begun/checkpoints").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    assert said(MICRO, "mine") == "'mine' is no repository of the Hub; give OWNER/NAME"
    missing = "memory_encoder.json is missing; "
    assert said("begun", "owner/mine").endswith(f"{missing}its training has not ended: go on with it")
    assert said("nothing", "owner/mine").startswith(
        f"no trained memory encoder at 'nothing': {missing}give the out= of"
    )
    assert said(trained, "owner/mine", "--results", "empty").startswith("no results of lmms-eval")
    assert said(MICRO, "other/mine").startswith(
        "the Hub does not let this token write to other/mine (403, You don't have"
    )
    with monkeypatch.context() as context:
        context.setenv("HF_TOKEN", "")
        assert said(MICRO, "owner/mine").startswith("nobody is logged in to the Hub; run `hf auth login`")
        context.setenv("HF_TOKEN", "hf_old")
        assert said(MICRO, "owner/mine").startswith("the Hub does not let this token write to owner/mine (401, Invalid")
    for setting in ({"ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": True}):
        with monkeypatch.context() as context:
            for name, value in setting.items():
                context.setattr(constants, name, value)
            assert re.match(r"cannot upload to owner/mine at http\S+ \(.+\); check the net", said(MICRO, "owner/mine"))
    assert there.repositories == {}
    assert "license" in said(MICRO, "owner/mine", "--license", "mine")


def test_what_is_on_the_hub_already(push, there, trained):
    push(MICRO, "owner/mine")
    before = dict(there.repositories["owner/mine"].files)
    said = push(trained, "owner/mine", "--private", status=2)
    assert said.startswith("owner/mine is there already and public; make it private on the Hub")
    push(trained, "owner/private", "--private")
    assert there.repositories["owner/private"].private
    files = there.repositories["owner/mine"].files
    assert files == before
    files["model-2.safetensors"] = b""
    there.serve("owner/mine")
    said = push(trained, "owner/mine", status=2)
    assert said.startswith("owner/mine holds weights that are not this encoder's, e.g. model-2.safetensors; remove")


def test_results_of_another_encoder_are_not_taken_for_its_own(trained, results, push, tmp_path):
    given = ("--results", results / "bundled", "--card-only", tmp_path / "card")
    told = push(trained, "owner/mine", *given, status=2)
    assert told.startswith("none of the results is of this memory encoder (fingerprint ")
    assert not (tmp_path / "card").exists()


def test_results_of_before_it_was_trained_again_are_not_its_own(trained, whole, push, tmp_path):
    earlier = [(fingerprint(str(trained))[:16], "0" * 16)]
    copied = partial(rewrite, limit=None, top_k=2, replaced=earlier)
    shutil.copytree(whole / "mine", tmp_path / "earlier", copy_function=copied)
    shutil.copytree(whole / "mine", tmp_path / "whole/earlier", copy_function=copied)
    card = tmp_path / "card"
    told = push(trained, "owner/mine", "--results", tmp_path / "earlier", "--card-only", card, status=2)
    assert told.startswith("none of the results is of this memory encoder (fingerprint ")
    push(trained, "owner/mine", "--results", whole, "--card-only", card)
    assert "k=3" in card.read_text()
    assert "k=2" not in card.read_text()

    another_task = partial(rewrite, limit=None, replaced=[*earlier, ("microseek", "another")])
    shutil.copytree(whole / "mine", tmp_path / "mixed/1")
    shutil.copytree(whole / "mine", tmp_path / "mixed/2", copy_function=another_task)
    for path in (tmp_path / "mixed/2").rglob("*_samples_microseek.jsonl"):
        path.rename(path.with_name(path.name.replace("microseek", "another")))
    told = push(trained, "owner/mine", "--results", tmp_path / "mixed", "--card-only", card, status=2)
    assert told.startswith("none of the results is of this memory encoder (fingerprint ")


def test_paths_are_cut_to_their_last_part(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/clip").mkdir(parents=True)
    ours = f"({tmp_path}/kb), k={tmp_path}/a/b,c=~/x/y | runs/clip, ../up/down out/enc"
    escaped = r"x:/home/me/kb file:/home/me/x file:///home/me/y /home/me/\_out/z \~/me/a\_b"
    others = "Qwen/VL and/or https://a.b/c <br/></sup> 1/2"
    assert without_paths(f"{ours} {escaped} {others}", {"out/enc": "owner/name"}) == (
        rf"(kb), k=b,c=y | clip, down owner/name x:kb file:x file:y z a\_b {others}"
    )
