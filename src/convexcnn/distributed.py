"""The processes of a torchrun job: which images are whose, and sums over the images of all.

Every process sees every image by number, so that random choices are the same everywhere, but walks
only through its own share of them. What is summed over images is added up at the end of a pass.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from convexcnn.errors import DataError, LostProcessError, SettingError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import Store  # type: ignore[attr-defined]

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others before it takes them for lost."""

BLOCK = 32
"""Images that are computed at once where the same bits matter."""

AT_ONCE = 2**24
"""Numbers that are added up in one go: what that needs beside them stays small."""

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that torchrun sets for each of its processes."""


@dataclass(frozen=True)
class Processes:
    """One process among those that share a training; by default the only one.

    Args:
        rank: of this process, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        """Whether this is the one process that writes files and speaks."""
        return self.rank == 0

    def cuts(self, n: int) -> tuple[int, ...]:
        """Where the shares of n rows begin, one after the other, and where the last one ends.

        Of many rows, shares begin at whole blocks: what is computed block by block, as one process
        would, rounds as there.
        """
        block = BLOCK if n >= 2 * BLOCK * self.size else 1
        return *(rank * n // (block * self.size) * block for rank in range(self.size)), n

    def share(self, n: int) -> slice:
        """The part of n rows that is this process's own."""
        cuts = self.cuts(n)
        return slice(cuts[self.rank], cuts[self.rank + 1])

    def add_up(self, *sums: Tensor) -> None:
        """Replace tensors, in place, by their sums over all processes: the same bits everywhere.

        Raises:
            LostProcessError: another process has ended.
        """
        if self.size == 1:
            return
        from torch import distributed

        for total in sums:
            whole = total.contiguous()
            flat = whole.view(-1)
            for start in range(0, len(flat), AT_ONCE):
                with _others_answer():
                    distributed.all_reduce(flat[start : start + AT_ONCE])
            if whole is not total:
                total.copy_(whole)

    def total(self, number: float) -> float:
        """The sum of a number over all processes, in float64.

        Raises:
            LostProcessError: another process has ended.
        """
        if self.size == 1:
            return number
        import torch

        together = torch.tensor([number], dtype=torch.float64)
        self.add_up(together)
        return float(together)

    def count_once(self, *sums: Tensor) -> None:
        """Zero sums that all processes hold everywhere but in one: adding up then keeps them."""
        if not self.writes:
            for total in sums:
                total.zero_()

    def gather(self, own: Tensor, rows: int, place: slice) -> Tensor:
        """All rows (rows, ...), of which every process has those of a place of its own.

        Raises:
            LostProcessError: another process has ended.
        """
        if self.size == 1:
            return own
        whole = own.new_zeros(rows, *own.shape[1:])
        whole[place] = own
        self.add_up(whole)
        return whole

    def agree(self, value: Tensor) -> Tensor:
        """What the first process has, for all: processors may round differently.

        Raises:
            LostProcessError: another process has ended.
        """
        if self.size == 1:
            return value
        from torch import distributed

        value = value.contiguous()
        with _others_answer():
            distributed.broadcast(value, 0)
        return value

    def tell(self, message: bytes) -> bytes:
        """What the first process says, of any length.

        Raises:
            LostProcessError: another process has ended.
        """
        if self.size == 1:
            return message
        import torch

        length = self.agree(torch.tensor([len(message)]))
        text = torch.zeros(int(length), dtype=torch.uint8)
        if self.writes and message:
            text = torch.frombuffer(bytearray(message), dtype=torch.uint8)
        return self.agree(text).numpy().tobytes() if len(text) else b""

    def same(self, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A table that JSON can hold, read by the first process alone.

        Raises:
            LostProcessError: another process has ended.
        """
        if self.size == 1:
            return read()
        text = json.dumps(read()) if self.writes else ""
        table: dict[str, Any] = json.loads(self.tell(text.encode()))
        return table

    def require_same(self, value: str, what: str) -> None:
        """Compare what should be the same everywhere with the first process's.

        Args:
            value: of this process.
            what: it is, in words.

        Raises:
            DataError: this process has another value.
            LostProcessError: another process has ended.
        """
        if self.tell(value.encode()) != value.encode():
            raise DataError(
                f"process {self.rank} of {self.size} has {what} that differs from the first "
                "process's; give all hosts of a job the same"
            )


ALONE = Processes()
_current = ALONE
_store: Store | None = None


def current() -> Processes:
    """The processes that trainings share their images among: of this job once it is started."""
    return _current


def launched(environment: Mapping[str, str] = os.environ) -> Processes:
    """What torchrun says of this process, in its environment; a single process without it.

    Raises:
        SettingError: variables that are not those of a launcher.
    """
    if any(name not in environment for name in NEEDED):
        return ALONE
    try:
        rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    except ValueError:
        rank, size = -1, 0
    if not 0 <= rank < size:
        raise SettingError(
            f"RANK is {environment['RANK']!r} and WORLD_SIZE {environment['WORLD_SIZE']!r}; start "
            "the processes of a job with torchrun, or unset these variables"
        )
    return Processes(rank, size)


def here() -> tuple[int, int]:
    """The number of this process on its machine, from 0, and how many of the job are there."""
    count = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if _current.size > 1 else 1
    return (int(os.environ.get("LOCAL_RANK", "0")) if count > 1 else 0), count


@contextmanager
def job(timeout: timedelta = TIMEOUT) -> Iterator[Processes]:
    """Share trainings among the processes that torchrun started, while the block runs.

    Without torchrun nothing happens. All processes have to call the same methods: ``fit``,
    ``certify`` and ``further_neuron`` of a model wait for one another, all others do not.

    Args:
        timeout: how long a process waits for the others.

    Raises:
        LostProcessError: the processes do not find each other.
    """
    global _current, _store
    processes = launched()
    if processes.size == 1:
        yield ALONE
        return
    import torch
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    backend = "gloo"
    if torch.cuda.is_available() and distributed.is_nccl_available():
        backend = "cpu:gloo,cuda:nccl"
    with _others_answer("the processes of this job did not find each other"):
        _store, _, _ = next(rendezvous("env://", timeout=timeout))
        _store.set_timeout(timeout)
        distributed.init_process_group(
            backend,
            store=distributed.PrefixStore("job", _store),  # type: ignore[attr-defined]
            rank=processes.rank,
            world_size=processes.size,
            timeout=timeout,
        )
    _current = processes
    try:
        yield processes
    finally:
        _current = ALONE
        distributed.destroy_process_group()


@contextmanager
def one_goes_first() -> Iterator[None]:
    """Run the block in one process of every machine, then in the others: they find what it made."""
    first = here()[0] == 0
    if not first:
        _current.total(0)
    yield
    if first:
        _current.total(0)


@contextmanager
def apart() -> Iterator[None]:
    """Let this process train and measure by itself while the block runs."""
    global _current
    before, _current = _current, ALONE
    try:
        yield
    finally:
        _current = before


def met() -> bool:
    """Whether the processes of this job have found each other."""
    return _store is not None


def first_to_speak(processes: Processes) -> bool:
    """Whether no process of the job has said why it ends; asked once by each that fails.

    Args:
        processes: this one among those that were launched, whether or not they have met.
    """
    if _store is None:
        return processes.writes
    try:
        return bool(_store.add("convexcnn/ending", 1) == 1)
    except RuntimeError:  # the first process, the host of the store, was lost
        return processes.rank == 1


@contextmanager
def _others_answer(trouble: str = "another process of this job has ended") -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        first, *_ = [*str(error).splitlines(), ""]
        # Without the place in torch's sources before it, and its guesses after it.
        cause = first.rpartition("] ")[2].partition(". ")[0]
        raise LostProcessError(
            f"{trouble}, or does not answer ({cause}); start the job again, with --resume if it "
            "trains a stack"
        ) from error
