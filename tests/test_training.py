"""The recipes run as documented and leave what the wrappers load."""

import json
import shutil

import pytest
import torch
from comem_lmms.training.batches import Collator, in_order, prefixes
from comem_lmms.training.data import TrainingData
from comem_lmms.training.micro import chats as training_chats
from comem_lmms.training.micro import clip, memory, samples
from comem_lmms.training.micro import vlm as vlm_recipe
from comem_lmms.training.micro.__main__ import train_all
from comem_lmms.training.micro.common import run, training_realms
from comem_lmms.training.settings import load
from numpy.random import RandomState

from comem_lmms import micro
from comem_lmms.encoder import MemoryEncoder, fingerprint
from comem_lmms.errors import UserError
from comem_lmms.files import write_json
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.microseek.words import ATTRIBUTES
from comem_lmms.retrieval import ClipEmbedder
from comem_lmms.vlm import FrozenVLM


@pytest.fixture
def command(monkeypatch):
    def run(recipe, *arguments):
        monkeypatch.setattr("sys.argv", ["recipe", *map(str, arguments)])
        recipe.main()

    return run


def test_vlm_recipe(tmp_path, command, chats):
    command(vlm_recipe, tmp_path, "--steps", 4, "--seed", 3)
    made = FrozenVLM.load(str(tmp_path), device="cpu")
    assert len(made.generate(chats[:2], max_new_tokens=2)) == 2
    log = json.loads((tmp_path / "training.json").read_text())
    assert log["settings"] == {"seed": 3, "steps": 4, "lr": 2e-3}
    assert len(log["loss"]) == 1


def test_clip_recipe(tmp_path, command, monkeypatch, questions):
    monkeypatch.setattr(clip, "N_EMBLEMS", 130)
    monkeypatch.setattr(clip, "recall_at_1", lambda model, seed: 0.0)
    command(clip, tmp_path, "--steps", 2)
    embedder = ClipEmbedder(f"local-dir:{tmp_path}")
    assert embedder.embed([questions[0]["image"]]).shape == (1, 128)


def test_memory_recipe(tmp_path, command, knowledge, monkeypatch, capsys, another_vlm):
    """Short pages are never learnt well enough here, so they are begun twice, and the better one is gone on from."""
    monkeypatch.setattr(memory, "ENOUGH", {"short": memory.Enough(1.1, 2, anew=True), "full": memory.Enough(0.0, 3)})
    out, rounds = tmp_path / "encoder", tmp_path / "encoder-rounds"
    arguments = (out, "--vlm", "micro", "--steps", 3)  # one is held out, and one warms up
    command(memory, *arguments, "--seed", 3)
    names = ["short-1", "short-2", "full-1"]
    log = json.loads((out / "training.json").read_text())
    assert log["settings"] == {"seed": 3}
    assert [done["round"] for done in log["measured"]["rounds"]] == names
    encoder = MemoryEncoder.load(str(out), FrozenVLM.load("micro", device="cpu"))
    assert encoder.encode([knowledge[0]]).shape == (1, 8, 160)
    records = [json.loads((rounds / name / "encoder/training.json").read_text()) for name in names]
    made = [fingerprint(str(rounds / name / "encoder")) for name in names]
    assert len(set(made)) == 3
    better = made[int(records[1]["exact_matches"][-1] > records[0]["exact_matches"][-1])]
    assert [one["start_fingerprint"] for one in records] == [None, None, better]
    assert fingerprint(str(out)) == made[2]
    settings = [(one["settings"]["seed"], one["settings"]["shuffle"], one["data_manifest"]["seed"]) for one in records]
    assert settings == [(3, False, 3), (1003, False, 1003), (3, False, 3)]
    assert sorted(path.name for path in rounds.glob("*/*")) == ["encoder"] * 3
    assert not list(rounds.rglob("checkpoints"))
    ran = []
    monkeypatch.setattr(memory, "run", lambda *given: ran.append(given) or run(*given))
    command(memory, *arguments, "--seed", 3)
    assert not ran  # all is there
    shutil.rmtree(rounds / "full-1")
    command(memory, *arguments, "--seed", 3)
    assert [given[0].rpartition(".")[2] for given in ran] == ["samples", "train"]
    assert fingerprint(str(out)) == made[2]
    capsys.readouterr()
    for other in (("--seed", 4), ("--seed", 3, "--steps", 4), ("--seed", 3, "--vlm", str(another_vlm))):
        with pytest.raises(SystemExit, match="2"):
            command(memory, *arguments, *other)
        (said,) = capsys.readouterr().err.splitlines()
        assert f"remove {rounds}" in said
    monkeypatch.setattr(memory, "ANSWERED", 128)
    command(memory, *arguments, "--seed", 3)  # which does not change what is learnt
    monkeypatch.setattr(memory, "HELD_OUT", 128)
    with pytest.raises(SystemExit, match="2"):
        command(memory, *arguments, "--seed", 3)
    assert "was made with eval_samples=512, not 128; remove" in capsys.readouterr().err
    assert fingerprint(str(out)) == made[2]


