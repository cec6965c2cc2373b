"""Knowledge bases on disk: `KnowledgeBase`, made of `Row`s by a `Writer`."""

from comem_lmms.knowledge.base import KnowledgeBase as KnowledgeBase
from comem_lmms.knowledge.rows import Row as Row
from comem_lmms.knowledge.writing import Writer as Writer
