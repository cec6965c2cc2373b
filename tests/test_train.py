"""A training learns what it should and nothing else, and goes on where it was, whatever happens to it."""

import io
import json
import logging
import math
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import datasets
import psutil
import pytest
import tiny
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from comem_lmms.training import learning as learning_module
from comem_lmms.training import settings as settings_module
from comem_lmms.training import text
from comem_lmms.training import train as train_module
from comem_lmms.training.batches import Batch, Collator, ahead, share, spread, steps
from comem_lmms.training.checkpoints import Progress
from comem_lmms.training.data import TrainingData
from comem_lmms.training.learning import Compressor, Learner, checkpoint_activations, parameter_groups
from comem_lmms.training.settings import Settings, load, presets
from comem_lmms.training.train import Training, train
from comem_lmms.training.watch import Watch
from helpers import answers, chat, evaluate, launched, zero3
from PIL import Image
from safetensors.torch import load_file, save_file
from samples import rows_of, write
from tiny import CHATS, ITEMS
from torch.utils.checkpoint import checkpoint

from comem_lmms import micro
from comem_lmms.encoder import MemoryEncoder
from comem_lmms.errors import UserError
from comem_lmms.files import alone
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.models.arguments import MemoryArguments
from comem_lmms.models.loading import Parts
from comem_lmms.parity import Fixtures, _load_adapter, _sample, _todays_full_name
from comem_lmms.reference import TextReader, merge
from comem_lmms.reference.checkpoint import RESAMPLER_PREFIX
from comem_lmms.vlm import FrozenVLM

SMALL = {
    "depth": 2,
    "rank": 4,
    "dropout": 0.05,
    "global_batch": 4,
    "batch_size": 2,
    "max_steps": 4,
    "eval_samples": 0,
    "save_every": 1,
    "tracker": "none",
}


@pytest.fixture(scope="module")
def ids(knowledge):
    return [knowledge.id(row) for row in range(500, 600)]


@pytest.fixture(scope="module")
def data(questions, knowledge, ids, tmp_path_factory):
    """Forty samples with no to three items."""
    rows = rows_of(questions, ids, 40, ks=(3, 1, 2, 0, 3))
    return write(tmp_path_factory.mktemp("data") / "samples", rows, knowledge)


@pytest.fixture
def of(data, tmp_path):
    """Settings of a short training."""

    def made(out="out", **more):
        given = {**SMALL, "data": data, "out": tmp_path / out, **more}
        return load("micro", [f"{name}={'null' if value is None else value}" for name, value in given.items()])

    return made


