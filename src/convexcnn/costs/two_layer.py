"""The phases of a two-layer classifier, convex or not, from the settings that fit reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from convexcnn.certificates.further_neuron import ASCENT_IMAGES, MEASURED, PASSES, STARTS
from convexcnn.costs import counts, solving
from convexcnn.costs.problem import PROBED_ROWS, Problem, Rows, carried, dense, moved
from convexcnn.costs.work import FeatureShape, Phase, Work, repeated
from convexcnn.data.survey import DataSurvey
from convexcnn.models.augmentation import AUGMENTATIONS
from convexcnn.models.block_classifier import WHITENING_IMAGES
from convexcnn.models.gates import LENDING_WIDTH, lending_epochs
from convexcnn.models.memory_plan import MemoryPlan
from convexcnn.models.program_settings import DEFAULT_GATES
from convexcnn.models.proof import NETWORK_WORK
from convexcnn.models.relu_cnn import NonConvexConvClassifier
from convexcnn.models.two_layer import ConvexConvClassifier
from convexcnn.patches.whiten import PATCH_NUMBERS
from convexcnn.solvers.choose import ProblemSize, needed_gb
from convexcnn.solvers.registry import RIDGE_SOLVERS
from convexcnn.solvers.sgd import SGD

EXPLAINING = 1.0
"""Seconds for the pictures of a block in the report: ascents on pixels, and a few maps."""

SCORED_PASSES = 3
"""Times that Phi moves when images are scored, 32 at a time."""

DECOMPOSED = 3
"""Products of all patches with all filters that the ReLU network takes to be found and compared."""

Solving = Callable[[Problem], list[Phase]]

SOLVING: dict[str, Solving] = {
    "direct": solving.direct,
    "kernel": solving.kernel,
    "cg": solving.matrix_free,
    "lbfgs": solving.lbfgs,
    "admm": solving.admm,
}
"""Phases of the solvers whose steps are foreseen from the program alone."""


def feature_shape(
    model: ConvexConvClassifier | NonConvexConvClassifier, survey: DataSurvey, gates: int
) -> FeatureShape:
    """What building Phi depends on, or of the responses of so many filters."""
    geometry = model.geometry(survey.image_shape)
    if model.whiten is None:
        return FeatureShape(geometry, geometry.patch_dim, geometry.patch_dim, gates)
    rank = min(model.whiten, geometry.patch_dim)
    return FeatureShape(geometry, rank, rank + 1, gates)


def convex_phases(
    model: ConvexConvClassifier, survey: DataSurvey, *, certificate: bool
) -> tuple[list[Phase], dict[str, str]]:
    """Everything that `fit` does after it has read the images, and the solver with its reason.

    Raises:
        SettingError: a filter that does not fit the images, or a program that does not fit into
            the memory.
    """
    plan = memory_plan(model.memory_gb, survey)
    settings = replace(model.program_settings(), memory_gb=plan.solver_gb)
    views = AUGMENTATIONS[model.augment].views
    fraction = model.validation_fraction if settings.holds_out else 0.0
    rows, k = Rows.of(survey.n_train, views, fraction), survey.n_classes
    shape = feature_shape(model, survey, model.n_gates or DEFAULT_GATES)
    size = problem_size(shape, rows.all, k)
    among = RIDGE_SOLVERS if model.class_weight is not None else None
    if model.n_gates is None:
        size = size.with_gates(settings.affordable_gates(size, among))
        shape = replace(shape, gates=size.gates)
    betas = None if model.betas is None else tuple(settings.beta_values)
    problem = Problem(rows, k, shape.features, survey.pixels, shape, betas, model.loss)
    learned_from = replace(survey, n_train=rows.train // rows.views)
    phases = [whitening(shape, survey), gates(model.gates, shape, learned_from)]
    chosen = {"solver": "sgd", "reason": ""}
    if settings.descends:
        solver = model.solver if isinstance(model.solver, SGD) else SGD()
        phases.append(convex_descent(problem, solver.epochs))
    else:
        found, reason = settings.exact_solver(size, among=among)
        chosen = {"solver": found.name, "reason": reason}
        needed = 1e9 * needed_gb(found.name, size, settings.kind)
        if found.name == "fista":
            per_place = shape.gates + shape.dim
            places = counts.celled(shape.geometry)
            phases += solving.fista(problem, settings.memory_budget_gb, places, per_place)
        elif found.name in SOLVING:
            phases += SOLVING[found.name](problem)
        else:
            phases += solving.unforeseen(found.name)(problem, needed)
    phases += _scored(problem, survey)
    if certificate and settings.formulation != "relu-penalised":
        phases += _proof(problem, shape, survey, model.pool)
    return phases + explained(survey, EXPLAINING), chosen


def non_convex_phases(model: NonConvexConvClassifier, survey: DataSurvey) -> list[Phase]:
    """Everything that `fit` does for the non-convex network after it has read the images."""
    shape, k = feature_shape(model, survey, model.n_filters), survey.n_classes
    kept = survey.n_train - round(survey.n_train * model.validation_fraction)
    epochs = model.descent().epochs
    descent = relu_descent(shape, survey, epochs * kept)
    scoring = Work("gate descent", counts.relu_descent(shape, k) / 2, shape=shape)
    phases = [whitening(shape, survey), Phase("sgd", tuple(descent))]
    for name, images in (("training images", survey.n_train), ("test images", survey.n_test)):
        phases.append(Phase(name, tuple(repeated([scoring], images))))
    return phases + explained(survey, EXPLAINING)


def memory_plan(
    memory_gb: float | None, survey: DataSurvey, scores: int = 0, descent_gb: float = 0.0
) -> MemoryPlan:
    """What a training may keep in memory: images beyond their share of the budget lie in a file."""
    train = survey.n_train * survey.pixels * survey.item_bytes
    held = train if survey.in_memory(memory_gb) else 0
    return MemoryPlan.beside_images(memory_gb, held, scores, descent_gb)


def problem_size(shape: FeatureShape, rows: int, classes: int) -> ProblemSize:
    """The numbers that solvers are chosen by."""
    geometry = shape.geometry
    patches = counts.patches(geometry)
    return ProblemSize(rows, patches, geometry.n_cells, shape.gates, shape.dim, classes)


def whitening(shape: FeatureShape, survey: DataSurvey) -> Phase:
    """The covariance of the patches of some images, 2 n p raw^2, and its eigenvectors."""
    geometry = shape.geometry
    if shape.rank == geometry.patch_dim == shape.dim:
        return Phase("whitening")
    raw, images = geometry.patch_dim, min(WHITENING_IMAGES, survey.n_train)
    numbers = 4.0 * images * counts.patches(geometry) * raw
    work = covariance(images * counts.patches(geometry), raw)
    held = 2 * min(numbers, 4.0 * PATCH_NUMBERS)
    return Phase("whitening", (*work, moved(6 * numbers)), held)


def covariance(patches: float, raw: int) -> tuple[Work, ...]:
    """X' X of so many patches, and a factorisation of it in float64."""
    made = dense(counts.product(raw, patches, raw), PROBED_ROWS, raw)
    return made, dense(10.0 * raw**3, raw, raw, double=True, divides=False)


