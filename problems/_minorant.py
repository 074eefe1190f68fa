"""The greatest convex minorant of a graph of cumulative sums: its slopes are the isotonic regression [barlow1972].

Point i has the abscissa `X_i = w_0 + .. + w_{i-1}` and the ordinate `S_i = w_0 y_0 + .. + w_{i-1} y_{i-1}`. A binary
tree over the points holds in each node the bridge between its halves: the edge from a point of the left half to a point
of the right half that no point of the node lies below. Upwards, all bridges of a level are found together; downwards,
each bridge hides the points between its ends.

A bridge is found by a descent in both halves at once, as in [overmars1981]. Nodes `u` and `v` of the left and of the
right half hold its two ends. Let `m_u` and `m_v` be the slopes of their own bridges, and `a` and `b` the ordinates of
the lines through these at the abscissa between the halves. As no point of a node lies below its line, the slope m of
the bridge satisfies

    m_u <= m_v, a >  b:   m <= m_v, so v moves left        m_u > m_v, a >  b:   m <= m_u, so u moves left
    m_u <= m_v, a <= b:   m >= m_u, so u moves right       m_u > m_v, a <= b:   m >= m_v, so v moves right

A half of 2^k points takes k moves: O(n) work in all, whatever the data, in O(log^2 n) steps.
"""

from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers.numerics.arrays import stored, where


def convex_minorant(y: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """For each point but the last: the slope of the minorant behind it, how far it lies above, and whether it lies
    inside an edge, all `(n,)`. An exact tie, a point on a longer edge, ends the edge if rounding does not hide it."""
    n = y.size
    size = 1 << n.bit_length()  # n + 1 points; those that fill the tree continue the graph with its steepest slope
    centre = y[n // 2]  # any will do against a large offset, and one of the data keeps ties exact
    w = jnp.pad(weights, (0, size - n), constant_values=1)
    rest = jnp.pad(y - centre, (0, size - n), constant_values=0)
    rest = where(jnp.arange(size) < n, rest, jnp.max(y) - centre)
    points = stored(_cumulative(jnp.stack([w, w * rest])))
    first, last = (ends[:n] for ends in _edges(points))
    p, q = _at(points, first), _at(points, last)
    slope = stored(_slope(p, q))
    x, s = _between(p, points[:n])
    return slope + centre, stored(s - slope * x), first != jnp.arange(n)


def _between(p: jax.Array, q: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The differences of abscissae and ordinates, from p to q."""
    d = q - p
    return d[:, 0] + d[:, 2], d[:, 1] + d[:, 3]


def _slope(p: jax.Array, q: jax.Array) -> jax.Array:
    x, s = _between(p, q)
    return s / x


def _two_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`a + b`, rounded, and the rounding error [knuth1997]."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _cumulative(values: jax.Array) -> jax.Array:
    """Sums before each entry of the rows, `(n, 4)`: those of both rows, and what these lack by rounding. Differences of
    sums are as precise as sums of the terms between, however large the sums are."""
    count, size = values.shape
    rows = min(size, 4 << size.bit_length() // 2)  # added up in lockstep; more would leave less to do at once after

    def add(state: Any, new: Any) -> tuple[Any, Any]:
        total, error = _two_sum(state[0], new[0])
        return (total, state[1] + error + new[1]), state

    def scan(high: jax.Array, low: jax.Array) -> Any:
        none = jnp.zeros_like(high[0])
        return jax.lax.scan(add, (none, none), (high, low))

    across = values.reshape(count, size // rows, rows).transpose(2, 0, 1)
    totals, inside = scan(across, jnp.zeros_like(across))
    _, before = scan(*(jnp.moveaxis(of, -1, 0) for of in totals))
    high, low = inside
    high, error = _two_sum(jnp.moveaxis(before[0], 0, -1), high)
    low = low + error + jnp.moveaxis(before[1], 0, -1)
    return jnp.concatenate([high, low], axis=1).transpose(2, 0, 1).reshape(size, 2 * count)


def _edges(points: jax.Array) -> tuple[jax.Array, jax.Array]:
    """For each point the ends of the edge that lies below it, or that starts there."""
    size, dtype = len(points), points.dtype
    leaves = jnp.arange(size, dtype=jnp.int32)
    # The root is node 1, the children of node i are 2i and 2i + 1, the leaves come last.
    slopes, left, right = jnp.zeros(2 * size, dtype), *2 * [jnp.concatenate([leaves, leaves])]
    bridges, nodes, depth = [], size // 2, 0
    while nodes:
        u = jnp.arange(2 * nodes, 4 * nodes, 2, dtype=jnp.int32)
        middle = points[size // nodes // 2 :: size // nodes]

        def move(_: Any, state: Any, tree: Any = (slopes, left, right), middle: Any = middle) -> Any:
            (u, v), (slopes, left, right) = state, tree
            u_leaf, v_leaf = u >= size, v >= size
            m_u, m_v = _at(slopes, u), _at(slopes, v)
            m_u, m_v = where(u_leaf, m_v, m_u), where(v_leaf, m_u, m_v)
            # From the ends that are near, so that small weights count.
            (x_u, s_u), (x_v, s_v) = (
                _between(_at(points, _at(right, u)), middle),
                _between(middle, _at(points, _at(left, v))),
            )
            a, b = m_u * x_u - s_u, s_v - m_v * x_v
            falls = (a > b) | (u_leaf & (a == b))
            u_moves = ~u_leaf & (v_leaf | ((m_u > m_v) == falls))
            v_moves = ~v_leaf & ~u_moves
            child = where(falls, 0, 1)
            return where(u_moves, 2 * u + child, u), where(v_moves, 2 * v + child, v)

        u, v = jax.lax.fori_loop(0, 2 * depth, move, (u, u + 1))
        p, q = u - size, v - size
        new = _slope(_at(points, p), _at(points, q)), p, q
        slopes, left, right = (
            jax.lax.dynamic_update_slice(old, part, (nodes,))
            for old, part in zip((slopes, left, right), new, strict=True)
        )
        bridges.append((p, q))
        nodes, depth = nodes // 2, depth + 1
    # The points from `lo` to `hi` of a node are on the minorant. Those before `lo` lie above the edge that ends there,
    # and those behind `hi` above the edge that starts there: `first` and `last` are the other ends.
    lo, first, hi, last = (jnp.full(1, value, jnp.int32) for value in (0, 0, size - 1, size - 1))
    for p, q in reversed(bridges):
        on = (lo <= p) & (q <= hi)
        halves = (
            (lo, where(on, q, lo)),
            (first, where(on, p, first)),
            (where(on, p, hi), hi),
            (where(on, q, last), last),
        )
        lo, first, hi, last = (jnp.ravel(jnp.stack(pair, axis=1)) for pair in halves)
    before = leaves < lo
    return where(before, first, hi), where(before, lo, last)


def _at(values: jax.Array, index: jax.Array) -> jax.Array:
    return values.at[index].get(mode="promise_in_bounds")