@pytest.fixture(autouse=True)
def _fresh_state():
    """accelerate allows one precision a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def weights(folder):
    return {**load_file(folder / "adapter_model.safetensors"), **load_file(folder / "resampler.safetensors")}


def record(folder):
    return json.loads((folder / "training.json").read_text())


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def command(settings, *more):
    given = [f"{name}={'null' if v is None else v}" for name, v in vars(settings).items()]
    return [sys.executable, "-m", "comem_lmms.training.train", "--config", "micro", "--set", *given, *more]


# Settings.


def test_presets_are_the_references_recipe():
    given = ["data=d", "knowledge=k", "out=o"]
    for preset in set(presets()) - {"micro"}:
        made = load(preset, given)
        assert (made.rank, made.alpha, made.dropout, made.vectors, made.depth, made.heads) == (16, 32, 0.05, 8, 8, 16)
        assert (made.lr, made.warmup, made.weight_decay, made.clip) == (5e-5, 0.03, 0.1, 3.0)
        assert (made.global_batch, made.dtype, made.activation_checkpointing) == (16, "bfloat16", True)
        assert (made.top_k, made.epochs) == ((10, 5) if made.reader else (3, 1))
    assert {"qwen2_vl_7b", "qwen2_5_vl_7b", "qwen3_vl_8b", "qwen2_5_llm"} < set(presets())


def test_settings_of_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("pretrained: 123\nlr: 5e-5\nknowledge: k\n")
    made = load(str(path), ["data=d", "out=o", "max_steps=null", "eval_samples=0"])
    assert (made.pretrained, made.lr, made.max_steps, made.eval_samples) == ("123", 5e-5, None, 0)
    assert load("micro.yaml", ["data=d", "out=o"]) == load("micro", ["data=d", "out=o"])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["learning_rate=1"], "unknown setting learning_rate=1; known: pretrained, data"),
        (["lr"], "--set 'lr' is not of the form name=value"),
        (["lr=fast"], "lr='fast' must be of type float"),
        (["rank=1.5"], "rank=1.5 must be of type int"),
        (["rank=0"], "rank=0 must be at least 1"),
        (["activation_checkpointing=1"], "must be of type bool"),
        (["lr=0"], "lr=0.0 must be above 0"),
        (["dropout=1"], "dropout=1.0 is a share"),
        (["dtype=float16"], "dtype='float16' cannot be trained in"),
        (["data_fraction=0"], "data_fraction=0.0 is a share and must be above 0 and at most 1"),
        (["eval_answers=-1"], "eval_answers=-1 must be at least 0"),
        (["global_batch=10"], "global_batch=10 is no multiple of batch_size=8"),
        (["out=null"], "setting 'out' is missing"),
    ],
)
def test_wrong_settings(overrides, said):
    with pytest.raises(UserError, match=re.escape(said)):
        load("micro", ["data=d", "out=o", *overrides])


def test_wrong_files(tmp_path):
    with pytest.raises(UserError, match=r"no settings at 'mikro'; give a YAML file, or one of .*micro"):
        load("mikro")
    for content in ("- a", "a: [", ""):
        (tmp_path / "x.yaml").write_text(content)
        with pytest.raises(UserError, match=r"x\.yaml"):
            load(str(tmp_path / "x.yaml"))


def test_every_setting_is_described():
    assert all(f"{name}" in Settings.__doc__ for name in settings_module.get_type_hints(Settings))


# The order of samples.


def test_every_sample_comes_once_and_with_its_like():
    lengths = [(i * 7919) % 1000 for i in range(1003)]
    plan = steps(range(1003), lengths, 16, seed=3, epoch=0)
    assert sorted(number for step in plan for number in step) == list(range(1003))
    assert [len(step) for step in plan] == [16] * 62 + [11]
    spread = [max(lengths[i] for i in step) - min(lengths[i] for i in step) for step in plan]
    assert max(spread[:-1]) < 120
    assert plan != steps(range(1003), lengths, 16, seed=3, epoch=1)
    assert plan == steps(range(1003), lengths, 16, seed=3, epoch=0)
    firsts = [lengths[step[0]] for step in plan]
    assert firsts != sorted(firsts, reverse=True)


@pytest.mark.parametrize(("size", "processes", "passes"), [(1, 1, 8), (2, 2, 2), (4, 2, 1), (8, 1, 1)])
@pytest.mark.parametrize("n", [8, 5, 1])
def test_a_step_is_shared_whole(n, size, processes, passes):
    parts = [share(range(n), size, process, processes, passes) for process in range(processes)]
    assert all(len(part) == passes for part in parts)
    assert sorted(number for part in parts for turn in part for number in turn) == list(range(n))


def test_the_order_of_the_data_is_kept_if_asked_for(of):
    training = Training(of(shuffle=False, global_batch=16, batch_size=2, epochs=2, max_steps=None))
    step = [list(range(16)), list(range(16, 32)), list(range(32, 40))]
    assert training.planned == step * 2


def test_what_is_answered_is_spread_over_what_is_held_out():
    assert spread(range(100, 110), 4) == [100, 102, 105, 107]
    assert (spread([1], 3), spread([], 3), spread([1], 0)) == ([1], [], [])


def test_what_is_made_ahead_comes_in_order_and_errors_come_through():
    assert list(ahead(lambda x: x * x, range(9))) == [x * x for x in range(9)]
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda x: 1 / x, [1, 0, 1]))


def test_documents_are_held_out_whole(questions, knowledge, ids, tmp_path):
    rows = rows_of(questions, ids, 8)
    rows += [{**row, "language": language} for row in rows for language in ("fr", "bg")]
    data = TrainingData.open(write(tmp_path / "d", rows, knowledge), knowledge, 3)
    train_on, held_out = data.split(7, seed=1)
    assert sorted([*train_on, *held_out]) == list(range(24))
    assert len(held_out) == 6
    documents = [{data._cells["document"][number] for number in side} for side in (train_on, held_out)]
    assert documents[0].isdisjoint(documents[1])
    assert data.split(7, seed=1) == (train_on, held_out)
    assert len(data.split(1000, seed=1)[1]) == 12
    assert data.split(0, seed=1)[1] == []


def test_shares_of_the_data_lie_within_each_other(questions, knowledge, ids, tmp_path, of):
    rows = rows_of(questions, ids, 12)
    rows += [{**row, "language": "fr"} for row in rows]
    folder = write(tmp_path / "d", rows, knowledge)
    data = TrainingData.open(folder, knowledge, 3)
    numbers = data.numbers[2:]
    shares = [data.share(numbers, fraction, seed=1) for fraction in (0.1, 0.25, 0.5, 0.75, 1.0)]
    assert all(set(small) < set(large) for small, large in pairwise(shares))
    assert shares[-1] == numbers
    assert len(shares[2]) in (11, 12)  # of 22, whole documents
    for share_ in shares:
        assert all((number + 12) % 24 in share_ or (number + 12) % 24 not in numbers for number in share_)
    assert data.share(numbers, 0.5, seed=2) != shares[2]
    whole, half = (Training(of(data=folder, eval_samples=6, data_fraction=share_)) for share_ in (1.0, 0.5))
    assert (len(whole.numbers), len(half.numbers)) == (18, 10)
    assert half.held_out == whole.held_out
    assert sorted(number for step in half.planned for number in step) == half.numbers[:16]


# One step.


def make(folder, **more):
    torch.manual_seed(2)
    encoder = MemoryEncoder.create(FrozenVLM.load(str(folder), device="cpu"), tiny.RESAMPLER, rank=4, **more)
    for name, parameter in encoder.vlm.model.named_parameters():
        if "lora_B" in name:  # at zero, as it starts, it keeps gradients from the rest
            torch.nn.init.normal_(parameter, std=0.1)
    return encoder


PLACES = [[], [1, 0], [2], [3, 1, 0]]


def batch_of(encoder, places=PLACES):
    told = encoder.vlm.prepare_answered(CHATS[: len(places)], ["no", "it is Petra", "", "somebody else"][: len(places)])
    return Batch(encoder.tokenize(ITEMS[:4]), [0, 1, 2, 3], places, *told, {})


def learner_of(encoder, passes=1):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=passes)
    return Learner(accelerator, accelerator.prepare(Compressor(encoder)), encoder, encoder.vlm)


def gradients(encoder):
    named = [*encoder.vlm.model.named_parameters(), *encoder.resampler.named_parameters()]
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    tiny.save(request.param, folder)
    return folder


def test_steps_change_what_learns_and_nothing_else(family):
    encoder = make(family, dropout=0.1)
    checkpoint_activations(encoder.vlm)
    learning = {id(p) for p in encoder.parameters()}
    state = {**dict(encoder.vlm.model.named_parameters()), **dict(encoder.vlm.model.named_buffers())}
    frozen = {name: t.clone() for name, t in state.items() if id(t) not in learning}
    before = [p.clone() for p in encoder.parameters()]
    learner, optimizer = learner_of(encoder), torch.optim.AdamW(parameter_groups(encoder, 0.1), lr=1e-2)
    batch = batch_of(encoder)
    for _ in range(2):
        learner.accumulate(batch, 4)
        optimizer.step()
        optimizer.zero_grad()
    assert len(frozen) > 20
    assert all(torch.equal(state[name], value) for name, value in frozen.items())
    named = {id(p): name for name, p in encoder.vlm.model.named_parameters()}
    still = [
        named.get(id(now), "resampler")
        for then, now in zip(before, encoder.parameters(), strict=True)
        if torch.equal(then, now)
    ]
    # LLaVA reads the last but one layer of its vision tower.
    assert all("vision_tower" in name and "layers.1." in name for name in still)
    assert encoder._is_on is False


def test_gradients_are_those_of_one_graph_kept_or_computed_again(family):
    """Our loss in two parts against the same in one, without a line of the step's."""
    encoder = make(family, dropout=0.0)
    memories = encoder.forward(ITEMS[:4])
    prefix = [memories[places].flatten(0, 1) for places in PLACES]
    losses = encoder.vlm.losses(CHATS[:4], ["no", "it is Petra", "", "somebody else"], prefix)
    losses.mean().backward()
    expected = gradients(encoder)
    encoder.vlm.model.zero_grad()
    encoder.resampler.zero_grad()
    calls, looks = [], []
    firsts = [(n, m) for n, m in encoder.vlm.model.named_modules() if re.search(r"(layers?|blocks)\.0\.mlp$", n)]
    (layer,) = (m for n, m in firsts if "vision" not in n and "visual" not in n)
    (tower,) = (m for n, m in firsts if "vision" in n or "visual" in n)
    layer.register_forward_pre_hook(lambda *_: calls.append(1))
    tower.register_forward_pre_hook(lambda *_: looks.append(1))
    learnt = learner_of(encoder).accumulate(batch_of(encoder), 4)
    kept, calls[:] = len(calls), []
    seen, looks[:] = len(looks), []
    torch.testing.assert_close(learnt.losses, losses.detach(), atol=1e-5, rtol=0)
    got = gradients(encoder)
    assert got.keys() == expected.keys()
    for name in got:
        torch.testing.assert_close(got[name], expected[name], atol=1e-5, rtol=1e-4)
    encoder.vlm.model.zero_grad()
    encoder.resampler.zero_grad()
    checkpoint_activations(encoder.vlm)
    learner_of(encoder).accumulate(batch_of(encoder), 4)
    again = gradients(encoder)
    assert len(calls) == 2 * kept  # the encoder's and the reader's layer, each once more
    assert len(looks) == seen + 2  # the encoder's, once with its tower and once more; the reader's learns nothing
    for name in got:
        torch.testing.assert_close(again[name], got[name], atol=1e-6, rtol=1e-5)


