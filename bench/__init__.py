"""Benchmarks: real servers on free ports, real processes, and a floor measured in the same run."""
