"""Vectors of a base: the same however they are made, whole or not there, and never of another base or model."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import open_clip
import pytest
from clips import save_clip, small_config
from PIL import Image

from comem_lmms import micro
from comem_lmms.errors import UserError
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.records import Query
from comem_lmms.retrieval import ClipEmbedder, Embeddings, Index, Retriever, embed

WORDS = ["a", "red", "blue", "castle", "dog"]


@pytest.fixture
def small(knowledge, tmp_path):
    """Fifty realms."""
    return KnowledgeBase.create(tmp_path / "kb", [knowledge.row(i) for i in range(50)])


@pytest.fixture
def micro_clip():
    return ClipEmbedder("micro")


def files(base) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (base.folder / "embeddings").glob("*.npy")}


def vectors(base) -> np.ndarray:
    return np.concatenate(list(Embeddings.open(base).shards()))


def test_vectors_are_those_of_the_model(small, micro_clip):
    made = embed(small, micro_clip, shard=20)
    expected = np.concatenate([micro_clip.embed([small[i].image]) for i in range(50)])
    np.testing.assert_allclose(vectors(small), expected, atol=2e-3)
    assert sorted(files(small)) == ["00000.npy", "00001.npy", "00002.npy"]
    assert (len(made), made.dimension) == (50, 128)
    assert (made.take(np.array([41, 3, 20])) == vectors(small)[[41, 3, 20]]).all()
    np.testing.assert_allclose(np.linalg.norm(vectors(small).astype(np.float32), axis=1), 1, atol=1e-3)


def test_an_image_that_serves_many_items_is_embedded_once(knowledge, tmp_path, micro_clip):
    rows = [knowledge.row(i % 3)._replace(id=str(i)) for i in range(9)]
    assert len(embed(KnowledgeBase.create(tmp_path, rows), micro_clip)) == 3


def test_result_does_not_depend_on_workers_or_on_the_batch(small, micro_clip):
    embed(small, micro_clip, batch_size=8, shard=20)
    first, vectors_ = files(small), vectors(small)
    shutil.rmtree(small.folder / "embeddings")
    embed(small, micro_clip, batch_size=8, workers=2, shard=20)
    assert files(small) == first
    shutil.rmtree(small.folder / "embeddings")
    embed(small, micro_clip, batch_size=7, shard=20)
    np.testing.assert_allclose(vectors(small), vectors_, atol=1e-3)


def test_two_processes_do_not_embed_one_base(small, micro_clip, monkeypatch):
    refused, encode = [], micro_clip.encode

    def encoded(pixels):
        with pytest.raises(UserError, match=r"another process is at work in .*kb; wait for it, or stop it"):
            embed(small, ClipEmbedder("micro"))
        refused.append(len(list((small.folder / "embeddings").glob("*.npy"))))
        return encode(pixels)

    monkeypatch.setattr(micro_clip, "encode", encoded)
    embed(small, micro_clip, batch_size=25, shard=25)
    assert refused == [0, 1]
    Embeddings.open(small).verify()


def test_processes_make_the_same_files(small, micro_clip, run):
    embed(small, micro_clip)
    first = files(small)
    manifest = (small.folder / "embeddings/manifest.json").read_text()
    shutil.rmtree(small.folder / "embeddings")
    launch = ["accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "29531"]
    launch += ["-m", "comem_lmms.cli", "kb", "embed", str(small.folder), "--clip", "micro", "--workers", "1"]
    said = run(*launch, ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1").stdout
    assert said.count("50 vectors of 128 dimensions, computed in float32 by micro") == 1
    assert files(small) == first
    assert (small.folder / "embeddings/manifest.json").read_text() == manifest


SHARES = """
import sys
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.retrieval import ClipEmbedder, embed
embed(KnowledgeBase.open(sys.argv[1]), ClipEmbedder("micro"), batch_size=4, shard=int(sys.argv[2]))
"""


def test_processes_share_the_files(small, micro_clip, run, tmp_path):
    embed(small, micro_clip, batch_size=4, shard=8)
    first = files(small)
    shutil.rmtree(small.folder / "embeddings")
    (tmp_path / "shares.py").write_text(SHARES)
    launch = ["accelerate", "launch", "--multi_gpu", "--num_processes", "3", "--main_process_port", "29532"]
    run(*launch, "shares.py", str(small.folder), "8", ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")
    assert len(first) == 7
    assert files(small) == first


def test_a_killed_run_goes_on_where_it_was(small, micro_clip, tmp_path):
    embed(small, micro_clip, batch_size=4, shard=4)
    first = files(small)
    shutil.rmtree(small.folder / "embeddings")
    (tmp_path / "shares.py").write_text(SHARES)
    process = subprocess.Popen([sys.executable, tmp_path / "shares.py", small.folder, "4"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(made := files(small)) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (small.folder / "embeddings/00001.npy.partial").write_bytes(b"half")
    with pytest.raises(UserError, match=r"has no finished embeddings; run `comem-lmms kb embed"):
        Embeddings.open(small)
    os.utime(small.folder / "embeddings/00000.npy", (0, 0))
    embed(small, micro_clip, batch_size=4, shard=4)
    assert (small.folder / "embeddings/00000.npy").stat().st_mtime == 0  # not made again
    assert {name: first[name] for name in made} == made
    assert files(small) == first
    assert {path.suffix for path in (small.folder / "embeddings").iterdir()} == {".npy", ".json"}


def test_what_is_finished_is_not_made_again(small, micro_clip, monkeypatch):
    first = embed(small, micro_clip)
    monkeypatch.setattr(ClipEmbedder, "encode", None)
    assert embed(small, micro_clip).fingerprint == first.fingerprint


def test_a_file_that_a_power_failure_emptied_is_made_again(small, micro_clip):
    embed(small, micro_clip, shard=20)
    first, folder = files(small), small.folder / "embeddings"
    shutil.move(folder / "manifest.json", folder / "begun.json")
    (folder / "00001.npy").write_bytes(first["00001.npy"][:128] + bytes(len(first["00001.npy"]) - 128))
    with pytest.raises(UserError, match=r"00001.npy does not hold 20 vectors of length 1 and was removed; run the"):
        embed(small, micro_clip, shard=20)
    embed(small, micro_clip, shard=20)
    assert files(small) == first


def test_damaged_vectors_are_noticed(small, micro_clip):
    embed(small, micro_clip)
    path = small.folder / "embeddings/00000.npy"
    data = bytearray(path.read_bytes())
    path.write_bytes(data[:-1])
    with pytest.raises(UserError, match=r"00000.npy has 12,927 bytes, not 12,928: it is damaged; remove"):
        Embeddings.open(small)
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"00000.npy is damaged or was changed afterwards \(SHA-256 \w{12}, in"):
        Index.build(small)


def test_vectors_of_another_base_are_refused(small, knowledge, micro_clip):
    embed(small, micro_clip)
    other = KnowledgeBase.create(small.folder, [knowledge.row(i) for i in range(1, 51)])
    for use in (lambda: embed(other, micro_clip), lambda: Index.build(other)):
        with pytest.raises(UserError, match=r"belong to knowledge base \w{12}, not to \w{12} in .*kb; remove"):
            use()


@pytest.mark.parametrize("finished", [True, False])
def test_vectors_of_another_model_are_refused(small, micro_clip, tmp_path, finished):
    embed(small, micro_clip)
    if not finished:
        shutil.move(small.folder / "embeddings/manifest.json", small.folder / "embeddings/begun.json")
    save_clip(tmp_path / "clip", json.loads(Path(micro.resolve("micro", "clip"), "open_clip_config.json").read_text()))
    message = r"made with open_clip model 'micro' \(fingerprint \w{12}\), not with 'local-dir:.*clip' \(\w{12}\)"
    with pytest.raises(UserError, match=message):
        embed(small, ClipEmbedder(f"local-dir:{tmp_path / 'clip'}"))
    with pytest.raises(UserError, match=r"begun with computed_in='float32', not 'bfloat16'; give the same"):
        embed(small, ClipEmbedder("micro", dtype="bfloat16"))


@pytest.mark.parametrize("workers", ["0", "1"])
def test_an_unreadable_image_is_one_line(knowledge, tmp_path, run, workers):
    rows = [knowledge.row(i) for i in range(3)]
    KnowledgeBase.create(tmp_path / "kb", [*rows[:2], rows[2]._replace(image=rows[2].image[:200])])
    said = run("comem-lmms", "kb", "embed", "kb", "--clip", "micro", "--workers", workers, check=False).stdout
    assert f"comem-lmms: item '{rows[2].id}' of knowledge base kb has an unreadable image" in said
    assert "Traceback" not in said


# ---- models of open_clip, small and with random weights ------------------------------------------------------------


@pytest.fixture(params=["ViT-L-14", "EVA02-B-16", "ViT-B-16-SigLIP"])
def clip_folder(request, tmp_path, monkeypatch):
    config = small_config(request.param)
    sizes = config["model_cfg"]["vision_cfg"].pop("timm_kwargs", None)
    if sizes:  # open_clip has no way to hand them to timm
        import timm

        made = timm.create_model
        monkeypatch.setattr(timm, "create_model", lambda *a, **k: made(*a, **{**k, **sizes}))
    save_clip(tmp_path / "clip", config, WORDS)
    return f"local-dir:{tmp_path / 'clip'}"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_any_architecture_and_dtype(clip_folder, small, dtype):
    embedder = ClipEmbedder(clip_folder, dtype=dtype)
    exact = ClipEmbedder(clip_folder)
    assert embedder.fingerprint == exact.fingerprint
    embed(small, embedder, batch_size=16)
    expected = np.concatenate([exact.embed([small[i].image]) for i in range(50)])
    assert ((vectors(small) * expected).sum(1) > 0.999).all()
    assert embedder.embed_texts(WORDS).shape == (5, 32)
    Index.build(small).check_embedder(exact)


def test_queries_by_text_and_by_both(clip_folder, small, questions):
    """Hits are those of NumPy over the images' vectors."""
    embedder = ClipEmbedder(clip_folder)
    made = embed(small, embedder)
    Index.build(small, "flat")
    words = ["a red castle", "a blue dog", "a dog"]
    asked = [Query(t, [], q["image"], text=t) for q, t in zip(questions, words, strict=False)]
    images = embedder.embed([query.image for query in asked])
    texts = np.concatenate([embedder.embed_texts([text]) for text in words])
    assert not np.allclose(texts[0], texts[1], atol=1e-3)
    both = 0.7 * images + 0.3 * texts
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    for vectors, settings in (
        (images, {"by": "image"}),
        (texts, {"by": "text"}),
        (both, {"by": "both", "text_weight": 0.3}),
        (images, {"by": "both", "text_weight": 0}),
        (texts, {"by": "both", "text_weight": 1}),
    ):
        scores = vectors @ made.take(np.arange(50)).T
        for hits, expected in zip(Retriever(small, **settings).search(asked, 5), scores, strict=True):
            np.testing.assert_allclose([hit.score for hit in hits], np.sort(expected)[::-1][:5], atol=1e-5)
            np.testing.assert_allclose(expected[[hit.row for hit in hits]], [hit.score for hit in hits], atol=1e-5)


