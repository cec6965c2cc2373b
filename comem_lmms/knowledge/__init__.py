"""Knowledge bases on disk: `KnowledgeBase`, made of `Row`s by a `Writer`."""

from comem_lmms.knowledge.base import KnowledgeBase as KnowledgeBase
from comem_lmms.knowledge.building import Options as Options
from comem_lmms.knowledge.building import build as build
from comem_lmms.knowledge.filters import Filters as Filters
from comem_lmms.knowledge.rows import Row as Row
from comem_lmms.knowledge.writing import Writer as Writer
