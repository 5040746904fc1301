"""Which detection belongs to which track: the assignment of least total cost, some pairs being out of the question."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


def assign(cost: NDArray[np.float64], limit: float) -> Pairs:
    """Pairs (rows, columns), each int64 (P,), of a cost matrix (R, C) whose costs are 0 or more.

    Of all sets of pairs that cost at most ``limit`` each, one with the most pairs for the least total: leaving two
    partners alone costs more than any number of such pairs. Rows come in ascending order.
    """
    rows, columns = cost.shape
    if not rows or not columns:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    # Pairs over the limit all cost the same, and more than all allowed ones together, so that none is chosen for being
    # less bad than another while an allowed one is given up.
    forbidden = limit * (min(rows, columns) + 1) + 1.0
    allowed = cost <= limit
    filled = np.where(allowed, cost, forbidden)
    chosen = _least_cost(filled) if rows <= columns else _inverse(_least_cost(filled.T), rows)
    row = np.flatnonzero(chosen >= 0)
    row = row[allowed[row, chosen[row]]]
    return row, chosen[row]


def _least_cost(cost: NDArray[np.float64]) -> NDArray[np.int64]:
    """The column of every row, of least total cost; at least as many columns as rows.

    Shortest augmenting paths with potentials (Jonker and Volgenant, 1987): each row in turn takes a column, and moves
    the others aside along the cheapest chain.
    """
    rows, columns = cost.shape
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    owner = np.full(columns, -1, np.int64)
    for start in range(rows):
        distance = np.full(columns, np.inf)
        came_from = np.full(columns, -1, np.int64)      # the column that the chain comes from; -1: from ``start``
        done = np.zeros(columns, bool)
        row, column, reached = start, -1, 0.0
        while True:
            through = reached + cost[row] - row_price[row] - column_price
            nearer = ~done & (through < distance)
            distance[nearer] = through[nearer]
            came_from[nearer] = column
            column = int(np.where(done, np.inf, distance).argmin())
            reached = float(distance[column])
            done[column] = True
            if owner[column] < 0:
                break
            row = int(owner[column])
        settled = np.flatnonzero(done & (owner >= 0))
        row_price[start] += reached
        row_price[owner[settled]] += reached - distance[settled]
        column_price[settled] -= reached - distance[settled]
        while column >= 0:
            before = int(came_from[column])
            owner[column] = start if before < 0 else owner[before]
            column = before
    return _inverse(owner, rows)


def _inverse(owner: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """From the row of every column (-1: none) to the column of every row, int64 (rows,), and the other way round."""
    chosen = np.full(rows, -1, np.int64)
    taken = np.flatnonzero(owner >= 0)
    chosen[owner[taken]] = taken
    return chosen
