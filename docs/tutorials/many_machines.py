"""
From one machine to many
========================

A ``Problem`` is a pytree of arrays, so it can be laid out over devices like any array: put the batch where you want it,
and call the same compiled function. Nothing in a solver knows about it.
"""

# %%
# Eight devices on one desk
# -------------------------
# JAX can pretend that the CPU is eight devices; what runs on them runs on eight GPUs as well. It must be said before
# JAX starts, so the program below is a process of its own.
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

PROGRAM = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import kkt_solvers as kkt
from kkt_solvers import projections

# A mesh is a grid of devices with names for its axes. Rows of the batch go along "batch".
# The compiler lays out what lies between: Auto. (Explicit axes, which newer versions of JAX make by default, do not go
# through a solve.)
mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
split, whole = PartitionSpec("batch"), PartitionSpec()

points = jax.device_put(np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32), NamedSharding(mesh, split))
total = jax.device_put(jnp.float32(1.5), NamedSharding(mesh, whole))


def project(points, total):
    return jax.vmap(lambda v: projections.euclidean(v, total, lower=0.0, upper=1.0))(points)


# Each device solves its own rows, and none waits for another: that is what shard_map says.
on_all = jax.jit(jax.shard_map(project, mesh=mesh, in_specs=(split, whole), out_specs=split, check_vma=False))
y = on_all(points, total)
print("sharding of the answer:", y.sharding.spec, [shard.data.shape for shard in y.addressable_shards][:2], "...")

# A gradient in something shared is summed over all devices.
slope = jax.grad(lambda total: jnp.mean(on_all(points, total)[:, 0] ** 2))(total)
alone = jax.grad(lambda total: jnp.mean(project(np.asarray(points), total)[:, 0] ** 2))(np.float32(1.5))
print("gradient on eight devices", float(slope), " on one", float(alone))
assert abs(float(slope) - float(alone)) < 1e-6

# A general problem. What comes back is a whole Solution, each leaf with the batch in front.
P = np.eye(6, dtype=np.float32) + 0.2


def portfolios(q):
    return jax.vmap(lambda q: kkt.solve(kkt.Problem(kkt.Quadratic(P, q), kkt.Sum(1.0), kkt.Box(0.0, 0.5))))(q)


spread = jax.jit(jax.shard_map(portfolios, mesh=mesh, in_specs=(split,), out_specs=split, check_vma=False))
solution = spread(-points)
print("statuses:", np.unique(solution.status), " on", len(solution.primal.sharding.device_set), "devices")
np.testing.assert_allclose(solution.primal, portfolios(-np.asarray(points)).primal, atol=1e-5)

owner = np.concatenate([np.full(shard.data.shape[0], shard.device.id) for shard in y.addressable_shards])
np.savez(sys.argv[1], y=np.asarray(y), owner=owner)
"""

# %%
# Run it, and look at what it prints.
with tempfile.TemporaryDirectory() as folder:
    result = Path(folder) / "result.npz"
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(result)], env=environment, capture_output=True, text=True, check=False
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    saved = np.load(result)
    y, owner = saved["y"], saved["owner"]

# %%
# The batch, a row a problem; on the left the device that solved it.
figure, (left, right) = plt.subplots(1, 2, figsize=(6, 6), width_ratios=(1, 6), sharey=True, layout="constrained")
left.imshow(owner[:, None], aspect="auto", cmap="tab10")
left.set_xticks([])
left.set_title("device", fontsize=10)
left.set_ylabel("row of the batch")
picture = right.imshow(y, aspect="auto", cmap="Blues", vmin=0, vmax=1)
right.set_title("projection: rows sum to 1.5", fontsize=10)
right.set_xlabel("coordinate")
figure.colorbar(picture, ax=right)
np.testing.assert_allclose(y.sum(axis=1), 1.5, atol=1e-5)
plt.show()

# %%
# Real machines
# -------------
# Three things change.
#
# - Each process calls ``jax.distributed.initialize()`` first; then ``jax.devices()`` lists the devices of all of them,
#   and the mesh spans them.
# - Each process has a part of the data: ``jax.make_array_from_process_local_data(rows, part)`` makes it one array.
# - Each process runs the same program. ``raise_if_failed`` and printing need local values: look at
#   ``solution.status.addressable_shards``.
#
# What is *not* here: one problem so large that it does not fit on a device. The solvers spread a batch, not a matrix.
