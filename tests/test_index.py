"""An index finds what comparing with every vector finds, whatever its kind and however many processes hold it."""

import json
import shutil

import faiss
import numpy as np
import pytest
from helpers import indexed
from hypothesis import given, settings
from hypothesis import strategies as st

from comem_lmms import micro
from comem_lmms.cli import main
from comem_lmms.errors import UserError
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.retrieval import ClipEmbedder, Embeddings, Index, Retriever, embed
from comem_lmms.retrieval import index as retrieval_index
from comem_lmms.retrieval.choosing import Sample, choose, nearest, tune
from comem_lmms.retrieval.embeddings import fingerprint
from comem_lmms.retrieval.index import _divided

GB = 1e9


def clustered(n, dimension=32, seed=0):
    """Unit vectors around n/50 centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(n // 50, 1), dimension))
    vectors = centres[rng.integers(len(centres), size=n)] + 0.5 * rng.normal(size=(n, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def stored(folder, vectors, shard=700):
    """Embeddings of any vectors."""
    folder.mkdir()
    for i, first in enumerate(range(0, len(vectors), shard)):
        np.save(folder / f"{i:05}.npy", vectors[first : first + shard])
    files = {path.name: [path.stat().st_size, path.name] for path in sorted(folder.glob("*.npy"))}
    about = {"images": len(vectors), "dimension": vectors.shape[1], "shard": shard, "files": files}
    return Embeddings(folder, {**about, "fingerprint": fingerprint(files)})


@pytest.fixture(scope="module")
def base(tmp_path_factory, knowledge):
    """MicroSeek's base in a folder of its own, embedded."""
    folder = tmp_path_factory.mktemp("kb")
    shutil.copytree(knowledge.folder, folder, dirs_exist_ok=True)
    base = KnowledgeBase.open(folder)
    indexed(base)
    return base


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 300), dimension=st.sampled_from([8, 24]), k=st.integers(1, 12), seed=st.integers(0, 10**6))
def test_exact_index_equals_numpy(tmp_path_factory, n, dimension, k, seed):
    from comem_lmms.retrieval.index import _filled

    vectors = clustered(n, dimension, seed)
    embeddings = stored(tmp_path_factory.mktemp("e") / "v", vectors, 37)
    queries = clustered(5, dimension, seed + 1).astype(np.float32)
    scores = queries @ vectors.astype(np.float32).T
    expected = -np.sort(-scores, axis=1)[:, :k]
    k_found = min(k, n)
    for found, numbers in (
        Index(_filled("SQfp16", embeddings, "cpu"), {}).search(queries, k),
        nearest(embeddings, queries, k),
    ):
        np.testing.assert_allclose(found[:, :k_found], expected, atol=1e-5)
        np.testing.assert_allclose(np.take_along_axis(scores, numbers[:, :k_found], 1), expected, atol=1e-5)
        assert all(len(set(row)) == k_found for row in numbers[:, :k_found].tolist())
        assert (numbers[:, k_found:] == -1).all()


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw", "pq", "IVF8,SQ8", "PCA64,Flat"])
def test_every_kind_reaches_its_recall_and_is_found_again(base, kind):
    index = Index.build(base, kind, min_recall=0.9)
    embeddings = Embeddings.open(base)
    again = Index.open(base)
    sample = Sample(embeddings)
    assert again.about["recall_at_10"] >= 0.9
    assert sample.recall(again.search) == sample.recall(index.search) == again.about["recall_at_10"]
    assert again.about["embeddings"] == embeddings.fingerprint
    assert ("nprobe=" in again.about["search"]) == ("IVF" in again.about["factory"])
    assert ("efSearch=" in again.about["search"]) == ("HNSW" in again.about["factory"])


def test_lists_of_exact_vectors_have_exact_scores(base):
    index = Index.build(base, "ivf", min_recall=1.0)
    queries = Sample(Embeddings.open(base)).queries
    expected, _ = nearest(Embeddings.open(base), queries, 10)
    np.testing.assert_allclose(index.search(queries, 10)[0], expected, atol=1e-5)


