"""A process that is lost, and started again by torchrun: the run heals itself."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = """
import datetime
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

sys.path[:0] = [{here!r}, {tests!r}]
from fits_testing import data, make, wait_for_writers

from skdict._core.solvers.autoencoder_training import Training
from skdict.callbacks import Checkpoint

folder, strategy, kills = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
rank, run = dist.get_rank(), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
victim, at = map(int, kills[run].split(":")) if run < len(kills) else (-1, -1)
step, first = Training.step, []

def killed(training, *args):
    first.append(training.n_steps)
    if training.n_steps > at - 4 and rank == victim:
        wait_for_writers()
    if training.n_steps == at and rank == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(training, *args)

Training.step = killed
estimator = make("batch_topk", strategy).set_callbacks(Checkpoint(folder / "kept", every=0))
estimator.fit(data())
(folder / f"first-{{run}}-{{rank}}").write_text(str(first[0]))
np.savez(folder / f"found-{{rank}}.npz", *[getattr(estimator, name) for name in (
    "components_", "intercept_", "encoder_coef_", "encoder_intercept_", "threshold_", "loss_curve_"
)])
dist.barrier()
dist.destroy_process_group()
"""


def run(folder, strategy, kills=()):
    """Run the script with torchrun; a process is killed in each of its first runs."""
    folder.mkdir()
    here = Path(__file__).parent
    script = folder / "train.py"
    script.write_text(SCRIPT.format(here=str(here), tests=str(here.parent)))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    options = ["--nproc-per-node", "2", "--max-restarts", str(len(kills))]
    command = [*torchrun, *options, str(script), str(folder), strategy, *kills]
    # else a group that is restarted may find addresses of the one before: PyTorch issue 135712
    env = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
    assert result.returncode == 0, result.stdout + result.stderr
    return [np.load(folder / f"found-{rank}.npz") for rank in range(2)]


@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param("features", marks=pytest.mark.slow),
        pytest.param("data", marks=pytest.mark.enumeration),
    ],
)
def test_a_run_that_is_restarted_finds_the_same(tmp_path, strategy):
    """To the last bit, after a kill of the second process and then of the first."""
    expected, _ = run(tmp_path / "whole", strategy)
    for found in run(tmp_path / "killed", strategy, kills=["1:20", "0:40"]):
        for name in expected.files:
            np.testing.assert_array_equal(found[name], expected[name])
    first = int((tmp_path / "killed" / "first-2-0").read_text())
    assert 25 < first <= 40  # it has not begun anew
