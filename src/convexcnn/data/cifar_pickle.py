"""The pickles of CIFAR's python version, read as data: nothing in the file is ever called.

The official files are protocol-2 pickles written by Python 2: a dictionary of numbers, byte strings
and one NumPy array. This reader knows the opcodes that such a dictionary needs and no others; the
three names that an array mentions are recognised, not imported.

Source: the opcode descriptions in Python's ``pickletools``.
"""

from __future__ import annotations

import pickletools
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convexcnn.data.limits import check_fits
from convexcnn.errors import DataError

ARRAY_BUILDERS = {
    "numpy.core.multiarray _reconstruct",
    "numpy._core.multiarray _reconstruct",
}
ARRAY_TYPE = "numpy ndarray"
DTYPE = "numpy dtype"
BYTES_ENCODER = "_codecs encode"
KNOWN_NAMES = ARRAY_BUILDERS | {ARRAY_TYPE, DTYPE, BYTES_ENCODER}

VALUES = {
    *("BININT", "BININT1", "BININT2", "INT", "LONG1"),
    *("SHORT_BINSTRING", "BINSTRING", "SHORT_BINBYTES", "BINBYTES"),
    *("BINUNICODE", "SHORT_BINUNICODE"),
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
GETS = {"GET", "BINGET", "LONG_BINGET"}
SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
NO_EFFECT = {"PROTO", "FRAME"}


class _Refused(Exception):
    """The pickle asks for something that CIFAR's files never need."""


@dataclass(frozen=True)
class _Name:
    """A name the pickle mentions, such as ``numpy dtype``; never looked up."""

    name: str


@dataclass
class _Dtype:
    """A NumPy type the pickle describes."""

    code: str


@dataclass
class _Array:
    """A NumPy array the pickle describes, empty until its state has been read."""

    value: NDArray[np.uint8] | None = None


def read_cifar_pickle(path: Path) -> dict[str, Any]:
    """Read one file of CIFAR's python version.

    Args:
        path: the file, such as ``data_batch_1``, ``train`` or ``batches.meta``.

    Returns:
        Its dictionary with text keys; byte strings stay bytes, arrays are uint8.

    Raises:
        DataError: the file is truncated, is not a pickle, or asks for anything but numbers,
            strings, lists, dictionaries and uint8 arrays.
    """
    check_fits(path.stat().st_size, str(path))
    try:
        value = _Reader().read(path.read_bytes())
    except _Refused as refusal:
        raise DataError(
            f"{path}: {refusal}, which CIFAR's official files never need; "
            "nothing in it was run. Fetch the official archive again"
        ) from None
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{path}: truncated or not a CIFAR python file ({error}); "
            "fetch the official archive again"
        ) from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: holds no dictionary; it is not a CIFAR python file")
    return {_text(key): _plain(item) for key, item in value.items()}


def _text(text: bytes | str) -> str:
    return text.decode("latin-1") if isinstance(text, bytes) else text


def _plain(item: Any) -> Any:
    return item.value if isinstance(item, _Array) else item


@dataclass
class _Reader:
    """The stack machine of the pickle format, without the parts that can run code."""

    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def read(self, data: bytes) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # strange escapes in damaged text
            for opcode, argument, _ in pickletools.genops(data):
                if opcode.name == "STOP":
                    break
                self._step(opcode.name, argument)
        return self.stack.pop()

    def _step(self, opcode: str, argument: Any) -> None:
        if opcode in VALUES:
            encoded = opcode.endswith("STRING")
            self.stack.append(argument.encode("latin-1") if encoded else argument)
        elif opcode in PUTS:
            self.memo[argument] = self.stack[-1]
        elif opcode == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif opcode in GETS:
            self.stack.append(self.memo[argument])
        elif opcode in CONSTANTS:
            self.stack.append(CONSTANTS[opcode])
        elif opcode == "MARK":
            self.marks.append(len(self.stack))
        elif opcode not in NO_EFFECT:
            self._collect(opcode, argument)

    def _collect(self, opcode: str, argument: Any) -> None:
        """Opcodes that make or fill containers."""
        if opcode in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            self.stack.append({"EMPTY_DICT": {}, "EMPTY_LIST": [], "EMPTY_TUPLE": ()}[opcode])
        elif opcode in SHORT_TUPLES:
            self.stack.append(tuple(self._pop(SHORT_TUPLES[opcode])))
        elif opcode == "TUPLE":
            self.stack.append(tuple(self._pop_to_mark()))
        elif opcode in ("APPEND", "APPENDS"):
            items = self._pop(1) if opcode == "APPEND" else self._pop_to_mark()
            self._top(list).extend(items)
        elif opcode in ("SETITEM", "SETITEMS"):
            items = self._pop(2) if opcode == "SETITEM" else self._pop_to_mark()
            if not all(isinstance(key, bytes | str) for key in items[::2]):
                raise _Refused("has a dictionary key that is no string")
            self._top(dict).update(zip(items[::2], items[1::2], strict=True))
        else:
            self._describe(opcode, argument)

    def _describe(self, opcode: str, argument: Any) -> None:
        """Opcodes that describe a NumPy array: names, a recipe and its state."""
        if opcode == "GLOBAL":
            self._mention(argument)
        elif opcode == "STACK_GLOBAL":
            self._mention(" ".join(self._pop(2)))
        elif opcode == "REDUCE":
            recipe, arguments = self._pop(2)
            self.stack.append(_recipe(recipe, arguments))
        elif opcode == "BUILD":
            (state,) = self._pop(1)
            _set_state(self.stack[-1], state)
        else:
            raise _Refused(f"uses the pickle operation {opcode}")

    def _mention(self, name: str) -> None:
        if name not in KNOWN_NAMES:
            raise _Refused(f"asks for {name.replace(' ', '.')}")
        self.stack.append(_Name(name))

    def _pop(self, n: int) -> list[Any]:
        if len(self.stack) < n:
            raise IndexError("the pickle's stack is empty")
        items = self.stack[len(self.stack) - n :]
        del self.stack[len(self.stack) - n :]
        return items

    def _pop_to_mark(self) -> list[Any]:
        return self._pop(len(self.stack) - self.marks.pop())

    def _top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise TypeError(f"no {kind.__name__} to fill")
        return self.stack[-1]


def _recipe(recipe: Any, arguments: Any) -> Any:
    """What a recipe and its arguments describe: an empty array, a type, or (Python 3) bytes."""
    if not isinstance(recipe, _Name) or not isinstance(arguments, tuple):
        raise _Refused("calls something that is not a name")
    if recipe.name in ARRAY_BUILDERS and arguments[0] == _Name(ARRAY_TYPE):
        return _Array()
    if recipe.name == DTYPE:
        return _Dtype(_text(arguments[0]))
    if recipe.name == BYTES_ENCODER and arguments[1:] == ("latin1",):
        return arguments[0].encode("latin-1")
    raise _Refused(f"calls {recipe.name.replace(' ', '.')} in a way of its own")


def _set_state(target: Any, state: Any) -> None:
    """Give an array its pixels: (version, shape, dtype, column-major?, bytes)."""
    if isinstance(target, _Dtype):
        return
    if not isinstance(target, _Array):
        raise _Refused("changes the state of something that is no array")
    _, shape, dtype, column_major, pixels = state
    if not isinstance(dtype, _Dtype) or dtype.code not in ("u1", "uint8"):
        raise _Refused("holds an array that is not uint8")
    flat = np.frombuffer(pixels, np.uint8)
    target.value = flat.reshape(shape, order="F" if column_major else "C")
