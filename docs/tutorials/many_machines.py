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
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from kkt_solvers import projections

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
# Two processes
# -------------
# On several machines each process runs the same program, and knows its own part of the data only. Three things are new.
#
# - Each process calls ``jax.distributed.initialize`` first, which under Slurm or on a TPU pod needs no arguments. Then
#   ``jax.devices()`` lists the devices of all processes, and the mesh spans them.
# - Each process has a part of the data: ``jax.make_array_from_process_local_data(rows, part)`` makes it one array.
# - Each process sees its own rows of the answer only: ``solution.status.addressable_shards``. ``raise_if_failed`` and
#   printing need such local values. A sum over the batch is everybody's.
WORKER = """
import sys
from functools import partial
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from kkt_solvers import projections

coordinator, process = sys.argv[1], int(sys.argv[2])
jax.distributed.initialize(coordinator, num_processes=2, process_id=process)

mesh = jax.make_mesh((jax.device_count(),), ("batch",), axis_types=(AxisType.Auto,))
split, whole = PartitionSpec("batch"), PartitionSpec()
part = np.random.default_rng(process).normal(size=(8, 6)).astype(np.float32)  # read from a disk of one's own, say
points = jax.make_array_from_process_local_data(NamedSharding(mesh, split), part)


def project(points, total):
    return jax.vmap(lambda v: projections.euclidean(v, total, lower=0.0, upper=1.0))(points)


on_all = jax.shard_map(project, mesh=mesh, in_specs=(split, whole), out_specs=split, check_vma=False)


@jax.jit
@partial(jax.value_and_grad, has_aux=True)
def loss(total, points):
    y = on_all(points, total)
    return jnp.mean(y[:, 0] ** 2), y


(value, y), slope = loss(jnp.float32(1.5), points)
mine = y.addressable_shards[0].data
print(f"process {process} has {len(mine)} of {len(y)} rows; loss of all and its slope: {value:.6f} {slope:.6f}")
"""


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# %%
# One CPU device for each process. On one machine they find each other by the loopback; between machines the address is
# that of process 0.
coordinator = f"127.0.0.1:{free_port()}"
environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
workers = [
    subprocess.Popen(
        [sys.executable, "-c", WORKER, coordinator, str(process)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for process in range(2)
]
try:
    outputs = [worker.communicate(timeout=120) for worker in workers]
finally:
    for worker in workers:
        worker.kill()
for worker, (_, errors) in zip(workers, outputs, strict=True):
    assert worker.returncode == 0, errors
# Gloo, which carries the messages between CPUs, prints a line before.
lines = [printed.splitlines()[-1] for printed, _ in outputs]
print("\n".join(lines))

# %%
# The same two numbers, computed here at one go.
points = np.concatenate([np.random.default_rng(process).normal(size=(8, 6)) for process in range(2)])


@jax.jit
@jax.value_and_grad
def alone(total):
    y = jax.vmap(lambda v: projections.euclidean(v, total, lower=0.0, upper=1.0))(points)
    return jnp.mean(y[:, 0] ** 2)


value, slope = alone(1.5)
print(f"alone: {value:.6f} {slope:.6f}")
for line in lines:
    np.testing.assert_allclose([float(word) for word in line.split()[-2:]], [value, slope], rtol=1e-4)

# %%
# What is *not* here: one problem so large that it does not fit on a device. The solvers spread a batch, not a matrix.
