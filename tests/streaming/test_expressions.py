"""Types and references of expressions, found through binding."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow.compute import field as col

from streaming.expressions import BoundExpressions, evaluate, expression_type, references

SCHEMA = pa.schema([("a", pa.int64()), ("b", pa.float64()), ("s", pa.string())])


@pytest.mark.parametrize(
    ("expression", "names", "type_"),
    [
        (col("a"), ["a"], pa.int64()),
        (col("b") * col("a"), ["a", "b"], pa.float64()),
        ((col("a") > 1) & col("s").isin(["x"]), ["a", "s"], pa.bool_()),
        (pc.scalar(5), [], pa.int64()),
        (pc.if_else(col("s").is_null(), col("a"), 3), ["a", "s"], pa.int64()),
        (col("s").cast("float64"), ["s"], pa.float64()),
    ],
)
def test_types_and_references(
    expression: pc.Expression, names: list[str], type_: pa.DataType
) -> None:
    assert references(expression, SCHEMA) == names
    assert expression_type(expression, SCHEMA) == type_


def test_evaluation_handles_every_kind_of_batch() -> None:
    batch = pa.record_batch({"a": [1, 2, 3], "b": [0.5, None, 1.5], "s": ["x", "y", "z"]})
    expressions = [col("a") + col("b"), pc.scalar("c"), col("s")]
    found = [array.to_pylist() for array in evaluate(batch, expressions)]
    assert found == [[1.5, None, 4.5], ["c"] * 3, ["x", "y", "z"]]
    empty = evaluate(batch.slice(0, 0), expressions)
    assert [(len(array), str(array.type)) for array in empty] == [
        (0, "double"),
        (0, "string"),
        (0, "string"),
    ]
    large = pa.record_batch({"a": range(100_000)})
    [doubled] = evaluate(large, [col("a") * 2])
    assert doubled.equals(pc.multiply(large["a"], 2))


def test_bound_expressions_follow_the_schema() -> None:
    bound = BoundExpressions([col("a") * 2, pc.scalar(1)])
    [doubled, one] = bound.evaluate(pa.record_batch({"a": [1], "b": [1.0]}))
    assert (doubled.to_pylist(), one.to_pylist()) == ([2], [1])
    [doubled, _] = bound.evaluate(pa.record_batch({"z": ["x"], "a": [1.5]}))
    assert doubled.to_pylist() == [3.0]
    with pytest.raises(pa.ArrowInvalid, match="No match"):
        bound.evaluate(pa.record_batch({"z": ["x"]}))
