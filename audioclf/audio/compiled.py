"""Functions in the code of the processor at hand, by Numba, and kept on disk.

NumPy's and SciPy's packages are built for the oldest processors; and a chain of their functions carries each number to
memory and back at each step.
"""

import contextlib
import pickle
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache
from numba.core.compiler import CompilerBase, DefaultPassBuilder


class _ArgumentsApart(CompilerBase):
    """Numba's usual compiler, told that no two arrays of a call overlap: else it makes no vectors of the loops here."""

    def define_pipelines(self):
        self.state.flags.noalias = True
        return [DefaultPassBuilder.define_nopython_pipeline(self.state)]


# Without the lock of the interpreter: meanwhile other threads fetch.
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}

_DAMAGED = (OSError, EOFError, pickle.UnpicklingError)


class _Kept(FunctionCache):
    """Numba's files of compiled code, of which none that is damaged, or can't be written, stops a job."""

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except _DAMAGED:  # it is compiled again, and kept if the index can be begun anew
            with contextlib.suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig, data):
        with contextlib.suppress(*_DAMAGED):  # a full disk
            super().save_overload(sig, data)

    def _index_key(self, sig, codegen) -> Any:
        return *super()._index_key(sig, codegen), str(_OPTIONS)


def compiled(function):
    """Decorator: Numba's. Arguments must not overlap, unless they are only read. `a * b + c` may be rounded once.

    What it calls, and the constants it takes, must be in the same file: what is kept is used until that file changes.
    """
    dispatcher = njit(**_OPTIONS, pipeline_class=_ArgumentsApart)(function)
    with contextlib.suppress(RuntimeError):  # neither beside the file nor in a home may anything be written
        dispatcher._cache = _Kept(function)  # pyright: ignore[reportAttributeAccessIssue]
    return dispatcher
