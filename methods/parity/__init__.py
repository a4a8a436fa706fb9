"""What checks and imports a method, apart from it: `parity/spirit.py` beside `spirit.py`, found by that name.

Such a module may have

- ``FORMS``: what a golden file calls its ``method``, and the reader of such files. A reader makes a
  `benchmark.parity.golden.Golden` (network with weights by a rule, inputs, how each named output is computed,
  released names) and compares what the file lists; `Head` beside it is one for heads on stored features;
- ``TRAINING``: the beginning of a recipe's name in a golden training file, and what makes its `TrainingCase`;
- ``RELEASES``: a method's name, and the `benchmark.interop.importing.Release` that reads its authors' checkpoint.
"""
