"""``unc-train`` under FSDP on a machine without a GPU: ``accelerate launch --use_fsdp ... fsdp_on_cpu.py OPTIONS``.

accelerate decides on FSDP in ``AcceleratorState``, where several processes on GPUs go on to it and several on a CPU do
not, though ``fully_shard`` itself works on a CPU with gloo. This script sends them on; all else is the road of a run on
GPUs: accelerate's launcher, plugin and wrapping, and ``transformers.Trainer``'s saving.

Several runs in one go, since processes take seconds to start: their options are parted by ``--then``. With KILLED_AT=2
in the environment the first process is killed once the checkpoint of step 2 is whole.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from accelerate import PartialState
from accelerate.state import AcceleratorState, DistributedType


def go_on_to_fsdp() -> None:
    """From now on several processes on a CPU take the branch that ``AcceleratorState`` has for several on GPUs."""
    own = AcceleratorState.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        own(self, *args, **kwargs)
        plugin = kwargs.get("fsdp_plugin")
        if self.distributed_type == DistributedType.MULTI_CPU and plugin is not None:
            self.distributed_type = DistributedType.FSDP
            if self._mixed_precision != "no":
                plugin.set_mixed_precision(self._mixed_precision)
            self.fsdp_plugin = plugin
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = init  # type: ignore[method-assign]


def die_at(step: int) -> None:
    """From now on this process is killed when it has finished the checkpoint of ``step``."""
    from uncertainty.training import checkpoints

    own = checkpoints.commit

    def commit(checkpoint: Path, fingerprint: str) -> None:
        own(checkpoint, fingerprint)
        if checkpoint.name == f"checkpoint-{step}":
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoints.commit = commit


def main(arguments: list[str]) -> NoReturn:
    go_on_to_fsdp()
    if "KILLED_AT" in os.environ:
        die_at(int(os.environ["KILLED_AT"]))
    from uncertainty.cli.train import leave
    from uncertainty.cli.train import main as train

    runs: list[list[str]] = [[]]
    for argument in arguments:
        if argument == "--then":
            runs.append([])
        else:
            runs[-1].append(argument)
    leave(max(train(run) for run in runs))


if __name__ == "__main__":
    main(sys.argv[1:])
