"""Retrieval finds what brute force finds, and never searches with the wrong index."""

import json
import shutil

import numpy as np
import open_clip
import pytest
from helpers import chat, indexed
from PIL import Image
from safetensors.torch import save_file

from comem_lmms import micro
from comem_lmms.errors import UserError
from comem_lmms.knowledge import KnowledgeBase, Row
from comem_lmms.records import Query
from comem_lmms.retrieval import ClipEmbedder, Embeddings, Index, Retriever


def queries(questions, n=8):
    return [Query(q["id"], chat(q["question"], q["image"]), q["image"], q["item_id"]) for q in questions[:n]]


@pytest.fixture
def small(knowledge, tmp_path):
    """Twenty realms with an index of their own."""
    base = KnowledgeBase.create(tmp_path / "kb", [knowledge.row(i) for i in range(20)])
    indexed(base)
    return base


def test_faiss_equals_numpy(knowledge, questions):
    embedder = ClipEmbedder("micro")
    vectors = embedder.embed(list(knowledge.images())).astype(np.float16).astype(np.float32)
    asked = embedder.embed([q["image"] for q in questions[:32]])
    expected = np.argsort(-(asked @ vectors.T), axis=1, kind="stable")[:, :5]
    scores, rows = Index.open(knowledge).search(asked, 5)
    assert (rows == expected).all()
    np.testing.assert_allclose(scores, np.take_along_axis(asked @ vectors.T, expected, 1), atol=1e-5)


def test_an_image_finds_itself(knowledge):
    asked = [Query(str(i), [], knowledge[i].image) for i in (0, 500, 1023)]
    assert [hits[0].row for hits in Retriever(knowledge).search(asked, 3)] == [0, 500, 1023]


def test_vectors_do_not_depend_on_the_batch(questions):
    embedder = ClipEmbedder("micro")
    images = [q["image"] for q in questions[:8]]
    alone = np.concatenate([embedder.embed([image]) for image in images])
    np.testing.assert_allclose(embedder.embed(images), alone, atol=1e-5)


def test_hits_are_the_same_for_one_query_and_for_many(knowledge, questions):
    retriever = Retriever(knowledge)
    together = list(retriever.search(queries(questions), 3))
    alone = [next(retriever.search([query], 3)) for query in queries(questions)]
    assert [[hit.id for hit in hits] for hits in together] == [[hit.id for hit in hits] for hits in alone]


def test_oracle_puts_the_right_item_first_and_wrong_leaves_it_out(knowledge, questions):
    asked = queries(questions)
    for query, oracle, wrong in zip(
        asked,
        Retriever(knowledge, "oracle").search(asked, 3),
        Retriever(knowledge, "wrong").search(asked, 3),
        strict=True,
    ):
        assert oracle[0].id == query.gold
        assert query.gold not in {hit.id for hit in wrong}
        assert len({hit.id for hit in oracle}) == len({hit.id for hit in wrong}) == 3


def test_controls_need_the_right_item(knowledge, questions):
    query = Query("document 0 of task t", [], questions[0]["image"], gold="nobody")
    with pytest.raises(UserError, match=r"oracle retrieval needs .* 'nobody' is not in knowledge base"):
        list(Retriever(knowledge, "oracle").search([query], 3))


def test_top_k_beyond_the_base(small, questions):
    assert len(next(Retriever(small).search(queries(questions, 1), 20))) == 20
    with pytest.raises(UserError, match=r"top_k=21 but knowledge base .* has 20 items"):
        list(Retriever(small).search(queries(questions, 1), 21))
    with pytest.raises(UserError, match=r"top_k=20 but knowledge base .* has 19 items"):
        list(Retriever(small, "wrong").search([], 20))


def test_question_without_image(knowledge):
    query = Query("document 7 of task t", chat("who?"))
    with pytest.raises(UserError, match=r"document 7 of task t has no image, and retrieval is by image"):
        list(Retriever(knowledge).search([query], 3))


def test_unknown_kind(knowledge):
    with pytest.raises(UserError, match=r"retrieval='bm25' is unknown; choose one of clip, oracle, wrong"):
        Retriever(knowledge, "bm25")


def test_missing_index(knowledge, tmp_path):
    base = KnowledgeBase.create(tmp_path, [knowledge.row(0)])
    with pytest.raises(UserError, match=r"has no index; run `comem-lmms kb embed .*` and then `comem-lmms kb index"):
        Retriever(base)


