"""``comem-lmms kb embed`` and ``comem-lmms kb index``."""

import argparse
import os
import time
from pathlib import Path
from typing import Any


def add(kb: Any) -> None:
    """Adds the two actions to the parser of ``kb``."""
    embed = kb.add_parser("embed", help="embed the images of a knowledge base; can be interrupted, and run by several")
    embed.add_argument("folder", type=Path, help="the knowledge base")
    embed.add_argument(
        "--clip",
        required=True,
        help="open_clip model name, hf-hub:ORG/REPO, local-dir:FOLDER, or micro, which knows MicroSeek's emblems only",
    )
    embed.add_argument("--pretrained", metavar="TAG", help="open_clip pretrained tag, or a checkpoint file")
    embed.add_argument(
        "--dtype", default="auto", help="float32, bfloat16 or float16; default: float16 on a GPU, else float32"
    )
    embed.add_argument("--batch-size", type=int, default=64, metavar="N", help="images at a time (%(default)s)")
    embed.add_argument("--workers", type=int, metavar="N", help="processes that decode ahead; default: by the cores")
    embed.add_argument("--device", help="default: a GPU where there is one")
    embed.set_defaults(run=_embed)

    index = kb.add_parser("index", help="build the search index of a knowledge base that was embedded")
    index.add_argument("folder", type=Path, help="the knowledge base")
    index.add_argument("--type", default="auto", help="auto, flat, hnsw, ivf, pq, or a FAISS factory string")
    index.add_argument("--memory", type=float, metavar="GB", help="what the index may take; default: half of all")
    index.add_argument("--device", default="cpu", help="where to train and measure (%(default)s)")
    index.add_argument(
        "--min-recall", type=float, default=0.95, metavar="SHARE", help="of the 10 nearest (%(default)s)"
    )
    index.set_defaults(run=_index)


def _embed(arguments: argparse.Namespace) -> None:
    import torch
    from accelerate import PartialState

    from comem_lmms.knowledge import KnowledgeBase
    from comem_lmms.retrieval import ClipEmbedder, embed

    start = time.perf_counter()
    process = PartialState(cpu=not torch.cuda.is_available())
    device = arguments.device or (str(process.device) if torch.cuda.is_available() else "cpu")
    workers = arguments.workers
    if workers is None:  # one core is left for the model
        workers = min(len(os.sched_getaffinity(0)) // process.num_processes - 1, 16)
    embedder = ClipEmbedder(arguments.clip, arguments.pretrained, device, arguments.dtype)
    embeddings = embed(KnowledgeBase.open(arguments.folder), embedder, arguments.batch_size, max(workers, 0))
    process.print(
        f"{embeddings.folder}: {len(embeddings):,} vectors of {embeddings.dimension} dimensions, computed in "
        f"{embeddings.about['computed_in']} by {embedder.name} ({time.perf_counter() - start:.0f} s)"
    )


def _index(arguments: argparse.Namespace) -> None:
    from comem_lmms.knowledge import KnowledgeBase
    from comem_lmms.retrieval import Index

    start = time.perf_counter()
    memory = None if arguments.memory is None else arguments.memory * 1e9
    knowledge = KnowledgeBase.open(arguments.folder)
    index = Index.build(knowledge, arguments.type, memory, arguments.device, arguments.min_recall)
    about = index.about
    print(f"{about['factory']}: {about['why']}")
    print(
        f"{arguments.folder}: {about['images']:,} vectors, {about['bytes'] / 1e6:.1f} MB, recall@10 "
        f"{about['recall_at_10']:.4f}{' at ' + about['search'] if about['search'] else ''} for {about['recall_of']} "
        f"({time.perf_counter() - start:.0f} s)"
    )
