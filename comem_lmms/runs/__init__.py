"""Retrieval runs on disk: found once, read by every method. `Run`, the retriever `Replay`, and `recall` of a run.

Nothing here needs an embedding model or an index but `recording`, which is not imported here.
"""

from comem_lmms.runs.replay import Replay as Replay
from comem_lmms.runs.run import Run as Run