def test_the_best_of_what_is_begun_anew_is_gone_on_from(tmp_path, monkeypatch, caplog):
    trained, shares = [], iter((0.3, 0.7, 0.5, 0.2))

    def train(self):
        trained.append(self)
        self.encoder.mkdir(parents=True)
        for name in memory.FILES:
            (self.encoder / name).write_text(self.folder.name)
        return {"exact_matches": [[9, next(shares)]], "step": 9, "losses": [1.0]}

    monkeypatch.setattr(memory.Round, "train", train)
    monkeypatch.setattr(memory, "ENOUGH", {"short": memory.Enough(0.9, 3, anew=True), "full": memory.Enough(0.0, 1)})
    memory.train_rounds(tmp_path / "out", "micro", 7, None)
    assert [(one.folder.name, one.start and one.start.parent.name, one.seed) for one in trained] == [
        ("short-1", None, 7),
        ("short-2", None, 1007),
        ("short-3", None, 2007),
        ("full-1", "short-2", 7),
    ]
    assert "short pages: in the end 50.0 % are right, not 90" in caplog.text
    assert {(tmp_path / "out" / name).read_text() for name in memory.FILES} == {"full-1"}


def test_parts_of_another_seed_are_refused_before_anything_is_trained(tmp_path):
    (tmp_path / "out/vlm").mkdir(parents=True)
    write_json(tmp_path / "out/vlm/training.json", {"settings": {"seed": 3}})
    with pytest.raises(UserError, match=r"out/vlm is of seed 3, not 2; name another folder"):
        train_all(tmp_path / "out", 2)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["vlm"]


@pytest.fixture
def another_vlm(tmp_path):
    folder = tmp_path / "another"
    shutil.copytree(micro.resolve("micro", "vlm"), folder)
    settings = folder / "generation_config.json"
    settings.write_text(settings.read_text() + "\n")
    return folder


def test_a_vlm_that_is_not_there_is_said_before_samples_are_made(tmp_path, command, capsys):
    with pytest.raises(SystemExit, match="2"):
        command(memory, tmp_path / "out", "--vlm", tmp_path / "nowhere")
    assert "nowhere" in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_data_that_is_there_keeps_its_knowledge_base(tmp_path, command, capsys):
    command(samples, tmp_path, "--stage", "short", "--steps", 1)
    before = KnowledgeBase.open(tmp_path / "knowledge").fingerprint
    with pytest.raises(SystemExit, match="2"):
        command(samples, tmp_path, "--stage", "short", "--steps", 1, "--seed", 2)
    assert "is there already" in capsys.readouterr().err.splitlines()[-1]
    assert KnowledgeBase.open(tmp_path / "knowledge").fingerprint == before


def test_the_schedule_waits_until_short_pages_are_read_but_not_for_ever(monkeypatch):
    def positions(read, n):
        monkeypatch.setattr(vlm_recipe, "READ", read)
        processor = vlm_recipe.make_processor()
        losses = vlm_recipe.reading_losses(vlm_recipe.make_model(processor, 1), processor, 1, 5)
        return [next(losses)[0] for _ in range(n)]

    monkeypatch.setattr(vlm_recipe, "SHORT", vlm_recipe.SHORT._replace(batch=2))
    assert positions(1e9, 3) == [0, 1, 2]
    assert positions(0.0, 5) == [0, 1, 1, 1, 2]


def test_a_seed_means_the_same_steps():
    def first_losses(seed):
        torch.manual_seed(seed)
        processor = vlm_recipe.make_processor()
        model = vlm_recipe.make_model(processor, seed)
        steps = vlm_recipe.reading_losses(model, processor, seed, 10)
        return [next(steps)[1].item() for _ in range(2)]

    assert first_losses(1) == first_losses(1)
    assert first_losses(1) != first_losses(2)


