"""The phases of a stack of blocks, from the settings that fit reads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from convexcnn.costs import counts, solving
from convexcnn.costs.problem import Problem, Rows, carried, moved
from convexcnn.costs.two_layer import SOLVING, covariance, explained, memory_plan
from convexcnn.costs.two_layer import gates as lent_gates
from convexcnn.costs.work import BlockShape, FeatureShape, Hardware, Phase, Work
from convexcnn.data.survey import DataSurvey
from convexcnn.models.augmentation import AUGMENTATIONS
from convexcnn.models.block_training import (
    HEAD_PATH,
    SOLVED_BETAS,
    WHITENING_NUMBERS,
    block_solver,
    problem_size,
)
from convexcnn.models.descent_memory import bytes_per_image, descent_gb, images_at_once
from convexcnn.models.gates import lending_epochs
from convexcnn.models.layerwise import LayerwiseConvexCNN
from convexcnn.models.memory_plan import MAPS_SHARE
from convexcnn.models.neuron_network import BATCH, default_steps, descent_dtype
from convexcnn.models.stack_settings import Block, plan_geometries
from convexcnn.models.time_plan import PROBES, REFERENCE, BlockCost, TimePlan
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.whiten import PATCH_NUMBERS
from convexcnn.programs.kind import ProgramKind
from convexcnn.solvers.choose import needed_gb

LENT = ("sgd", "lookahead")
"""Strategies of gates that a network lends."""

LOADED = 12.0
"""Bytes that are moved for every number of an image on its way into a mini-batch."""

PROBING = 0.8
"""Seconds per block in which its costs are measured, if there is a budget."""

EXPLAINING = 1.5
"""Seconds per block for its pictures in the report."""


@dataclass(frozen=True)
class _Maps:
    """What a block sees: bytes in memory, and whether further ones fit beside them."""

    held: float
    budget: float

    def fit(self, size: float) -> bool:
        """Whether so many bytes stay in memory instead of a file, as `fit` decides."""
        return size + self.held <= MAPS_SHARE * self.budget


class StackPlan:
    """Plans a stack block by block: each depends on the time and the memory that those before took.

    Args:
        model: the untrained stack.
        survey: of its images.
        hardware: that it is planned for.
        certificate: whether every block is certified.

    Raises:
        SettingError: blocks that do not fit the images or the memory.
    """

    def __init__(
        self,
        model: LayerwiseConvexCNN,
        survey: DataSurvey,
        hardware: Hardware,
        *,
        certificate: bool,
    ) -> None:
        self.survey, self.hardware, self.certificate = survey, hardware, certificate
        self.blocks = model.read_blocks(survey.image_shape)
        self.geometries = plan_geometries(self.blocks, survey.image_shape)
        self.augmentation = AUGMENTATIONS[model.augment]
        views = self.augmentation.paired.views
        self.rows = Rows.of(survey.n_train, views, model.validation_fraction)
        k = survey.n_classes
        scores = len(self.blocks) * survey.n_train * k
        where = self.blocks, self.geometries, survey.image_shape, "cpu", survey.n_train
        descent = descent_gb(*where)
        self.budget = 1e9 * memory_plan(model.memory_gb, survey, scores, descent).usable_gb
        costs, rates, loading = list[BlockCost](), REFERENCE, 0.0
        if model.budget is not None:
            costs = [hardware.block_cost(shape) for shape in self._shapes()]
            rates = hardware.head_rates(k)
            loading = hardware.seconds(carried(LOADED * math.prod(survey.image_shape)))
        self.time = TimePlan(
            model.budget,
            costs,
            images=survey.n_train,
            views=views,
            augmented=self.augmentation.views > 1,
            classes=k,
            rates=rates,
            loading=loading,
        )
        self.disk = 0.0
        self.parameters = 0

    def _shapes(self) -> Iterator[BlockShape]:
        pairs = zip(self.blocks, self.geometries, strict=True)
        for number, (block, geometry) in enumerate(pairs, 1):
            last = number == len(self.blocks)
            yield BlockShape.of(block, geometry, self.survey.n_classes, last=last)

    def phases(self) -> list[Phase]:
        """All phases, those of blocks that a budget leaves no time for left out."""
        found: list[Phase] = []
        if self.time.minutes is not None:
            found.append(Phase(PROBES, fixed=PROBING * len(self.blocks)))
            self.time.spent += found[0].fixed
        maps = _Maps(0.0, self.budget)
        trained = 0
        for number, shape in enumerate(self._shapes(), 1):
            if number > 1 and self.time.leaves_no_time_for(number):
                break
            trained = number
            last = number == len(self.blocks)
            made = self._neuron_block if shape.block.head == "neurons" else self._patch_block
            phases, maps = made(number, shape, maps, last=last)
            self.time.spent += sum(phase.seconds(self.hardware) for phase in phases)
            found += phases
            self.parameters += self._parameters(shape)
        return [*found, self._tested(trained), *explained(self.survey, EXPLAINING * trained)]

    def _parameters(self, shape: BlockShape) -> int:
        geometry, g, k = shape.geometry, shape.block.n_gates, self.survey.n_classes
        numbers = self._dim(shape) if shape.block.head == "patches" else 1
        return g * (geometry.patch_dim + 1) + k * (geometry.n_cells * g * numbers + 1)

    def _dim(self, shape: BlockShape) -> int:
        raw, rank = shape.geometry.patch_dim, shape.block.whiten
        return raw if rank is None else min(rank, raw) + 1

    def _neuron_block(
        self, number: int, shape: BlockShape, maps: _Maps, *, last: bool
    ) -> tuple[list[Phase], _Maps]:
        """Whitening, descent, one pass for responses and maps, the head, its certificate."""
        block, geometry, k = shape.block, shape.geometry, self.survey.n_classes
        betas = HEAD_PATH[:SOLVED_BETAS]
        rows, n, m = self.rows, self.survey.n_train, geometry.n_cells * block.n_gates
        pixels = _numbers_of(geometry)
        kept = rows.train // rows.views
        phi = 4.0 * (1 + rows.views) * n * m
        phi_held = phi if maps.fit(phi) else 0.0
        next_size = 0 if last else 2.0 * rows.views * n * _numbers(block, geometry)
        next_held = next_size if maps.fit(next_size) else 0.0
        self.disk = max(self.disk, phi - phi_held + next_size - next_held)
        stays = maps.held + phi_held + next_held
        views = n * rows.views
        responses = views * counts.neuron_responses(geometry, block.n_gates)
        writing = 10.0 * next_size + 4.0 * views * pixels * 4 + 2 * phi
        pass_ = Work("responses", responses, shape=shape)
        phases = [
            self._whitening(geometry, kept, maps.held),
            self._lent(number, shape, kept, maps.held),
            Phase("responses", (pass_, carried(writing)), stays),
            *self._head(shape, stays, betas, m),
        ]
        thin = 4.0 * n * k * m
        compared = 2 * 2.0 * rows.train * k * m if block.gates in LENT else 0.0
        problem = self._problem(shape, None, m, betas)
        scored = replace(problem.thin(1, k), flops=thin + compared)
        phases.append(Phase("accuracy", (scored, carried(8.0 * rows.train * m)), stays))
        if self.certificate:
            phases.append(self._certified(problem, stays))
        named = [replace(phase, block=number) for phase in phases]
        return named, _Maps(next_held, self.budget)

    def _lent(self, number: int, shape: BlockShape, kept: int, held: float) -> Phase:
        """Steps of the network that lends its neurons, on images taken through earlier blocks."""
        block, geometry = shape.block, shape.geometry
        if block.gates not in LENT:
            return Phase("gates", memory=held, known=block.gates != "dual")
        batch, pixels = min(BATCH, kept), _numbers_of(geometry)
        steps = self._steps(number, block, kept)
        images = steps * batch
        flops = images * counts.block_descent(block, geometry, self.survey.n_classes)
        flops += steps * counts.block_step(block, geometry)
        work = Work("descent", flops, shape=shape), carried(LOADED * images * pixels)
        where = block, geometry, self.survey.image_shape
        at_once = min(batch, images_at_once(*where, "cpu", last=False))
        memory = float(at_once * bytes_per_image(*where, descent_dtype("cpu"), last=False))
        note = f"{images / kept:.1f} epochs"
        return Phase("gates", (*work, *self._passed(number, images)), held + memory, note=note)

    def _patch_block(
        self, number: int, shape: BlockShape, maps: _Maps, *, last: bool
    ) -> tuple[list[Phase], _Maps]:
        """Whitening, gates, the exact program, scores, certificate, maps."""
        block, geometry, n = shape.block, shape.geometry, self.survey.n_train
        dim = self._dim(shape)
        features = FeatureShape(geometry, dim - bool(block.whiten), dim, block.n_gates)
        kept, views = self.rows.train // self.rows.views, self.rows.views
        pixels = _numbers_of(geometry)
        inner = replace(self.survey, n_train=kept, image_shape=geometry.image_shape)
        problem = self._problem(shape, features, features.features, None)
        next_size = 0 if last else 2.0 * views * n * _numbers(block, geometry)
        next_held = next_size if maps.fit(next_size) else 0.0
        self.disk = max(self.disk, next_size - next_held)
        phases = [self._whitening(geometry, kept, maps.held)] if block.whiten else []
        lent = lent_gates(block.gates, features, inner)
        if block.gates == "sgd":
            seen = lending_epochs(kept) * kept
            lent = replace(lent, work=(*lent.work, *self._passed(number, seen)))
        phases.append(lent)
        phases += self._head(shape, maps.held, None, features.features, features)
        mirrored = n * (1 + self.augmentation.mirror)
        scored = (*problem.build(mirrored), problem.thin(mirrored, self.survey.n_classes))
        phases.append(Phase("accuracy", scored, maps.held))
        if self.certificate:
            flops = self.rows.train * counts.plain_features(features)
            certified = Work("certificate features", flops, shape=features)
            proof = self._certified(problem, maps.held)
            phases.append(replace(proof, work=(certified, *proof.work)))
        if not last:
            mapped = replace(features, gates=block.n_neurons)
            flops = n * views * counts.features(mapped) / 2
            written = (
                Work("features", flops, shape=mapped),
                moved(10.0 * next_size + 16.0 * n * pixels),
            )
            phases.append(Phase("maps", written, maps.held + next_held))
        return [replace(phase, block=number) for phase in phases], _Maps(next_held, self.budget)

    def _passed(self, number: int, images: float) -> list[Work]:
        """Newly augmented images on their way through the blocks before, if there are views."""
        earlier = list(self._shapes())[: number - 1] if self.time.augmented else []
        return [
            Work(
                "passing",
                images * counts.neuron_passing(shape.geometry, shape.block.width),
                shape=shape,
            )
            for shape in earlier
        ]

    def _steps(self, number: int, block: Block, kept: int) -> int:
        batches = -(-kept // min(BATCH, kept))
        if block.epochs is not None:
            return max(1, round(block.epochs * batches))
        return self.time.steps(number, default_steps(batches), min(BATCH, kept))

    def _problem(
        self,
        shape: BlockShape,
        features: FeatureShape | None,
        size: int,
        betas: tuple[float, ...] | None,
    ) -> Problem:
        """The program of a head."""
        block, geometry = shape.block, shape.geometry
        pixels = _numbers_of(geometry)
        if block.betas is not None:
            betas = tuple(np.atleast_1d(np.asarray(block.betas, float)).tolist())
        k = self.survey.n_classes
        return Problem(self.rows, k, size, pixels, features, betas, block.loss, refit=False)

    def _head(
        self,
        shape: BlockShape,
        stays: float,
        betas: tuple[float, ...] | None,
        size: int,
        features: FeatureShape | None = None,
    ) -> list[Phase]:
        """The phases of the solver that `fit` takes, beside what stays in memory."""
        problem = self._problem(shape, features, size, betas)
        numbers = problem_size(shape.block, shape.geometry, self.rows.all, problem.classes)
        budget = (1 - MAPS_SHARE) * self.budget
        solver, _ = block_solver(shape.block, numbers, 1e-9 * budget)
        if solver.name in SOLVING:
            phases = SOLVING[solver.name](problem)
        else:
            kind = ProgramKind("gated", "l2", shape.block.loss)
            needed = 1e9 * needed_gb(solver.name, numbers, kind)
            phases = solving.unforeseen(solver.name)(problem, needed)
        return [replace(phase, memory=phase.memory + stays) for phase in phases]

    def _whitening(self, geometry: PatchGeometry, kept: int, held: float) -> Phase:
        raw, per_image = geometry.patch_dim, counts.patches(geometry) * geometry.patch_dim
        images = min(kept, max(1, int(WHITENING_NUMBERS / per_image)))
        numbers = 4.0 * images * per_image
        work = (*covariance(images * counts.patches(geometry), raw), moved(6 * numbers))
        return Phase("whitening", work, held + 2 * min(numbers, 4.0 * PATCH_NUMBERS))

    def _certified(self, problem: Problem, stays: float) -> Phase:
        rows, k = self.rows.train, problem.classes
        flops = (4 if problem.loss == "squared" else 6) * rows * problem.size * k
        shape = problem.thin(1, k, double=True).shape
        work = Work("certificate", flops, shape=shape), carried(12.0 * rows * problem.size)
        return Phase("certificate", work, stays + 24.0 * rows * k)

    def _tested(self, trained: int) -> Phase:
        """Scores of the test images by every head, mirrored if mirror images train."""
        images = self.survey.n_test * (1 + self.augmentation.mirror)
        shapes = list(self._shapes())[:trained]
        work = [
            Work(
                "responses",
                images * counts.neuron_responses(shape.geometry, shape.block.width),
                shape=shape,
            )
            for shape in shapes
        ]
        return Phase("test images", tuple(work))


def _numbers_of(geometry: PatchGeometry) -> int:
    """Of what a block sees of one image."""
    channels, height, width = geometry.image_shape
    return channels * height * width


def _numbers(block: Block, geometry: PatchGeometry) -> int:
    """Of the maps of one view of an image, for the next block."""
    channels, height, width = block.next_shape(geometry, block.width)
    return channels * height * width
