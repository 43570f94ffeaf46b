"""Connected components in Spark by alternating stars (Kiveris et al., Connected Components in MapReduce, SoCC 2014).

An edge hangs a node on a lower one. The large-star step hangs every higher neighbour of a node on the lowest
neighbour, the small-star step the lower ones and the node itself; neither joins nor parts components. What remains
after O(log^2 n) rounds, in practice fewer than ten, are stars: each node on the lowest of its component. A round is
three shuffles of the edges, and nothing but the answer to "are these stars?" comes to the driver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import DataFrame  # type: ignore[import-not-found, import-untyped, unused-ignore]


def components(edges: DataFrame) -> DataFrame:
    """(node, root) of each node but the lowest of its component, its root; edges (node, root) with root < node."""
    found = edges.select("node", "root").distinct().localCheckpoint()
    while not _are_stars(found):
        # Without a checkpoint the plan grows with every round, and soon takes longer to make than to run.
        found = _small_star(_large_star(found)).distinct().localCheckpoint()
    return found


def _large_star(edges: DataFrame) -> DataFrame:
    near = edges.selectExpr("inline(array(struct(node, root), struct(root as node, node as root)))")
    lowest = near.selectExpr("node", "root", "least(node, min(root) over (partition by node)) as lowest")
    return lowest.where("root > node").selectExpr("root as node", "lowest as root")


def _small_star(edges: DataFrame) -> DataFrame:
    lowest = edges.selectExpr("node", "root", "min(root) over (partition by node) as lowest")
    hung = lowest.selectExpr("inline(array(struct(node, lowest as root), struct(root as node, lowest as root)))")
    return hung.where("node > root")


def _are_stars(edges: DataFrame) -> bool:
    """Whether each node hangs on one root only, and no root on another."""
    ends = edges.selectExpr("inline(array(struct(node, 1 as up, 0 as down), struct(root as node, 0 as up, 1 as down)))")
    degrees = ends.groupBy("node").agg({"up": "sum", "down": "max"})
    tangled: int = degrees.where("`sum(up)` > 1 or (`sum(up)` = 1 and `max(down)` = 1)").count()
    return tangled == 0