def test_what_queries_are_made_of_is_in_the_fingerprint(clip_folder, small):
    embed(small, ClipEmbedder(clip_folder))
    Index.build(small, "flat")
    settings = ({}, {"by": "text"}, {"by": "both"}, {"by": "both", "text_weight": 0.25})
    assert len({Retriever(small, **one).fingerprint for one in settings}) == 4
    with pytest.raises(UserError, match=r"the weight of the text is 1.5; give one from 0"):
        Retriever(small, by="both", text_weight=1.5)
    with pytest.raises(UserError, match=r"document 1 has no text, and retrieval is by text; use"):
        next(Retriever(small, by="text").search([Query("document 1", [], Image.new("RGB", (8, 8)), text=" ")], 1))


@pytest.mark.parametrize("clip_folder", ["ViT-B-16-SigLIP"], indirect=True)
def test_the_tokenizer_is_in_the_fingerprint_of_texts(clip_folder, tmp_path):
    shutil.copytree(tmp_path / "clip", tmp_path / "b")
    tokens = (tmp_path / "b/tokenizer.json").read_text()
    assert tokens.count('"castle"') == tokens.count('"dog"') == 1
    swapped = tokens.replace('"castle"', '"x"').replace('"dog"', '"castle"').replace('"x"', '"dog"')
    (tmp_path / "b/tokenizer.json").write_text(swapped)
    first, second = ClipEmbedder(clip_folder), ClipEmbedder(f"local-dir:{tmp_path / 'b'}")
    assert not np.array_equal(first.embed_texts(["a dog"]), second.embed_texts(["a dog"]))
    assert first.fingerprint == second.fingerprint
    assert first.text_fingerprint != second.text_fingerprint
    assert first.text_fingerprint == ClipEmbedder(clip_folder).text_fingerprint