@pytest.mark.parametrize("memory", [None, 1024 * 136 + 25 * 4 * 128 + 100])
def test_codes_are_compared_with_the_embeddings(base, memory):
    """Codes asked for, and 8 bits where no more fits."""
    index = Index.build(base, "pq" if memory is None else "auto", memory)
    assert ("SQ8" in index.about["factory"]) == (memory is not None)
    queries, embeddings = Sample(Embeddings.open(base)).queries[:50], Embeddings.open(base)
    scores, numbers = index.search(queries, 10)
    vectors = embeddings.take(numbers.ravel()).reshape(50, 10, -1)
    np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries, vectors), atol=1e-5)
    assert (np.diff(scores) <= 0).all()
    parts = [Index.open(base, part=(i, 3)).search(queries, 10) for i in range(3)]
    merged = faiss.merge_knn_results(*(np.stack(answer) for answer in zip(*parts, strict=True)), keep_max=True)
    assert (merged[0] >= scores).all()  # more is compared
    assert [index.search(queries, 1024)[1].shape, (index.search(queries, 1024)[1] < 0).any()] == [(50, 1024), True]
    with pytest.raises(UserError, match=r"finds 0\.\d+ of the 10 nearest at nprobe="):
        Index.build(base, "IVF4,PQ8x4np")  # codes alone


def test_few_are_compared_at_a_time(base, monkeypatch):
    index = Index.build(base, "pq")
    queries = Sample(Embeddings.open(base)).queries[:50]
    expected = index.search(queries, 10)
    taken = []
    take = Embeddings.take
    monkeypatch.setattr(Embeddings, "take", lambda self, n: taken.append(len(n)) or take(self, n))
    monkeypatch.setattr(retrieval_index, "COMPARED", 1000)
    found = index.search(queries, 10)
    assert max(taken) <= 1000
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other)


def test_whether_codes_are_compared_is_in_the_fingerprint(base):
    factory = Index.build(base, "pq", min_recall=0.3).about["factory"]
    compared = Retriever(base)
    Index.build(base, factory, min_recall=0.3)
    alone = Retriever(base)
    assert compared.about["index"] == alone.about["index"]
    assert compared.fingerprint != alone.fingerprint


