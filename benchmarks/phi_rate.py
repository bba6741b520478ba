"""Claim: building Phi costs at most twice the time of the same work done as plain matrix products.

All 50,000 CIFAR-10 training images, 512 Gaussian gates of 6x6, stride 4, one pooling cell. The
plain products have the sizes of one cache-sized block: gate responses X A' and pooled features
D' X; extraction of patches, scaling, thresholds and data movement are what the operator adds.
Both run alternately in one process, chunk by chunk.

    python benchmarks/phi_rate.py --root DATA [--out benchmarks/results/phi_rate.json]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from record import write_record

from convexcnn.data import ImageScaler, load_dataset
from convexcnn.environment import machine, versions
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.float32 import fast_float32
from convexcnn.patches.gates import gaussian_gates
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.patches.whiten import identity_transform

CHUNK = 1000
TARGET = 2.0


def plain_products(features: GatedFeatures, images: int) -> float:
    """Seconds for the bare products of ``images`` images, in blocks of the operator's size."""
    gates, dim = features.gates.shape
    patches = features.geometry.cell_order.numel()
    block = features.block_size
    x = torch.randn(block * patches, dim)
    responses = torch.empty(block * patches, gates)
    phi = torch.empty(block, gates, dim)
    gates_t = features.gates.T.contiguous()
    start = time.perf_counter()
    for _ in range(-(-images // block)):
        torch.mm(x, gates_t, out=responses)
        on = responses.view(block, patches, gates)
        torch.bmm(on.transpose(1, 2), x.view(block, patches, dim), out=phi)
    return (time.perf_counter() - start) * images / (-(-images // block) * block)


def main() -> int:
    """Measure, print and write the ratio; return 1 if a number was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path)
    parser.add_argument("--gates", type=int, default=512)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/phi_rate.json"))
    arguments = parser.parse_args()
    dataset = load_dataset("cifar10", root=arguments.root)
    scaler = ImageScaler.fit(dataset.train.images)
    stream = ImageStream(dataset.train.images, dataset.train.labels, 10, scaler)
    geometry = PatchGeometry(dataset.image_shape, 6, stride=4)
    transform = identity_transform(geometry.patch_dim)
    generator = torch.Generator().manual_seed(0)
    gates = gaussian_gates(arguments.gates, geometry, transform, generator)
    features = GatedFeatures(geometry, transform, gates)
    phi = torch.empty(CHUNK, features.n_features)
    built = plain = 0.0
    with fast_float32(), torch.no_grad():
        plain_products(features, CHUNK)
        for rows in range(0, len(stream.images), CHUNK):
            start = time.perf_counter()
            images, _ = stream.block(slice(rows, rows + CHUNK))
            features(images, phi)
            built += time.perf_counter() - start
            plain += plain_products(features, CHUNK)
    patches = geometry.cell_order.numel()
    flops = 4 * len(stream.images) * patches * geometry.patch_dim * len(gates)
    result = {
        "claim": __doc__.splitlines()[0].removeprefix("Claim: "),
        "images": len(stream.images),
        "gates": len(gates),
        "phi_seconds": round(built, 3),
        "plain_seconds": round(plain, 3),
        "ratio": round(built / plain, 3),
        "target": TARGET,
        "reached": built / plain <= TARGET,
        "phi_gflops": round(flops / built / 1e9, 1),
        "plain_gflops": round(flops / plain / 1e9, 1),
        "versions": versions(),
        "machine": machine(),
    }
    return write_record(result, arguments.out)


if __name__ == "__main__":
    sys.exit(main())
