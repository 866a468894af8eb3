"""tools/slurm_train.sh queues a run that Slurm has stopped again."""
import os
import subprocess

import pytest

from tests.toys.models import ROOT

# Ends with the next of the given states each time, as tools/train.py would.
SRUN = '''#!/usr/bin/env bash
echo "srun: $*" >> calls
read -r status signal < states && sed -i 1d states
mkdir -p out
if [ "$status" = 75 ]; then
    echo "{\\"signal\\": \\"$signal\\"}" > out/preempted.json
fi
exit "$status"
'''
SCONTROL = '#!/usr/bin/env bash\necho "scontrol: $*" >> calls\n'


def slurm_train(folder, states, **environment):
    """Run the script; its exit status, and what it called."""
    for name, content in (('srun', SRUN), ('scontrol', SCONTROL)):
        (folder / name).write_text(content)
        (folder / name).chmod(0o755)
    (folder / 'states').write_text(''.join(f'{line}\n' for line in states))
    environment = {
        **{
            name: value
            for name, value in os.environ.items() if 'SLURM' not in name
        },
        'PATH': f'{folder}:{os.environ["PATH"]}',
        **environment
    }
    result = subprocess.run([
        ROOT / 'tools' / 'slurm_train.sh', 'gpu', 'job', 'config.py', 'out',
        '--cfg-options', 'a=1'
    ],
                            cwd=folder,
                            env=environment,
                            timeout=20)
    return result.returncode, (folder / 'calls').read_text().splitlines()


@pytest.mark.parametrize('states, status', [
    (['0'], 0),
    (['1'], 1),
    (['75 SIGUSR1', '75 SIGUSR1', '0'], 0),
    (['75 SIGUSR1', '2'], 2),
    # Cancelled: it is not to come back.
    (['75 SIGTERM', '0'], 75),
])
def test_called_directly_it_starts_again(tmp_path, states, status):
    ended, calls = slurm_train(tmp_path, states)
    assert ended == status
    runs = 1 if status == 75 else len(states)
    assert len(calls) == runs
    for call in calls:
        assert '--signal=USR1@120' in call and '--resume' not in call


def test_in_a_batch_job_slurm_queues_it(tmp_path):
    ended, calls = slurm_train(tmp_path, ['75 SIGUSR1'], SLURM_JOB_ID='42')
    assert ended == 0 and calls[1:] == ['scontrol: requeue 42']


def test_a_job_that_slurm_restarted_resumes(tmp_path):
    _, calls = slurm_train(
        tmp_path, ['0'], SLURM_JOB_ID='42', SLURM_RESTART_COUNT='1')
    assert calls[0].endswith('--cfg-options a=1 --resume')
