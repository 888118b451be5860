"""Annealed variational inference: one importance weight, and every method that follows from it.

A method is a choice of *path* (:mod:`avo_lib.paths`), *proposal* and *kernels* (:mod:`avo_lib.chain`,
:mod:`avo_lib.kernels`) and *objective* (:mod:`avo_lib.objectives`). Start with :mod:`avo_lib.chain`.
"""

__version__ = "0.1.0"
