"""Benchmarks: `make bench`. Real servers, real processes; figures go to build/bench.json."""
