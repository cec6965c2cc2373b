"""From text to numbers: pure functions that import nothing heavy.

In this order: ``extraction`` finds the final answer in an output, ``normalise`` makes spellings comparable, one module
a benchmark family compares (``infoseek``, ``oven``, ``vqa`` for OK-VQA, ``aokvqa``, ``viquae``, ``choices`` for
MRAG-Bench and CVQA), ``aggregate`` makes one number of many. Functions named ``paper_*`` compute what the CoMEM paper's
released scorers (WenyiWU0111/CoMEM) compute, oddities included; all others follow the benchmark's authors. Official
rules take any string: give them ``extract(output).text``, or the output itself for the score that the authors' script
gives raw outputs. Nothing but ``replay``, a program, reads files.
"""
