"""The frozen look of each world: a number taken on one look says nothing about another.

A digest that no longer fits means that every committed score and weight is void. Add a world instead.
"""

import hashlib

import numpy as np

from pipeline.toyworld.scene import Scene, render

FROZEN: dict[str, str] = {
    "demo": "946e48e5732470f18bbd2318dfa328329b3f8a171dacaafb77cbc00dc4e667e7",
    "pretrain": "b5355686d5036ac04f6b8cc696f590ae92a7ca4facaf5e2ef2e66a66895dd682",
}
_SCENES = 8


def world_digest(world: str) -> str:
    """sha256 (hex) over the files, masks and descriptions of the first eight scenes of seed 0."""
    total = hashlib.sha256()
    for index in range(_SCENES):
        total.update(scene_digest(render(world, 0, index)).encode())
    return total.hexdigest()


def scene_digest(scene: Scene) -> str:
    """sha256 (hex) over everything a scene holds but the decoded image, which follows from its file."""
    total = hashlib.sha256(scene.jpeg)
    total.update(np.packbits(scene.shadow).tobytes() + np.packbits(scene.defocus).tobytes())
    total.update(repr((scene.image_id, scene.relations)).encode())
    for o in scene.objects:
        total.update(np.packbits(o.mask).tobytes())
        known = (o.object_id, o.class_id, o.name, o.level, o.parent_id, o.box_xyxy, o.depth, o.color, o.size)
        total.update(repr(known).encode())
    return total.hexdigest()
