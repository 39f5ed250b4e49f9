"""Two raylets on this host; one goes when a line says so, all when the input ends. A program of its own: it holds Ray.

python -m benchmarks.torture.cluster        (prints the address, and the process that is the second's raylet)
"""

import logging
import sys

from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}


def main() -> int:
    """Start, obey, stop."""
    logging.disable(logging.CRITICAL)
    cluster = Cluster(initialize_head=True, head_node_args=dict(NODE))
    second = cluster.add_node(**{key: value for key, value in NODE.items() if key != "include_dashboard"})
    cluster.wait_for_nodes()
    print(cluster.address, second.all_processes["raylet"][0].process.pid, flush=True)
    for _ in sys.stdin:
        cluster.remove_node(second, allow_graceful=False)
        print("removed", flush=True)
    cluster.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
