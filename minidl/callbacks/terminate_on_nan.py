"""TerminateOnNaN."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from minidl.callbacks.base import Callback

if TYPE_CHECKING:
    from minidl.errors import NonFiniteError


class TerminateOnNaN(Callback):
    """End training with a warning, not an error, when it meets NaN or infinity.

    The model is then that of the last good epoch, and `fit` returns the history up to it.

    Examples
    --------
    >>> import minidl
    >>> callbacks = [minidl.TerminateOnNaN()]
    """

    def on_not_finite(self, error: NonFiniteError) -> bool:
        """Warn, and have training end."""
        warnings.warn(f"training ended: {error}", RuntimeWarning, stacklevel=2)
        return True
