"""How many workers a cluster has room for, and the one sentence that says what is lacking."""

from __future__ import annotations

import pytest

from distill2edge.errors import EnvironmentFault
from distill2edge.workers.room import Need, Node, require_room

GB = 10**9


def test_room_is_counted_node_by_node() -> None:
    nodes = [Node("a", 4, 0, 8 * GB), Node("b", 1, 0, 64 * GB)]
    require_room(nodes, 3, Need(1, 0, 2 * GB, GB))
    with pytest.raises(EnvironmentFault) as caught:
        require_room(nodes, 4, Need(2, 0, 2 * GB, GB))
    assert "4 workers of 2 cores and 3.0 GB of memory each: there is room for 2." in str(caught.value)
    assert "a has 4 cores, 0 GPUs, 8.0 GB of memory; b has 1 core, 0 GPUs, 64.0 GB of memory" in str(caught.value)
    assert "set teacher.workers.replicas: 2" in caught.value.fix


@pytest.mark.parametrize(
    ("need", "room"),
    [
        (Need(1, 0, 0, GB), 8),
        (Need(1, 0, 7 * GB, GB), 2),  # its memory
        (Need(1, 1, 7 * GB, GB), 2),  # its GPUs, which have the weights
        (Need(1, 2, 40 * GB, GB), 1),  # weights over two
        (Need(1, 1, 40 * GB, GB), 0),  # that no GPU holds
        (Need(9, 0, 0, GB), 0),
    ],
)
def test_what_each_worker_takes(need: Need, room: int) -> None:
    node = Node("a", 8, 2, 16 * GB, (24 * GB, 24 * GB))
    assert need.fits(node) == room


def test_a_model_that_no_gpu_holds_is_named() -> None:
    with pytest.raises(EnvironmentFault, match=r"1 GPU with 40.0 GB of weights .* 1 GPU of 24.0 GB"):
        require_room([Node("a", 8, 1, 16 * GB, (24 * GB,))], 1, Need(1, 1, 40 * GB, GB))


def test_many_nodes_are_not_all_listed() -> None:
    nodes = [Node(f"n{number}", 1, 0, GB) for number in range(9)]
    with pytest.raises(EnvironmentFault, match=r"n3 has 1 core.*; and 5 more nodes"):
        require_room(nodes, 10, Need(1, 0, 0, GB))
