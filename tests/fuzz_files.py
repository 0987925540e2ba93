"""Fuzzing of all readers of files: is there one that is taken, and does harm?

    pip install atheris
    python tests/fuzz_files.py SECONDS [FOLDER]

The fuzzer follows which lines of minidl an input reaches. It begins with sound files of all kinds
and with those of `tests/hostile_files`, and changes their JSON, tensors and bytes. It stops at the
first input for which `hostile.try_file` fails, or that takes 20 seconds or 2 GB, and leaves it in
FOLDER (default: the current one). Put it into `tests/hostile_files`: `test_hostile.py` tries it.
"""

import random
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["minidl"]):
    import minidl.checkpoint
    import minidl.ensemble
    import minidl.fuse
    import minidl.history
    import minidl.prediction
    import minidl.serialization
    import minidl.sklearn.tabular_files
    import minidl.trainer  # noqa: F401

import hostile

KNOWN = Path(__file__).parent / "hostile_files"
LONGEST = 300_000  # bytes of an input


def main(seconds, place):
    """Fuzz for so long; exits, with 0 if nothing was found."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as work:
        folder = Path(work)
        files = hostile.seeds(folder)
        (folder / "corpus").mkdir()
        for i, data in enumerate([*files, *(path.read_bytes() for path in KNOWN.iterdir())]):
            (folder / "corpus" / str(i)).write_bytes(data)
        mutator = hostile.Mutator(files)
        tried = {"inputs": 0, **dict.fromkeys(hostile.USES, 0)}

        def one(data):
            tried["inputs"] += 1
            for name in hostile.try_file(data, folder):
                tried[name] += 1
            if tried["inputs"] % 5000 == 0:
                print("tried", tried, flush=True)

        def mutate(data, longest, seed):
            rng = random.Random(seed)
            if rng.random() < 0.1:
                return atheris.Mutate(data, longest)
            changed = mutator.mutate(data, rng)
            return changed if len(changed) <= longest else data

        atheris.Setup(
            [sys.argv[0], f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=2000",
             f"-max_len={LONGEST}", "-len_control=0", f"-artifact_prefix={place}/",
             str(folder / "corpus")],
            one, custom_mutator=mutate,
        )  # fmt: skip
        atheris.Fuzz()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ".")
