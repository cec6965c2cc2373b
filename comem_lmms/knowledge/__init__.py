"""Knowledge bases on disk: `KnowledgeBase`, made of `Row`s."""

from comem_lmms.knowledge.base import KnowledgeBase as KnowledgeBase
from comem_lmms.knowledge.base import Row as Row
