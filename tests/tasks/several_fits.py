"""What `python -m tasks.fit` does, for several fits one after the other: processes take longer to start than to fit.

Each is done twice, the second time from its last checkpoint but one; what either left is kept beside it.
"""

import shutil
import sys
from pathlib import Path

from saeuron.sae.training import Trainer
from tasks import fit

FIRST, ON_THE_WAY = ".first", ".on_the_way"


def main() -> None:
    save = Trainer.save

    def saved(trainer: Trainer, path: Path) -> None:
        if trainer.ranks.first and path.exists():
            shutil.copy(path, f"{path}{ON_THE_WAY}")
        save(trainer, path)

    Trainer.save = saved  # type: ignore[method-assign]
    for told in sys.argv[1:]:
        sys.argv[1] = told
        fit.main()
        checkpoint, ranks = fit.Fit.model_validate_json(Path(told).read_bytes()).checkpoint, fit.Ranks.join()
        if ranks.first:
            checkpoint.rename(f"{checkpoint}{FIRST}")
            Path(f"{checkpoint}{ON_THE_WAY}").rename(checkpoint)
        ranks.wait()
        fit.main()
    # Its import takes longer than all these fits.
    assert "torch._dynamo" not in sys.modules


if __name__ == "__main__":
    main()
