"""What a launcher tells its processes about each other."""
import os

# Environment variables: rank, local rank, number of processes.
LAUNCHER_VARIABLES = dict(
    pytorch=('RANK', 'LOCAL_RANK', 'WORLD_SIZE'),
    slurm=('SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_NTASKS'),
    mpi=('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK',
         'OMPI_COMM_WORLD_SIZE'))
# Ports for jobs of Slurm: below those that Linux hands out by itself.
_FIRST_PORT, _PORTS = 15000, 15000


def number_of_processes(launcher: str) -> int:
    """How many train together.

    Args:
        launcher (str): A key of :data:`LAUNCHER_VARIABLES`; anything else
            stands for none, which is one process.
    """
    return int(_variable(launcher, 2, '1'))


def is_first_process(launcher: str) -> bool:
    """Whether this is the process that speaks for all."""
    return _variable(launcher, 0, '0') == '0'


def choose_port(launcher: str) -> None:
    """Give each step of each Slurm job a port of its own.

    Its processes meet there, and all find the same number. MMEngine takes
    29500 for every job. ``MASTER_PORT`` in the environment wins.
    """
    job = os.environ.get('SLURM_JOB_ID', '')
    if launcher == 'slurm' and job.isdigit():
        step = os.environ.get('SLURM_STEP_ID', '')
        number = 7 * int(job) + (int(step) if step.isdigit() else 0)
        os.environ.setdefault('MASTER_PORT',
                              str(_FIRST_PORT + number % _PORTS))


def _variable(launcher: str, index: int, default: str) -> str:
    names = LAUNCHER_VARIABLES.get(launcher)
    return os.environ.get(names[index], default) if names else default
