"""From a question's image to knowledge items: `ClipEmbedder`, `embed`, `Index`, `Retriever`."""

from comem_lmms.retrieval.clip import ClipEmbedder as ClipEmbedder
from comem_lmms.retrieval.distributed import ShardedIndex as ShardedIndex
from comem_lmms.retrieval.embedding import embed as embed
from comem_lmms.retrieval.embeddings import Embeddings as Embeddings
from comem_lmms.retrieval.index import Index as Index
from comem_lmms.retrieval.retriever import Retriever as Retriever
