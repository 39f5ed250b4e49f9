"""How a job that keeps no checkpoints heeds a stop: it ends now and starts anew next time."""

from pipeline.engine.stage import Stopped, TrainContext


def heed_stop(context: TrainContext) -> None:
    """Raise `Stopped` once the engine has asked for it; call it between images."""
    if context.should_stop():
        raise Stopped("stopped on request; this job starts anew next time")
