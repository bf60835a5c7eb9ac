"""Where and how the ranks of a training run: shared by the estimators and the YAML."""

from __future__ import annotations

from pydantic import Field

from sparkml.config import Options


class RankOptions(Options):
    """Settings of any gang.

    Attributes
    ----------
    num_proc
        Number of ranks; by default one per slot of the cluster.
    min_proc
        Go on with as few ranks as this when slots are missing; by default `num_proc`.
    max_restarts
        How often a gang that lost a rank starts again from its last checkpoint.
    stall_timeout
        Seconds after which ranks without progress count as hanging.
    shuffle_bytes
        Size of the buffer in which a rank shuffles rows.
    """

    num_proc: int | None = Field(None, ge=1, le=4096)
    min_proc: int | None = Field(None, ge=1, le=4096)
    max_restarts: int = Field(2, ge=0, le=1000)
    stall_timeout: float = Field(300.0, ge=5)
    shuffle_bytes: int = Field(256 << 20, ge=1 << 16)


class GangOptions(RankOptions):
    """Settings of a gang of our own (`sparkml.launch.barrier`).

    Attributes
    ----------
    cpus_per_rank
        Cores per rank; by default ``spark.task.cpus``.
    gpus_per_rank
        GPUs per rank, by Spark's resource scheduling.
    rank_env
        Environment variables of the ranks beside those of the executors (``{NCCL_DEBUG: INFO}``). They are settings like others,
        kept with the run: no place for secrets.
    timeline
        Keep Horovod's trace of all collectives beside the ranks' logs, as ``timeline.json``.
    """

    cpus_per_rank: int | None = Field(None, ge=1)
    gpus_per_rank: int = Field(0, ge=0)
    rank_env: dict[str, str] = Field({})
    timeline: bool = False
