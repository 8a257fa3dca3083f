"""Open many mutated files of every kind, and count what is neither read nor refused in one line.

    python benchmarks/mutated_inputs.py [--count 100000] [--seed 0] [--workers 2] [--keep FOLDER]

Mutations are structured (tests/mutation): fields of headers, elements of DICOM, members of archives, values of a
manifest, with checksums and hashes put right again. A fault is an exception that is no EdgelungError, a message of more
than one line, more than 5 s, more than twice the memory that the good file takes (Python and numpy), or a process that
dies. Each is listed with its kind and seed, and kept in a folder if one is given. Two seconds without an answer per
allowed second end a worker.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import shutil
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from multiprocessing.connection import Connection, wait
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from mutation.mutations import mutate
from mutation.subjects import SUBJECTS
from mutation.trial import SECONDS, allowed_bytes, attempt

ADDRESS_SPACE = 6 << 30  # bytes; what no tracer sees, such as a decoder's own memory, ends here
BATCH = 50


def work(connection: Connection) -> None:
    """Take (kind, first seed, count) and answer with (kind, seed, result, fault) for each."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    tracemalloc.start()
    goods: dict[str, tuple[Path, str, int]] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        while (task := connection.recv()) is not None:
            kind, first, count = task
            if kind not in goods:
                folder = root / f"good-{len(goods)}"
                folder.mkdir()
                allowed = allowed_bytes(kind, folder)
                shutil.rmtree(folder)
                folder.mkdir()
                goods[kind] = (folder, SUBJECTS[kind].write(folder).name, allowed)
            good, name_of, allowed = goods[kind]
            for seed in range(first, first + count):
                folder = root / "trial"
                shutil.copytree(good, folder)
                mutate(kind, folder / name_of, random.Random(f"{kind} {seed}"))
                connection.send((kind, seed, None, ""))
                outcome = attempt(SUBJECTS[kind], folder / name_of)
                connection.send((kind, seed, outcome.result, outcome.fault(allowed)))
                shutil.rmtree(folder)


class Worker:
    """A process that opens files, and is replaced when it hangs or dies."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.left: tuple[str, int, int] | None = None
        self.heard = time.monotonic()

    def give(self, task: tuple[str, int, int]) -> None:
        self.connection.send(task)
        self.left, self.heard = task, time.monotonic()

    def end(self) -> None:
        self.process.kill()
        self.process.join()


def tasks(count: int, seed: int) -> list[tuple[str, int, int]]:
    total = sum(subject.weight for subject in SUBJECTS.values())
    rows = []
    for kind, subject in SUBJECTS.items():
        wanted = round(count * subject.weight / total)
        rows += [(kind, seed + first, min(BATCH, wanted - first)) for first in range(0, wanted, BATCH)]
    random.Random(seed).shuffle(rows)
    return rows


def tell(kind: str, seed: int, fault: str) -> tuple[str, int, str]:
    print(f"FAULT {kind} {seed}: {fault}", file=sys.stderr, flush=True)
    return kind, seed, fault


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder for the files that show a fault")
    args = parser.parse_args()
    waiting = tasks(args.count, args.seed)
    total, done, start, told = sum(row[2] for row in waiting), 0, time.monotonic(), 0.0
    results: dict[str, Counter[str]] = {kind: Counter() for kind in SUBJECTS}
    faults: list[tuple[str, int, str]] = []
    workers = [Worker() for _ in range(args.workers)]
    while waiting or any(worker.left for worker in workers):
        for index, worker in enumerate(workers):
            if worker.left is None and waiting:
                worker.give(waiting.pop())
            silent = time.monotonic() - worker.heard
            dead = not worker.process.is_alive() and not worker.connection.poll()
            if worker.left and (dead or silent > 60 + 2 * SECONDS):
                kind, seed, count = worker.left
                faults.append(tell(kind, seed, "the process died" if dead else "no answer"))
                done += 1
                worker.end()
                workers[index] = Worker()
                if count > 1:
                    waiting.append((kind, seed + 1, count - 1))
        for connection in wait([worker.connection for worker in workers], timeout=1):
            worker = next(one for one in workers if one.connection is connection)
            try:
                kind, seed, result, fault = connection.recv()
            except EOFError:
                continue
            worker.heard = time.monotonic()
            _, _, count = worker.left
            if result is None:
                continue
            worker.left = (kind, seed + 1, count - 1) if count > 1 else None
            done += 1
            results[kind][result] += 1
            if fault:
                faults.append(tell(kind, seed, fault))
        if time.monotonic() - told > 10:
            told = time.monotonic()
            left = (told - start) / max(done, 1) * (total - done)
            print(f"{done}/{total} files, {len(faults)} faults, about {left:.0f} s left", file=sys.stderr, flush=True)
    for worker in workers:
        worker.end()
    for kind, counts in results.items():
        print(f"{kind:22} {json.dumps(dict(counts.most_common()))}")
    for kind, seed, fault in faults:
        print(f"FAULT {kind} {seed}: {fault}")
        if args.keep is not None:
            folder = args.keep / f"{kind.replace(' ', '-').replace(',', '')}-{seed}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            mutate(kind, SUBJECTS[kind].write(folder), random.Random(f"{kind} {seed}"))
    print(f"{done} files, {len(faults)} faults, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