def test_dropout_is_the_same_where_activations_are_computed_again(family, monkeypatch):
    given = []

    def noting(function, *args, **kwargs):
        given.append((args, kwargs))
        return checkpoint(function, *args, **kwargs)

    def learn():
        torch.manual_seed(5)
        learner_of(encoder).accumulate(batch_of(encoder), 4)
        found = gradients(encoder)
        encoder.vlm.model.zero_grad()
        encoder.resampler.zero_grad()
        return found

    encoder = make(family, dropout=0.5)
    kept = learn()
    monkeypatch.setattr(learning_module, "checkpoint", noting)
    checkpoint_activations(encoder.vlm)
    again = learn()
    assert kept.keys() == again.keys()
    for name in kept:
        torch.testing.assert_close(again[name], kept[name], atol=1e-6, rtol=1e-5)
    assert given  # random numbers of a GPU are kept for what is given by its place
    assert all(any(isinstance(one, torch.Tensor) for one in args) for args, _ in given)
    assert all(kwargs == {"use_reentrant": False} for _, kwargs in given)


def test_dropout_is_the_adapters_alone(tmp_path):
    tiny.save("qwen2_5_vl", tmp_path)
    encoder = make(tmp_path, dropout=0.5)
    checkpoint_activations(encoder.vlm)
    batch = batch_of(encoder)
    learner = learner_of(encoder)
    first, second = (learner.accumulate(batch, 4) for _ in range(2))
    assert not torch.equal(first.memories, second.memories)
    assert torch.equal(first.losses[0], second.losses[0])  # no item: the reader alone
    measured = learner.measure(batch)
    assert torch.equal(measured, learner.measure(batch))
    assert not torch.equal(learner.accumulate(batch, 4).losses[1:], measured[1:])


def test_loss_and_gradients_are_the_references(fixtures):
    """As far as they pass through the memory; the reference's question has its image from the tuned vision tower."""
    parity = Fixtures(fixtures / "parity")
    about = json.loads((parity.folder / "train/lora.json").read_text())
    expected = load_file(parity.folder / "train/lora_grads.safetensors")
    sample = json.loads((parity.folder / "train/full.json").read_text())["sample"]
    shape = {"heads": parity.resampler["heads"], "depth": parity.resampler["depth"]}
    base = str(parity.folder / "base/Qwen2.5-VL-tiny")
    encoder, reader = _load_adapter(str(parity.folder / "train/adapter"), base, **shape)
    learning = {
        **{RESAMPLER_PREFIX + name: p for name, p in encoder.resampler.named_parameters()},
        **{name: p for name, p in encoder.vlm.model.named_parameters() if "lora_" in name},
    }
    for parameter in learning.values():
        parameter.requires_grad_(True)
    items, question, answer = _sample(parity, sample, 3)
    # In item order, unlike ours and unlike the reference's inference.
    batch = Batch(encoder.tokenize(items), [0, 1, 2], [[0, 1, 2]], *reader.prepare_answered([question], [answer]), {})
    accelerator = Accelerator(cpu=True)
    with encoder.adapter_on():
        learnt = Learner(accelerator, Compressor(encoder), encoder, reader).accumulate(batch, 1)
    assert abs(learnt.losses.item() - about["loss"]) < 1e-4
    compared = 0
    for name, gradient in expected.items():
        ours = _todays_full_name(name.removeprefix("grad.base_model.model.").replace("modules_to_save.default.", ""))
        if "visual" not in ours:
            torch.testing.assert_close(learning[ours].grad, gradient, atol=2e-4, rtol=0)
            compared += 1
    assert compared > 5


