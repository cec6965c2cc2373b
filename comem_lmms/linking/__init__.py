"""Free text to a Wikidata entity: a text in, the titles that match it best out, by BM25 over a corpus of titles.

The rule of OVEN's authors (run_bm25_index.py and run_bm25_query.py of edchengg/oven_eval): WordPiece tokens of
bert-base-uncased, and rank_bm25's Okapi with its defaults. Their index is a Python object for each title; this is an
inverted index of a few numpy arrays, which give the same scores, and which are mapped into memory, not read.
"""

from comem_lmms.linking.fuzzy import LINKERS as LINKERS
from comem_lmms.linking.fuzzy import fuzzy as fuzzy
from comem_lmms.linking.index import Linked as Linked
from comem_lmms.linking.index import TitleIndex as TitleIndex
from comem_lmms.linking.index import shared as shared
from comem_lmms.linking.titles import Entity as Entity
