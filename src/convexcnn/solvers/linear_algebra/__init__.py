"""Algorithms on plain tensors that solvers are made of; nothing here knows of images."""