def test_biases_and_norms_do_not_decay(encoder):
    decaying, kept = parameter_groups(encoder, 0.1)
    named = {id(p): name for name, p in encoder.resampler.named_parameters()}
    names = {named[id(p)] for p in kept["params"]}
    assert {name for name in named.values() if "bias" in name or "norm" in name} <= names
    assert all("bias" in name or "norm" in name or name.startswith("feed_forward.0") for name in names)
    assert (decaying["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert len(decaying["params"]) + len(kept["params"]) == len(encoder.parameters())


# A whole training.


def test_a_training_makes_an_encoder(of, data, caplog):
    with caplog.at_level(logging.INFO):
        out = train(of(eval_samples=6, eval_every=2, max_steps=6, lr=1e-3))
    made = record(out)
    assert len(made["losses"]) == made["step"] == 6
    assert [step for step, _ in made["evaluations"]] == [2, 4, 6]
    assert made["evaluations"][-1][1] < made["evaluations"][0][1]
    assert made["samples"] == 34
    assert made["left_out"] == {}
    assert made["data_manifest"] == json.loads((data / "manifest.json").read_text())
    assert made["settings"]["lr"] == 1e-3
    assert made["tokens"] > 5000
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-0000005", "step-0000006"]
    for folder in (out, out / "checkpoints/step-0000005"):  # a checkpoint is an encoder, too
        results = evaluate("comem", model_args=f"memory_encoder={folder}", limit=4, batch_size=4)
        assert len(answers(results)) == 4
    assert same(weights(out), weights(out / "checkpoints/step-0000006"))
    with pytest.raises(UserError, match="holds a memory encoder that is trained; give another out="):
        train(of())


def test_how_a_step_is_cut_does_not_matter(of):
    whole = train(of("whole", global_batch=4, batch_size=4, dropout=0.0))
    for size in (1, 2):
        cut = train(of(f"cut{size}", global_batch=4, batch_size=size, dropout=0.0))
        assert record(cut)["losses"] == pytest.approx(record(whole)["losses"], abs=1e-4)
        assert record(cut)["norms"] == pytest.approx(record(whole)["norms"], rel=1e-3)  # Adam hides a wrong scale
        for name, tensor in weights(cut).items():
            torch.testing.assert_close(tensor, weights(whole)[name], atol=2e-4, rtol=0)


def test_in_bfloat16_the_adapter_keeps_no_copies_in_float32(of, monkeypatch):
    """Gradients are the same, bit for bit, from fewer bytes that the backward pass needs."""

    def learn():
        training = Training(of(dtype="bfloat16", dropout=0.0, activation_checkpointing=False))
        batch, saved = training.collate(training.numbers[:2]), []
        keep = lambda tensor: saved.append(tensor) or tensor  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            training.learner.accumulate(batch, 2)
        different = {tensor.data_ptr(): tensor.nbytes for tensor in saved}
        return sum(different.values()), [p.grad.clone() for p in training.encoder.parameters() if p.grad is not None]

    few, ours = learn()
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr(train_module, "leave_casting_to_autocast", lambda encoder: None)
    many, casting = learn()
    assert few < 0.95 * many
    assert len(ours) == len(casting) > 10
    assert all(torch.equal(one, other) for one, other in zip(ours, casting, strict=True))


def test_bfloat16_keeps_what_learns_in_float32(of):
    training = Training(of(dtype="bfloat16", max_steps=2, activation_checkpointing=True))
    out = training.run()
    assert training.vlm.model.dtype == torch.bfloat16
    assert {p.dtype for p in training.encoder.parameters()} == {torch.float32}
    assert {t.dtype for t in weights(out).values()} == {torch.float32}
    assert all(math.isfinite(loss) for loss in record(out)["losses"])


def test_held_out_questions_are_answered_as_in_use(of, questions, knowledge, ids, tmp_path):
    rows = [{**row, "answer": q["answer"]} for row, q in zip(rows_of(questions, ids, 16), questions, strict=False)]
    rows[3]["image"] = {"bytes": b"no image", "path": None}
    data = write(tmp_path / "data", rows, knowledge)
    training = Training(of(data=data, rank=16, depth=4, dropout=0.5, activation_checkpointing=True))
    training.progress = Progress()
    fresh = training._exact_match(range(16))
    training.encoder.restore(Path(micro.resolve("micro", "memory_encoder")))
    modes = [module.training for module in training.vlm.model.modules()]
    assert True in modes
    random = torch.get_rng_state()
    assert fresh < 0.3
    assert training._exact_match(range(16)) > 0.9
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in training.vlm.model.modules()] == modes


def test_measuring_changes_nothing(of):
    often = train(of("often", eval_samples=4, eval_every=1))
    once = train(of("once", eval_samples=4, eval_answers=0))
    assert [step for step, _ in record(often)["exact_matches"]] == [1, 2, 3, 4]
    assert record(once)["exact_matches"] == []
    assert record(often)["evaluations"][-1] == record(once)["evaluations"][-1]
    assert record(often)["losses"] == record(once)["losses"]
    assert same(weights(often), weights(once))


def test_killed_and_resumed_is_uninterrupted(of, tmp_path):
    """Killed at whatever it does after its second checkpoint, and once more in the middle of a step."""
    start = train(of("start", max_steps=1))
    more = {"max_steps": 8, "epochs": 2, "eval_samples": 4, "eval_every": 3, "start": start}
    whole = train(of("whole", **more))
    settings = of("killed", **more)
    for n in (2, 5):
        process = subprocess.Popen(command(settings), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wanted = tmp_path / f"killed/checkpoints/step-{n:07}"
        while not wanted.is_dir() and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        said = process.communicate()[0].decode()
        assert process.returncode == -signal.SIGKILL, said
        assert not (tmp_path / "killed/training.json").exists()
    done = subprocess.run(command(settings), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    out = tmp_path / "killed"
    assert same(weights(out), weights(whole))
    for name in ("losses", "norms", "evaluations", "exact_matches", "tokens"):
        assert record(out)[name] == record(whole)[name]
    assert record(out)["last_session"]["steps"] <= 3


def test_goes_on_from_an_encoder(of, tmp_path):
    """What the second training measures first is what the first ended with; steps of nothing leave its weights."""
    measured = {"eval_samples": 8, "eval_answers": 0, "dropout": 0.0}
    first = record(train(of("first", max_steps=6, **measured)))
    started = of("second", start=tmp_path / "first", max_steps=1, lr=1e-12, **measured)
    second = record(train(started))
    assert second["evaluations"][0][1] == pytest.approx(first["evaluations"][-1][1], abs=1e-6)
    for name, tensor in weights(tmp_path / "second").items():
        assert torch.allclose(tensor, weights(tmp_path / "first")[name], atol=1e-8)
    assert (first["start_fingerprint"], len(second["start_fingerprint"])) == (None, 64)
    assert not same(weights(tmp_path / "first"), weights(train(of("third", max_steps=1, **measured))))


def as_it_is(encoder):
    pass


def cut_off(encoder):
    adapter = encoder / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:-1000])


def half_an_adapter(encoder):
    tensors = load_file(encoder / "adapter_model.safetensors")
    save_file(dict(list(tensors.items())[::2]), encoder / "adapter_model.safetensors")


def scaled_otherwise(encoder):
    edit(encoder / "adapter_config.json", use_rslora=True)


def no_shape(encoder):
    edit(encoder / "memory_encoder.json", resampler=[1])


def for_another_vlm(encoder):
    edit(encoder / "memory_encoder.json", vlm_embeddings="0" * 64)


def merged(encoder):
    merge(str(encoder), str(encoder.with_name("merged")))
    shutil.rmtree(encoder)
    encoder.with_name("merged").rename(encoder)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("spoil", "settings", "said"),
    [
        (shutil.rmtree, {}, "no memory encoder .* give the folder of one"),
        (as_it_is, {"vectors": 4}, "has vectors=8, and 4 is asked for; change vectors="),
        (as_it_is, {"heads": 10}, "has heads=5, and 10 is asked for; change heads="),
        (as_it_is, {"rank": 8}, "has rank=16, and 8 is asked for; change rank="),
        (scaled_otherwise, {}, "has use_rslora=True, and False is asked for; give another"),
        (no_shape, {}, "resampler in memory_encoder.json is no object"),
        (merged, {}, "is merged and has no adapter to train"),
        (for_another_vlm, {}, "another checkpoint than"),
        (cut_off, {}, "is damaged"),
        (half_an_adapter, {}, "is damaged .*has not the weights that belong to this VLM"),
    ],
)
def test_an_encoder_that_cannot_be_gone_on_from(of, tmp_path, spoil, settings, said):
    start = tmp_path / "start"
    shutil.copytree(micro.resolve("micro", "memory_encoder"), start)
    spoil(start)
    with pytest.raises(UserError, match=said):
        train(of("wrong", start=start, **{"depth": 4, "rank": 16, **settings}))
    assert not (tmp_path / "wrong").exists()


