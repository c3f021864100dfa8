"""Functions in the code of the processor at hand, by Numba, and kept on disk.

NumPy's and SciPy's packages are built for the oldest processors; and a chain of their functions carries each number to
memory and back at each step.
"""

from numba import njit
from numba.core.compiler import CompilerBase, DefaultPassBuilder


class _ArgumentsApart(CompilerBase):
    """Numba's usual compiler, told that no two arrays of a call overlap: else it makes no vectors of the loops here."""

    def define_pipelines(self):
        self.state.flags.noalias = True
        return [DefaultPassBuilder.define_nopython_pipeline(self.state)]


def compiled(function):
    """Decorator: Numba's. Arguments must not overlap, unless they are only read. `a * b + c` may be rounded once.

    What it calls, and the constants it takes, must be in the same file: what is kept is used until that file changes.
    """
    options = {"pipeline_class": _ArgumentsApart, "fastmath": {"contract"}, "error_model": "numpy"}
    try:
        return njit(**options, cache=True)(function)
    except RuntimeError:  # neither beside the file nor in a home may anything be written
        return njit(**options)(function)
