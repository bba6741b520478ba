"""What a trained network looked at: maps, exact contributions, and measures of their truth."""

from __future__ import annotations

from convexcnn.explain.affine import AffinePiece, gradient_times_input
from convexcnn.explain.contributions import Contributions, exact_contributions
from convexcnn.explain.faithfulness import (
    Curve,
    Faithfulness,
    deletion_curve,
    faithfulness_table,
    insertion_curve,
)
from convexcnn.explain.filters import (
    class_colours,
    frequency_response,
    gate_activity,
    strongest_filters,
)
from convexcnn.explain.gradcam import grad_cam
from convexcnn.explain.maximise import Maximum, box_maximum, maximise_input
from convexcnn.explain.methods import METHODS
from convexcnn.explain.occlusion import occlusion_map
from convexcnn.explain.pixels import on_pixels, spread_evenly
from convexcnn.explain.randomisation import randomisation_test
from convexcnn.explain.stack import block_head, spread_through, weighted_heads

__all__ = [
    "METHODS",
    "AffinePiece",
    "Contributions",
    "Curve",
    "Faithfulness",
    "Maximum",
    "block_head",
    "box_maximum",
    "class_colours",
    "deletion_curve",
    "exact_contributions",
    "faithfulness_table",
    "frequency_response",
    "gate_activity",
    "grad_cam",
    "gradient_times_input",
    "insertion_curve",
    "maximise_input",
    "occlusion_map",
    "on_pixels",
    "randomisation_test",
    "spread_evenly",
    "spread_through",
    "strongest_filters",
    "weighted_heads",
]
