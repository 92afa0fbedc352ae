"""What two processes do together, for test_distributed: run by torch.distributed.run, each writes what it saw."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from blobs import Blobs, network, weights

from casc_core.errors import DataError
from casc_lab import distributed
from casc_lab.training.loop import train


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    seen: dict[str, object] = {}
    with distributed.processes("cpu") as device:
        share = distributed.share()
        seen["share"] = [share.rank, share.world, str(device), distributed.is_main()]
        part = torch.arange(share.rank, 5, 2)
        seen["gather"] = distributed.gather([part, part[:0]]).tolist()
        seen["gather where one has nothing"] = distributed.gather([part] if share.rank else []).tolist()
        seen["gather of rows"] = list(distributed.gather([torch.zeros(share.rank, 3, dtype=torch.int16)]).shape)
        seen["gather of nothing"] = distributed.gather([]).tolist()
        seen["gather of things"] = distributed.gather_each(f"from {share.rank}")
        seen["total"] = distributed.total(torch.tensor([1.0, share.rank])).tolist()
        seen["agreed"] = distributed.agreed({"rank": share.rank})

        def fails() -> None:
            raise DataError("there is no such file")

        try:
            distributed.from_main(fails)
        except DataError as error:
            seen["error"] = str(error)
        distributed.say(f"said by {share.rank}")

        # Different weights at first: the main process's count.
        model = network(seed=share.rank)
        result = train(model, Blobs(), progress=False, checkpoint=folder / "whole", save_steps=3)
        seen["weights"] = weights(model)
        seen["epochs"] = [
            [epoch.train_loss, epoch.train_accuracy, epoch.validation_accuracy] for epoch in result.epochs
        ]

        stopped = network(seed=0)
        try:
            train(stopped, Blobs(stop_at=7), progress=False, checkpoint=folder / "stopped", save_steps=3)
        except InterruptedError:
            seen["stopped"] = True
        distributed.barrier()
        train(stopped, Blobs(), progress=False, checkpoint=folder / "stopped")
        seen["resumed"] = weights(stopped) == seen["weights"]
    (folder / f"{share.rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