def test_index_of_another_size(small, knowledge):
    base = KnowledgeBase.create(small.folder, [knowledge.row(i) for i in range(19)])
    with pytest.raises(UserError, match=r"is of 20 items but the base has 19"):
        Retriever(base)


def test_index_of_another_base(small, knowledge):
    base = KnowledgeBase.create(small.folder, [knowledge.row(i) for i in range(1, 21)])
    with pytest.raises(UserError, match=r"belongs to knowledge base \w{12}, not to \w{12}"):
        Retriever(base)


def test_damaged_index(small):
    path = small.folder / "index/index.faiss"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match=r"index.faiss has 50 bytes, not .*: it is damaged; build it again"):
        Retriever(small)


@pytest.mark.parametrize("path", ["index/index.json", "embeddings/manifest.json"])
def test_a_manifest_that_lacks_something_is_noticed(small, path):
    about = json.loads((small.folder / path).read_text())
    for name in ("images", "clip_fingerprint", "pretrained"):
        (small.folder / path).write_text(json.dumps({k: v for k, v in about.items() if k != name}))
        with pytest.raises(UserError, match=rf"{path} has no '{name}': it is damaged or was changed"):
            (Index.open if "index" in path else Embeddings.open)(small)


def test_index_that_was_exchanged(small, knowledge, tmp_path):
    other = KnowledgeBase.create(tmp_path / "other", [knowledge.row(i) for i in range(20, 40)])
    indexed(other)
    shutil.copy(other.folder / "index/index.faiss", small.folder / "index/index.faiss")
    with pytest.raises(UserError, match=r"is not the one that index.json describes; build it again"):
        Retriever(small)


def test_index_of_another_embedding_model(small, tmp_path):
    other = tmp_path / "clip"
    shutil.copytree(micro.resolve("micro", "clip"), other)
    config = json.loads((other / "open_clip_config.json").read_text())["model_cfg"]
    save_file(
        {k: v.contiguous() for k, v in open_clip.CLIP(**config).state_dict().items()},
        other / "open_clip_model.safetensors",
    )
    with pytest.raises(UserError, match=r"was made with open_clip model 'micro' .* but 'local-dir:"):
        Retriever(small, clip=f"local-dir:{other}")


def test_unknown_embedding_model(small):
    with pytest.raises(UserError, match=r"cannot load the open_clip model 'ViT-Z' with pretrained='openai'"):
        Retriever(small, clip="ViT-Z", pretrained="openai")
    with pytest.raises(UserError, match=r"open_clip model 'ViT-B-32' needs its pretrained tag"):
        Retriever(small, clip="ViT-B-32")


def test_items_without_image_are_not_found_by_image_but_by_id(tmp_path, knowledge, questions, caplog):
    rows = [knowledge.row(i) for i in range(6)]
    rows[0] = rows[0]._replace(image=None)
    rows[3] = rows[3]._replace(image=None)
    base = KnowledgeBase.create(tmp_path, rows)
    indexed(base)
    assert "2 of 6 items have no image and cannot be found" in caplog.text
    asked = Query("q", [], base[4].image, gold=base.id(3))
    found = [hit.row for hit in next(Retriever(base).search([asked], 4))]
    assert found[0] == 4
    assert set(found) == {1, 2, 4, 5}
    assert [hit.row for hit in next(Retriever(base, "oracle").search([asked], 2))] == [3, 4]
    with pytest.raises(UserError, match=r"top_k=5 but knowledge base .* has 4 items to find"):
        Retriever(base, top_k=5)


@pytest.mark.parametrize("rows", [[], [Row("a", "t", "x", None)]])
def test_a_base_without_images_cannot_be_indexed(tmp_path, rows):
    base = KnowledgeBase.create(tmp_path, rows)
    with pytest.raises(UserError, match=r"no item of knowledge base .* has an image to be found by"):
        indexed(base)


def test_damaged_clip_weights(tmp_path):
    shutil.copytree(micro.resolve("micro", "clip"), tmp_path / "clip")
    weights = next((tmp_path / "clip").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cannot load the open_clip model 'local-dir:.*; check the folder"):
        ClipEmbedder(f"local-dir:{tmp_path / 'clip'}")


def test_grey_and_transparent_images_can_be_searched(knowledge):
    for mode in ("L", "RGBA", "P"):
        assert (
            len(next(Retriever(knowledge).search([Query("q", [], Image.new("RGB", (30, 20)).convert(mode))], 2))) == 2
        )
