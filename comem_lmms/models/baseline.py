"""``--model baseline``: the VLM alone."""

from comem_lmms.models.base import KnowledgeModel


class Baseline(KnowledgeModel):
    """Asks the question as it is."""

    name = "baseline"
