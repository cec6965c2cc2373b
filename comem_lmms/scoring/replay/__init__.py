"""Compares our scores with recorded ones of the original scorers: a folder of them in, one line a file and scorer out.

    python -m comem_lmms.scoring.replay DIR [--vocabulary vocab.txt]

The folder holds JSON lines: rows with a prediction and the score that an original scorer gave it (``rows``, OVEN's in
``links``), inputs and outputs of single functions (``functions``), whole evaluations and their results
(``aggregates``). Ends with status 1 on any difference, on a file that is missing and on one that it does not know.
"""
