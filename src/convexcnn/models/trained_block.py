"""A trained block of a stack: what every kind has, its head and the maps that it hands on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from convexcnn.certificates.certificate import Certificate
from convexcnn.data.preprocess import ImageScaler
from convexcnn.models.frozen_maps import standardise
from convexcnn.models.restored import finite
from convexcnn.models.stack_settings import Block, Shape
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.stream import ImageStream
from convexcnn.patches.whiten import PatchTransform
from convexcnn.programs.kind import ProgramKind


class Features(Protocol):
    """The operator Phi of a head."""

    @property
    def shape(self) -> tuple[int, int, int]: ...

    def __call__(self, images: Tensor, /) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class TrainedBlock(ABC):
    """A convex block that is trained and frozen.

    Args:
        settings: as given.
        geometry: where the patches of its input lie, and the cells of its head.
        weights: V, (k, cells, g, d).
        bias: b, (k,).
        beta: weight of the regulariser that held-out images chose.
        scaler: standardisation of its maps; None in the last block.
        measures: loss and accuracy by ``train``, ``validation``, and ``stack``: on held-out images,
            of the best prediction that uses the heads up to this one.
        path: one dictionary per beta that was tried.
        certificate: how far the head is from its optimum; None if that was not asked for.
        solver: name, reason and outcome of the solver.
        seconds: time by phase.
        kept: whether an earlier training made it, and this one only took it over.
    """

    tensors: ClassVar[tuple[str, ...]]
    """Names of everything that ``saved`` writes as tensors."""

    before_head: ClassVar[tuple[str, ...]]
    """Names of the learned tensors that its features and maps are made of."""

    settings: Block
    geometry: PatchGeometry
    weights: Tensor
    bias: Tensor
    beta: float
    scaler: ImageScaler | None = None
    measures: dict[str, dict[str, float]] = field(default_factory=dict)
    path: tuple[dict[str, Any], ...] = ()
    certificate: Certificate | None = None
    solver: dict[str, Any] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    kept: bool = False

    @property
    def kind(self) -> ProgramKind:
        """The program that its head solves."""
        return ProgramKind(regulariser=self.settings.regulariser, loss=self.settings.loss)

    @property
    @abstractmethod
    def features(self) -> Features:
        """The operator Phi of its head."""

    if TYPE_CHECKING:  # a property of one kind, a field of the other

        @property
        def transform(self) -> PatchTransform:
            """Raw patch -> the d coordinates of ``gates``."""

        @property
        def gates(self) -> Tensor:
            """The gates a_i, (g, d)."""

    @property
    @abstractmethod
    def map_shape(self) -> Shape:
        """Channels, height and width of its maps."""

    @property
    @abstractmethod
    def n_neurons(self) -> int:
        """Neurons whose responses are handed on; of the last block, those of its head."""

    @property
    def n_gates(self) -> int:
        return self.features.shape[1]

    @abstractmethod
    def maps(self, images: Tensor) -> Tensor:
        """Responses of its neurons, down-sampled.

        Args:
            images: (n, channels, height, width), its scaled input.

        Returns:
            (n, channels, height, width) of ``map_shape``, float16, not standardised.
        """

    @abstractmethod
    def without_maps(self) -> Self:
        """The block as the last one: nothing is handed on."""

    @abstractmethod
    def with_maps(self) -> Self:
        """The block as one that another follows: it has the neurons that make its maps."""

    @abstractmethod
    def certify(
        self, stream: ImageStream, progress: Callable[[int], None] | None = None
    ) -> Certificate:
        """Bound the distance of its head from its optimum, given its frozen input, in float64.

        Args:
            stream: the images that it was trained on, as it sees them, on the CPU.
            progress: called with the number of images done.
        """

    def scores(self, images: Tensor) -> Tensor:
        """Scores (n, k) of its head for its scaled input (n, channels, height, width)."""
        return torch.addmm(self.bias, self.features(images), self.weights.flatten(1).T)

    def next_images(self, images: Tensor) -> Tensor:
        """Its maps, standardised: what the next block sees."""
        assert self.scaler is not None, "the last block hands no maps on"
        return standardise(self.maps(images), self.scaler)

    def rough_images(self, images: Tensor) -> Tensor:
        """``next_images`` in the precision of the images, where that is enough."""
        return self.next_images(images.float()).to(images.dtype)

    def to(self, device: str) -> Self:
        found = {name: getattr(self, name) for name in (f.name for f in fields(self))}
        return replace(self, **{k: v.to(device) for k, v in found.items() if hasattr(v, "to")})

    @abstractmethod
    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors and everything JSON-able that ``restored`` needs; no certificate."""

    def described(self) -> dict[str, Any]:
        """What every kind of block saves beside tensors."""
        return {
            "beta": self.beta,
            "scaler": None if self.scaler is None else self.scaler.to_dict(),
            "measures": self.measures,
        }

    @classmethod
    @abstractmethod
    def restored(
        cls,
        settings: Block,
        shape: Shape,
        n_classes: int,
        tensors: Mapping[str, Tensor],
        description: Mapping[str, Any],
    ) -> Self:
        """The block that ``saved`` described, with every shape checked.

        Args:
            settings: of the block.
            shape: of its input.
            n_classes: k.
            tensors: by name, with others perhaps.
            description: the rest.

        Raises:
            ValueError: something that does not fit together.
        """


def restored_parts(
    settings: Block, geometry: PatchGeometry, n_neurons: int, description: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments that every kind of block restores alike.

    Raises:
        ValueError: a scaler of another number of channels than the neurons make.
    """
    scaler = None
    if description["scaler"] is not None:
        scaler = ImageScaler.from_dict(description["scaler"])
        if len(scaler.mean) != settings.next_shape(geometry, n_neurons)[0]:
            raise ValueError("the scaler of the maps has another number of channels")
    return {
        "settings": settings,
        "geometry": geometry,
        "beta": finite(description, "beta"),
        "scaler": scaler,
        "measures": dict(description["measures"]),
    }


def stored(maps: Tensor) -> Tensor:
    """Maps in the precision that they are kept in, float16; what is beyond its range is cut."""
    largest = torch.finfo(torch.float16).max
    return maps.half().clamp(-largest, largest)


def downsampled(maps: Tensor, how: str) -> Tensor:
    """Halve maps (n, channels, height, width) in height and width; an odd last line is cut."""
    if how == "none":
        return maps
    if how == "average":
        return torch.nn.functional.avg_pool2d(maps, 2)
    if how == "max":
        return torch.nn.functional.max_pool2d(maps, 2)
    rows, columns = (size // 2 * 2 for size in maps.shape[2:])
    return torch.nn.functional.pixel_unshuffle(maps[:, :, :rows, :columns], 2)