def test_an_index_that_is_killed_between_its_files_is_none(base, monkeypatch):
    Index.build(base, "flat")
    monkeypatch.setattr(retrieval_index, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        Index.build(base, "hnsw")
    with pytest.raises(UserError, match="has no index"):
        Index.open(base)


def test_recall_counts_what_is_as_near_as_the_tenth(tmp_path):
    vectors = np.repeat(clustered(40), 20, axis=0)  # twenty of each
    sample = Sample(stored(tmp_path / "v", vectors))
    assert sample.recall(lambda queries, k: nearest(stored(tmp_path / "w", vectors), queries, k)) == 1
    assert sample.recall(lambda queries, k: (None, np.full((len(queries), k), -1))) == 0
    _, numbers = nearest(sample._embeddings, sample.queries, 10)
    numbers[:, 5:] = -1
    assert sample.recall(lambda queries, k: (None, numbers)) == 0.5


def test_what_cannot_reach_the_recall_is_not_kept(base):
    before = Index.build(base, "flat").about
    message = r"the index finds 0\.\d+ of the 10 nearest, not 0.97; give another --type, or a lower --min-recall$"
    with pytest.raises(UserError, match=message):
        Index.build(base, "PCA2,Flat")
    with pytest.raises(UserError, match=r"finds 0\.\d+ of the 10 nearest at nprobe=2, and that is the most, not 0.97"):
        Index.build(base, "IVF2,PQ2x4np")
    assert Index.open(base).about == before
    index, sample = Index.open(base), Sample(Embeddings.open(base))
    with pytest.raises(UserError, match=r"not 1.1; give more --memory, another --type, or a lower --min-recall$"):
        tune(index._index, faiss.ParameterSpace(), index.search, sample, 1.1, "auto")


def test_where_more_lists_find_no_more_it_is_said_and_not_tried(base):
    """All lists of the largest bases take hours."""
    with pytest.raises(UserError, match=r"at nprobe=(2|4|8|16|32), and hardly more farther on, not 0.97"):
        Index.build(base, "IVF64,PQ2x4np")


@pytest.mark.parametrize("kind", ["Flt", "PQ77"])
def test_what_faiss_cannot_make_is_one_line(base, kind):
    with pytest.raises(
        UserError, match=rf"FAISS cannot make an index '{kind}' of 1,024 vectors of 128 dimensions \((?!Error in)"
    ):
        Index.build(base, kind)


@pytest.mark.parametrize(
    ("n", "kind", "needed"),
    [(255, "pq", 256), (255, "PQ8", 256), (15, "PQ4x4", 16), (299, "IVF300,Flat", 300)],
)
def test_too_few_vectors_to_train_from_is_one_line(tmp_path, knowledge, n, kind, needed):
    small = KnowledgeBase.create(tmp_path, [knowledge.row(i) for i in range(n)])
    embed(small, ClipEmbedder("micro"))
    with pytest.raises(UserError, match=rf"^an index '.*' is trained from {needed} vectors at .* has {n}; give --type"):
        Index.build(small, kind)


@pytest.mark.parametrize(
    ("n", "memory", "device", "factory", "why"),
    [
        (1000, 1, "cpu", "SQfp16", "1,000 vectors are few enough and take 1.54 MB"),
        (1_000_000, 4, "cpu", "IVF4000,SQfp16", "over 1,000,000 vectors is slow; this takes 1.56 GB of 4 GB"),
        (1_000_000, 4, "cuda", "SQfp16", "take 1.54 GB"),
        (11_500_000, 16, "cuda", "IVF13564,SQ8", "takes 17.7 GB; this takes 8.97 GB of 16 GB, and compares"),
        (11_500_000, 24, "cpu", "IVF13564,SQfp16", "is slow; this takes 17.8 GB of 24 GB"),
        (11_500_000, 4, "cpu", "IVF13564,PQ192np", "takes 17.7 GB; this takes 2.34 GB of 4 GB"),
        (11_500_000, 4, "cpu", "IVF13564,PQ192np", "compares what it finds with the embeddings on disk"),
        (1000, 0.001, "cpu", "IVF25,SQ8", "takes 1.54 MB"),
    ],
)
def test_choice_goes_by_number_and_memory(n, memory, device, factory, why):
    choice = choose("auto", n, 768, memory * GB, device)
    assert choice.factory == factory
    assert why in choice.why


def test_too_little_memory_says_how_much_is_needed():
    with pytest.raises(UserError, match=r"11,500,000 vectors .* take 2.34 GB at the least, and the memory is 1 GB"):
        choose("auto", 11_500_000, 768, GB)
    assert choose("auto", 10, 768).factory == "SQfp16"  # half of what this machine has


def test_an_index_is_mapped_not_read(base):
    """Else every process of a machine would hold its own."""
    for kind in ("flat", "hnsw"):
        Index.build(base, kind)
        index = Index.open(base)._index
        codes = index.codes if kind == "flat" else faiss.downcast_index(index.storage).codes
        assert not codes.is_owned


def test_index_of_other_vectors_is_refused(base):
    Index.build(base)
    manifest = base.folder / "embeddings/manifest.json"
    told = manifest.read_text()
    about = json.loads(told)
    manifest.write_text(json.dumps({**about, "fingerprint": "f" * 64}))
    with pytest.raises(
        UserError, match=rf"is of embeddings {about['fingerprint'][:12]}, but .* holds f{{12}}; build it"
    ):
        Index.open(base)
    manifest.write_text(told)
    Index.open(base)


def test_stats_tell_what_a_base_is_searched_with(capsys):
    assert main(["kb", "stats", micro.resolve("micro", "knowledge")]) == 0
    said = capsys.readouterr().out
    assert "index                1,024 vectors of 128 dimensions by micro, SQfp16, recall@10 1.0000\n" in said


def test_an_index_needs_no_embeddings_to_be_searched(base, tmp_path):
    Index.build(base)
    shutil.copytree(base.folder, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "embeddings")
    assert len(Index.open(KnowledgeBase.open(tmp_path))) == 1024


def test_a_gpu_that_is_not_there_is_one_line(base):
    if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus():
        pytest.skip("there is one")
    Index.build(base)
    with pytest.raises(UserError, match=r"FAISS cannot search on cuda:0: .*in a clone .*or search on the CPU"):
        Index.open(base, "cuda:0")
    with pytest.raises(UserError, match=r"there is no device 'cuda' here \(.+\); give cpu, or cuda"):
        Index.build(base, device="cuda")


def test_a_device_that_is_none_is_one_line(base):
    with pytest.raises(UserError, match=r"FAISS searches on cpu or cuda, not on 'gpu'; give one of them"):
        Index.open(base, "gpu")
    for make in (lambda: Index.build(base, device="gpu"), lambda: ClipEmbedder("micro", device="gpu")):
        with pytest.raises(UserError, match=r"there is no device 'gpu' here \(.+\); give cpu, or cuda"):
            make()


# ---- parts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["flat", "ivf", "IVF8,SQ8", "OPQ16,IVF8,SQfp16"])
@pytest.mark.parametrize("parts", [1, 3, 7])
def test_parts_together_find_what_the_whole_finds(base, kind, parts):
    whole = Index.build(base, kind, min_recall=0.9)
    queries = Sample(Embeddings.open(base)).queries[:50]
    opened = [Index.open(base, part=(i, parts)) for i in range(parts)]
    found = [part.search(queries, 10) for part in opened]
    scores, numbers = (np.stack(answer) for answer in zip(*found, strict=True))
    expected = whole.search(queries, 10)
    merged = faiss.merge_knn_results(scores, numbers, keep_max=True)
    assert (merged[0] == expected[0]).all()
    assert (merged[1] == expected[1]).all()
    assert {len(part) for part in opened} == {1024}


def test_a_graph_cannot_be_divided(base):
    Index.build(base, "hnsw")
    with pytest.raises(UserError, match=r"type IndexHNSWSQ cannot be divided among processes; build one with --type"):
        Index.open(base, part=(0, 2))


@pytest.mark.parametrize("share", [float("nan"), 1.1, -1])
def test_the_least_recall_is_a_share(base, share):
    with pytest.raises(UserError, match=r"the least recall is .*; give a share from 0 to 1"):
        Index.build(base, "flat", min_recall=share)


def test_a_part_holds_its_share_only(base):
    Index.build(base, "flat")
    index = faiss.read_index(str(base.folder / "index/index.faiss"), faiss.IO_FLAG_MMAP_IFC)
    part, first = _divided(index, 100, 300)
    assert (first, part.ntotal, part.codes.size()) == (100, 200, 200 * 128 * 2)


SEARCH = """
import sys
import numpy as np
from accelerate import PartialState
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.retrieval import ShardedIndex
index = ShardedIndex.open(KnowledgeBase.open(sys.argv[1]))
if PartialState().is_main_process:
    queries = np.load("queries.npy")
    with index.asked():
        answers = [index.search(queries[:40], 10), index.search(queries[40:], 10), index.search(queries[:2], 400)]
    np.savez("answers.npz", *[part for answer in answers for part in answer])
else:
    index.serve()
"""


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_processes_find_what_one_finds(base, run, tmp_path, kind):
    """Four, with parts of 256 images, of which 400 are asked for."""
    whole = Index.build(base, kind, min_recall=1.0 if kind == "ivf" else 0.97)
    queries = Sample(Embeddings.open(base)).queries[:50]
    np.save(tmp_path / "queries.npy", queries)
    (tmp_path / "search.py").write_text(SEARCH)
    launch = ["accelerate", "launch", "--multi_gpu", "--num_processes", "4", "--main_process_port", "29533"]
    run(*launch, "search.py", str(base.folder), ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")
    answers = list(np.load(tmp_path / "answers.npz").values())
    for (asked, k), scores, numbers in zip(
        [(queries[:40], 10), (queries[40:], 10), (queries[:2], 400)], answers[::2], answers[1::2], strict=True
    ):
        expected = whole.search(asked, k)
        assert (scores == expected[0]).all()
        assert (numbers == expected[1]).all()


def test_stats_verify_what_a_base_is_searched_with(base, tmp_path, capsys):
    folder = tmp_path / "kb"
    shutil.copytree(base.folder, folder)

    def stats(*more, status=0):
        capsys.readouterr()
        assert main(["kb", "stats", str(folder), *more]) == status
        return "".join(capsys.readouterr())

    assert "all as they were written: items, images, lookups, embeddings, index\n" in stats("--verify")
    for name in ("embeddings/00000.npy", "index/index.faiss"):
        path = folder / name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert str(path) in stats("--verify", status=2)
        path.write_bytes(content)
    for name in ("embeddings/manifest.json", "index/index.json"):
        about = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**about, "knowledge": "0" * 64}))
    assert stats().count("OF ANOTHER BASE, 000000000000: 1,024 vectors") == 2
    assert "belong to knowledge base 000000000000" in stats("--verify", status=2)
