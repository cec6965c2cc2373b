"""From a question's image to knowledge items: `ClipEmbedder`, `Index`, `Retriever`."""

from comem_lmms.retrieval.clip import ClipEmbedder as ClipEmbedder
from comem_lmms.retrieval.index import Index as Index
from comem_lmms.retrieval.retriever import Retriever as Retriever