def test_pages_of_a_chat_state_the_same_attributes():
    realms = training_realms(1, 8)
    for notes in (False, True):
        stage = training_chats.Stage(pages=3, facts=4, questions=4, images=False, batch=1, notes=notes)
        chat, items = training_chats.make_chat(RandomState(0), realms, stage)
        answers = {m["content"][0]["text"] for m in chat if m["role"] == "assistant"}
        stated = [
            [a.key for a in ATTRIBUTES if set(a.values) & set(text.rstrip(".").replace(".", "").split())]
            for text in ([item.text for item in items] if not notes else items[0].text.split(". "))
        ]
        assert len(stated) == 3
        assert len(set(map(tuple, stated))) == 1
        assert len(stated[0]) == 4
        # The right page is the first item, and the last of the notes: next to the question either way.
        best = items[0].text if not notes else items[0].text.split(". ")[-1]
        assert answers <= set(best.replace(".", "").split())


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    samples.make_samples(folder, samples.STAGES["full"]._replace(steps=3, memories=(0.0, 0.0, 1.0)), seed=5)
    base = KnowledgeBase.open(folder / "knowledge")
    return TrainingData.open(folder / "data", base, load("micro", ["data=x", "out=x"]).top_k)


def test_samples_are_about_their_step_and_the_right_page_is_the_best(full):
    assert len(full.numbers) == 3 * 24 * 4
    for number in full.numbers:
        sample = full[number]
        right, *others = (full.knowledge.id(row) for row in sample.rows)
        step = str(number // 96)
        assert right == f"{step}-{number % 96 // 4}"
        assert len({right, *others}) == 3
        assert {other.partition("-")[0] for other in others} == {step}
        assert sample.answer in full.knowledge[sample.rows[0]].text
    assert {sample.rows[1] for sample in map(full.__getitem__, range(96))} > {1, 2, 3}  # of all the step


def test_whole_steps_are_held_out(full):
    train_on, held_out = full.split(96, 1)
    steps = [held_out, *in_order(train_on, 96)]
    assert [len(step) for step in steps] == [96] * 3
    assert sorted(sorted({number // 96 for number in step}) for step in steps) == [[0], [1], [2]]


def test_the_shipped_encoder_knows_such_pages(full, encoder, vlm):
    """Behind memories of others: nearly all is right, of realms that it may not have seen and pages it has not."""
    numbers = list(range(0, 96, 3))
    batch = Collator(full, encoder, vlm)(numbers)
    prefixes_ = prefixes(encoder.compress(batch.items), batch)
    said = [answer.text for answer in vlm.generate([full[n].chat for n in numbers], prefixes_, max_new_tokens=8)]
    assert sum(text == full[n].answer for text, n in zip(said, numbers, strict=True)) >= 29


def test_a_seed_means_the_same_samples(tmp_path):
    def fingerprint(name, seed):
        samples.make_samples(tmp_path / name, samples.STAGES["short"]._replace(steps=1), seed)
        return json.loads((tmp_path / name / "data/manifest.json").read_text())["fingerprint"]

    assert fingerprint("a", 1) == fingerprint("b", 1) != fingerprint("c", 2)


def test_questions_apart_show_the_picture_each():
    stage = training_chats.Stage(pages=1, facts=12, questions=3, images=True, batch=1)
    chat, _ = training_chats.make_chat(RandomState(0), training_realms(1, 2), stage)
    parts = training_chats.apart(chat)
    assert [message for part in parts for message in part][1::2] == chat[1::2]
    picture = chat[0]["content"][0]
    for part, turn in zip(parts, chat[::2], strict=True):
        assert part[0] == {"role": "user", "content": [picture, turn["content"][-1]]}
    assert parts[0] == chat[:2]


def test_only_answers_are_asked_for(vlm, knowledge):
    stage = training_chats.Stage(pages=1, facts=12, questions=3, images=True, batch=1)
    chat, items = training_chats.make_chat(RandomState(0), training_realms(1, 2), stage)
    answers = [m["content"][0]["text"] for m in chat if m["role"] == "assistant"]
    assert all(answer in items[0].text for answer in answers)
    text = vlm.processor.apply_chat_template([chat], tokenize=False)
    inputs = vlm.tokenize(text, [part["url"] for m in chat for part in m["content"] if part["type"] == "image"])
    mask = training_chats.answer_mask(inputs["input_ids"], vlm.processor)
    assert vlm.processor.tokenizer.decode(inputs["input_ids"][mask]) == "".join(f"{a}<|im_end|>" for a in answers)
