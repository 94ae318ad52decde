"""Graphs in Python: algorithms by their NetworkX names, vertex programs, supersteps."""

import engine
from graph import generate
from graph.algorithms.betweenness import betweenness
from graph.algorithms.bfs import bfs
from graph.algorithms.cdlp import cdlp
from graph.algorithms.core import core_number
from graph.algorithms.pagerank import pagerank
from graph.algorithms.scc import scc
from graph.algorithms.sssp import sssp
from graph.algorithms.triangles import lcc, triangles
from graph.algorithms.wcc import wcc
from graph.build import from_edges, from_networkx, from_scipy
from graph.graph import Graph
from graph.interpreter import run
from graph.job import RunOptions
from graph.pregel import pregel
from graph.program import Context, Vertex, VertexProgram
from graph.readers import read_edges, read_mtx, read_parquet
from graph.result import Result
from graph.types import boolean, float32, float64, int32, int64, pyobject

__all__ = [
    "Context",
    "Graph",
    "Result",
    "RunOptions",
    "Vertex",
    "VertexProgram",
    "betweenness",
    "bfs",
    "boolean",
    "cdlp",
    "core_number",
    "float32",
    "float64",
    "from_edges",
    "from_networkx",
    "from_scipy",
    "generate",
    "int32",
    "int64",
    "lcc",
    "pagerank",
    "pregel",
    "pyobject",
    "read_edges",
    "read_mtx",
    "read_parquet",
    "run",
    "scc",
    "sssp",
    "triangles",
    "wcc",
]

# Loading the compiled kernels costs a fresh process more than most runs take.
engine.preload("graph.preload:preload")