def test_a_model_without_a_fitting_tokenizer_says_so(micro_clip):
    with pytest.raises(UserError, match=r"'micro' cannot embed texts: it knows 64 tokens, its tokenizer has more"):
        micro_clip.embed_texts(["who founded it?"])


def test_weights_of_openai_are_computed_with_their_own_activation(tmp_path, monkeypatch):
    """open_clip's plain names say GELU, and it would only warn."""
    config = small_config("ViT-L-14")
    save_clip(tmp_path / "clip", config)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-L-14", config["model_cfg"])
    weights = str(tmp_path / "clip/open_clip_model.safetensors")
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *_, **__: weights)
    tagged = ClipEmbedder("ViT-L/14", "openai")
    assert any(isinstance(module, open_clip.transformer.QuickGELU) for module in tagged._clip.modules())
    plain = ClipEmbedder("ViT-L-14", weights)
    assert tagged.fingerprint != plain.fingerprint
    image = Image.new("RGB", (20, 20), "red")
    assert not np.allclose(tagged.embed([image]), plain.embed([image]), atol=1e-4)


def test_a_model_without_weights_is_refused(tmp_path):
    save_clip(tmp_path / "clip", small_config("ViT-L-14"))
    (tmp_path / "clip/open_clip_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"cannot load the open_clip model 'local-dir:.*; check the folder"):
        ClipEmbedder(f"local-dir:{tmp_path / 'clip'}")
    with pytest.raises(UserError, match=r"dtype='int8' is unknown; choose one of auto, float32"):
        ClipEmbedder("micro", dtype="int8")