def test_an_interrupted_training_says_how_to_go_on(of, tmp_path):
    process = subprocess.Popen(command(of(max_steps=None, epochs=9)), stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "out/checkpoints/step-0000001").is_dir() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1].strip().splitlines()
    assert process.returncode == 130, said[-20:]
    assert said[-1] == ("comem_lmms.training.train: interrupted; the same command goes on from the last checkpoint")


@pytest.mark.parametrize("kind", ["ddp", "fsdp2", "fsdp2 killed", zero3("zero3"), zero3("zero3 killed")])
def test_two_processes_learn_what_one_does(kind, of, tmp_path, questions, knowledge, ids, vlm):
    """With a step without any item, which leaves the vision tower without gradients, and one of a single sample.

    Where the VLM is shared, activations are kept, or computed again by processes that are killed once.
    """
    config, killed = kind.split()[0], "killed" in kind
    rows = rows_of(questions, ids, 12, ks=(0, 3, 2))
    own = vlm.generate([chat(rows[8]["prompt"], rows[8]["image"])], max_new_tokens=16)[0].text
    rows[8] |= {"item_ids": [], "answer": own}  # held out, and answered as the VLM does whatever is learnt
    data = write(tmp_path / "data", rows, knowledge)
    more = {"data": data, "dropout": 0.0, "eval_samples": 3, "eval_every": 2, "epochs": 2, "max_steps": None}
    more["activation_checkpointing"] = killed
    one = train(of("one", batch_size=2, **more))
    two = tmp_path / "two"
    told = launched(config, *command(of("two", batch_size=1, **more))[1:])
    if killed:
        begun = subprocess.Popen(**told)
        while not (two / "checkpoints/step-0000002").is_dir() and begun.poll() is None:
            time.sleep(0.02)
        for process in (psutil.Process(begun.pid), *psutil.Process(begun.pid).children(recursive=True)):
            process.kill()
        said = begun.communicate()[0]
        assert begun.returncode == -signal.SIGKILL, said
    done = subprocess.run(**told, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:]
    assert record(two)["last_session"]["steps"] < len(record(two)["losses"]) or not killed
    in_parts = re.search(r"micro: (\S+) of (\S+) GB of frozen weights in each process", done.stdout)
    assert (float(in_parts[1]) < 0.7 * float(in_parts[2])) if config != "ddp" else in_parts is None
    assert record(two)["processes"] == 2
    assert record(two)["losses"] == pytest.approx(record(one)["losses"], abs=1e-4)
    assert record(two)["norms"] == pytest.approx(record(one)["norms"], rel=1e-3, abs=1e-6)
    assert 0 in record(one)["norms"]
    assert record(two)["evaluations"][-1][1] == pytest.approx(record(one)["evaluations"][-1][1], abs=1e-4)
    assert record(two)["exact_matches"] == record(one)["exact_matches"]
    assert {round(3 * right) for _, right in record(one)["exact_matches"]} == {1}
    assert record(two)["tokens"] >= record(one)["tokens"]  # an item is read by each process that needs it
    for name, tensor in weights(two).items():
        torch.testing.assert_close(tensor, weights(one)[name], atol=2e-4, rtol=0)
    (two / "training.json").unlink()
    with pytest.raises(UserError, match="holds an interrupted training with processes=2, not 1"):
        train(of("two", batch_size=1, **more))


