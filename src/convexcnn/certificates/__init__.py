"""Certificates: bounds in float64 by code that shares nothing with any solver."""
