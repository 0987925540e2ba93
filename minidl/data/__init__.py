"""What users pass as data becomes blocks of rows for the compiled program.

`minidl.data.opening.open_data` takes all kinds, `minidl.data.background.ahead` makes blocks in a
thread. They are imported when they are used; here is what `import minidl` needs.
"""

from minidl.data.npy import NpyFile

__all__ = ["NpyFile"]
