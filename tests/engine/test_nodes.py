"""What fits on the machines of a cluster, and who is hired and let go for it; no Ray is started."""

from collections import Counter
from dataclasses import replace

import pytest
from engine_fakes import FakeMapConfig, FakePropose, make_plan
from pydantic import ValidationError

from pipeline.engine.crew import Crew, Worker
from pipeline.engine.nodes import Need, Node, choose, placed, placement_problems
from pipeline.engine.ray_worker import Pulse
from pipeline.engine.staff import SPARE_SECONDS, staff
from pipeline.engine.stage import Resources
from pipeline.engine.tasks import Progress


@pytest.mark.parametrize(
    ("resources", "nodes", "problem"),
    [
        (Resources(), [{"CPU": 1.0}], None),
        (Resources(cpus=2), [{"CPU": 1.0}, {"CPU": 1.0}], "1 workers of 2 CPUs each do not fit, only 0"),
        (Resources(workers=(3, 4)), [{"CPU": 2.0}, {"CPU": 1.0}], None),
        (Resources(workers=(3, 3)), [{"CPU": 2.0}], "3 workers of 1 CPUs each do not fit, only 2"),
        (Resources(gpus=0.5, workers=(2, 2)), [{"CPU": 2.0, "GPU": 1.0}], None),
        (Resources(gpus=0.6, workers=(2, 2)), [{"CPU": 9.0, "GPU": 2.0}], None),
        (Resources(gpus=0.6, workers=(3, 3)), [{"CPU": 9.0, "GPU": 2.0}], "do not fit, only 2"),
        (Resources(gpus=0.4, workers=(9, 9)), [{"CPU": 9.0, "GPU": 4.0}], "do not fit, only 8"),
        (Resources(gpus=2, workers=(2, 2)), [{"CPU": 9.0, "GPU": 3.0}], "do not fit, only 1"),
        (Resources(gpus=1), [{"CPU": 8.0}], "1 workers of 1 CPUs, 1 GPUs each do not fit, only 0"),
        (Resources(memory_gb=3), [{"CPU": 8.0, "memory": 2e9}], "3 GB of memory each do not fit"),
        (Resources(), [], "the nodes have no node"),
    ],
)
def test_a_plan_that_cannot_be_placed_is_refused(resources, nodes, problem):
    stages = make_plan((FakePropose, FakeMapConfig())).stages
    planned = [replace(stage, resources=resources) for stage in stages]
    there = [Node(str(number), free) for number, free in enumerate(nodes)]
    found = placement_problems(planned, there)
    assert len(found) == int(problem is not None)
    assert problem is None or problem in found[0]
    assert [node.free for node in there] == nodes


def test_a_need_names_what_ray_names():
    need = Need.of(Resources(cpus=2, gpus=0.5, memory_gb=4))
    assert dict(need.amounts) == {"CPU": 2, "GPU": 0.5, "memory": 4e9}
    assert str(need) == "2 CPUs, 0.5 GPUs, 4 GB of memory"


@pytest.mark.parametrize("gpus", [1.5, 2.25])
def test_gpus_are_whole_or_a_part_of_one(gpus):
    assert Resources(gpus=4).gpus == 4
    with pytest.raises(ValidationError, match="expected a whole number of GPUs or a part of one"):
        Resources(gpus=gpus)


def need(**resources):
    return Need.of(Resources(**resources))


def test_parts_are_packed_so_that_whole_gpus_stay():
    node = Node("a", {"CPU": 9.0, "GPU": 2.0})
    for _ in range(2):
        node.take(need(gpus=0.5))
    assert node.gpus == [0.0, 1.0]
    assert node.fits(need(gpus=1))
    node.take(need(gpus=1))
    assert not node.fits(need(gpus=0.1))
    assert placed([node], [need(), need(gpus=0.1), need()]) == 2