def gates(strategy: str, shape: FeatureShape, survey: DataSurvey) -> Phase:
    """Where gates come from: nothing for random ones, a short descent for learned ones."""
    if strategy == "dual":
        note = f"column generation: {solving.UNFORESEEN}"
        return Phase("gates", known=False, note=note)
    if strategy != "sgd":
        return Phase("gates")
    wide = replace(shape, gates=max(LENDING_WIDTH, shape.gates))
    images = lending_epochs(survey.n_train) * survey.n_train
    return Phase("gates", tuple(relu_descent(wide, survey, images)))


def relu_descent(shape: FeatureShape, survey: DataSurvey, images: float) -> list[Work]:
    """Steps of a non-convex network that see so many images in all."""
    flops = images * counts.relu_descent(shape, survey.n_classes)
    return [Work("gate descent", flops, shape=shape), carried(32.0 * images * survey.pixels)]


def convex_descent(problem: Problem, epochs: int) -> Phase:
    """SGD on the convex program: Phi, scores and their gradient for every image and epoch."""
    images = problem.rows.train // problem.rows.views * epochs
    work = [*problem.build(images), problem.thin(images, problem.classes, times=2)]
    return Phase("sgd", tuple(work), 4.0 * problem.size * (problem.chunk + 4 * problem.classes))


def _scored(problem: Problem, survey: DataSurvey) -> list[Phase]:
    """Accuracy on training and on test images."""

    def scored(images: int) -> tuple[Work, ...]:
        scores = problem.thin(images, problem.classes)
        return *problem.build(images), scores, moved(4.0 * SCORED_PASSES * images * problem.size)

    return [
        Phase("training images", scored(survey.n_train)),
        Phase("test images", scored(survey.n_test)),
    ]


def _proof(problem: Problem, shape: FeatureShape, survey: DataSurvey, pool: str) -> list[Phase]:
    """The certificate in float64, the search for a further neuron, and the ReLU network."""
    rows, k, geometry = problem.rows.all, problem.classes, shape.geometry
    flops = rows * counts.plain_features(shape)
    sums = (4 if problem.loss == "squared" else 6) * rows * problem.size * k
    certified = (
        Work("certificate features", flops, shape=shape),
        Work("certificate", sums, shape=problem.thin(1, k, double=True).shape),
    )
    phases = [Phase("certificate", certified, 24.0 * rows * k)]
    if pool == "average":
        starts = replace(shape, gates=3 * STARTS)
        climbed = min(ASCENT_IMAGES, survey.n_train) * problem.rows.views * PASSES
        climbing = Work("host features", climbed * counts.features(starts), shape=starts)
        few = replace(shape, gates=MEASURED)
        measured = Work("certificate features", rows * counts.plain_features(few) / 2, shape=few)
        reading = carried(8.0 * 8 * (rows + climbed) * survey.pixels)
        phases.append(Phase("further neuron", (climbing, measured, reading)))
    pairs = rows * counts.celled(geometry) * k * shape.gates * shape.dim
    if pairs <= NETWORK_WORK:
        found = dense(2.0 * DECOMPOSED * pairs, shape.dim, 512, double=True)
        found = replace(found, kind="host products in float64")
        phases.append(Phase("relu network", (found,)))
    return phases


def explained(survey: DataSurvey, seconds: float) -> list[Phase]:
    """Pictures for the report, which need test images."""
    return [Phase("explanations", fixed=seconds)] if survey.n_test else []
