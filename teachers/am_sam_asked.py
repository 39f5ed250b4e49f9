"""What each shot was asked with: `boxes.json`, and numbers."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.engine.context import Metrics, TrainContext
from teachers.am_sam_boxes import Question
from teachers.am_sam_settings import AmSamSettings
from teachers.phases import watching
from teachers.pool import Pool


def write_asked(
    pool: Pool, question: Callable[[int], Question] | None, settings: AmSamSettings, context: TrainContext
) -> Metrics:
    """How many prompts were no box but the whole image, and a warning if all were; the file tells of which."""
    if question is None:
        return {}
    watch, questions = watching(context, "looking for boxes"), list[Question]()
    for place in range(len(pool)):
        watch(place, len(pool))
        questions.append(question(place))
    listed = [
        {
            "image_id": pool[place].image_id,
            "file_name": pool[place].uri,
            "category_id": class_id,
            "box_xyxy": prompt.box_xyxy,
            "score": prompt.score,
            "origin": prompt.origin,
        }
        for place, own in enumerate(questions)
        for class_id, prompt in own.prompts
    ]
    write_list(context.out / "boxes.json", listed)
    unfound = sum(own.unfound for own in questions)
    highest = max(own.highest for own in questions)
    return {
        "prompts": len(listed),
        "prompts_without_box": unfound,
        "images_without_box": sum(own.unfound == len(own.prompts) for own in questions),
        **(_boxless(settings, highest) if unfound == len(listed) else {}),
    }


def _boxless(settings: AmSamSettings, highest: float) -> Metrics:
    """What a run should tell its user if no box prompted anything."""
    tuned = settings.boxes == "detector"
    better = "more detector_epochs, better detector_weights" if tuned else "other boxes"
    said = (
        "no box was found on any image, so SAM was asked with the whole of each: the highest score is "
        f"{highest:.3f}, and `score` {settings.score:g}; {better} or a lower `score` may help"
    )
    return {"warning": said}


def write_list(path: Path, value: Sequence[object]) -> None:
    """As JSON."""
    path.write_text(json.dumps(list(value)) + "\n")
