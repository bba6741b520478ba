"""Images in: every reader returns one checked ``ImageDataset``."""

from __future__ import annotations

from convexcnn.data.arrays import dataset_from_arrays, dataset_from_torch
from convexcnn.data.dataset import ImageDataset, ImageSplit
from convexcnn.data.decode import DecodedImages, read_images
from convexcnn.data.load import load_dataset
from convexcnn.data.preprocess import ImageScaler, as_images
from convexcnn.data.registry import DatasetInfo, available_datasets, dataset_registry
from convexcnn.data.split import stratified_subset, train_validation_split

__all__ = [
    "DatasetInfo",
    "DecodedImages",
    "ImageDataset",
    "ImageScaler",
    "ImageSplit",
    "as_images",
    "available_datasets",
    "dataset_from_arrays",
    "dataset_from_torch",
    "dataset_registry",
    "load_dataset",
    "read_images",
    "stratified_subset",
    "train_validation_split",
]