def test_a_full_disk_leaves_the_last_checkpoint(of, tmp_path):
    whole = train(of("whole"))
    settings = of("full")
    begun = subprocess.Popen(command(settings), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first = tmp_path / "full/checkpoints/step-0000001"
    while not first.is_dir() and begun.poll() is None:
        time.sleep(0.02)
    begun.kill()
    begun.wait()
    kept = sorted(p.name for p in (tmp_path / "full/checkpoints").glob("step-???????"))
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (200_000, 200_000))
    done = subprocess.run(command(settings), capture_output=True, text=True, timeout=600, preexec_fn=limit)
    assert done.returncode == 2, done.stderr[-2000:]
    last = done.stderr.strip().splitlines()[-1]
    assert re.search(rf"train: cannot write the checkpoint step-\d+ \(.*\); make room .*{kept[-1]} is kept", last)
    assert sorted(p.name for p in (tmp_path / "full/checkpoints").iterdir()) == kept
    assert same(weights(train(settings)), weights(whole))


def test_another_training_is_not_gone_on_with(of, tmp_path):
    training = Training(of())
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/run.json").write_text(json.dumps(training.about))
    Training(of(keep=5, log_every=1))
    early = {name: value for name, value in training.about["settings"].items() if name not in ("start", "shuffle")}
    (tmp_path / "out/run.json").write_text(json.dumps({**training.about, "settings": early}))
    Training(of())  # which was begun before there were these settings
    for change, said in (({"lr": 1.0}, "lr=0.002, not 1.0"), ({"top_k": 2}, "top_k=3, not 2")):
        with pytest.raises(UserError, match=re.escape(f"holds an interrupted training with {said}")):
            Training(of(**change))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/deep/out' cannot be made: .*file is no folder to write to"):
        Training(of("file/deep/out"))
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/run.json.partial").write_text("{")  # of one that was killed at once
    Training(of("begun"))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").write_text("")
    with pytest.raises(UserError, match="is there and holds no training"):
        Training(of("taken"))


def test_one_training_at_a_time(of, tmp_path):
    (tmp_path / "out").mkdir()
    with alone(tmp_path / "out"), pytest.raises(UserError, match=r"another process is at work in .*out; wait for it"):
        train(of())
    train(of())


def test_a_damaged_checkpoint_is_named(of, tmp_path):
    whole = weights(train(of()))
    (tmp_path / "out/training.json").unlink()
    (tmp_path / "out/checkpoints/step-0000004/optimizer.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=r"checkpoint .*step-0000004 is damaged \(.*\); remove it"):
        train(of())
    shutil.rmtree(tmp_path / "out/checkpoints/step-0000004")
    numbers = tmp_path / "out/checkpoints/step-0000003/random_states_0.pkl"
    kept = numbers.read_bytes()
    numbers.write_bytes(kept[:100])
    with pytest.raises(UserError, match=r"step-0000003 is damaged \(its random numbers cannot be read\)"):
        train(of())
    numbers.write_bytes(kept)
    out = train(of())
    assert record(out)["last_session"]["steps"] == 1
    assert same(weights(out), whole)


# A text LLM that answers.


@pytest.fixture
def for_a_text_llm(of, fixtures):
    base = fixtures / "parity/base"
    given = {"heads": 4, "depth": 8, "init_std": 0.1, "max_steps": 2, "lr": 1e-3, "activation_checkpointing": True}
    return of(pretrained=base / "Qwen2.5-VL-tiny", reader=base / "Qwen2.5-tiny", **given)


def test_a_text_llm_reads_in_training_what_it_reads_in_use(for_a_text_llm):
    """Given the question it foretells the first token of the answer alike, so nothing of the answer is told before."""
    training = Training(for_a_text_llm)
    training.encoder.train(False)
    reader = training.learner.reader
    in_use = TextReader("reader", reader.model, training.encoder)
    batch = training.collate([0, 1, 2])
    with torch.no_grad():
        memories, *read = training.learner.encode(batch)
        question, fronts = text.lay_out(batch, memories, *read)
        logits, _ = reader.predict(question, batch.is_answer, fronts)
        starts = batch.is_answer.sum(1).cumsum(0) - batch.is_answer.sum(1)
        chats = [training.data[number].chat for number in range(3)]
        expected = in_use.logits(chats, [memories[places].flatten(0, 1) for places in batch.places])
    torch.testing.assert_close(logits[starts], expected, atol=1e-4, rtol=0)
    assert (expected[0] - expected[1]).abs().max() > 0.01
    modes = [module.training for module in reader.model.modules()]
    memory = memories[batch.places[0]].flatten(0, 1)
    alone = training.collate([0])
    (told,) = in_use.generate(chats[:1], [memory], max_new_tokens=4)
    assert training.learner.answer(alone, chats[0], 4) == told.text
    assert [module.training for module in reader.model.modules()] == modes


def test_an_encoder_for_a_text_llm(for_a_text_llm, run, tmp_path, knowledge, questions):
    training = Training(for_a_text_llm)
    state = {**training.learner.reader.model.state_dict(), **training.vlm.model.state_dict()}
    frozen = {name: tensor.clone() for name, tensor in state.items() if "lora_" not in name}
    before = [p.clone() for p in training.encoder.parameters()]
    out = training.run()
    assert all(torch.equal(state[name], tensor) for name, tensor in frozen.items())
    moved = [not torch.equal(a, b) for a, b in zip(before, training.encoder.parameters(), strict=True)]
    assert sum(moved) > 0.4 * len(moved)  # what multiplies B has no gradient while B is zero
    vlm, llm = for_a_text_llm.pretrained, for_a_text_llm.reader
    run("comem-lmms", "merge", str(out), "merged", "--layout", "reference", "--dtype", "float32")
    given = MemoryArguments(pretrained=vlm, memory_encoder=str(tmp_path / "merged"), reader=llm, dtype="float32")
    parts = Parts(given, "cpu")
    items = [knowledge[0], knowledge[1]]
    training.encoder.train(False)
    torch.testing.assert_close(parts.encoder.encode(items), training.encoder.encode(items), atol=1e-4, rtol=0)
    asked = chat("What is this?", questions[0]["image"])
    assert len(parts.reader.generate([asked], [parts.encoder.encode(items).flatten(0, 1)], max_new_tokens=3)) == 1


@pytest.mark.parametrize("kind", ["fsdp2", zero3("zero3")])
def test_processes_share_a_text_llm_as_well(kind, for_a_text_llm, tmp_path):
    settings = replace(for_a_text_llm, dropout=0.0, eval_samples=3, eval_every=1, eval_tokens=4)
    one = train(settings)
    two = replace(settings, batch_size=1, out=str(tmp_path / "two"))
    done = subprocess.run(**launched(kind, *command(two)[1:]), timeout=600)
    assert done.returncode == 0, done.stdout[-4000:]
    assert len(re.findall("GB of frozen weights in each process", done.stdout)) == 2
    for name in ("losses", "norms"):
        assert record(tmp_path / "two")[name] == pytest.approx(record(one)[name], rel=1e-3)
    for name, tensor in weights(tmp_path / "two").items():
        torch.testing.assert_close(tensor, weights(one)[name], atol=2e-4, rtol=0)


def test_a_text_llm_that_does_not_fit(for_a_text_llm):
    with pytest.raises(UserError, match=r"reader='micro' is 160 wide, but memories are 64 wide"):
        Training(replace(for_a_text_llm, reader="micro"))
    with pytest.raises(UserError, match="min_pixels and max_pixels have no effect with reader=; leave them out"):
        Training(replace(for_a_text_llm, min_pixels=784))


# Bad input.


def test_wrong_data(of, knowledge, questions, ids, tmp_path, data):
    def opened(folder, base=knowledge):
        return TrainingData.open(folder, base, 3)

    with pytest.raises(UserError, match=r"no training data at .*: manifest\.json is missing"):
        opened(tmp_path)
    with pytest.raises(UserError, match="holds no samples"):
        opened(write(tmp_path / "empty", [], knowledge))
    other = KnowledgeBase.create(tmp_path / "kb", [knowledge.row(0)])
    with pytest.raises(UserError, match=r"was made with another knowledge base \(.*\) than .*; give knowledge="):
        opened(data, other)
    folder = write(tmp_path / "columns", rows_of(questions, ids, 2), knowledge)
    datasets.load_from_disk(str(folder)).remove_columns("answer").save_to_disk(str(tmp_path / "fewer"))
    shutil.copy(folder / "manifest.json", tmp_path / "fewer")
    with pytest.raises(UserError, match="has no column 'answer'"):
        opened(tmp_path / "fewer")
    for path in folder.glob("*.arrow"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="cannot read the training data in"):
        opened(folder)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="names no knowledge base"):
        opened(folder)


def test_samples_whose_items_are_gone(of, knowledge, questions, ids, tmp_path, caplog):
    rows = rows_of(questions, ids, 6)
    rows[2]["item_ids"][1] = "no such item"
    data = write(tmp_path / "gone", rows, knowledge)
    out = train(of(data=data, max_steps=1))
    assert record(out)["left_out"] == {
        "sample 2 (document 2 of microseek, en)": "the knowledge base has no item 'no such item'"
    }
    assert record(out)["samples"] == 5
    assert "1 of 6 samples are left out" in caplog.text
    for row in rows:
        row["item_ids"] = ["no such item"]
    with pytest.raises(UserError, match=r"no sample that can be trained on \(6 samples, 6 of them with items"):
        TrainingData.open(write(tmp_path / "all", rows, knowledge), knowledge, 3)


def test_samples_that_cannot_be_read_are_named_and_the_others_are_learnt_from(of, knowledge, questions, ids, tmp_path):
    rows = rows_of(questions, ids, 7)
    rows[4]["answer"] = "very " * 5000
    rows[6]["image"] = Image.new("RGB", (2000, 5))  # the processor's ratio is at most 200
    drawn = io.BytesIO()
    rows[3]["image"].save(drawn, "png")
    rows[1]["image"] = {"bytes": b"no image", "path": None}
    rows[3]["image"] = {"bytes": drawn.getvalue()[: drawn.tell() // 2], "path": None}
    data = write(tmp_path / "spoilt", rows, knowledge)
    out = train(of(data=data, max_steps=None, global_batch=8, batch_size=4, dropout=0.0))
    left_out = {re.search(r"\d+", name).group(): reason for name, reason in record(out)["left_out"].items()}
    assert left_out.keys() == {"1", "3", "4", "6"}
    assert "its image cannot be read" in left_out["1"]
    assert "its image cannot be read" in left_out["3"]
    assert re.fullmatch(r"question and answer of \d+ tokens, the model has 4096 positions", left_out["4"])
    assert "ratio" in left_out["6"]
    good = write(tmp_path / "good", [rows[i] for i in (0, 2, 5)], knowledge)
    alone = train(of("alone", data=good, max_steps=None, global_batch=8, batch_size=4, dropout=0.0))
    assert record(alone)["losses"] == pytest.approx(record(out)["losses"], abs=1e-5)
    for name, tensor in weights(out).items():
        torch.testing.assert_close(tensor, weights(alone)[name], atol=2e-4, rtol=0)


def test_an_item_longer_than_the_model_reads(knowledge, questions, tmp_path, encoder):
    long = knowledge.row(0)._replace(id="long", text="§" * 4900)
    base = KnowledgeBase.create(tmp_path / "kb", [long, *(knowledge.row(i) for i in range(1, 4))])
    rows = rows_of(questions, [base.id(1), base.id(2), base.id(3), "long"], 1)
    rows = [{**rows[0], "item_ids": [base.id(1)]}, {**rows[0], "item_ids": [base.id(2), "long"], "document": 1}]
    data = TrainingData.open(write(tmp_path / "d", rows, base), base, 3)
    batch = Collator(data, encoder, encoder.vlm)([0, 1])
    assert len(batch.places) == 1
    (reason,) = batch.left_out.values()
    assert re.fullmatch(r"an item of \d+ tokens, the model has 4096 positions", reason)
    nothing = Collator(data, encoder, encoder.vlm)([1])
    assert (nothing.rows, nothing.places, len(nothing.question["input_ids"])) == ([], [], 1)  # the stand-in's


def test_no_item_at_all_is_no_gradient(of, knowledge, questions, ids, tmp_path):
    data = write(tmp_path / "none", rows_of(questions, ids, 4, ks=(0,)), knowledge)
    training = Training(of(data=data, max_steps=2, weight_decay=0.0))
    before = [p.clone() for p in training.encoder.parameters()]
    training.run()
    assert all(torch.equal(a, b) for a, b in zip(before, training.encoder.parameters(), strict=True))
    assert all(loss > 0 for loss in training.progress.losses)


def test_items_are_encoded_once_and_the_best_stands_next_to_the_question(knowledge, data, encoder):
    opened = TrainingData.open(data, knowledge, 3)
    batch = Collator(opened, encoder, encoder.vlm)([0, 1, 2, 3])
    assert [len(places) for places in batch.places] == [3, 1, 2, 0]
    assert len(set(batch.rows)) == len(batch.rows) == len(batch.items["input_ids"])
    best = [batch.rows[places[-1]] for places in batch.places if places]
    assert [knowledge.id(row) for row in best] == [opened._cells["item_ids"][i][0] for i in range(3)]
    fewer = Collator(TrainingData.open(data, knowledge, 1), encoder, encoder.vlm)([0, 1, 2, 3])
    assert [len(places) for places in fewer.places] == [1, 1, 1, 0]


def test_a_loss_that_is_no_number_stops(of, tmp_path):
    with pytest.raises(UserError, match=r"step \d was not taken, since its loss is .*nan.*; train again with a lower"):
        train(of(lr=1e18, clip=1e18, max_steps=8))
    last = max((tmp_path / "out/checkpoints").iterdir())
    assert all(torch.isfinite(tensor).all() for tensor in weights(last).values())
    assert not (tmp_path / "out/training.json").exists()


def test_warnings_in_time(caplog):
    watch = Watch()
    apart, alike = torch.randn(4, 8, 16), torch.randn(1, 8, 16).repeat(4, 1, 1)
    for step in range(1, 200):
        watch.look(step, 1.0, 1.0, apart)
    assert not caplog.text
    watch.look(200, 1.0, 1.0, alike)
    watch.look(201, 1.0, 1.0, alike)
    assert caplog.text.count("memories of different items are nearly equal (mean cosine 1.0000 at step 200)") == 1
    watch.look(202, 1.0, 1.0, 20 * apart)
    assert "the norm of memories has grown from" in caplog.text
    with pytest.raises(UserError, match="step 203 was not taken, since its loss is nan"):
        watch.look(203, math.nan, 1.0, apart)


def test_curves_go_to_tensorboard(of, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(of(tracker="tensorboard", log_every=1, eval_samples=4, eval_every=2))
    events = EventAccumulator(str(tmp_path / "out/logs/training")).Reload()
    assert {"loss", "lr", "gradient_norm", "memory_norm", "eval_loss", "eval_exact_match"} <= set(
        events.Tags()["scalars"]
    )
    assert [scalar.step for scalar in events.Scalars("loss")] == [1, 2, 3, 4]


def test_a_tracker_that_is_not_there(of):
    with pytest.raises(UserError, match=r"tracker='clearboard' is not installed, or unknown to .*; choose none, "):
        Training(of(tracker="clearboard"))


def test_what_the_command_says_is_one_line(run):
    done = run("python", "-m", "comem_lmms.training.train", "--config", "micro", check=False)
    assert done.returncode == 2
    assert done.stdout.strip().splitlines()[-1] == (
        "comem_lmms.training.train: setting 'data' is missing; write it into the file, or give --set data=..."
    )
