"""Machines that a training is planned for: this one, as measured, or GPUs of given rates."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from convexcnn.costs import counts
from convexcnn.costs.probes import block_cost, measure
from convexcnn.costs.work import BlockShape, Work
from convexcnn.environment import machine
from convexcnn.errors import SettingError
from convexcnn.models.neuron_network import BATCH
from convexcnn.models.time_plan import BlockCost, HeadRates

HOST = (
    *("decoding", "host memory", "certificate features", "certificate"),
    *("host features", "host products in float64"),
)
"""Kinds of work that the processor does, whatever the device."""

SAME_AS = {
    "certificate": "thin products in float64",
    "host features": "features",
    "host products in float64": "products in float64",
}
"""Kinds with the rate of another one."""

BLOCK_COSTS = ("descent", "passing", "responses")
"""Kinds whose rate is that of a block of a stack, as ``BlockCost`` measures it."""

PROBED_CLASSES = 2
"""Classes of the network that ``BlockCost`` measures."""

PEAK_SHARES = {
    "products": 1 / 15,
    "products in float64": 1 / 15,
    "thin products": 1 / 15,
    "thin products in float64": 1 / 15,
    "features": 1 / 15,
    "features in float64": 1 / 15,
    "gate descent": 1 / 15,
    "descent": 1.0,
    "passing": 1.0,
    "responses": 1 / 2,
}
"""Peak rate of a kind on a GPU, as part of its bfloat16 rate.

As on an H100 (989 TFLOPS in bfloat16, dense): 67 in float32 and, on its matrix units, in float64;
convolutions in float32 run as tf32 at half the bfloat16 rate."""

EFFICIENCY = 0.4
"""Part of a GPU's peak rate that is reached: an assumption, not a measurement."""

FLOAT32 = 4
"""Bytes of a number."""

BYTES_PER_FLOP = 3.4e-3
"""Memory bandwidth of a GPU over its bfloat16 rate, if none is given: that of an H100."""


class ThisMachine:
    """This machine: every rate is measured once, when it is first asked for.

    Args:
        device: ``cpu`` or a CUDA device.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.rates: dict[tuple[str, Hashable, str], float] = {}
        self._costs: dict[BlockShape, BlockCost] = {}

    def rate(self, kind: str, shape: Hashable = None) -> float:
        """Operations, bytes or files per second."""
        device = "cpu" if kind in HOST else self.device
        key = SAME_AS.get(kind, kind), shape, device
        if key not in self.rates:
            self.rates[key] = self._measure(*key)
        return self.rates[key]

    def _measure(self, kind: str, shape: Hashable, device: str) -> float:
        if kind not in BLOCK_COSTS:
            return measure(kind, shape, device)
        assert isinstance(shape, BlockShape)
        cost, neurons = self.block_cost(shape), shape.block.n_gates
        if kind == "passing":
            return counts.neuron_passing(shape.geometry, neurons) / cost.passing
        if kind == "responses":
            return counts.neuron_responses(shape.geometry, neurons) / cost.responses
        return _descent(shape, PROBED_CLASSES) / cost.descent

    def block_cost(self, shape: BlockShape) -> BlockCost:
        """What a budget of minutes is shared by, measured as ``fit`` does it."""
        if shape not in self._costs:
            self._costs[shape] = block_cost(shape.block, shape.geometry, self.device)
        return self._costs[shape]

    def head_rates(self, classes: int) -> HeadRates:
        """Of the heads that minutes are kept for, measured as ``fit`` does it."""
        return HeadRates.of(classes, self.device)

    def seconds(self, work: Work) -> float:
        """Foreseen time; nothing takes none, whatever its kind."""
        if work.files:
            return work.files / self.rate(work.kind, work.shape)
        if work.flops:
            return work.flops / self.rate(work.kind, work.shape)
        return work.bytes / self.rate(work.kind) if work.bytes else 0.0

    def describe(self) -> dict[str, Any]:
        """What it is, and every rate that was measured."""
        rates = [
            {
                "kind": kind,
                "shape": None if shape is None else str(shape),
                "device": device,
                "per_second": found,
            }
            for (kind, shape, device), found in self.rates.items()
        ]
        return {"name": "this machine", "device": self.device, **machine(), "rates": rates}


@dataclass(frozen=True)
class GivenGPUs:
    """GPUs that are not here: their peak rates, of which ``EFFICIENCY`` is reached.

    Images are shared evenly among them; what is not so much per image, such as a factorisation, is
    done by one. Decoding and certificates are the processor's, which is taken to be this one.

    Args:
        gpus: how many.
        tflops: peak bfloat16 rate of one, in 1e12 operations per second, without sparsity.
        bandwidth: of the memory of one, in 1e9 bytes per second; None for that of an H100 of the
            same rate.
        host: the processor.

    Raises:
        SettingError: a number that is not positive.
    """

    gpus: int
    tflops: float
    bandwidth: float | None
    host: ThisMachine

    def __post_init__(self) -> None:
        for name in ("gpus", "tflops", "bandwidth"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise SettingError(f"{name} is {value}; give a positive number")

    @property
    def memory_rate(self) -> float:
        """Bytes per second of one GPU."""
        if self.bandwidth is None:
            return BYTES_PER_FLOP * 1e12 * self.tflops
        return 1e9 * self.bandwidth

    def rate(self, kind: str) -> float:
        """Operations per second of one GPU."""
        return EFFICIENCY * PEAK_SHARES[kind] * 1e12 * self.tflops

    def block_cost(self, shape: BlockShape) -> BlockCost:
        """What a budget of minutes is shared by, from the operations of a block."""
        geometry, neurons = shape.geometry, shape.block.n_gates
        descent = _descent(shape, shape.classes) / self.rate("descent")
        responses = counts.neuron_responses(geometry, neurons) / self.rate("responses")
        passing = counts.neuron_passing(geometry, neurons) / self.rate("passing")
        return BlockCost(
            descent / self.gpus,
            passing / self.gpus,
            responses / self.gpus,
            geometry.n_cells * neurons,
            descends=shape.block.descends,
            epochs=shape.block.own_epochs,
        )

    def head_rates(self, classes: int) -> HeadRates:
        """Of the heads that minutes are kept for: memory limits products with few columns."""
        thin = min(self.rate("thin products"), 2 * classes / FLOAT32 * self.memory_rate)
        return HeadRates(self.gpus * self.rate("products"), self.gpus * thin)

    def seconds(self, work: Work) -> float:
        """Foreseen time: limited by operations, or by memory."""
        if work.kind in HOST:
            return self.host.seconds(work)
        among = self.gpus if work.divides else 1
        computing = work.flops / self.rate(work.kind) if work.flops else 0.0
        return max(computing, work.bytes / self.memory_rate) / among

    def describe(self) -> dict[str, Any]:
        """What was given, what follows from it, and the rates of the processor."""
        return {
            "name": f"{self.gpus} GPU{'s' * (self.gpus > 1)} of {self.tflops:g} TFLOPS",
            "gpus": self.gpus,
            "tflops": self.tflops,
            "bandwidth_gb": 1e-9 * self.memory_rate,
            "efficiency": EFFICIENCY,
            "host": self.host.describe(),
        }


def _descent(shape: BlockShape, classes: int) -> float:
    """Operations of one image, with its part of the step that a batch takes."""
    step = counts.block_step(shape.block, shape.geometry) / BATCH
    return counts.block_descent(shape.block, shape.geometry, classes) + step
