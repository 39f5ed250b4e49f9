"""What a stage's workers take of a cluster."""

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Resources(BaseModel):
    """What one worker of a stage takes, and how many workers there may be; never part of a key.

    `workers`: fewest and most. A job that several processes can do together is done by the most, always: with another
    number its result would be another.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    cpus: float = Field(1.0, gt=0)
    gpus: float = Field(0.0, ge=0)
    memory_gb: float | None = Field(None, gt=0)
    workers: tuple[int, int] = (1, 1)

    @field_validator("gpus")
    @classmethod
    def _whole_or_a_part(cls, gpus: float) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"expected a whole number of GPUs or a part of one, found {gpus:g}")
        return gpus

    @field_validator("workers")
    @classmethod
    def _in_order(cls, workers: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= workers[0] <= workers[1]:
            raise ValueError(f"expected [fewest, most] with 1 <= fewest <= most, found {list(workers)}")
        return workers