@pytest.mark.parametrize(
    ("wanted", "reserved", "losses", "chosen"),
    [
        ({}, [], {}, "cpus"),  # the GPUs are for those that need them
        ({"cpus": 5}, [], {}, "gpus"),
        ({"gpus": 1}, [], {}, "gpus"),
        ({}, [{"gpus": 1, "cpus": 8}], {}, "cpus"),
        ({"cpus": 5}, [{"gpus": 1, "cpus": 8}], {}, None),
        ({}, [{"gpus": 9}], {}, "cpus"),  # what finds no room anyway keeps nobody out
        ({}, [], {"cpus": 1}, "cpus"),
        ({"gpus": 1}, [], {"gpus": 1}, "more"),
    ],
)
def test_where_a_worker_goes(wanted, reserved, losses, chosen):
    nodes = [Node("gpus", {"CPU": 8.0, "GPU": 2.0}), Node("cpus", {"CPU": 4.0})]
    nodes += [Node("more", {"CPU": 1.0, "GPU": 1.0})] if losses.get("gpus") else []
    found = choose(
        nodes,
        need(**wanted),
        reserved=[need(**one) for one in reserved],
        liked=lambda n: -losses.get(n.id, 0),
    )
    assert (found.id if found else None) == chosen


class Machines:
    def __init__(self, *free):
        self.free = free

    def nodes(self):
        return [Node(str(number), dict(free)) for number, free in enumerate(self.free)]


class Hands(Crew):
    """A crew whose workers are there at once."""

    def __init__(self, *free):
        super().__init__(Machines(*free), "", "", torch_threads=1, patience=60)
        self.dismissed = []

    def _start(self, label, need, node, *, ranks):  # noqa: ARG002
        return Worker(None, node, need, label, pulse=Pulse("", Progress(0, 0), "", ()))

    def dismiss(self, *workers):
        for worker in workers:
            self.workers.remove(worker)
            self.dismissed.append(worker.label)


class Stages:
    """Two stages, and how much of each can be handed out."""

    def __init__(self, first, second):
        (planned,) = make_plan((FakePropose, FakeMapConfig())).stages
        self.stages = (
            replace(planned, label="first", resources=first),
            replace(planned, label="second", resources=second),
        )
        self.left, self.complete = {"first": 9, "second": 0}, set()

    def ready(self, label):
        return self.left[label]

    def is_complete(self, label):
        return label in self.complete


def hired(crew):
    return dict(Counter(worker.label for worker in crew.workers))


def test_a_gpu_is_kept_for_the_stage_that_needs_it_and_its_worker_is_not_let_go():
    work = Stages(Resources(workers=(1, 8)), Resources(gpus=1))
    crew = Hands({"CPU": 4.0, "GPU": 1.0})
    staff(crew, work, work.ready)
    assert hired(crew) == {"first": 3}
    for worker in crew.workers:
        worker.task = "at work"
    work.left["second"] = 1
    staff(crew, work, work.ready)
    assert hired(crew) == {"first": 3, "second": 1}
    work.left["second"] = 0
    crew.workers[-1].idle_since -= 2 * SPARE_SECONDS
    staff(crew, work, work.ready)
    assert crew.dismissed == []
    work.complete.add("second")
    staff(crew, work, work.ready)
    assert crew.dismissed == ["second"]
    assert hired(crew) == {"first": 4}


def test_nobody_is_let_go_where_that_makes_no_room():
    work = Stages(Resources(cpus=1, workers=(1, 2)), Resources(cpus=8))
    crew = Hands({"CPU": 2.0})
    staff(crew, work, work.ready)
    assert hired(crew) == {"first": 2}
    work.left = {"first": 0, "second": 1}
    work.complete.add("first")
    staff(crew, work, work.ready)
    assert crew.dismissed == []


@pytest.mark.parametrize("same", [True, False])
def test_who_has_nothing_to_do_goes_over_or_makes_room(same):
    work = Stages(Resources(workers=(1, 2)), Resources(cpus=1 if same else 1.5))
    crew = Hands({"CPU": 2.0})
    staff(crew, work, work.ready)
    work.left = {"first": 0, "second": 1}
    staff(crew, work, work.ready)
    assert hired(crew) == {"first": 2}  # they may have work again soon
    for worker in crew.workers:
        worker.idle_since -= 2 * SPARE_SECONDS
    staff(crew, work, work.ready)
    assert hired(crew) == ({"first": 1, "second": 1} if same else {"second": 1})


def test_room_that_others_have_taken_is_left_alone_for_a_while():
    crew = Hands({"CPU": 1.0}, {"CPU": 1.0})
    assert crew.hire("first", need())
    late = crew.workers[0]
    late.pulse, late.hired, late.asked = None, -1e9, None
    assert late.is_late(60)
    crew._kill = crew.workers.remove
    assert crew._take(late, set()) == []
    assert "1 CPUs were not to be had within" in crew.last_loss
    assert crew.hire("first", need())
    assert crew.workers[0].node != late.node
    assert not crew.hire("first", need())
