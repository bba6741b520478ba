"""Which convex program: formulation, regulariser and loss, without data or beta."""

from __future__ import annotations

from dataclasses import dataclass

from convexcnn.errors import SettingError
from convexcnn.programs.losses import get_loss
from convexcnn.programs.regularisers import get_regulariser

FORMULATIONS = ("gated", "relu")
POOLINGS = ("average", "max")


@dataclass(frozen=True)
class ProgramKind:
    """The kind of a convex program; beta and data are given to a solver separately.

    Args:
        formulation: ``gated`` for (G), ``relu`` for (R) with its cones.
        regulariser: ``l2``, ``group``, or ``nuclear`` (gated only).
        loss: ``squared`` or ``cross_entropy``.
        intercept: whether there is a b, which is not penalised.
        pooling: ``average`` or ``max`` of the responses in a cell.

    Raises:
        SettingError: a combination that has no program.
    """

    formulation: str = "gated"
    regulariser: str = "l2"
    loss: str = "squared"
    intercept: bool = True
    pooling: str = "average"

    def __post_init__(self) -> None:
        if self.formulation not in FORMULATIONS:
            raise SettingError(
                f"formulation {self.formulation!r} is not known; choose one of "
                f"{', '.join(FORMULATIONS)}"
            )
        if self.pooling not in POOLINGS:
            raise SettingError(
                f"pooling {self.pooling!r} is not known; choose one of {', '.join(POOLINGS)}"
            )
        if self.formulation == "relu" and self.regulariser == "nuclear":
            raise SettingError(
                "regulariser nuclear has no exact program with formulation relu; "
                "use formulation gated, or regulariser group"
            )
        get_loss(self.loss)
        get_regulariser(self.regulariser)

    @property
    def is_ridge(self) -> bool:
        """Whether the optimum solves one linear system: gated, squared loss, l2."""
        return (self.formulation, self.regulariser, self.loss) == ("gated", "l2", "squared")

    def __str__(self) -> str:
        words = f"formulation {self.formulation}, regulariser {self.regulariser}, loss {self.loss}"
        return words if self.pooling == "average" else f"{words}, pooling {self.pooling}"
