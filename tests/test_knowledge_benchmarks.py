"""The tables about knowledge bases in the documents are those that were measured."""

import json

import knowledge_build
import knowledge_search
import knowledge_sizes


def test_measured_tables_are_in_the_documents():
    builds = knowledge_build.block(json.loads(knowledge_build.MEASURED.read_text()))
    assert builds in knowledge_build.DOCUMENT.read_text()
    assert knowledge_search.block(*knowledge_search.measured()) in knowledge_search.DOCUMENT.read_text()


def test_sizes_follow_from_what_was_measured():
    assert knowledge_sizes.block(*knowledge_sizes.measured()) in knowledge_sizes.DOCUMENT.read_text()


def test_what_was_measured_meets_its_aims():
    """Memory and cost of a row do not grow with the base; chosen indexes find what exact search finds."""
    texts, images = json.loads(knowledge_build.MEASURED.read_text())["builds"]
    assert texts["rows"] >= 1_000_000
    assert texts["late_us"] < 1.5 * texts["early_us"]
    assert json.loads(knowledge_build.MEASURED.read_text())["lookups"]["peak_mb"] < 2000
    assert max(texts["peak_mb"], images["peak_mb"]) < 2000
    rows = json.loads(knowledge_search.MEASURED.read_text())["indexes"]
    assert max(row["vectors"] for row in rows) >= 1_000_000
    assert all(row["search"]["recall_at_10"] >= 0.95 for row in rows)
